"""The projector: folds the partitions it owns and keeps the views of their closed responses.

    fold          follower → projection → ends; every listener hears of each closing: views and announcer
    read back     the views as they are written: a deleted response stays erased (P-73), and an entry names
                  what is there (P-133)
    every second  commits what the watermark passed, mends, forgets, keeps the memory's bound, measures
    follow        begins what is newly owned at its watermark (P-62), drops what is lost

A rebalance takes all partitions away for a moment. The projector goes on folding meanwhile: a response that
two projectors write is written the same (P-70). It drops a partition when the new assignment leaves it out,
and all of them when the group leaves it out (`Follower.left_out`).
While the log is away work is tried again until it is done, and so is what raises. A partition of which too
much waits is not read on. The bound is shared out among the partitions: where one listener hangs in one of
them, it holds up that one, and the others have the memory that they need.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from msgspec import Struct, field

from schemas.ids import ResponseId
from schemas.records import NewRecord
from services.backoff import Backoff
from services.connect import projector_group
from services.eventlog.follower import Follower, Member
from services.eventlog.pace import Pace
from services.eventlog.port import Batch, Checkpoint, Log
from services.eventlog.start import StartingPoint, starting_points
from services.eventlog.topics import DAY, Topics
from services.loops import while_all_run
from services.projector import metrics
from services.projector.announcer import Announcer
from services.projector.building import Builder
from services.projector.closing import Closing, Listener
from services.projector.ownership import Ownership
from services.projector.projection import End, Projection
from services.projector.rereader import Rereader
from services.projector.views import Views, poisoned
from services.projector.writes import Erase, Mend, size
from services.settings import Settings

log = structlog.get_logger()

PACE_S = 0.2
"""Seconds between two reads of the log: no client waits for a view, and fuller reads halve the cost."""
TICK = 1.0
"""Seconds between two commits."""
MEMORY_BYTES = 512 << 20
"""Bytes that open responses may hold. Beyond it the largest are read again from the log when they close."""
WAITING_BYTES = 64 << 20
"""Bytes of ends not acknowledged. A partition that holds more than its share of them is not read on."""
END_BYTES = 4_096
"""Bytes of these that an end takes however little it holds: its tasks, and what it is announced with."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 30.0
"""Seconds between two tries of what raised."""
LATE_MS = DAY
"""Milliseconds of log time for which the projector looks out for a deleted response in the views."""


class Beginning(Struct, frozen=True):
    """Where a partition is begun: in which log, by its topic id, and at which offsets of it and of its views,
    by their topics.
    """

    log: str
    start: StartingPoint
    views: Mapping[str, int]

    @property
    def offset(self) -> int:
        """The offset of the log that is read first."""
        return self.start.offset

    @property
    def floor(self) -> int:
        """The watermark: what was accepted before it was dealt with before."""
        return self.start.floor


class Partition(Struct, eq=False):
    """A followed partition."""

    number: int
    projection: Projection
    acts_from: int
    """The partition's end as of the assignment: it is caught up when it is folded so far."""
    end: int
    """Where the log ended when last seen."""
    jobs: dict[ResponseId, asyncio.Task[None]] = field(default_factory=dict)
    """The last job of each response; the next one waits for it."""
    under_way: set[asyncio.Task[None]] = field(default_factory=set)
    """All jobs, what erases what came back, and what makes the index."""
    waiting_bytes: int = 0
    """Bytes of the ends that are not acknowledged."""
    rests: bool = False
    """Whether it is not read on until more of them are."""
    indexed: bool = True
    """Whether the index has an entry for all that closed before the watermark (P-138)."""
    says_so: bool = True
    """Whether that is committed beside the watermark."""

    @property
    def caught_up(self) -> bool:
        """Whether everything is folded that was in the log at the assignment."""
        return self.projection.position >= self.acts_from


class Projector:
    """One projector over a log. `run` serves until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        log_: Log,
        names: Topics,
        *,
        listeners: Sequence[Listener] = (),
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """`listeners` hear of every closing, beside the views and the announcer."""
        self._settings = settings
        self._log = log_
        self._names = names
        self._memory_bytes = memory_bytes
        self._memory_ms = settings.acceptance_ms + settings.skew_ms
        self._ephemeral_ms = int(settings.ephemeral_s * 1000)
        self._group = projector_group(settings)
        self._follower = Follower(log_, self._group, names.events, self, pace=Pace(PACE_S, PACE_S))
        ownership = Ownership(self._follower.owned_at)
        self._rereader = Rereader(
            log_,
            names,
            log_time=lambda number: self.partitions[number].projection.time,
            on_late=self._erase_late,
            on_lost=self._begin_again,
            skew_ms=settings.skew_ms,
        )
        self._views = Views(log_, names, ownership, self._rereader, skew_ms=settings.skew_ms)
        self._announcer = Announcer(log_, names, ownership)
        self._listeners: list[Listener] = [self._views, self._announcer, *listeners]
        self.partitions: dict[int, Partition] = {}
        """The partitions that it follows."""
        self._served = False
        self._tasks = asyncio.TaskGroup()

    def __repr__(self) -> str:
        return f"<Projector of {sorted(self.partitions)}>"

    def not_ready(self) -> list[str]:
        """Why it is not ready: it has not caught up yet with its first partitions. Empty once it has."""
        behind = [] if self._served else self.behind()
        self._served = not behind
        return behind

    def behind(self) -> list[str]:
        """What it has still to do before it is up to date; empty when it is."""
        behind = sorted(p.number for p in self.partitions.values() if not p.caught_up)
        unindexed = sorted(p.number for p in self.partitions.values() if not p.indexed)
        starting = sorted(self._follower.owned - self.partitions.keys())
        reasons = {
            "joining the group": self._follower.joining,
            f"not caught up in partitions {behind or starting}": behind or starting,
            f"making the index of partitions {unindexed}": unindexed,
        }
        return [reason for reason, holds in reasons.items() if holds]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then finish what is under way within half the grace period.

        The partition's next owner does again what is not finished then.
        """
        member = await self._follower.join()

        async def every_second() -> None:
            await self._every_second(member)

        try:
            async with self._tasks:
                loops = (
                    self._follower.begin,
                    self._follower.read,
                    self._rereader.run,
                    every_second,
                )
                tasks = [self._tasks.create_task(loop(), name=loop.__qualname__) for loop in loops]
                await while_all_run(tasks, stop)
                for task in tasks:
                    task.cancel()
                await self._drain(member)
        finally:
            await member.leave()
            await asyncio.gather(self._views.close(), self._announcer.close())

    async def _drain(self, member: Member) -> None:
        if jobs := [job for partition in self.partitions.values() for job in partition.under_way]:
            _, left = await asyncio.wait(jobs, timeout=self._settings.grace_s / 2)
            for job in left:
                job.cancel()
        await self._commit(member)

    # What is followed.

    def assigned(self, owned: frozenset[int]) -> None:
        """The group has assigned these partitions to this projector; with none, a rebalance is under way."""
        if owned:
            self._drop_all_but(owned)

    async def places(self, partitions: Collection[int]) -> Mapping[int, Beginning]:
        """Where to begin partitions: at their watermarks (P-62), and in the views from their log time on.

        Raises LogUnavailable.
        """
        log_, names, memory_ms = self._log, self._names, self._memory_ms
        starts = await starting_points(log_, self._group, names.events, partitions, memory_ms=memory_ms)
        since = {number: start.since for number, start in starts.items()}
        views = {topic: await log_.offsets_at(topic, since) for topic in self._rereader.views}
        id = await log_.topic_id(names.events)
        return {
            number: Beginning(id, start, {topic: offsets[number] for topic, offsets in views.items()})
            for number, start in starts.items()
        }

    def begin(self, partition: int, place: Beginning, end: int) -> None:
        """Fold a partition from `place` on, and read its views back; it ends at offset `end` now."""
        projection = Projection(
            partition, place.offset, place.floor, ephemeral_ms=self._ephemeral_ms, log=place.log
        )
        self.partitions[partition] = Partition(partition, projection, acts_from=end, end=end)
        self._rereader.follow(partition, place.start.since, place.views)
        if place.start.read is None:  # who committed the watermark wrote no index, or nobody did
            self._build(self.partitions[partition])

    def own(self, partition: int, place: Beginning, end: int) -> None:  # noqa: ARG002 - its fold has it
        """Own a followed partition from now on; it ends at offset `end` now."""
        self.partitions[partition].acts_from = end

    async def read(self, batch: Batch) -> None:
        """Fold the next batch of a followed partition, and begin what its ends ask for.

        Other tasks get a turn after it. When too much of the partition waits, it is read no further.
        """
        partition = self.partitions[batch.source.partition]
        self._project(partition, batch)
        if self._is_full(partition):
            partition.rests = True
            self._follower.rest(partition.number)
        await asyncio.sleep(0)

    def out_of_range(self, partition: int) -> None:
        """Forget a partition, to start again (P-64). Its owner does again what is not finished."""
        self._forget(self.partitions[partition])

    def _project(self, partition: Partition, batch: Batch) -> None:
        projection = partition.projection
        for end in projection.apply(batch.records, batch.next_offset):
            work = end.work if isinstance(end, Closing) else end
            if isinstance(work, Erase):
                self._rereader.readback(partition.number).hide(work.id, projection.time)
            self._begin(partition, end)
        for poison in projection.poison:
            poisoned(self._names.events, partition.number, poison)
        projection.poison.clear()
        partition.end = batch.end
        metrics.EVENTS.inc(len(batch.records))

    def _drop_all_but(self, owned: frozenset[int]) -> None:
        self._follower.keep(owned)
        for partition in list(self.partitions.values()):
            if partition.number not in owned:
                self._forget(partition)

    def _forget(self, partition: Partition) -> None:
        """Forget a partition that is not followed any more."""
        del self.partitions[partition.number]
        self._rereader.drop(partition.number)
        for job in partition.under_way:
            job.cancel()

    def _is_full(self, partition: Partition) -> bool:
        return partition.waiting_bytes > WAITING_BYTES // max(1, len(self.partitions))

    def _ease(self, partition: Partition) -> None:
        """Read a partition on that rests, if its share allows that now."""
        followed = self.partitions.get(partition.number) is partition
        if partition.rests and followed and not self._is_full(partition):
            partition.rests = False
            self._follower.go_on(partition.number)

    # Ends under way.

    def _begin(self, partition: Partition, end: End) -> None:
        """Begin what an end asks for. Tasks run in the order in which they are made, so closings are heard of
        in the order of the log.
        """
        partition.waiting_bytes += _size(end)
        before = partition.jobs.get(end.id)
        job = self._tasks.create_task(self._job(partition, end, before), name=f"{end.id}")
        partition.jobs[end.id] = job
        partition.under_way.add(job)
        job.add_done_callback(lambda job: self._ended(partition, end, job))

    async def _job(self, partition: Partition, end: End, before: asyncio.Task[None] | None) -> None:
        if isinstance(end, Closing):  # the first end of its response: nothing is before it
            calls = ((each, partial(each.closed, partition.number, end)) for each in self._listeners)
            await asyncio.gather(*(_untiring(listener, call) for listener, call in calls))
        else:
            if before is not None:
                await asyncio.wait([before])
            await _untiring(self._views, partial(self._views.do, partition.number, end))
            if isinstance(end, Mend):
                self._mended(partition, end.id)
        partition.projection.done(end)

    def _ended(self, partition: Partition, end: End, job: asyncio.Task[None]) -> None:
        if partition.jobs.get(end.id) is job:
            del partition.jobs[end.id]
        partition.under_way.discard(job)
        partition.waiting_bytes -= _size(end)
        self._ease(partition)

    # Reading back.

    def _begin_again(self, partition: int) -> None:
        """A view's position is out of range: begin its partition anew (P-64)."""
        self._follower.again(partition)
        self._forget(self.partitions[partition])

    def _erase_late(self, topic: str, partition: int, tombstone: NewRecord) -> None:
        async def append() -> None:
            await self._views.append(topic, partition, tombstone)

        self._spawn(self.partitions[partition], _untiring(self._views, append))

    def _mend(self, partition: Partition) -> None:
        """Begin to mend what is overdue, unless something is under way for it, or may be soon (P-133)."""
        if not partition.caught_up:
            return
        for id, accepted_offset in self._rereader.overdue(partition.number):
            if id not in partition.jobs:
                self._begin(partition, Mend(id, accepted_offset))

    def _mended(self, partition: Partition, id: ResponseId) -> None:
        copies = self._rereader.readback(partition.number).copies
        if not copies.mended(id, asyncio.get_running_loop().time()):
            log.warning("an entry cannot be mended, and is left as it is", response=id)

    def _build(self, partition: Partition) -> None:
        """Make the index of a partition, beside all else; its watermark says then that it is made."""
        partition.indexed = partition.says_so = False
        copies = self._rereader.readback(partition.number).copies
        builder = Builder(self._log, self._names, self._views, partition.number, copies)

        async def build() -> None:
            await _untiring(builder, builder.build)
            partition.indexed = True

        self._spawn(partition, build())

    def _spawn(self, partition: Partition, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` until it ends, or the partition is lost."""
        task = self._tasks.create_task(work)
        partition.under_way.add(task)
        task.add_done_callback(partition.under_way.discard)

    # Every second.

    async def _every_second(self, member: Member) -> None:
        while True:
            await asyncio.sleep(TICK)
            await self._commit(member)
            if self._follower.left_out:
                self._drop_all_but(frozenset())
            for partition in self.partitions.values():
                time = partition.projection.time
                partition.projection.forget(time - self._memory_ms)
                self._rereader.forget(partition.number, time - LATE_MS, self._memory_ms)
                self._mend(partition)
                self._ease(partition)  # its share is another when partitions come and go
            self._shed()
            self._measure()

    async def _commit(self, member: Member) -> None:
        """Commit the watermarks that moved (P-61, P-74)."""
        until = {number: self._rereader.read_to(number) + self._memory_ms for number in self.partitions}
        marks = {number: p.projection.watermark(until[number]) for number, p in self.partitions.items()}
        said = {number: mark if self.partitions[number].indexed else None for number, mark in marks.items()}
        news = {
            number
            for number, mark in said.items()
            if mark is not None and not self.partitions[number].says_so
        }
        checkpoints = {number: Checkpoint(mark, said[number]) for number, mark in marks.items()}
        for number in news & await member.commit(checkpoints, anyway=news):
            if (partition := self.partitions.get(number)) is not None:
                partition.says_so = partition.indexed

    def _shed(self) -> None:
        held = {p.number: p.projection.held_bytes for p in self.partitions.values()}
        excess = sum(held.values()) - self._memory_bytes
        if excess > 0:
            fullest = self.partitions[max(held, key=lambda number: held[number])].projection
            metrics.LET_GO.inc(fullest.shed(excess))
        metrics.HELD.set(sum(held.values()))

    def _measure(self) -> None:
        partitions = self.partitions.values()
        metrics.OWNED.set(len(partitions))
        metrics.LAG.set(sum(max(0, p.end - p.projection.position) for p in partitions))
        metrics.OPEN.set(sum(p.projection.open_responses for p in partitions))
        metrics.RESTING.set(sum(p.rests for p in partitions))
        metrics.PENDING.set(sum(len(p.under_way) for p in partitions))
        self._announcer.measure()


async def _untiring(who: object, do: Callable[[], Awaitable[None]]) -> None:
    """Do it, and again after a pause as often as it raises: no fault of one listener ends the projector."""
    backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
    while True:
        try:
            await do()
        except Exception:
            name = type(who).__name__
            metrics.LISTENER_FAILURES.labels(name).inc()
            if not backoff.failing:
                log.exception("a listener raised, calling it again", listener=name)
            await backoff.wait()
        else:
            return


def _size(end: End) -> int:
    """Bytes that `end` holds in memory."""
    if isinstance(end, Closing):
        return END_BYTES + len(end.terminal) + (0 if end.work is None else size(end.work))
    return END_BYTES + size(end)
