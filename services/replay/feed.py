"""Feeds this process: one tail of `responses.events`, one of `transcripts.index`, for all its readers (P-60).
Both follow the partitions that this process serves.

    start (P-75)  the projector's watermark → the index, from where the store stands to an end fetched
                  afterwards → the log from the watermark (P-62); then both topics are followed for good
    each batch    fold it → let reads go on that wait for the position → push it to its readers
    out of range  a position is no longer in the log: drop that partition's fold and read it again from a
                  start (P-64); its readers are cut and rejoin
    added         partitions that were added while this process runs begin as at the start (P-144)
    store fails   the index waits, and what needs it is a 503, until the store can be opened anew

While the log is away everything waits; positions are kept.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import suppress

import structlog
from msgspec import Struct

from schemas.records import LogRecord
from services.backoff import Backoff
from services.eventlog.patience import patiently
from services.eventlog.port import Batch, Bounds, Checkpoint, Log, TopicPartition
from services.eventlog.start import StartingPoint
from services.eventlog.tail import Tail
from services.loops import in_turns, while_all_run
from services.replay.disk import StoreFailed, StoreUnusable
from services.replay.folding import Foldings
from services.replay.library import Library
from services.web.barrier import Position

SWEEP = 10.0
"""Seconds between two sweeps, which forget what may be forgotten."""
AT_ONCE = 256 << 10
"""Bytes of the index that are taken from a partition at once: some 650 entries, 7 ms."""
EXPIRE_PAUSE = 0.02
"""Seconds between two looks for rows of the store that retention took: ten million take 7 minutes."""
INDEX_PAUSE = 1.0
"""Seconds between two looks whether the index is complete."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two tries to open a store that failed."""

Watermarks = Callable[[Collection[int]], Awaitable[Mapping[int, Checkpoint | None]]]
"""Returns the projector's checkpoints of some partitions: where its oldest open response begins (P-61), and
if the index has all that closed before (P-138).
"""
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
    index: str
    watermarks: Watermarks
    starts: Starts
    keep_ms: int
    clock: Callable[[], int]
    """The time now, ms."""


class Feed:
    """Follows the served partitions of both topics, and keeps folds and library up to date."""

    def __init__(self, sources: Sources, foldings: Foldings, library: Library) -> None:
        self._sources = sources
        self._foldings = foldings
        self._library = library
        self._events = Tail(sources.log, sources.events)
        self._index = Tail(sources.log, sources.index, max_bytes=8 * AT_ONCE, partition_bytes=AT_ONCE)
        self._ends = dict.fromkeys(foldings, 0)
        self.folded = {partition: Position() for partition in foldings}
        self.shelved = {partition: Position() for partition in foldings}
        self.unreadable = 0
        """Records that could not be read."""
        self._added: set[int] = set()
        self._grown = asyncio.Event()
        self._starts: list[dict[int, int]] = []
        """Where `transcripts` and the index begin, by partition."""
        self.waits_for = ""
        """What it waits for at its start beside the log; "": for nothing."""
        self.store_failures = 0
        """Times that the store failed and was opened anew."""
        self.caught_up = False
        """Whether all records that were in the log at the start are folded."""

    def lag(self) -> int:
        """How many offsets are in the log, as far as this process knows, and not folded."""
        return sum(max(0, self._ends[partition] - at.value) for partition, at in self.folded.items())

    async def run(self) -> None:
        """Start, and follow both topics until cancelled."""
        await self._start()
        async with asyncio.TaskGroup() as tasks:
            loops = (self._follow_events, self._follow_index, self._follow_added, self._sweep)
            following = [tasks.create_task(loop(), name=loop.__qualname__) for loop in loops]
            await self._until_caught_up()
            await while_all_run(following, asyncio.Event())

    def add(self, partitions: Iterable[int]) -> None:
        """Serve these as well, which were added to the log: reads of them wait until they have begun."""
        for partition in partitions:
            self._ends[partition] = 0
            self.folded[partition], self.shelved[partition] = Position(), Position()
            self._added.add(partition)
        self._grown.set()

    async def _start(self) -> None:
        watermarks = await self._indexed(list(self._foldings))
        bounds = await self._open_store()
        while any(self.shelved[partition].value < ends.end for partition, ends in bounds.items()):
            await self._shelve(await self._index.read())
        for partition, start in (await patiently(lambda: self._sources.starts(watermarks))).items():
            self._follow_from(partition, start)
        index = {partition: at.value for partition, at in self.shelved.items()}
        offsets = {partition: at.value for partition, at in self.folded.items()}
        log.info("following", index=index, offsets=offsets)

    async def _indexed(self, partitions: Collection[int]) -> dict[int, int | None]:
        """The watermarks, once the index is complete up to them. Where nobody has committed any, the log says
        all that the views are to say.
        """
        while True:
            found = await patiently(lambda: self._sources.watermarks(partitions))
            marks = {partition: at and at.offset for partition, at in found.items()}
            left = [partition for partition, at in found.items() if at is not None and at.read is None]
            stored = await self._bounds(self._sources.transcripts, partitions)
            left = [partition for partition in left if stored[partition].start < stored[partition].end]
            if not left:
                self.waits_for = ""
                return marks
            if not self.waits_for:
                log.warning("the index is not complete: start projectors of this version", partitions=left)
            self.waits_for = f"the index of partitions {left} is not made yet"
            await asyncio.sleep(INDEX_PAUSE)

    async def _open_store(self) -> dict[int, Bounds]:
        """Follow the index from where the store stands; returns where it ends. A store that fails waits."""
        id = await patiently(lambda: self._sources.log.topic_id(self._sources.index))
        await self._begin_at()
        self._library.store.belongs_to(id)
        self._library.store.keep_only(self._foldings)
        return await self._resume(list(self._foldings))

    async def _resume(self, partitions: Collection[int]) -> dict[int, Bounds]:
        """Follow partitions of the index from where the store stands; returns where they end."""
        bounds = await self._bounds(self._sources.index, partitions)
        for partition, ends in bounds.items():
            start = self._library.resume(partition, ends, self._sources.clock())
            self.shelved[partition].set(start)
            self._index.follow(partition, start)
        return bounds

    async def _begin_at(self) -> bool:
        """Learn what retention took. Returns whether it took anything since the last time."""
        starts = [
            {partition: bounds.start for partition, bounds in (await self._bounds(topic)).items()}
            for topic in (self._sources.transcripts, self._sources.index)
        ]
        moved, self._starts = starts != self._starts, starts
        self._library.begin_at(*starts)
        return moved

    def _follow_from(self, partition: int, start: StartingPoint) -> None:
        self._foldings[partition].floor = start.floor
        self.folded[partition].set(start.offset)
        self._events.follow(partition, start.offset)

    async def _until_caught_up(self) -> None:
        for partition, bounds in (await self._bounds(self._sources.events)).items():
            await self.folded[partition].reach(bounds.end)
        self.caught_up = True
        log.info("caught up", responses=sum(len(folding.windows) for folding in self._foldings.values()))

    async def _follow_added(self) -> None:
        while True:
            await self._grown.wait()
            self._grown.clear()
            while self._added:
                partitions, self._added = self._added, set()
                await self._begin(partitions)

    async def _begin(self, partitions: Collection[int]) -> None:
        """As the start, for partitions that were added: watermark, index, log (P-75)."""
        watermarks = await self._indexed(partitions)
        try:
            bounds = await self._resume(partitions)
        except StoreFailed as error:
            log.warning("added partitions wait for the store", partitions=sorted(partitions), why=str(error))
            await asyncio.sleep(FIRST_PAUSE)
            self._added.update(partitions)
            return
        for partition, ends in bounds.items():
            await self.shelved[partition].reach(ends.end)
        for partition, start in (await patiently(lambda: self._sources.starts(watermarks))).items():
            self._follow_from(partition, start)
        log.info("following added partitions", partitions=sorted(partitions))

    async def _follow_events(self) -> None:
        while True:
            for batch in await self._events.read():
                if batch.out_of_range:
                    await self._fold_again(batch.source.partition)
                else:
                    await self._fold(batch)
                await asyncio.sleep(0)

    async def _follow_index(self) -> None:
        while True:
            await self._shelve(await self._index.read())

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
                try:
                    unread = self._library.take(partition, batch.records, batch.next_offset)
                except StoreFailed as error:
                    await self._store_failed(error)
                    return
                for record, why in unread:
                    self._passed_over(batch.source, record, why)
                self.shelved[partition].set(batch.next_offset)
            await asyncio.sleep(0)

    async def _store_failed(self, error: StoreFailed) -> None:
        """Open the store anew, as often as it takes, and follow the index from where it stands then."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        self.store_failures += 1
        log.error("the store failed, stored responses wait for it", why=str(error))
        while True:
            await backoff.wait()
            try:
                self._library.store.reopen()
                await self._open_store()
            except (StoreFailed, StoreUnusable) as again:
                log.error("the store fails still", why=str(again))  # noqa: TRY400 - it says all
            else:
                log.info("the store is open again")
                return

    async def _fold_again(self, partition: int) -> None:
        log.error("offset out of range, folding again", topic=self._sources.events, partition=partition)
        self.folded[partition].set(-1)
        self._foldings[partition].clear()
        found = (await patiently(lambda: self._sources.watermarks([partition])))[partition]
        starts = await patiently(lambda: self._sources.starts({partition: found and found.offset}))
        self._follow_from(partition, starts[partition])

    async def _shelve_again(self, partition: int) -> None:
        log.error("offset out of range, reading again", topic=self._sources.index, partition=partition)
        for position in self.shelved.values():
            position.set(-1)
        await self._open_store()

    def _passed_over(self, source: TopicPartition, record: LogRecord, why: str) -> None:
        self.unreadable += 1
        where = {"topic": source.topic, "partition": source.partition, "offset": record.offset}
        log.warning("record passed over", why=why, **where)

    async def _sweep(self) -> None:
        """Every `SWEEP` seconds forget responses that closed long ago, and those that retention took."""
        expiring = False
        while True:
            await asyncio.sleep(SWEEP)
            for folding in list(self._foldings.values()):
                with suppress(StoreFailed):
                    before = folding.time - self._sources.keep_ms
                    await in_turns(folding.forget(before, self._library.knows))
            if await self._begin_at() or expiring:
                with suppress(StoreFailed):
                    expiring = True
                    for _ in self._library.expire():
                        await asyncio.sleep(EXPIRE_PAUSE)
                    expiring = False

    async def _bounds(self, topic: str, partitions: Collection[int] | None = None) -> dict[int, Bounds]:
        """Where `partitions` of a topic begin and end; without them, all that are served."""
        wanted = list(self._foldings if partitions is None else partitions)
        return await patiently(lambda: self._sources.log.bounds(topic, wanted))
