"""Feeds this process: one tail of `responses.events` and one of `transcripts`, for all its readers (P-60).

    start (P-75)  the projector's watermark → `transcripts` to an end fetched afterwards → the log from the
                  watermark (P-62); then both topics are followed for good
    each batch    fold it → let reads go on that wait for the position → push it to its readers
    out of range  a position is no longer in the log: drop that partition's fold and read it again from a
                  start (P-64); its readers are cut and rejoin

While the log is away everything waits; positions are kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from msgspec import Struct

from schemas.records import LogRecord
from services.eventlog.patience import patiently
from services.eventlog.port import Batch, Bounds, Log, TopicPartition
from services.eventlog.start import StartingPoint
from services.eventlog.tail import Tail
from services.loops import in_turns, while_all_run
from services.replay.folding import Folding
from services.replay.library import Library
from services.web.barrier import Position

SWEEP = 10.0
"""Seconds between two sweeps, which forget what may be forgotten."""

Watermarks = Callable[[], Awaitable[Mapping[int, int | None]]]
"""Returns the projector's checkpoints: by partition, where its oldest open response begins (P-61)."""
Starts = Callable[[Mapping[int, int | None]], Awaitable[Mapping[int, StartingPoint]]]
"""Returns where to start reading `responses.events`, given each partition's watermark (P-62)."""

log = structlog.get_logger()


class Sources(Struct, frozen=True):
    """The log, its topics and its watermarks. `keep_ms`: how long (log time) a closed response is remembered
    (P-63).
    """

    log: Log
    events: str
    transcripts: str
    watermarks: Watermarks
    starts: Starts
    keep_ms: int


class Feed:
    """Follows both topics and keeps folds and library up to date."""

    def __init__(self, sources: Sources, foldings: list[Folding], library: Library) -> None:
        self._sources = sources
        self._foldings = foldings
        self._library = library
        self._events = Tail(sources.log, sources.events)
        self._transcripts = Tail(sources.log, sources.transcripts)
        self._ends = [0] * len(foldings)
        self.folded = [Position() for _ in foldings]
        self.shelved = [Position() for _ in foldings]
        self.unreadable = 0
        """Records that could not be read."""
        self.caught_up = False
        """Whether all records that were in the log at the start are folded."""

    def lag(self) -> int:
        """How many offsets are in the log, as far as this process knows, and not folded."""
        return sum(max(0, end - at.value) for end, at in zip(self._ends, self.folded, strict=True))

    async def run(self) -> None:
        """Start, and follow both topics until cancelled."""
        await self._start()
        async with asyncio.TaskGroup() as tasks:
            loops = (self._follow_events, self._follow_transcripts, self._sweep)
            following = [tasks.create_task(loop(), name=loop.__qualname__) for loop in loops]
            await self._until_caught_up()
            await while_all_run(following, asyncio.Event())

    async def _start(self) -> None:
        watermarks = await patiently(self._sources.watermarks)
        shelves = await self._bounds(self._sources.transcripts)
        for partition, bounds in shelves.items():
            self.shelved[partition].set(bounds.start)
            self._transcripts.follow(partition, bounds.start)
        while any(self.shelved[partition].value < bounds.end for partition, bounds in shelves.items()):
            await self._shelve(await self._transcripts.read())
        for partition, start in (await patiently(lambda: self._sources.starts(watermarks))).items():
            self._follow_from(partition, start)
        log.info("following", transcripts=len(self._library), offsets=[at.value for at in self.folded])

    def _follow_from(self, partition: int, start: StartingPoint) -> None:
        self._foldings[partition].floor = start.floor
        self.folded[partition].set(start.offset)
        self._events.follow(partition, start.offset)

    async def _until_caught_up(self) -> None:
        for partition, bounds in (await self._bounds(self._sources.events)).items():
            await self.folded[partition].reach(bounds.end)
        self.caught_up = True
        log.info("caught up", responses=sum(len(folding.windows) for folding in self._foldings))

    async def _follow_events(self) -> None:
        while True:
            for batch in await self._events.read():
                if batch.out_of_range:
                    await self._fold_again(batch.source.partition)
                else:
                    await self._fold(batch)
                await asyncio.sleep(0)

    async def _follow_transcripts(self) -> None:
        while True:
            await self._shelve(await self._transcripts.read())

    async def _fold(self, batch: Batch) -> None:
        partition = batch.source.partition
        folding = self._foldings[partition]
        apply = folding.apply
        for record in batch.records:
            if (why := apply(record)) is not None:
                self._passed_over(batch.source, record, why)
        if batch.records:
            folding.time = batch.records[-1].timestamp
        self._ends[partition] = batch.end
        self.folded[partition].set(batch.next_offset)
        await in_turns(folding.settle())

    async def _shelve(self, batches: list[Batch]) -> None:
        for batch in batches:
            partition = batch.source.partition
            if batch.out_of_range:
                await self._shelve_again(partition)
            else:
                for record in batch.records:
                    if (why := self._library.apply(record, partition)) is not None:
                        self._passed_over(batch.source, record, why)
                self.shelved[partition].set(batch.next_offset)
            await asyncio.sleep(0)

    async def _fold_again(self, partition: int) -> None:
        log.error("offset out of range, folding again", topic=self._sources.events, partition=partition)
        self.folded[partition].set(-1)
        self._foldings[partition].clear()
        watermarks = await patiently(self._sources.watermarks)
        starts = await patiently(lambda: self._sources.starts({partition: watermarks[partition]}))
        self._follow_from(partition, starts[partition])

    async def _shelve_again(self, partition: int) -> None:
        log.error("offset out of range, reading again", topic=self._sources.transcripts, partition=partition)
        self.shelved[partition].set(-1)
        self._library.clear(partition)
        start = (await self._bounds(self._sources.transcripts))[partition].start
        self.shelved[partition].set(start)
        self._transcripts.follow(partition, start)

    def _passed_over(self, source: TopicPartition, record: LogRecord, why: str) -> None:
        self.unreadable += 1
        where = {"topic": source.topic, "partition": source.partition, "offset": record.offset}
        log.warning("record passed over", why=why, **where)

    async def _sweep(self) -> None:
        """Every `SWEEP` seconds forget responses that closed long ago, and those that retention took."""
        starts: dict[int, int] = {}
        while True:
            await asyncio.sleep(SWEEP)
            for folding in self._foldings:
                folding.forget(folding.time - self._sources.keep_ms, self._library.knows)
                await asyncio.sleep(0)
            shelves = await self._bounds(self._sources.transcripts)
            if starts != (starts := {partition: bounds.start for partition, bounds in shelves.items()}):
                self._library.prune(starts)

    async def _bounds(self, topic: str) -> dict[int, Bounds]:
        return await patiently(lambda: self._sources.log.bounds(topic, range(len(self._foldings))))
