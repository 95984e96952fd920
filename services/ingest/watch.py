"""What ingest knows of its neighbours: is the log there, is replay there.

It looks for the log every second, so a request is refused at once while that is known to be away. Of replay
the gauge knows.
"""

import asyncio
from collections.abc import Sequence

from schemas.errors import LogError
from services.eventlog.port import Log
from services.ingest.appends import Appends
from services.ingest.gauge import Gauge

PERIOD_S = 1.0
LOG_S = 2.0
"""Seconds for the log to say where a partition ends; it takes milliseconds."""


class Watch:
    """Looks for the log."""

    def __init__(self, log: Log, topic: str, appends: Appends, gauge: Gauge) -> None:
        self._log = log
        self._topic = topic
        self._appends = appends
        self._gauge = gauge

    def not_ready(self) -> Sequence[str]:
        """Why commands cannot be taken now."""
        reasons = ["the log is away"] if self._appends.away else []
        return [*reasons, "replay is away"] if self._gauge.away else reasons

    async def run(self) -> None:
        """Look, again and again, until cancelled."""
        while True:
            await self._look_at_log()
            await asyncio.sleep(PERIOD_S)

    async def _look_at_log(self) -> None:
        try:
            async with asyncio.timeout(LOG_S):
                await self._log.bounds(self._topic, [0])
        except (LogError, TimeoutError):
            self._appends.away = not self._appends.acked_within(LOG_S)
        else:
            self._appends.away = False
