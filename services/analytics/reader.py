"""Reads `usage` from its start, without a group: every process that answers questions knows all of it."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from schemas.errors import LogError, LogUnavailable
from services.analytics import metrics
from services.analytics.index import UsageIndex
from services.eventlog.port import Batch, Log
from services.eventlog.tail import Tail
from services.loops import in_turns

LOOK_S = 10.0
"""Seconds after which the reader looks for partitions that were added, and lets go of what has expired."""
FETCH_BYTES = 4 << 20

log = structlog.get_logger(__name__)


class UsageReader:
    """Reads all partitions of `topic` into its `index`. `clock` tells ms since the epoch."""

    def __init__(
        self, log_: Log, topic: str, kept_ms: int, clock: Callable[[], int], *, look_s: float = LOOK_S
    ) -> None:
        self.index = UsageIndex()
        self._log = log_
        self._topic = topic
        self._kept_ms = kept_ms
        self._clock = clock
        self._look_s = look_s
        self._tail = Tail(log_, topic, max_bytes=FETCH_BYTES, partition_bytes=FETCH_BYTES // 4)
        self._behind: dict[int, int] = {}
        """By partition, the end as of the start, until the reader is there."""
        self._begun = False
        self._taken: dict[int, int] = {}
        """By partition the offset up to which the index has it. The tail is ahead of that while we take."""
        self._moved = asyncio.Event()
        """Set when the reader has taken what it read last; then there is another."""

    def __repr__(self) -> str:
        return f"<UsageReader {self._tail!r}>"

    def not_ready(self) -> Sequence[str]:
        """Why no question can be answered yet."""
        if not self._begun:
            return [f"{self._topic} is not read yet"]
        return [f"{self._topic} is not read to the end: {sorted(self._behind)}"] if self._behind else []

    async def run(self) -> None:
        """Read for ever. Raises TopicMissing."""
        await self._begin(range(await self._log.partitions(self._topic)))
        self._begun = True
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            for batch in await self._tail.read(self._look_s):
                await self._take(batch)
            await in_turns(self.index.pack())
            self._moved.set()
            self._moved = asyncio.Event()
            if loop.time() - looked >= self._look_s:
                await self._look()
                looked = loop.time()

    async def read_to(self, partition: int, offset: int) -> None:
        """Wait until the partition is read up to before `offset`, while the reader runs."""
        while True:
            moved = self._moved
            if self._taken.get(partition, -1) >= offset:
                return
            await moved.wait()

    async def catch_up(self, since_ms: int) -> None:
        """Read what was appended since a time, up to the end as of now."""
        partitions = range(await self._log.partitions(self._topic))
        starts = await self._log.offsets_at(self._topic, dict.fromkeys(partitions, since_ms))
        ends = {
            number: bounds.end for number, bounds in (await self._log.bounds(self._topic, partitions)).items()
        }
        self._follow(starts, ends)
        while self._behind:
            for batch in await self._tail.read(self._look_s):
                await self._take(batch)
            await in_turns(self.index.pack())

    async def _begin(self, partitions: Sequence[int]) -> None:
        bounds = await self._log.bounds(self._topic, partitions)
        starts = {number: found.start for number, found in bounds.items()}
        self._follow(starts, {number: found.end for number, found in bounds.items()})

    def _follow(self, starts: dict[int, int], ends: dict[int, int]) -> None:
        for number, start in starts.items():
            self._tail.follow(number, start)
            self._taken[number] = start
            if start < ends[number]:
                self._behind[number] = ends[number]

    async def _take(self, batch: Batch) -> None:
        number = batch.source.partition
        if batch.out_of_range:
            self.index.drop(number)
            self._taken.pop(number, None)
            await self._again(number)
            return
        for place, record in enumerate(batch.records):
            wrong = self.index.take(record, number)
            if wrong is not None:
                where = {"topic": self._topic, "partition": number, "offset": record.offset}
                log.warning("passed over an unreadable record", **where, why=wrong.why)
                metrics.POISON.labels(self._topic).inc()
            if place % 500 == 499:
                await asyncio.sleep(0)
        self._taken[number] = batch.next_offset
        if batch.next_offset >= self._behind.get(number, batch.next_offset + 1):
            del self._behind[number]

    async def _again(self, number: int) -> None:
        """Read a partition from its start: retention or an operator has moved that."""
        try:
            await self._begin([number])
        except LogUnavailable:
            self._tail.follow(number, 0)  # out of range again, or right

    async def _look(self) -> None:
        self.index.forget(self._clock() - self._kept_ms)
        try:
            count = await self._log.partitions(self._topic)
            new = [number for number in range(count) if number not in self._tail.followed]
            if new:
                await self._begin(new)
        except LogError as error:
            log.warning("cannot look for new partitions, trying again", topic=self._topic, error=str(error))
