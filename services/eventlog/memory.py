"""The log in memory: the same promises as on Kafka, for tests and for reading how the port behaves.

Time is the injected `clock` (ms), stamped on a record when it is appended, never going backwards within
a partition. Compaction and retention happen when a test says so; so do failures of appends.
"""

import asyncio
import time
from asyncio import Future
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf
from typing import Literal

from schemas.errors import AppendUnknown, LogError, LogUnavailable, RecordTooLarge, TopicMissing, Unsent
from schemas.records import NewRecord
from services.eventlog.assignment import assign
from services.eventlog.memory_partition import MemoryPartition, MemoryRecord, record_size
from services.eventlog.port import (
    Ack,
    Batch,
    Bounds,
    Checkpoint,
    Leader,
    OnAssignment,
    OnFailure,
    TopicPartition,
)
from services.eventlog.topics import MAX_RECORD_BYTES

Outcome = Literal["lost", "unknown-lost", "unknown-appended"]
"""How an append fails: nothing was sent; sent and not appended; sent and appended, but not acknowledged."""


class Group:
    """A consumer group: its members, and what they committed."""

    def __init__(self) -> None:
        self.members: dict[str, MemoryMembership] = {}
        self.checkpoints: dict[tuple[str, int], int] = {}
        self.read: dict[tuple[str, int], int | None] = {}
        """How far the member that committed a checkpoint had read then."""
        self.joined = 0

    def rebalance(self, partitions: int) -> None:
        """Share out a topic's `partitions` among the members, as `assign` does."""
        held = {name: member.owned for name, member in self.members.items()}
        for member in self.members.values():
            member.become(frozenset())
        for name, mine in assign(partitions, held).items():
            self.members[name].become(frozenset(mine))


class MemoryLog:
    """`Log` in memory. `topics` says how many partitions each topic has."""

    def __init__(
        self,
        topics: Mapping[str, int],
        *,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self.stored = {topic: [MemoryPartition() for _ in range(count)] for topic, count in topics.items()}
        """What is in each partition of each topic."""
        self.topic_ids = {topic: f"{topic}-1" for topic in topics}
        """The id of each topic: another one when it is made anew."""
        self.clock = clock
        """Stamps what is appended, ms; a test may set another one, as it may the bound below."""
        self.max_record_bytes = max_record_bytes
        """The largest record that a writer takes."""
        self.groups: defaultdict[str, Group] = defaultdict(Group)
        self._appended = asyncio.Event()
        self._failures: deque[Outcome] = deque()
        self._turn = 0
        self.unsent = 0
        """How many of the next movable appends are given up before they are sent."""
        self.available = True
        """Set it to False and everything raises LogUnavailable, as with no broker."""

    # -- what a test does to the log ---------------------------------------------------------------

    def fail_next(self, outcome: Outcome, times: int = 1) -> None:
        """Let the next `times` appends fail so; what is queued behind one in its partition is lost."""
        self._failures.extend([outcome] * times)

    def compact(self, topic: str) -> None:
        """Keep the last record of each key; tombstones stay, offsets have holes."""
        for partition in self.stored[topic]:
            partition.compact()

    def retain(self, topic: str, partition: int, before_offset: int) -> None:
        """Drop what is before `before_offset` and move the partition's start there."""
        log = self.stored[topic][partition]
        log.records = log.records[log.index(before_offset) :]
        log.start = max(log.start, min(before_offset, log.end))

    def make_anew(self, topic: str) -> None:
        """Delete `topic` with all that is in it, and create it again."""
        self.stored[topic] = [MemoryPartition() for _ in self.stored[topic]]
        made = int(self.topic_ids[topic].removeprefix(f"{topic}-"))
        self.topic_ids[topic] = f"{topic}-{made + 1}"

    def grow(self, topic: str, partitions: int) -> None:
        """Add partitions to `topic`, up to so many. Its groups share them out at once."""
        stored = self.stored[topic]
        stored += [MemoryPartition() for _ in range(partitions - len(stored))]
        for group in self.groups.values():
            if any(member.topic == topic for member in group.members.values()):
                group.rebalance(len(stored))

    def records(self, topic: str, partition: int) -> list[MemoryRecord]:
        """Everything that is in a partition."""
        return list(self.stored[topic][partition].records)

    # -- the port ----------------------------------------------------------------------------------

    async def partitions(self, topic: str) -> int:
        """How many partitions `topic` has. Raises TopicMissing."""
        self._check()
        if topic not in self.stored:
            raise TopicMissing(topic)
        return len(self.stored[topic])

    async def topic_id(self, topic: str) -> str:
        """The id of `topic`. Raises TopicMissing."""
        await self.partitions(topic)
        return self.topic_ids[topic]

    async def fetch(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait: float = 0.5,
        max_bytes: int = 4 << 20,
        partition_bytes: int = 1 << 20,
    ) -> list[Batch]:
        """Read on from `positions`; waits up to `max_wait` seconds for the first record."""
        self._check()
        found = self.read(positions, max_bytes, partition_bytes)
        deadline = asyncio.get_running_loop().time() + max_wait
        try:
            async with asyncio.timeout_at(deadline):
                while not found and max_wait > 0:
                    await self._appended.wait()
                    self._check()
                    found = self.read(positions, max_bytes, partition_bytes)
        except TimeoutError:
            pass
        await asyncio.sleep(0)
        return found

    async def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        """First and next offset of each partition, as of now."""
        await asyncio.sleep(0)
        logs = {partition: self._partition(TopicPartition(topic, partition)) for partition in partitions}
        return {partition: Bounds(log.start, log.end) for partition, log in logs.items()}

    async def offsets_at(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        """Per partition the first offset with time >= the given ms, or the end when there is none."""
        await asyncio.sleep(0)
        return {p: self._offset_at(TopicPartition(topic, p), wanted) for p, wanted in times.items()}

    def leader(self, topic: str, partition: int) -> Leader | None:
        """The one broker, which leads all; it answers unless a test says that it is away."""
        return Leader(1, self.available) if partition < len(self.stored.get(topic, ())) else None

    async def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int | None]:
        """The checkpoints of a group, None where it has none."""
        self._check()
        checkpoints = self.groups[group].checkpoints
        return {partition: checkpoints.get((topic, partition)) for partition in partitions}

    async def checkpoints(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> dict[int, Checkpoint | None]:
        """The checkpoints of a group and how far it had read then, None where it has none."""
        read = self.groups[group].read
        return {
            partition: None if offset is None else Checkpoint(offset, read.get((topic, partition)))
            for partition, offset in (await self.committed(group, topic, partitions)).items()
        }

    async def join(self, group: str, topic: str, on_assignment: OnAssignment) -> "MemoryMembership":
        """Become a member of `group` on `topic`; `on_assignment` is called before this returns."""
        count = await self.partitions(topic)
        members = self.groups[group]
        members.joined += 1
        name = f"member-{members.joined:06d}"
        membership = MemoryMembership(self, members, name, topic, on_assignment)
        members.members[name] = membership
        members.rebalance(count)
        return membership

    def writer(self, *, on_failure: OnFailure | None = None, delivery_timeout: float = 120) -> "MemoryWriter":  # noqa: ARG002 - never met
        """A writer of its own; it appends at the next turn of the loop."""
        return MemoryWriter(self, on_failure)

    async def close(self) -> None:
        """Nothing to close."""

    # -- for the writer and the membership -----------------------------------------------------------

    def _check(self) -> None:
        if not self.available:
            raise LogUnavailable("the log is away")

    def _partition(self, source: TopicPartition) -> MemoryPartition:
        self._check()
        partitions = self.stored.get(source.topic, ())
        if source.partition >= len(partitions):
            raise LogUnavailable(f"topic {source.topic} has no partition {source.partition}")
        return partitions[source.partition]

    def read(self, positions: Mapping[TopicPartition, int], bound: int, partition_bytes: int) -> list[Batch]:
        """What there is now from `positions` on, up to about `bound` bytes, `partition_bytes` of each."""
        order = list(positions)
        self._turn += 1
        start = self._turn % len(order) if order else 0
        batches: list[Batch] = []
        for source in order[start:] + order[:start]:
            batch = self._batch(source, positions[source], min(bound, partition_bytes))
            if batch is not None and (bound > 0 or not batches):
                batches.append(batch)
                bound -= sum(record.size for record in self._stored(batch))
        return batches

    def _stored(self, batch: Batch) -> list[MemoryRecord]:
        return [record for record in batch.records if isinstance(record, MemoryRecord)]

    def _batch(self, source: TopicPartition, position: int, bound: int) -> Batch | None:
        log = self._partition(source)
        if not log.start <= position <= log.end:
            return Batch(source, (), position, log.end, out_of_range=True)
        records = log.read(position, bound)
        if records:
            return Batch(source, records, records[-1].offset + 1, log.end)
        return Batch(source, (), log.end, log.end) if position < log.end else None

    def _offset_at(self, source: TopicPartition, timestamp: int) -> int:
        log = self._partition(source)
        index = bisect_left(log.records, timestamp, key=lambda record: record.timestamp)
        return log.records[index].offset if index < len(log.records) else log.end

    def append(self, source: TopicPartition, record: NewRecord) -> Ack:
        """Append, or fail as a test asked for."""
        outcome = self._failures.popleft() if self._failures else None
        if outcome == "lost":
            raise LogUnavailable("the append was lost (asked for by the test)")
        if outcome == "unknown-lost":
            raise AppendUnknown("the append is lost, but nobody knows (asked for by the test)")
        ack = self._partition(source).append(record, self.clock())
        self._appended.set()
        self._appended = asyncio.Event()
        if outcome == "unknown-appended":
            raise AppendUnknown("the append happened, but nobody knows (asked for by the test)")
        return ack


class MemoryWriter:
    """`Writer` on a `MemoryLog`: appends at the next turn of the loop.

    Records posted in one turn are appended together. A failure fails those behind it in its partition.
    """

    def __init__(self, log: MemoryLog, on_failure: OnFailure | None) -> None:
        self._log = log
        self._on_failure = on_failure
        self._queues: dict[TopicPartition, list[tuple[NewRecord, Future[Ack] | None]]] = {}
        self._drained = asyncio.Event()
        self._drained.set()
        self._closed = False

    async def append(
        self,
        topic: str,
        partition: int,
        record: NewRecord,
        *,
        unsent_s: float = inf,  # noqa: ARG002 - nothing waits
        movable: bool = False,
    ) -> Ack:
        """Append one record. Raises RecordTooLarge, LogUnavailable, Unsent or AppendUnknown."""
        if movable and self._log.unsent:
            self._log.unsent -= 1
            raise Unsent("the append was given up (asked for by the test)")
        future: Future[Ack] = asyncio.get_running_loop().create_future()
        self._queue(TopicPartition(topic, partition), record, future)
        return await future

    def post(self, topic: str, partition: int, record: NewRecord, *, patient: bool = False) -> None:
        """Queue one record and return at once; a failure is told to `on_failure`."""
        del patient  # nothing waits here
        self._queue(TopicPartition(topic, partition), record, None)

    async def flush(self) -> None:
        """Wait until everything queued so far is appended or has failed."""
        await self._drained.wait()

    async def close(self, timeout: float = 10) -> None:  # noqa: ARG002 - flushing takes no time
        """Append what is queued, refuse what comes later."""
        self._closed = True
        await self.flush()

    def _queue(self, source: TopicPartition, record: NewRecord, future: Future[Ack] | None) -> None:
        if self._closed:
            raise LogUnavailable("the writer is closed")
        size = record_size(record)
        if size > self._log.max_record_bytes:
            raise RecordTooLarge(size, self._log.max_record_bytes)
        if not self._queues:
            self._drained.clear()
            asyncio.get_running_loop().call_soon(self._drain)
        self._queues.setdefault(source, []).append((record, future))

    def _drain(self) -> None:
        queues, self._queues = self._queues, {}
        for source, queue in queues.items():
            self._append_all(source, queue)
        if not self._queues:
            self._drained.set()

    def _append_all(self, source: TopicPartition, queue: list[tuple[NewRecord, Future[Ack] | None]]) -> None:
        for index, (record, future) in enumerate(queue):
            try:
                ack = self._log.append(source, record)
            except LogError as error:
                self._fail(source, queue[index:], error)
                return
            if future is not None and not future.done():
                future.set_result(ack)

    def _fail(
        self, source: TopicPartition, rest: Iterable[tuple[NewRecord, Future[Ack] | None]], error: LogError
    ) -> None:
        posted: list[NewRecord] = []
        for index, (record, future) in enumerate(rest):
            if future is None:
                posted.append(record)
            elif not future.done():
                future.set_exception(error if index == 0 else LogUnavailable(f"queued behind: {error}"))
        if posted and self._on_failure:
            self._on_failure(source, posted, error)


class MemoryMembership:
    """`Membership` on a `MemoryLog`; rebalances happen within `join` and `close`."""

    def __init__(
        self,
        log: MemoryLog,
        group: Group,
        name: str,
        topic: str,
        on_assignment: OnAssignment,
    ) -> None:
        self.topic = topic
        self._log = log
        self._group = group
        self._name = name
        self._on_assignment = on_assignment
        self._owned: frozenset[int] = frozenset()
        self._heard_at = -inf

    @property
    def owned(self) -> frozenset[int]:
        """The partitions assigned to this member now."""
        return self._owned

    @property
    def member(self) -> bool:
        """Whether it is in the group still."""
        return self._name in self._group.members

    @property
    def heard_at(self) -> float:
        """Loop time: now, as long as it is a member, since a group in memory knows that at any time."""
        if self.member:
            self._heard_at = asyncio.get_running_loop().time()
        return self._heard_at

    async def commit(self, checkpoints: Mapping[int, int], read: Mapping[int, int] | None = None) -> None:
        """Commit offsets of owned partitions; others are left out. Raises LogUnavailable."""
        self._log._check()
        mine = {(self.topic, p): offset for p, offset in checkpoints.items() if p in self._owned}
        self._group.checkpoints.update(mine)
        self._group.read.update((at, (read or {}).get(at[1])) for at in mine)

    async def close(self) -> None:
        """Leave the group; its partitions move on at once."""
        self.expel()

    def expel(self) -> None:
        """Be thrown out of the group, as a member whose session ended."""
        self._heard_at = self.heard_at
        if self._group.members.pop(self._name, None):
            self.become(frozenset())
            self._group.rebalance(len(self._log.stored[self.topic]))

    def become(self, owned: frozenset[int]) -> None:
        """Own `owned` from now on, and call `on_assignment` if that is news."""
        if owned != self._owned:
            self._owned = owned
            self._on_assignment(owned)
