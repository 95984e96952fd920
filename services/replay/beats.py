"""Tells log time by the executors' beats (P-86).

    ask → where does the topic end now? → the record before that → its log time

The log time of a partition stands still while nothing is appended to it. The executors beat into one topic,
each every 2 s (P-50). The last beat in the log as of a request's arrival decides what the request may see, so
every replica answers alike, whatever its own clock says. While no executor lives log time stands still, and
nothing is erased either.
"""

import asyncio
from math import inf

from schemas.errors import LogError, LogUnavailable, unreachable
from services.eventlog.port import Log, TopicPartition

PROBE_BYTES = 4096
"""Bytes of a fetch that needs one record: the log returns a whole record, however large it is."""


class LastBeat:
    """The last beat of any executor in `topic`. A look-up takes at most `patience` seconds."""

    def __init__(self, log: Log, topic: str, patience: float) -> None:
        self._log = log
        self._source = TopicPartition(topic, 0)
        self._patience = patience
        self._looking: asyncio.Task[float] | None = None
        self._next: asyncio.Task[float] | None = None

    async def time(self) -> float:
        """The log time (ms) of the last beat as of now; 0 if no executor has ever beaten.

        Infinite if all beats have expired: a response that their time had hidden must not show again (P-87).
        Raises ApiError 503 (P-88).
        """
        if self._next is None:  # one look-up is under way at a time; callers during it share the next
            self._next = asyncio.create_task(self._look_after(self._looking))
            # If all waiters have gone, this takes the look-up's error, which asyncio would log otherwise.
            self._next.add_done_callback(lambda look: look.cancelled() or look.exception())
        try:
            return await asyncio.shield(self._next)
        except (LogError, TimeoutError) as error:
            raise unreachable() from error

    async def _look_after(self, before: asyncio.Task[float] | None) -> float:
        if before is not None:
            await asyncio.wait([before])
        self._looking, self._next = self._next, None
        async with asyncio.timeout(self._patience):
            return await self._look()

    async def _look(self) -> float:
        bounds = (await self._log.bounds(self._source.topic, [0]))[0]
        if bounds.start == bounds.end:
            return inf if bounds.end else 0
        last = bounds.end - 1
        for batch in await self._log.fetch({self._source: last}, max_wait=0, partition_bytes=PROBE_BYTES):
            if batch.records:
                return batch.records[0].timestamp
        raise LogUnavailable(f"no beat at {self._source.topic}/0@{last}: it has just expired")
