"""Follows the records of all endpoints, as every worker does, whatever partitions it owns.

A worker reads its own writes, and those of others: it waits until it has read up to where the partition ended
when a request arrived, or a closing was read (P-125).
"""

import structlog

from schemas.errors import ApiError, LogUnavailable
from schemas.webhooks import HOME
from services.backoff import Backoff
from services.eventlog.port import Log
from services.eventlog.tail import Tail
from services.web.barrier import Barrier, Position
from services.webhooks import metrics
from services.webhooks.endpoints import Endpoints

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries to find the partition's start."""

log = structlog.get_logger(__name__)


class EndpointRegistry:
    """The endpoints, as of what was read of the first partition of `topic`."""

    def __init__(self, log_: Log, topic: str) -> None:
        self._log = log_
        self._topic = topic
        self._tail = Tail(log_, topic)
        self._position = Position()
        self._caught_up_at: int | None = None
        """The partition's end when reading began; None: it has not begun."""
        self._barrier = Barrier({HOME: self._position}, self._ends, lambda _: log_.leader(topic, HOME))
        self.endpoints = Endpoints()

    def __repr__(self) -> str:
        return f"<EndpointRegistry of {self.endpoints} at {self._position.value}>"

    @property
    def caught_up(self) -> bool:
        """Whether everything was read that was there when reading began."""
        return self._caught_up_at is not None and self._position.value >= self._caught_up_at

    async def reach(self, offset: int | None = None) -> None:
        """Return when the record at `offset` was read (None: all that is there). Raises ApiError (503)."""
        await self._barrier.reach(HOME, offset)

    async def known(self) -> None:
        """Return when everything was read that is there now, however long that takes."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                await self.reach()
            except ApiError as error:
                log.warning("webhook endpoints are not known, trying again", why=error.message)
                await backoff.wait()
            else:
                return

    async def run(self) -> None:
        """Read for ever."""
        await self._begin()
        while True:
            for batch in await self._tail.read():
                if batch.out_of_range:
                    log.warning("offset out of range, reading all endpoints anew", topic=self._topic)
                    await self._begin()
                    continue
                for record in batch.records:
                    if not self.endpoints.apply(record):
                        metrics.POISON.labels(self._topic).inc()
                        log.warning("passed over", topic=self._topic, partition=HOME, offset=record.offset)
                self._position.set(batch.next_offset)

    async def _begin(self) -> None:
        """Forget all, and read from the partition's start."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                bounds = (await self._log.bounds(self._topic, [HOME]))[HOME]
                break
            except LogUnavailable as error:
                log.warning("the log is away, trying again", error=str(error))
                await backoff.wait()
        self.endpoints = Endpoints()
        self._caught_up_at = bounds.end
        self._position.set(bounds.start)
        self._tail.follow(HOME, bounds.start)

    async def _ends(self, _: frozenset[int]) -> dict[int, int]:
        return {HOME: (await self._log.bounds(self._topic, [HOME]))[HOME].end}
