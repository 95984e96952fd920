"""One simulated process's door to the log: late, lossy, and it can be shut.

Everything that a process does passes here. Paused, nothing of it runs (`clockwork`), and when it is resumed
it does what it was about to do, on what it had heard by then: that is the zombie. Isolated it goes on, and
nothing passes its door. Killed, what it had sent may still arrive: that is the record in flight.
"""

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextvars import copy_context
from math import inf
from random import Random
from typing import TypeVar

from schemas.errors import AppendUnknown, LogError, LogUnavailable, Unsent
from schemas.ids import ResponseId
from schemas.records import LogRecord, NewRecord
from services.eventlog.memory import MemoryMembership
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
from services.eventlog.topics import topics
from tests.simulation.clockwork import PROCESS, running
from tests.simulation.log import SimLog
from tests.written import kind_of

SESSION = 10.0
"""Seconds without a sign of life after which the group expels a member."""
IDLE = 20.0
"""Seconds that a fetch waits for news: a slow answer is an answer, and idle polls cost real time."""
NAMES = topics()
Queued = tuple[NewRecord, "Future[Ack] | None"]
OnAct = Callable[[str, ResponseId | None], None]
"""What a process is about to do, and about which response."""
T = TypeVar("T")


class Node:
    """A process that can be paused, isolated, resumed and killed. `context` is what all its code runs in."""

    def __init__(self, name: str, log: SimLog, rng: Random, *, trouble: float, old: bool = False) -> None:
        self.name = name
        self.log = log
        self.rng = rng
        self.trouble = trouble
        """The chance that an append or a commit goes wrong."""
        self.old = old
        """Whether the process is of the version before: it cannot read events without a kind (P-15)."""
        self.alive = True
        self.born_at = running().time()
        self.delays: tuple[float, ...] = (1, 3, 10)
        """Mean seconds after which an append that was on its way arrives: one of these is drawn."""
        self.lag = 0.0
        """Mean seconds by which everything that the process fetches is late."""
        self.behind_until = 0.0
        """Until then the process gets no record of `responses.events`, but it gets beats."""
        self.mute_until = 0.0
        """Until then none of its commits reaches the group."""
        self.disturbed_at = -1000.0
        """When it last gave others a reason to think it gone: a pause, a beat that failed."""
        self.held_since: float | None = None
        """Since when it has been paused or isolated; None if it is neither."""
        self.memberships: list[NodeMembership] = []
        self.writers: list[NodeWriter] = []
        self.on_assignment: OnAssignment = lambda _: None
        self.on_append: Callable[[TopicPartition, NewRecord], None] = lambda *_: None
        self.ambush: str | None = None
        """The act at which the process is to be caught: `caught` is called then."""
        self.caught: OnAct = lambda *_: None
        self.context = copy_context()
        self.context.run(PROCESS.set, self)
        self._loop = running()
        self._frozen = False
        self._pauses: list[tuple[float, float]] = []
        self._broker, self._others = asyncio.Event(), asyncio.Event()
        """Set while the process can reach the broker, and its other neighbours."""
        self._broker.set()
        self._others.set()

    def __repr__(self) -> str:
        return self.name

    async def turn(self, mean: float = 0.01) -> None:
        """Wait as long as a request takes, and as long as the broker is away."""
        await asyncio.sleep(self.rng.expovariate(1 / mean))
        await self.passage()

    async def away(self, mean: float) -> None:
        """Wait as long as a neighbour other than the broker takes (`mean` seconds in the mean), and as long
        as it cannot be reached.
        """
        await asyncio.sleep(self.rng.expovariate(1 / mean))
        await self._others.wait()

    async def passage(self) -> None:
        """Wait until the broker answers."""
        doors = (self._broker, self.log.gate)
        while not all(door.is_set() for door in doors):
            for door in doors:
                await door.wait()

    def acts(self, act: str, id: ResponseId | None = None) -> None:
        """Call `caught` if the process, which is about to do `act`, is to be caught at that."""
        if act == self.ambush and self.alive:
            self.ambush = None
            self.caught(act, id)

    def disturb(self) -> None:
        """Note that others may have reason to think that the process is gone."""
        self.disturbed_at = self._loop.time()

    def pause(self) -> None:
        """Stop the process, as SIGSTOP does."""
        self._hold()
        if self.rng.random() < 0.5 and self._broker.is_set() and self.log.gate.is_set():
            for writer in self.writers:
                writer.send_all()  # these records had left the process already
        self._frozen = True
        self._loop.freeze(self)

    def isolate(self, *, wholly: bool) -> None:
        """Cut the process off from the broker, and `wholly` from its neighbours too. It runs on meanwhile."""
        self._hold()
        self._broker.clear()
        if wholly:
            self._others.clear()

    def resume(self) -> None:
        """Let the process run and reach its neighbours again."""
        if self.held_since is not None:
            self.disturb()
            if self._frozen:
                self._pauses.append((self.held_since, self._loop.time()))
        self.held_since = None
        self._broker.set()
        self._others.set()
        self._frozen = False
        self._loop.thaw(self, self.rng)

    def kill(self) -> None:
        """Kill the process. Some of what it had queued is on its way and arrives later. Its pause ends."""
        self.alive = False
        for writer in self.writers:
            writer.die()
        for membership in self.memberships:
            self._loop.call_later(SESSION, membership.inner.expel)
        self.resume()

    def stalled(self, since: float) -> float:
        """The longest pause that ended after `since`, as far as it came after it."""
        return max((end - max(start, since) for start, end in self._pauses if end > since), default=0)

    def _hold(self) -> None:
        self.held_since = self._loop.time()
        self.disturb()

    async def _asked(self, answer: Callable[[], Awaitable[T]]) -> T:
        """What the log answers: the question takes a while to get there, or the answer to come back."""
        if self.rng.random() < 0.5:
            await self.turn()
            return await answer()
        await self.passage()
        said = await answer()
        await self.turn()
        return said

    # The port.

    async def partitions(self, topic: str) -> int:
        return await self._asked(lambda: self.log.partitions(topic))

    async def topic_id(self, topic: str) -> str:
        return await self._asked(lambda: self.log.topic_id(topic))

    async def fetch(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait: float = 0.5,
        max_bytes: int = 4 << 20,
        partition_bytes: int = 1 << 20,
    ) -> list[Batch]:
        await self.turn()
        few = self.rng.choice((1, 500, 5_000, partition_bytes))
        batches = await self.log.fetch(
            positions,
            max_wait=max_wait and IDLE,
            max_bytes=max_bytes,
            partition_bytes=min(few, partition_bytes),
        )
        if self.lag:
            await asyncio.sleep(self.rng.expovariate(1 / self.lag))
            self.disturb()
        if self.behind_until and any(source.topic == NAMES.events for source in positions):
            await self._fall_behind()
        await self.passage()
        return [_as_before(batch) for batch in batches] if self.old else batches

    async def _fall_behind(self) -> None:
        while (left := self.behind_until - running().time()) > 0:
            await asyncio.sleep(left)
            self.disturb()

    async def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        self.acts("ask")
        return await self._asked(lambda: self.log.bounds(topic, partitions))

    async def offsets_at(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        return await self._asked(lambda: self.log.offsets_at(topic, times))

    def leader(self, topic: str, partition: int) -> Leader | None:
        found = self.log.leader(topic, partition)
        return found and found._replace(healthy=self._broker.is_set() and self.log.gate.is_set())

    async def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int | None]:
        return await self._asked(lambda: self.log.committed(group, topic, partitions))

    async def checkpoints(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> dict[int, Checkpoint | None]:
        return await self._asked(lambda: self.log.checkpoints(group, topic, partitions))

    async def join(self, group: str, topic: str, on_assignment: OnAssignment) -> "NodeMembership":
        await self.turn()
        membership = NodeMembership(self, on_assignment, group, topic)
        await membership.rejoin()
        self.memberships.append(membership)
        return membership

    def writer(self, *, on_failure: OnFailure | None = None, delivery_timeout: float = 120) -> "NodeWriter":
        writer = NodeWriter(self, on_failure, delivery_timeout)
        self.writers.append(writer)
        return writer

    async def close(self) -> None:
        """Nothing to close."""


class NodeMembership:
    """Hears of assignments late, and commits only while it is a member."""

    inner: MemoryMembership

    def __init__(self, node: Node, on_assignment: OnAssignment, group: str, topic: str) -> None:
        self._node = node
        self._on_assignment = on_assignment
        self._group = group
        self._topic = topic
        self._told: list[frozenset[int]] = []
        self._heard_at = -inf
        self._held: frozenset[int] = frozenset()
        self._lost_at: dict[int, float] = {}
        self._left = False

    async def rejoin(self) -> None:
        """Join; a member that was expelled and is still there does so by itself."""
        if self._node.alive and not self._left:
            self.inner = await self._node.log.join(self._group, self._topic, self.told)

    @property
    def owned(self) -> frozenset[int]:
        return self.inner.owned

    @property
    def heard_at(self) -> float:
        """As its heartbeats tell: now, unless it is held, was expelled, or has not heard yet of a change."""
        if self._node.held_since is None and self.inner.member and not self._told:
            self._heard_at = running().time()
        return self._heard_at

    def owned_at(self, partition: int) -> float:
        """When the group last held it for the owner of `partition`, whatever it knows of that."""
        return running().time() if partition in self._held else self._lost_at.get(partition, -inf)

    def told(self, owned: frozenset[int]) -> None:
        if self._node.held_since is None and not self._told:
            self._heard_at = running().time()
        self._lost_at |= dict.fromkeys(self._held - owned, running().time())
        self._held = owned
        self._told.append(owned)
        asyncio.get_running_loop().create_task(self._tell(), context=self._node.context)

    async def commit(self, checkpoints: Mapping[int, int], read: Mapping[int, int] | None = None) -> None:
        self._node.acts("commit")
        await self._node.turn()
        if not self.inner.owned >= set(checkpoints):
            raise LogUnavailable("the generation is over")
        if running().time() < self._node.mute_until:
            raise LogUnavailable("the commits do not get through")
        trouble = self._node.rng.random() < self._node.trouble
        if not trouble or self._node.rng.random() < 0.5:
            await self.inner.commit(checkpoints, read)
        if trouble:
            raise LogUnavailable("nobody knows whether it was committed")

    async def close(self) -> None:
        if self._node.alive:  # the killed leave no word
            self._left = True
            await self.inner.close()

    async def _tell(self) -> None:
        await self._node.turn(0.1)
        if self._told and self._node.alive:
            owned = self._told.pop(0)
            self._node.on_assignment(owned)
            self._on_assignment(owned)


class NodeWriter:
    """Appends a little later, in order per partition. Now and then it fails, with or without an append."""

    def __init__(self, node: Node, on_failure: OnFailure | None, delivery_timeout: float) -> None:
        self._node = node
        self._on_failure = on_failure
        self._delivery_timeout = delivery_timeout
        self._queues: dict[TopicPartition, list[Queued]] = {}
        self._flusher: asyncio.Task[None] | None = None

    async def append(
        self,
        topic: str,
        partition: int,
        record: NewRecord,
        *,
        unsent_s: float = inf,
        movable: bool = False,
    ) -> Ack:
        if movable and self._node.rng.random() < self._node.trouble:
            await self._node.turn(min(max(unsent_s, 0.001), 1))  # a create may come when its time is up
            raise Unsent("its leader turned unhealthy before it was sent")
        future: Future[Ack] = asyncio.get_running_loop().create_future()
        self._queue(TopicPartition(topic, partition), record, future)
        try:
            async with asyncio.timeout(self._delivery_timeout):
                return await future
        except TimeoutError:
            raise AppendUnknown("not acknowledged in time") from None  # and it may be appended yet

    def post(self, topic: str, partition: int, record: NewRecord, *, patient: bool = False) -> None:
        self._queue(TopicPartition(topic, partition), record, None)

    async def flush(self) -> None:
        while self._flusher is not None and not self._flusher.done():
            await asyncio.wait([self._flusher])

    async def close(self, timeout: float = 10) -> None:
        await self.flush()

    def die(self) -> None:
        """Drop the queue, except for a prefix of each partition's, which was sent already."""
        if self._flusher is not None:
            self._flusher.cancel()
        for source, queue in self._queues.items():
            sent = queue[: self._node.rng.randint(0, len(queue))]
            self._send_later(source, [record for record, _ in sent])
            for _, future in queue:
                if future is not None:
                    future.cancel()
        self._queues = {}

    def _queue(self, source: TopicPartition, record: NewRecord, future: "Future[Ack] | None") -> None:
        if not self._node.alive:
            if future is not None:
                future.cancel()
            return
        self._queues.setdefault(source, []).append((record, future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.get_running_loop().create_task(self._flush())
        self._node.on_append(source, record)
        if self._node.ambush is not None:
            self._node.acts(_act(source, record), response_of(record))

    def send_all(self) -> None:
        """Send all that is queued to the log."""
        queues, self._queues = self._queues, {}
        for source, queue in queues.items():
            self._send(source, queue)

    async def _flush(self) -> None:
        while self._queues:
            await self._node.turn()
            self.send_all()

    def _send(self, source: TopicPartition, queue: list[Queued]) -> None:
        rng = self._node.rng
        cut = rng.randrange(len(queue)) if rng.random() < self._node.trouble else len(queue)
        for record, future in queue[:cut]:
            ack = self._node.log.append_now(source, record)
            if future is not None and not future.done():
                future.set_result(ack)
        if cut < len(queue):
            self._fail(source, queue[cut:])

    def _fail(self, source: TopicPartition, queue: list[Queued]) -> None:
        """Fail the queue: its records are lost, or appended without an ack, or appended when their writer
        has stopped waiting.
        """
        if source.topic == NAMES.executors:
            self._node.disturb()
        records = [record for record, _ in queue]
        match self._node.rng.randrange(3):
            case 0:
                pass
            case 1:
                for record in records:
                    self._node.log.append_now(source, record)
            case _:
                self._send_later(source, records)
        error: LogError = AppendUnknown("not acknowledged")
        posted = [record for record, future in queue if future is None]
        for _, future in queue:
            if future is not None and not future.done():
                future.set_exception(error)
        if posted and self._on_failure is not None:
            loop = asyncio.get_running_loop()
            loop.call_soon(self._on_failure, source, posted, error, context=self._node.context)

    def _send_later(self, source: TopicPartition, records: list[NewRecord]) -> None:
        if records:
            seconds = self._node.rng.expovariate(1 / self._node.rng.choice(self._node.delays))
            self._node.log.append_later(seconds, source, records)


def _as_before(batch: Batch) -> Batch:
    """`batch` as a process of the version before reads it. That version needs a header `kind`: a record
    without one loses all its headers here, and is unreadable.
    """
    kinds = [(record, any(name == "kind" for name, _ in record.headers)) for record in batch.records]
    return batch._replace(
        records=[record if said else record._replace(headers=()) for record, said in kinds]  # type: ignore[attr-defined]
    )


def _act(source: TopicPartition, record: NewRecord) -> str:
    """The name of the act that appends `record`."""
    if source.topic != NAMES.events:
        return source.topic
    return kind_of(record)


def response_of(record: NewRecord | LogRecord) -> ResponseId:
    """The response that a record is about, a tombstone too."""
    return ResponseId((record.key or b"").decode().partition("/")[0])
