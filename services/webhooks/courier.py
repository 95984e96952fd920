"""The courier: makes deliveries of the closings of its partitions, and schedules those that are due.

    closings    follower → a batch → endpoints as new as it (P-125) → what is due → records appended (P-123)
    read back   `webhooks`, the same partition: what is pending is scheduled, whoever wrote it
    each second marks, then checkpoints; operators' retries; erases what is over and old; measures

All state is in the log: a courier that is killed is replaced by one that reads the partition's deliveries and
goes on. What was sent and not recorded is sent again, under the same `webhook-id`.

One batch of a partition is dealt with at a time, and the partition rests meanwhile. So a partition whose
leader is away holds no other one up.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping

import structlog
from msgspec import Struct, field

from schemas.closings import ClosingRecord, Marks, lost, parse
from schemas.errors import LogError, RecordTooLarge
from schemas.records import NewRecord, Unreadable
from schemas.webhooks import DeliveryRecord, EndpointId, MarkRecord
from services import points
from services.backoff import Backoff
from services.eventlog.follower import Follower, Member
from services.eventlog.patience import patiently
from services.eventlog.port import Batch, Bounds, Checkpoint, Log, TopicPartition
from services.eventlog.start import floor
from services.eventlog.tail import Tail
from services.eventlog.topics import Topics
from services.loops import while_all_run
from services.webhooks import metrics
from services.webhooks.attempts import again, overflowed
from services.webhooks.deliveries import Deliveries
from services.webhooks.endpoints import retry_key
from services.webhooks.registry import EndpointRegistry
from services.webhooks.schedule import Schedule

LOOK_S = 0.2
"""Seconds between two looks whether the group has answered."""
TICK_S = 1.0
"""Seconds between two commits."""
OWNED_S = 30.0
"""If the group's last answer is older than this many seconds, another worker may own the partition: a courier
begins nothing (P-129)."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries of an append."""

log = structlog.get_logger(__name__)


class Resumption(Struct, frozen=True):
    """Where a partition is begun: at an `offset` of `closings`, with what `webhooks` holds in `stored`."""

    offset: int
    floor: int
    stored: Bounds


class Partition(Struct, eq=False):
    """A followed partition."""

    number: int
    position: int
    """The offset of `closings` before which all is dealt with: the deliveries of it are acknowledged."""
    end: int
    """Where `closings` ended when last seen."""
    loaded_at: int
    """The offset of `webhooks` that must be read before anything is begun."""
    read_to: int
    """The offset of `webhooks` that is read next."""
    deliveries: Deliveries
    marks: Marks = field(default_factory=Marks)
    marked_to: int = -1
    """The position that may be committed: the mark as of it is acknowledged."""
    acts: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether it is owned, and all is known that was there when it was assigned."""
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    """What is under way. All of it ends with the partition."""
    starting: asyncio.Task[None] | None = None
    """What makes it act."""
    keeping: bool = False
    """Whether marks and such are being appended."""


class Courier:
    """One worker, a member of `group`. It schedules what is due in `schedule`. `clock` returns milliseconds
    since the epoch; brokers' clocks may differ by `skew_ms`.
    """

    def __init__(
        self,
        log_: Log,
        names: Topics,
        group: str,
        registry: EndpointRegistry,
        schedule: Schedule,
        *,
        skew_ms: int,
        clock: Callable[[], int],
    ) -> None:
        self._log = log_
        self._names = names
        self._group = group
        self._registry = registry
        self._schedule = schedule
        self._skew_ms = skew_ms
        self._clock = clock
        self._follower = Follower(log_, group, names.closings, self)
        self._stored = Tail(log_, names.webhooks)
        self._writer = log_.writer()
        self._tasks = asyncio.TaskGroup()
        self.partitions: dict[int, Partition] = {}
        """The partitions that it follows."""

    def __repr__(self) -> str:
        return f"<Courier of {sorted(self.partitions)}>"

    def behind(self) -> list[str]:
        """What it has still to do before it is up to date; empty when it is."""
        waiting = sorted(p.number for p in self.partitions.values() if not p.acts.is_set())
        starting = sorted(self._follower.owned - self.partitions.keys())
        reasons = {
            "joining the group": self._follower.joining,
            f"not caught up in partitions {waiting or starting}": waiting or starting,
        }
        return [reason for reason, holds in reasons.items() if holds]

    async def run(self, stop: asyncio.Event, drain: Callable[[], Awaitable[None]]) -> None:
        """Serve until `stop` is set; then `drain` what is under way, commit, and leave the group."""
        member = await self._follower.join()

        async def every_second() -> None:
            await self._every_second(member)

        try:
            async with self._tasks:
                loops = (self._follower.begin, self._follower.read, self._read_back, every_second)
                tasks = [self._tasks.create_task(loop(), name=loop.__qualname__) for loop in loops]
                await while_all_run(tasks, stop)
                await drain()
                await self._commit(member)
                for task in tasks:
                    task.cancel()
                for number in list(self.partitions):
                    self._forget(number)
        finally:
            await member.leave()
            await self._writer.close(timeout=2)

    # What is followed.

    def assigned(self, owned: frozenset[int]) -> None:
        """The group has assigned these partitions to this worker; with none, a rebalance is under way."""
        for partition in self.partitions.values():
            if partition.number not in owned:
                self._rest(partition)
        if owned:
            self._keep(owned)

    async def places(self, partitions: Collection[int]) -> Mapping[int, Resumption]:
        """Where to begin partitions: at their checkpoints. Raises LogUnavailable."""
        committed = await self._log.committed(self._group, self._names.closings, partitions)
        bounds = await self._log.bounds(self._names.closings, partitions)
        stored = await self._log.bounds(self._names.webhooks, partitions)
        for number, at in committed.items():
            if at is not None:
                _report_lost(number, at, bounds[number])
        places = {number: floor(committed[number], bounds[number]) for number in partitions}
        return {number: Resumption(at, at, stored[number]) for number, at in places.items()}

    def begin(self, partition: int, place: Resumption, end: int) -> None:
        """Read a partition from `place` on, and its deliveries from their start."""
        self._forget(partition)
        first = place.stored.start
        self.partitions[partition] = Partition(
            partition, place.offset, end, place.stored.end, first, Deliveries(partition)
        )
        self._stored.follow(partition, first)

    def own(self, partition: int, place: Resumption, end: int) -> None:
        """Own a followed partition from now on: act when all is read that others left."""
        found = self.partitions[partition]
        found.end = end
        found.loaded_at = place.stored.end
        found.loaded.clear()
        if found.read_to >= found.loaded_at:
            found.loaded.set()
        if found.starting is not None:
            found.starting.cancel()
        found.starting = self._spawn(found, self._act(found))

    async def read(self, batch: Batch) -> None:
        """Deal with the next batch of a partition, which rests until that is done."""
        partition = self.partitions[batch.source.partition]
        partition.end = batch.end
        self._follower.rest(partition.number)
        self._spawn(partition, self._deal_with(partition, batch))

    def out_of_range(self, partition: int) -> None:
        """Forget a partition: it begins anew, with the marks that its deliveries have (P-110)."""
        self._forget(partition)

    # What becomes of closings.

    async def _act(self, partition: Partition) -> None:
        """Act in a partition once its deliveries are loaded, and the endpoints of these are known."""
        await partition.loaded.wait()
        await self._registry.known()
        counted = partition.marks.kept
        for of_log, offset in partition.deliveries.counted.items():
            counted[of_log] = max(offset, counted.get(of_log, -1))
        partition.marks = Marks(counted)
        if partition.number in self._follower.owned:
            partition.acts.set()
            for delivery in partition.deliveries.pending.values():
                self._schedule.put(delivery)

    async def _deal_with(self, partition: Partition, batch: Batch) -> None:
        """Append the deliveries that a batch of closings asks for, then let the next one come."""
        while True:
            await partition.acts.wait()
            await self._registry.known()
            marks = Marks(partition.marks.kept)
            closings = [closing for closing in self._closings(batch) if marks.fresh(closing)]
            records = list(self._due(partition, closings))
            points.at("deliveries due", partition.number, records)
            appends = (self.append(partition.number, record.new()) for record in records)
            if all(await asyncio.gather(*appends)):
                break  # else it is not owned any more: it may be again
        metrics.DUE.inc(len(records))
        partition.marks = marks
        partition.position = batch.next_offset
        self._follower.go_on(partition.number)

    def _closings(self, batch: Batch) -> Iterable[ClosingRecord]:
        for record in batch.records:
            closing = parse(record, batch.source.partition)
            if isinstance(closing, Unreadable):
                _passed_over(batch.source, record.offset, closing.why)
            else:
                yield closing

    def _due(self, partition: Partition, closings: Iterable[ClosingRecord]) -> Iterable[DeliveryRecord]:
        """The deliveries that are due and not known. One for which there is no room has failed at once."""
        now, coming = self._clock(), Counter[EndpointId]()
        for closing in closings:
            for due in self._registry.endpoints.due(closing, now, skew_ms=self._skew_ms):
                if partition.deliveries.get(due.id) is not None:
                    continue
                has_room = partition.deliveries.has_room(due.endpoint, coming[due.endpoint])
                coming[due.endpoint] += 1
                yield due if has_room else overflowed(due)

    # What the log says of deliveries.

    async def _read_back(self) -> None:
        """Fold the deliveries of the followed partitions, for ever."""
        while True:
            for batch in await self._stored.read():
                partition = self.partitions.get(batch.source.partition)
                if partition is None:
                    continue
                if batch.out_of_range:
                    await self._load_anew(partition)
                else:
                    self._apply(partition, batch)

    def _apply(self, partition: Partition, batch: Batch) -> None:
        for record in batch.records:
            changed = partition.deliveries.apply(record)
            if changed is None:
                _passed_over(batch.source, record.offset, "unreadable")
            elif partition.acts.is_set():
                if changed.erased is not None:
                    self._schedule.drop(changed.erased)
                if (delivery := changed.delivery) is not None:
                    if delivery.state == "pending":
                        self._schedule.put(delivery)
                    else:
                        self._schedule.drop(delivery.id)
        partition.read_to = batch.next_offset
        if partition.read_to >= partition.loaded_at:
            partition.loaded.set()

    async def _load_anew(self, partition: Partition) -> None:
        """The log does not hold the position: `webhooks` was made anew. Read what there is."""
        number, topic = partition.number, self._names.webhooks
        log.error("deliveries are gone, reading the partition anew", topic=topic, partition=number)
        bounds = (await patiently(lambda: self._log.bounds(topic, [number])))[number]
        if self.partitions.get(number) is partition:
            for id in partition.deliveries.pending:
                self._schedule.drop(id)
            partition.deliveries = Deliveries(number)
            partition.read_to = bounds.start
            self._stored.follow(number, bounds.start)

    # What the dispatcher asks.

    async def owned(self, partition: int) -> bool:
        """Whether this worker may begin an attempt of the partition: as soon as that is known."""
        found, looks = self.partitions.get(partition), Backoff(LOOK_S, LOOK_S)
        while found is not None and found.acts.is_set():
            if self._heard_lately(partition):
                return True
            await looks.wait()
        return False

    async def append(self, partition: int, record: NewRecord, *, late: bool = False) -> bool:
        """Append to `webhooks` while this worker owns the partition, again and again. False: it does not.

        `late`: also for OWNED_S after it was lost.
        """
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while (late and self._heard_lately(partition)) or await self.owned(partition):
            try:
                await self._writer.append(self._names.webhooks, partition, record)
            except RecordTooLarge as error:  # an operator has lowered the bound: it must not hold others up
                log.warning("not recorded", key=record.key.decode(), why=str(error))
                return True
            except LogError as error:
                metrics.RETRIES.inc()
                log.warning("not recorded, trying again", key=record.key.decode(), error=repr(error))
                await backoff.wait()
            else:
                return True
        return False

    def _heard_lately(self, partition: int) -> bool:
        """Whether the group knew this worker for the owner a short while ago (P-129)."""
        return asyncio.get_running_loop().time() - self._follower.owned_at(partition) <= OWNED_S

    # Every second.

    async def _every_second(self, member: Member) -> None:
        """Keep the log's marks and checkpoints, and its bounds, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            if self._follower.left_out:
                self._keep(frozenset())
            for partition in self.partitions.values():
                if partition.acts.is_set() and not partition.keeping:
                    self._spawn(partition, self._keep_up(partition))
            await self._commit(member)
            self._measure()

    async def _commit(self, member: Member) -> None:
        """Commit the checkpoints up to which the marks are in the log."""
        checkpoints = {p.number: p.marked_to for p in self.partitions.values() if p.marked_to >= 0}
        await member.commit({number: Checkpoint(at) for number, at in checkpoints.items()})

    async def _keep_up(self, partition: Partition) -> None:
        """Append a mark that has moved; do what operators asked for; erase what is over and old."""
        partition.keeping = True
        try:
            position, counted = partition.position, partition.marks.kept
            known = counted.items() <= partition.deliveries.counted.items()
            if known or await self.append(partition.number, MarkRecord(counted).new()):
                partition.marked_to = position
            await self._retry(partition)
            erased = [NewRecord(id.encode(), None) for id in partition.deliveries.surplus()]
            await asyncio.gather(*(self.append(partition.number, record) for record in erased))
        finally:
            partition.keeping = False

    async def _retry(self, partition: Partition) -> None:
        for id, delivery in partition.deliveries.wanted().items():
            if delivery is not None:
                await self.append(partition.number, again(delivery, self._clock()).new())
            await self.append(partition.number, NewRecord(retry_key(id).encode(), None))

    def _measure(self) -> None:
        owned = [p for p in self.partitions.values() if p.number in self._follower.owned]
        metrics.OWNED.set(len(owned))
        metrics.LAG.set(sum(max(0, p.end - p.position) for p in owned))
        metrics.PENDING.set(sum(len(p.deliveries.pending) for p in owned))
        metrics.ENDPOINTS.set(len(self._registry.endpoints))

    # What is not followed any more.

    def _rest(self, partition: Partition) -> None:
        """Act no more in a partition."""
        partition.acts.clear()
        if partition.starting is not None:
            partition.starting.cancel()
        for id in partition.deliveries.pending:
            self._schedule.rest(id)

    def _keep(self, owned: frozenset[int]) -> None:
        self._follower.keep(owned)
        for number in self.partitions.keys() - owned:
            self._forget(number)

    def _forget(self, number: int) -> None:
        """Follow a partition's deliveries no more, and end what is under way there."""
        partition = self.partitions.pop(number, None)
        if partition is None:
            return
        self._stored.drop(number)
        self._rest(partition)
        for task in partition.tasks:
            task.cancel()

    def _spawn(self, partition: Partition, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        """Run `work`, which ends with the partition."""
        task = self._tasks.create_task(work)
        partition.tasks.add(task)
        task.add_done_callback(partition.tasks.discard)
        return task


def _passed_over(source: TopicPartition, offset: int, why: str) -> None:
    metrics.POISON.labels(source.topic).inc()
    log.warning("passed over", topic=source.topic, partition=source.partition, offset=offset, why=why)


def _report_lost(partition: int, position: int, bounds: Bounds) -> None:
    """Tell what retention removed unread (P-110): these responses' webhooks are never sent."""
    gone = lost(partition, position, bounds.start, bounds.end)
    if gone is not None:
        metrics.LOST.inc(1 if gone.last is None else gone.last - gone.first + 1)
        log.error("webhooks lost", what=str(gone))
