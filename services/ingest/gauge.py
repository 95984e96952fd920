"""Asks replays how many responses are open, for the admission.

    every second   so that the figures are there when a flood comes
    before a 429   so that a response that closed before the request came has made room

One round of questions is under way at a time. A caller that comes during it waits for the answers to the next
one. While a replay is away its last figures hold, and nobody waits for it.
"""

import asyncio
from contextlib import suppress

from services.ingest.admission import Admission
from services.web.internal import ReplayAway
from services.web.replay_client import ReplayClient

PERIOD_S = 1.0
"""Seconds from one question to the next, if no refusal asks earlier."""
PACE_S = 0.005
"""Seconds between an answer and the next question: a flood costs replay at most 200 questions a second."""
PATIENCE_S = 0.03
"""Seconds that a refusal waits for newer figures: the client hears it within 50 ms (A-10)."""


class Gauge:
    """Reads the load of all replays into `admission`."""

    def __init__(self, replay: ReplayClient, admission: Admission) -> None:
        self._replay = replay
        self._admission = admission
        self._wanted = asyncio.Event()
        self._next = asyncio.Event()
        """Set once the next question is answered."""
        self.heard = False
        """Whether a replay has told its load: before that ingest does not know how much room there is."""

    def not_ready(self) -> list[str]:
        """Why ingest cannot take commands: only until its start is over, whatever replay does later."""
        return [] if self.heard else ["replay has not told yet how much is open"]

    async def run(self) -> None:
        """Ask, again and again, until cancelled."""
        while True:
            await self._read()
            await asyncio.sleep(PACE_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wanted.wait(), PERIOD_S)

    async def refresh(self) -> None:
        """Get figures that are newer than this call, if replay answers within PATIENCE_S."""
        self._wanted.set()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._next.wait(), PATIENCE_S)

    async def _read(self) -> None:
        self._wanted.clear()
        answered, self._next = self._next, asyncio.Event()
        with suppress(ReplayAway):
            for load in await self._replay.loads():
                self._admission.loaded(load.by_partition(), asyncio.get_running_loop().time())
            self.heard = True
        answered.set()
