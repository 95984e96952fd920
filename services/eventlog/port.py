"""The log as a port: what the services need of Kafka, and nothing else.

`kafka.py` implements it on aiokafka, `memory.py` in memory; one contract suite holds for both.
Offsets and partitions are plain ints, times are milliseconds since the epoch as the log stamps them
(LogAppendTime), durations are seconds. The log's errors are in `schemas.errors`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import NamedTuple, Protocol

from schemas.errors import LogError
from schemas.records import LogRecord, NewRecord


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int


class Ack(NamedTuple):
    """Where and when a record was appended, acknowledged by all in-sync replicas.

    An ack says that the record is in the log, never that it counts (P-30).
    """

    offset: int
    timestamp: int


class Bounds(NamedTuple):
    """The readable offsets of a partition: `start` is the first, `end` the next one to be written."""

    start: int
    end: int


class Checkpoint(NamedTuple):
    """What a group committed: an offset, and how far its member had read then; None where that is unknown."""

    offset: int
    read: int | None = None


class Batch(NamedTuple):
    """What one fetch brought of one partition, in log order.

    `next_offset` is where to read on: past the records, and past the holes that compaction left.
    `end` is the partition's end as the broker knew it. `out_of_range` means that the position asked
    for is no longer (or not yet) in the log; `records` is empty then, and the reader must drop its
    fold and start again (P-64), never skip.
    """

    source: TopicPartition
    records: Sequence[LogRecord]
    next_offset: int
    end: int
    out_of_range: bool = False


class Leader(NamedTuple):
    """The broker that leads a partition: all that it leads share its fate. `healthy`: it answers fast."""

    broker: int
    healthy: bool


class Writer(Protocol):
    """Appends records: idempotent, `acks=all`, batched, order kept per partition.

    A failed append leaves the writer usable: it discards its producer and goes on with a fresh one, and
    everything that was queued behind the failure in the same partition fails with it. So a caller sees
    a prefix of its records in the log, or learns of the failure.
    """

    async def append(
        self,
        topic: str,
        partition: int,
        record: NewRecord,
        *,
        unsent_s: float = inf,
        movable: bool = False,
    ) -> Ack:
        """Append one record and wait until all in-sync replicas have it.

        Raises RecordTooLarge (nothing appended), LogUnavailable (nothing was sent) or AppendUnknown
        (it may or may not be, or become, appended). A caller that stops waiting does not take it back.
        `unsent_s`: seconds after which a record that was never sent is given up, alone (LogUnavailable).
        `movable`: the caller can append the record elsewhere. If its leader turns unhealthy before it was
        sent, it is given up, alone (Unsent).
        """
        ...

    def post(self, topic: str, partition: int, record: NewRecord, *, patient: bool = False) -> None:
        """Queue one record and return at once; a failure is told to `on_failure`.

        A `patient` record may wait for company, for milliseconds, if all others in the queue are patient too.
        Raises RecordTooLarge before anything is queued. The caller bounds what it has under way.
        """
        ...

    async def flush(self) -> None:
        """Wait until everything queued so far is acknowledged or has failed."""
        ...

    async def close(self, timeout: float = 10) -> None:
        """Flush within `timeout` seconds, fail the rest, close."""
        ...


OnFailure = Callable[[TopicPartition, Sequence[NewRecord], LogError], None]
"""Called with the posted records that were not acknowledged, in order. Each may be in the log or not."""


class Membership(Protocol):
    """A consumer group that only assigns partitions and keeps checkpoints; it never fetches (P-60)."""

    @property
    def owned(self) -> frozenset[int]:
        """The partitions assigned to this member now; empty while a rebalance is under way."""
        ...

    @property
    def heard_at(self) -> float:
        """Loop time at which the group last knew that this member owns what `owned` says, -inf before.

        It is that of the last sign of life that was answered. A process that was stopped and goes on finds
        here how long it was.
        """
        ...

    async def commit(self, checkpoints: Mapping[int, int], read: Mapping[int, int] | None = None) -> None:
        """Commit explicit offsets for partitions that are owned still; others are left out silently.

        `read` says how far the member has read; it is kept beside the offset (`Log.checkpoints`).
        Raises LogUnavailable when the coordinator is away or the generation is over: try again later.
        """
        ...

    async def close(self) -> None:
        """Leave the group, so that its partitions move on at once."""
        ...


OnAssignment = Callable[[frozenset[int]], None]
"""Called with the owned partitions at every change of them; must not block."""


class Log(Protocol):
    """One cluster. All reads are stateless: the caller keeps its positions."""

    async def partitions(self, topic: str) -> int:
        """How many partitions `topic` has. Raises TopicMissing."""
        ...

    async def topic_id(self, topic: str) -> str:
        """The id that the brokers gave `topic`. A topic that is made anew under the same name has another.

        "" where they give none (Kafka before 2.8). Raises TopicMissing, LogUnavailable.
        """
        ...

    async def fetch(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait: float = 0.5,
        max_bytes: int = 4 << 20,
        partition_bytes: int = 1 << 20,
    ) -> list[Batch]:
        """Read on from `positions`; waits up to `max_wait` (at most 5) seconds for the first record.

        Partitions with nothing new are left out. An empty list means that nothing came; it may be returned
        before the time is up. At least one record is returned even when it is larger than the bounds
        (bytes). Concurrent calls do not wait for each other's long polls. Raises LogUnavailable after its
        own brief retries.
        """
        ...

    async def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        """First and next offset of each partition, as of now (high watermark)."""
        ...

    async def offsets_at(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        """Per partition the first offset with time >= the given ms, or the end when there is none."""
        ...

    def leader(self, topic: str, partition: int) -> Leader | None:
        """The leader of a partition by the metadata at hand, None without one. Sends no request."""
        ...

    async def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int | None]:
        """The checkpoints of a group, None where it has none. Any process may read them."""
        ...

    async def checkpoints(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> dict[int, Checkpoint | None]:
        """The checkpoints of a group and how far it had read then, None where it has none."""
        ...

    async def join(self, group: str, topic: str, on_assignment: OnAssignment) -> Membership:
        """Become a member of `group` on `topic`."""
        ...

    def writer(self, *, on_failure: OnFailure | None = None, delivery_timeout: float = 120) -> Writer:
        """A writer of its own; `delivery_timeout` seconds bound how long a record may stay unacknowledged."""
        ...

    async def close(self) -> None:
        """Close all connections. Owners close their writers and memberships before."""
        ...
