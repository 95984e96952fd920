"""One partition's lane of the writer: what is queued, and the one batch under way. Decides, and does no I/O.

    queued → packed into the batch under way → acknowledged, or failed with everything behind it

The batch under way is repeated as it is, same producer id and sequence, until it is acknowledged or fails;
the broker drops repetitions. A failure takes everything behind it along, so that the log holds a prefix
of what was queued. It also ends the use of the producer id: the broker would refuse whatever follows (P-32).

A record that is in no batch was never sent. It may be given up alone, if its caller allowed that: no other
record is affected, and it is certainly not in the log.
"""

import asyncio
import time
from asyncio import Future
from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import NamedTuple

from schemas.errors import LogError, LogUnavailable
from schemas.records import Headers, NewRecord
from services.eventlog.kafka_borrowed import DefaultRecordBatchBuilder
from services.eventlog.port import Ack, TopicPartition
from services.loops import wake

BATCH_BYTES = 64 << 10
"""Bytes of a batch at most. A seek for one record unpacks its whole batch: 64 KiB cost 0.2 ms of CPU, 512 KiB
2.4 ms."""


class Producer(NamedTuple):
    """The identity by which the broker knows an idempotent writer."""

    id: int
    epoch: int


class Queued(NamedTuple):
    """A record, the future that gets its ack (None: it was posted), and its times, which are the loop's.

    `deadline`: it must be acknowledged by then. `unsent_by`: it is given up then, alone, if never sent.
    `movable`: it is given up as soon as its leader turns unhealthy, if it is in no batch then.
    """

    record: NewRecord
    waiter: Future[Ack] | None
    deadline: float
    unsent_by: float = inf
    movable: bool = False


class WireBatch(NamedTuple):
    """Records packed for the wire; `timestamp` in ms is ours, for topics that do not stamp."""

    queued: Sequence[Queued]
    data: bytes
    deadline: float
    timestamp: int


class Lane:
    """See the module. `maybe_appended`: a try of the batch may have succeeded, though no answer came."""

    def __init__(self, source: TopicPartition) -> None:
        self.source = source
        self.queue: deque[Queued] = deque()
        self.batch: WireBatch | None = None
        self.producer: Producer | None = None
        self.sequence = 0
        self.retry_at = 0.0
        self.in_flight = False
        self.hurried = False
        """Whether a record in the queue is not to wait for company."""
        self.maybe_appended = False
        self.last_error: BaseException | None = None
        self.settled = 0
        self.flushes: list[tuple[int, Future[None]]] = []

    @property
    def pending(self) -> int:
        """Records neither acknowledged nor failed."""
        return len(self.queue) + (len(self.batch.queued) if self.batch else 0)

    @property
    def deadline(self) -> float:
        """The loop time by which the oldest record must be acknowledged, or sent, if it never was."""
        oldest = self.batch.queued[0] if self.batch else self.queue[0]
        in_doubt = self.batch is not None and self.maybe_appended
        return oldest.deadline if in_doubt else min(oldest.deadline, oldest.unsent_by)

    def sendable(self, now: float) -> bool:
        """Whether it may be sent now: nothing is in flight, its next try is due, its deadline is ahead."""
        return not self.in_flight and self.retry_at <= now < self.deadline

    def due(self, now: float) -> float:
        """Loop time at which to look at it again: its next try is due, or the time of a record is up."""
        unsent_by = self.queue[0].unsent_by if self.queue else inf
        if self.in_flight:
            return unsent_by
        return min(unsent_by, self.retry_at if self.retry_at > now else self.deadline)

    def expired(self, now: float) -> list[Queued]:
        """Take out the records in no batch whose `unsent_by` has passed."""
        found: list[Queued] = []
        while self.queue and self.queue[0].unsent_by <= now:
            found.append(self.queue.popleft())
        self._settle(len(found))
        return found

    def moved(self) -> list[Queued]:
        """Take out the records in no batch that are movable."""
        found = [queued for queued in self.queue if queued.movable]
        if found:
            self.queue = deque(queued for queued in self.queue if not queued.movable)
            self._settle(len(found))
        return found

    def next_batch(self, producer: Producer) -> WireBatch:
        """The batch to send: the one under way, or a new one from the queue."""
        if self.batch is None:
            if self.producer is None:
                self.producer, self.sequence = producer, 0
            self.batch = self._build(self.producer)
        return self.batch

    def _build(self, producer: Producer) -> WireBatch:
        now = time.time_ns() // 1_000_000
        builder = DefaultRecordBatchBuilder(2, 0, 0, producer.id, producer.epoch, self.sequence, BATCH_BYTES)
        taken = 0
        for queued in self.queue:
            key, value, headers = queued.record
            if builder.append(taken, now, key, value, as_list(headers)) is None:
                break
            taken += 1
        packed = [self.queue.popleft() for _ in range(taken)]
        self.hurried = self.hurried and bool(self.queue)
        return WireBatch(packed, bytes(builder.build()), packed[0].deadline, now)

    def acknowledged(self, offset: int, timestamp: int) -> None:
        """The batch under way is in the log from `offset` on."""
        assert self.batch is not None
        batch, self.batch = self.batch, None
        self.maybe_appended = False
        self.sequence = (self.sequence + len(batch.queued)) & 0x7FFFFFFF
        stamp = timestamp if timestamp >= 0 else batch.timestamp
        for index, queued in enumerate(batch.queued):
            if queued.waiter is not None and not queued.waiter.done():
                queued.waiter.set_result(Ack(offset + index, stamp))
        self._settle(len(batch.queued))

    def failed(self, error: LogError) -> list[NewRecord]:
        """Fail the batch under way and all that is queued behind it. Returns the posted ones among them."""
        under_way = self.batch.queued if self.batch else ()
        behind = LogUnavailable(f"queued behind a failed append, not sent: {error}")
        posted = _refuse(under_way, error) + _refuse(self.queue, behind if under_way else error)
        count = self.pending
        self.batch, self.producer, self.maybe_appended, self.hurried = None, None, False, False
        self.queue.clear()
        self._settle(count)
        return posted

    def _settle(self, count: int) -> None:
        self.settled += count
        while self.flushes and self.flushes[0][0] <= self.settled:
            wake(self.flushes.pop(0)[1])

    def flushed(self) -> Future[None]:
        """A future that is done when every record that is pending now is acknowledged or has failed."""
        future: Future[None] = asyncio.get_running_loop().create_future()
        self.flushes.append((self.settled + self.pending, future))
        return future


def as_list(headers: Headers) -> list[tuple[str, bytes | None]]:
    """`headers` as the C extension wants them; nearly always they are a list already."""
    return headers if type(headers) is list else list(headers)


def _refuse(queued: Iterable[Queued], error: LogError) -> list[NewRecord]:
    for one in queued:
        if one.waiter is not None and not one.waiter.done():
            one.waiter.set_exception(error)
    return [one.record for one in queued if one.waiter is None]
