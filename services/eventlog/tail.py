"""The tail: follows partitions of one topic, batch by batch, over stateless fetches.

The owner of a tail says where to start (`follow`) and reads in a loop. A partition that is followed anew
interrupts a long poll under way, so it is read at once. A position that is out of the log's range is
handed up, and the partition rests until it is followed again: the reader has to drop its fold first (P-64).
While the log is away `read` goes on trying; a log line and a metric say so.
"""

import asyncio
from asyncio import Future
from math import inf
from typing import Any

import structlog

from schemas.errors import LogError
from services.backoff import Backoff
from services.eventlog.metrics import READS_FAILING
from services.eventlog.pace import Pace
from services.eventlog.port import Batch, Log, TopicPartition
from services.loops import wake

log = structlog.get_logger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 0.5
"""Seconds between tries while the log is away: the tail notices a failover so much later."""
FIRST_POLL, LONGEST_POLL = 0.5, 5.0
"""Seconds that a broker may sit on a fetch: twice as long each time that no record comes. An idle topic then
costs its readers and its broker a tenth."""
MAX_BYTES = 512 << 10
PARTITION_BYTES = 128 << 10
"""Bytes of one fetch at most, some 1,500 events. With 4 MiB 13,000 events are alive at once, in memory that
the kernel has to clear for each fetch anew: executor and replay take a tenth more CPU."""


class Tail:
    """Where this process stands in the partitions of `topic`. One reader at a time.

    `pace` says how far apart two fetches begin. A steady trickle then costs reader and broker fewer and
    fuller fetches; a lone record after a silence is still read at once.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        *,
        max_bytes: int = MAX_BYTES,
        partition_bytes: int = PARTITION_BYTES,
        pace: Pace | None = None,
    ) -> None:
        self._log = log
        self._topic = topic
        self._max_bytes = max_bytes
        self._partition_bytes = partition_bytes
        self._pace = pace or Pace(0.0, 0.0)
        self._begun = -inf
        self._pause: Future[None] | None = None
        """Waits for the next fetch to be due."""
        self._positions: dict[TopicPartition, int] = {}
        self._resting: set[TopicPartition] = set()
        self._changed: Future[None] | None = None
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self._polls = Backoff(FIRST_POLL, LONGEST_POLL)
        self._reads: bool | None = None
        """Whether the last fetch succeeded; None before any."""

    def __repr__(self) -> str:
        return f"Tail({self._topic}, { ({source.partition: at for source, at in self._positions.items()}) })"

    @property
    def followed(self) -> frozenset[int]:
        """The partitions being read."""
        return frozenset(source.partition for source in self._positions)

    def follow(self, partition: int, offset: int) -> None:
        """Read `partition` from `offset` on, beginning at once."""
        self._positions[TopicPartition(self._topic, partition)] = offset
        self.go_on(partition)

    def drop(self, partition: int) -> None:
        """Stop reading `partition`; a batch of it that is under way is thrown away."""
        self._positions.pop(TopicPartition(self._topic, partition), None)
        self._resting.discard(TopicPartition(self._topic, partition))

    def rest(self, partition: int) -> None:
        """Read `partition` no further until it is to `go_on`. A batch that is under way still comes."""
        self._resting.add(TopicPartition(self._topic, partition))

    def go_on(self, partition: int) -> None:
        """Read `partition` on where it stands, beginning at once."""
        self._resting.discard(TopicPartition(self._topic, partition))
        if self._changed is not None:
            wake(self._changed)

    def stir(self) -> None:
        """Ask the pace again: something may be in a hurry now."""
        if self._pause is not None:
            wake(self._pause)

    def position(self, partition: int) -> int:
        """The offset that is read next. Raises KeyError when `partition` is not followed."""
        return self._positions[TopicPartition(self._topic, partition)]

    async def read(self, max_wait: float | None = None) -> list[Batch]:
        """The next batches, and positions moved past them; empty when none came within `max_wait` seconds.

        Without `max_wait` that is `FIRST_POLL` to `LONGEST_POLL`: the longer, the longer none came.
        Never raises LogUnavailable: waits a little instead, and returns empty. A batch that is
        `out_of_range` ends the following of its partition.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._polls.pause() if max_wait is None else max_wait)
        while True:
            self._changed = loop.create_future()
            asked = {source: at for source, at in self._positions.items() if source not in self._resting}
            batches = await self._poll(asked, max(0.0, deadline - loop.time()))
            news = [batch for batch in batches if self._positions.get(batch.source) == asked[batch.source]]
            if news or loop.time() >= deadline or not (self._changed.done() or batches):
                if news or self._changed.done():
                    self._polls.succeeded()
                return [self._advance(batch) for batch in news]

    def _advance(self, batch: Batch) -> Batch:
        if batch.out_of_range:
            del self._positions[batch.source]
        else:
            self._positions[batch.source] = batch.next_offset
        return batch

    async def _poll(self, asked: dict[TopicPartition, int], max_wait: float) -> list[Batch]:
        """One fetch; ends early, and empty, when a partition is followed anew."""
        assert self._changed is not None
        if not asked:
            await asyncio.wait([self._changed], timeout=max_wait)
            return []
        await self._keep_pace()
        if self._changed.done():  # meanwhile: what was asked for is out of date
            return []
        self._begun = asyncio.get_running_loop().time()
        fetch = asyncio.create_task(
            self._log.fetch(
                asked, max_wait=max_wait, max_bytes=self._max_bytes, partition_bytes=self._partition_bytes
            )
        )
        try:
            either: list[Future[Any]] = [fetch, self._changed]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return self._succeeded(fetch.result()) if fetch.done() else []
        except LogError as error:
            await self._failed(error)
            return []
        finally:
            fetch.cancel()

    async def _keep_pace(self) -> None:
        loop = asyncio.get_running_loop()
        while (due := self._begun + self._pace.seconds()) > loop.time():
            self._pause = loop.create_future()
            timer = loop.call_at(due, self.stir)
            try:
                await self._pause
            finally:
                timer.cancel()

    def _succeeded(self, batches: list[Batch]) -> list[Batch]:
        self._pace.took(sum(len(batch.records) for batch in batches), self._begun)
        if not self._reads:  # at the first fetch too: an earlier tail may have left the metric at 1
            if self._backoff.failing:
                log.info("reading again", topic=self._topic)
            READS_FAILING.labels(self._topic).set(0)
        self._reads = True
        self._backoff.succeeded()
        return batches

    async def _failed(self, error: LogError) -> None:
        """Wait before the next attempt, longer each time."""
        self._reads = False
        if not self._backoff.failing:
            log.warning("cannot read, trying again", topic=self._topic, error=str(error))
            READS_FAILING.labels(self._topic).set(1)
        await self._backoff.wait()
