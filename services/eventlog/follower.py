"""The follower: reads the partitions of a topic that a group assigns to this process, for one consumer.

    assigned       the group assigns partitions; the consumer hears of it at once
    begun          the follower reads a newly owned partition from the place that the consumer names
    batches in     the consumer gets each batch, in the order of its partition
    out of range   the log does not hold the position: the consumer hears so, and the partition begins anew
    checkpoint out the follower commits the consumer's checkpoints of owned partitions that have moved

The consumer decides what out of range means. A fold drops what it knows and starts again (P-64). A reader of
an append-only topic keeps what it knows; it hears where the partition begins anew, and reports what it has
lost.

The follower goes on reading a partition that is not owned any more until the consumer drops it: an executor
may still run something there (P-48). So such a partition begins anew as well when it is out of range. A
consumer that has nothing to do in partitions of others says which ones the follower is to `keep`.
"""

import asyncio
from collections.abc import Collection, Container, Mapping
from math import inf
from typing import Generic, Protocol, TypeVar

import structlog

from schemas.errors import LogUnavailable
from services import points
from services.eventlog.pace import Pace
from services.eventlog.port import Batch, Checkpoint, Log, Membership
from services.eventlog.tail import Tail

log = structlog.get_logger(__name__)

RETRY_SECONDS = 1.0
REBALANCE_S = 30.0
"""Seconds without any partition after which others own them: no rebalance takes so long."""


class Place(Protocol):
    """Where a partition is begun: it is read from `offset` on, and its checkpoint is `floor`."""

    @property
    def offset(self) -> int:
        """The offset that is read first."""
        ...

    @property
    def floor(self) -> int:
        """The checkpoint by which the place was found: a later one is committed only past it."""
        ...


P = TypeVar("P", bound=Place)


class Consumer(Protocol[P]):
    """Takes a follower's batches. Only `places` and `read` may wait."""

    def assigned(self, owned: frozenset[int]) -> None:
        """The group has assigned these partitions to this process, and no others.

        Ownership of the others ends here. That of new ones begins with `own`. A consumer that has nothing to
        do in the others tells the follower what to `keep`.
        """
        ...

    async def places(self, partitions: Collection[int]) -> Mapping[int, P]:
        """Where to begin each of `partitions`. If it raises LogUnavailable, the follower asks again."""
        ...

    def begin(self, partition: int, place: P, end: int) -> None:
        """The follower reads the partition from `place` on. Its end was `end` when the place was found."""
        ...

    def own(self, partition: int, place: P, end: int) -> None:
        """This process owns the partition from now on. If it followed the partition all the time, and did not
        just `begin` it, only the checkpoint and the end are new.
        """
        ...

    async def read(self, batch: Batch) -> None:
        """The next batch of a partition that has begun. The next batches, of all partitions, wait until this
        returns. A consumer that can take no more of this one tells the follower to let it `rest`.
        """
        ...

    def out_of_range(self, partition: int) -> None:
        """The log does not hold the offset that is read next. No batch comes until `begin` is called anew."""
        ...


class Follower(Generic[P]):
    """Follows partitions of `topic` for `consumer`, as a member of `group`. `pace` is the tail's.

    `join`, then run `read` and `begin` for as long as the process serves.
    """

    def __init__(
        self, log_: Log, group: str, topic: str, consumer: Consumer[P], *, pace: Pace | None = None
    ) -> None:
        self._log = log_
        self._group = group
        self._topic = topic
        self._consumer = consumer
        self._tail = Tail(log_, topic, pace=pace)
        self._owned: frozenset[int] = frozenset()
        self._membership: Membership | None = None
        self._owned_at: dict[int, float] = {}
        """When a partition that is lost was last known to be owned, in loop time."""
        self._assigned_at = inf
        """When the group last assigned anything, nothing included, or was joined, in loop time."""
        self._followed: dict[int, object] = {}
        """The partitions that have begun, each with an object that is fresh each time it begins."""
        self._checkpoints: dict[int, int] = {}
        """The partitions that have begun and are owned, each with the checkpoint that was committed last."""
        self._again: set[int] = set()
        """The partitions that were out of range, and must begin anew, owned or not."""
        self._due: dict[int, object] = {}
        """An object for each partition that is to begin: a fresh one whenever the group assigns it or it must
        begin anew. `_begin` compares it, to drop a place that it looked up before that.
        """
        self._stirred = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Follower of {self._topic}: owns {sorted(self._owned)}, follows {sorted(self._followed)}>"

    @property
    def owned(self) -> frozenset[int]:
        """The partitions that the group has assigned to this process."""
        return self._owned

    def owned_at(self, partition: int) -> float:
        """Loop time at which the group last knew that this process owns `partition`; -inf: never."""
        if partition not in self._owned:
            return self._owned_at.get(partition, -inf)
        return -inf if self._membership is None else self._membership.heard_at

    @property
    def joining(self) -> bool:
        """Whether this process owns nothing, and the group may still assign it something."""
        return not self._owned and not self.left_out

    @property
    def left_out(self) -> bool:
        """Whether this process has owned nothing for so long that others own every partition."""
        since = asyncio.get_running_loop().time() - self._assigned_at
        return not self._owned and since > REBALANCE_S

    async def join(self) -> "Member":
        """Become a member of the group. Raises LogUnavailable."""
        self._assigned_at = asyncio.get_running_loop().time()
        self._membership = await self._log.join(self._group, self._topic, self.assigned)
        return Member(self._checkpoints, self._membership)

    def assigned(self, owned: frozenset[int]) -> None:
        """The group has assigned these partitions to this process, and no others."""
        self._owned_at = {
            number: self.owned_at(number)
            for number in self._owned_at.keys() | self._owned
            if number not in owned
        }
        for lost in self._checkpoints.keys() - owned:
            del self._checkpoints[lost]
        self._due.update((won, object()) for won in owned - self._owned)
        self._owned, self._assigned_at = owned, asyncio.get_running_loop().time()
        self._consumer.assigned(owned)
        self._stirred.set()

    async def read(self) -> None:
        """Hand batches to the consumer for ever."""
        while True:
            batches = await self._tail.read()
            begun = [self._followed.get(batch.source.partition) for batch in batches]
            for following, batch in zip(begun, batches, strict=True):
                if self._followed.get(batch.source.partition) is not following:
                    continue  # the consumer waited, and the partition was dropped or begun anew meanwhile
                if batch.out_of_range:
                    self._out_of_range(batch)
                else:
                    await self._consumer.read(batch)

    async def begin(self) -> None:
        """Begin what is newly owned, and what is to be begun anew, for ever."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            try:
                await self._begin()
            except LogUnavailable as error:
                log.warning("partitions cannot begin, trying again", topic=self._topic, why=str(error))
                self._stirred.set()
                await asyncio.sleep(RETRY_SECONDS)

    def again(self, partition: int) -> None:
        """Stop reading a partition, and begin it anew: its consumer has dropped what it knew of it."""
        self.drop(partition)
        self._again.add(partition)
        self._due[partition] = object()
        self._stirred.set()

    def rest(self, partition: int) -> None:
        """Read no more of a partition until it is to `go_on`, or begins anew."""
        self._tail.rest(partition)

    def go_on(self, partition: int) -> None:
        """Read a partition on where it stands."""
        self._tail.go_on(partition)

    def stir(self) -> None:
        """Ask the pace again: something may be in a hurry now."""
        self._tail.stir()

    def keep(self, partitions: Collection[int]) -> None:
        """Drop all but `partitions`, those included that are to be begun anew."""
        for number in (self._followed.keys() | self._again) - set(partitions):
            self.drop(number)

    def drop(self, partition: int) -> None:
        """Stop reading a partition that is owned no longer."""
        self._tail.drop(partition)
        self._followed.pop(partition, None)
        self._checkpoints.pop(partition, None)
        self._again.discard(partition)

    def _out_of_range(self, batch: Batch) -> None:
        topic, partition = batch.source
        where = {"topic": topic, "partition": partition, "offset": batch.next_offset}
        log.warning("offset out of range, beginning the partition anew", **where)
        self.again(partition)
        self._consumer.out_of_range(partition)

    async def _begin(self) -> None:
        new = (self._owned - self._checkpoints.keys()) | self._again
        points.at("following", new, self._tail)
        if not new:
            return
        due = {partition: self._due[partition] for partition in new}
        places = await self._consumer.places(new)
        bounds = await self._log.bounds(self._topic, new)
        for partition in sorted(new & (self._owned | self._again)):  # others were lost meanwhile
            if self._due[partition] is not due[partition]:
                continue  # others may have owned it meanwhile: its place and end are looked up anew (P-56)
            place, end = places[partition], bounds[partition].end
            self._again.discard(partition)
            if partition not in self._followed:  # else it is read on where it stands: never rewound (P-60)
                self._followed[partition] = object()
                self._consumer.begin(partition, place, end)
                self._tail.follow(partition, place.offset)
            if partition in self._owned:
                self._checkpoints[partition] = place.floor
                self._consumer.own(partition, place, end)


class Member:
    """This process in its group: it commits checkpoints, and leaves.

    `committed` has the checkpoints of what it owns; the follower keeps it.
    """

    def __init__(self, committed: dict[int, int], membership: Membership) -> None:
        self._committed = committed
        self._membership = membership

    async def commit(
        self, checkpoints: Mapping[int, Checkpoint], anyway: Container[int] = ()
    ) -> frozenset[int]:
        """Commit the `checkpoints` of owned partitions that have moved on, and those of the partitions
        `anyway`, which have something new to say. Returns the partitions of which they are committed.

        A coordinator that is away is no error: the caller commits again a little later.
        """
        moved = {
            n: at
            for n, at in checkpoints.items()
            if at.offset > self._committed.get(n, inf) or (n in anyway and n in self._committed)
        }
        if not moved:
            return frozenset()
        points.at("checkpoints due", moved)
        offsets = {partition: at.offset for partition, at in moved.items()}
        read = {partition: at.read for partition, at in moved.items() if at.read is not None}
        try:
            await self._membership.commit(offsets, read)
        except LogUnavailable as error:
            log.info("checkpoints not committed, will be again", why=str(error))
            return frozenset()
        for n, offset in offsets.items():
            if n in self._committed:  # it may be lost by now, or owned anew with a later checkpoint
                self._committed[n] = max(offset, self._committed[n])
        points.at("checkpoints committed", moved)
        return frozenset(moved)

    async def leave(self) -> None:
        """Leave the group, so that what is owned moves on at once."""
        await self._membership.close()
