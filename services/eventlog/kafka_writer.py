"""The writer: idempotent, one lane per partition, one Produce request at a time per broker.

A record is queued in its partition's lane. Whatever is queued when a broker is free goes out in one request,
a batch for each lane it leads; while that is under way, records gather for the next one. That begins
`LEAST_PACE_S` after it at the earliest, and if all that is queued is patient, the later the more records come
(`pace`). So requests are few and full when there is much to do, and a lone record leaves at once.

A lane has one batch under way and repeats exactly that, same producer id and sequence, until it is
acknowledged: the broker drops repetitions, so order and uniqueness hold. When its time is up or the
broker refuses it, the batch and everything behind it in the lane fail, and the lane goes on with a fresh
producer id (P-32): after a failed batch the old one's sequence would refuse everything.

A record that is in a batch stays in it, also when its leader hangs: the batch may be in the log, so only the
same batch may go to the next leader. A record that is in no batch yet has not left this process, and may be
given up (`unsent_s`, `movable`).
aiokafka's own producer is not used: it cannot fail part of a batch, nor say which records failed.
"""

import asyncio
from asyncio import Future, Task, TimerHandle
from collections import defaultdict
from collections.abc import Iterable
from math import inf

import structlog

from schemas.errors import AppendUnknown, LogError, LogUnavailable, RecordTooLarge, Unsent
from schemas.records import NewRecord
from services import points
from services.eventlog.kafka_borrowed import (
    DefaultRecordBatchBuilder,
    InitProducerIdRequest,
    MessageSizeTooLargeError,
    NodeNotReadyError,
    RecordListTooLargeError,
    for_code,
)
from services.eventlog.kafka_brokers import BACKOFF, Brokers
from services.eventlog.kafka_lane import Lane, Producer, Queued, as_list
from services.eventlog.kafka_link import FAILURES, KafkaLink, no_leader
from services.eventlog.kafka_trouble import explain
from services.eventlog.kafka_wire import Produced, ProduceRequest
from services.eventlog.pace import Pace
from services.eventlog.port import Ack, OnFailure, TopicPartition
from services.eventlog.topics import MAX_RECORD_BYTES
from services.loops import wake

log = structlog.get_logger(__name__)

LANES_PER_REQUEST = 32
"""Bounds a request to 2 MiB, or to 32 large records."""
REQUEST_TIMEOUT = 10.0
"""Seconds that a leader waits for its followers. `kafka_brokers` finds a silent leader much earlier."""
ANSWER_MARGIN = 1.0
"""Seconds beyond that after which the connection is replaced; the batch is repeated on the new one."""
LEAST_PACE_S, LONGEST_PACE_S, BUSY = 0.002, 0.008, 2_000
"""Seconds between the beginnings of two requests to a broker; the longest from `BUSY` records a second on. A
request costs the broker, the readers that it wakes and us more than the twenty records that may gather
meanwhile. After an exchange that took longer, the next one begins at once."""

_MAYBE_APPENDED = frozenset({7, 13, 20})
"""Refusals after which a batch may be in the log: timed out, network, too few replicas after the append."""


class KafkaWriter:
    """`Writer` on Kafka."""

    def __init__(
        self,
        brokers: Brokers,
        *,
        on_failure: OnFailure | None = None,
        delivery_timeout: float = 120,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self._link = KafkaLink(brokers, REQUEST_TIMEOUT)
        self._on_failure = on_failure
        self._delivery_timeout = delivery_timeout
        self._max_record_bytes = max_record_bytes
        self._loop = asyncio.get_running_loop()
        self._lanes: dict[TopicPartition, Lane] = {}
        self._waiting: dict[TopicPartition, Lane] = {}
        self._producer: Producer | None = None
        self._driven: dict[int, Task[None]] = {}
        self._looking: Task[None] | None = None
        self._timer: TimerHandle | None = None
        self._timer_at = inf
        self._pumping = False
        self._closed = False
        self._pace = Pace(LEAST_PACE_S, LONGEST_PACE_S, BUSY)
        self._patient: dict[int, Future[None]] = {}
        """The drivers that wait for company, by broker."""
        brokers.on_unhealthy(self._leader_unhealthy)

    def __repr__(self) -> str:
        pending = sum(lane.pending for lane in self._waiting.values())
        return f"KafkaWriter({self._link.address.bootstrap}, {pending} records pending)"

    async def append(
        self,
        topic: str,
        partition: int,
        record: NewRecord,
        *,
        unsent_s: float = inf,
        movable: bool = False,
    ) -> Ack:
        """Append one record. Raises RecordTooLarge, LogUnavailable, Unsent or AppendUnknown; see the port."""
        waiter: Future[Ack] = self._loop.create_future()
        self._queue(TopicPartition(topic, partition), record, waiter, unsent_s, movable=movable)
        return await waiter

    def post(self, topic: str, partition: int, record: NewRecord, *, patient: bool = False) -> None:
        """Queue one record and return at once; a failure is told to `on_failure`."""
        self._queue(TopicPartition(topic, partition), record, None, patient=patient)

    async def flush(self) -> None:
        """Wait until everything queued so far is acknowledged or has failed."""
        waiting = [lane.flushed() for lane in self._lanes.values() if lane.pending]
        if waiting:
            await asyncio.wait(waiting)

    async def close(self, timeout: float = 10) -> None:
        """Flush within `timeout` seconds, fail the rest, close."""
        self._closed = True
        try:
            async with asyncio.timeout(timeout):
                await self.flush()
        except TimeoutError:
            log.warning("writer closed before everything was acknowledged", seconds=timeout)
        tasks = [*self._driven.values(), *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for lane in list(self._waiting.values()):
            self._fail(lane, self._outcome(lane, "the writer was closed"))
        if self._timer:
            self._timer.cancel()
        self._link.brokers.forget(self._leader_unhealthy)
        await self._link.close()

    # -- queueing --------------------------------------------------------------------------------------

    def _queue(
        self,
        source: TopicPartition,
        record: NewRecord,
        waiter: Future[Ack] | None,
        unsent_s: float = inf,
        *,
        movable: bool = False,
        patient: bool = False,
    ) -> None:
        if self._closed:
            raise LogUnavailable("the writer is closed")
        size = DefaultRecordBatchBuilder.size_of(record.key, record.value, as_list(record.headers))
        if size > self._max_record_bytes:
            raise RecordTooLarge(size, self._max_record_bytes)
        lane = self._lanes.get(source)
        if lane is None:
            lane = self._lanes[source] = Lane(source)
        alone, now = not lane.pending, self._loop.time()
        lane.queue.append(Queued(record, waiter, now + self._delivery_timeout, now + unsent_s, movable))
        self._waiting[source] = lane
        if not patient:
            lane.hurried = True
            leader = self._link.known_leader(source)
            if leader is not None and (waiting := self._patient.get(leader)):
                wake(waiting)
        if alone or unsent_s < inf:  # else what is before it in the lane is due before it
            self._pump_soon()

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Fail the records whose time is up, and begin to send to every idle broker with waiting lanes."""
        self._pumping = False
        now = self._loop.time()
        for lane in [lane for lane in self._waiting.values() if lane.due(now) <= now]:
            self._give_up(lane, lane.expired(now), LogUnavailable)
        for lane in [lane for lane in self._waiting.values() if not lane.in_flight and lane.deadline <= now]:
            self._fail(lane, self._outcome(lane, f"not acknowledged within {self._delivery_timeout} s"))
        leaders, unknown = self._leaders(now)
        for node in leaders - self._driven.keys():
            self._driven[node] = asyncio.create_task(self._drive(node))
        if unknown and self._looking is None:
            self._looking = asyncio.create_task(self._look())
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        """Have `_pump` called again when the next lane is due."""
        due = min((lane.due(now) for lane in self._waiting.values()), default=inf)
        if due < self._timer_at or self._timer_at <= now < due < inf:
            if self._timer:
                self._timer.cancel()
            self._timer, self._timer_at = self._loop.call_at(due, self._on_timer), due

    def _on_timer(self) -> None:
        """Mark the timer as spent first: it may fire a moment early, and `_pump` must then set another."""
        self._timer_at = inf
        self._pump()

    # -- leaders and producer ids ------------------------------------------------------------------------

    def _leaders(self, now: float) -> tuple[set[int], bool]:
        """The leaders of the lanes that may be sent now, and whether some lane has none."""
        found = {
            self._link.known_leader(lane.source) for lane in self._waiting.values() if lane.sendable(now)
        }
        return {node for node in found if node is not None}, None in found

    async def _look(self) -> None:
        """Read the metadata once, for the lanes without a leader. One that still has none waits BACKOFF."""
        error: BaseException | None = None
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await self._link.refresh()
        except FAILURES as caught:
            error = caught
        finally:
            self._looking = None
        for lane in self._waiting.values():
            if not lane.in_flight and self._link.known_leader(lane.source) is None:
                lane.last_error = error or LogUnavailable(no_leader(lane.source))
                lane.retry_at = self._loop.time() + BACKOFF
        self._pump_soon()

    async def _identity(self, node: int) -> Producer:
        if self._producer is None:
            response = await self._link.send(node, InitProducerIdRequest(None, -1), "produce")
            if response.error_code:
                raise for_code(response.error_code)
            self._producer = Producer(response.producer_id, response.producer_epoch)
        return self._producer

    # -- sending -----------------------------------------------------------------------------------------

    async def _drive(self, node: int) -> None:
        """Send to one broker until nothing is left for it."""
        try:
            while lanes := self._ready(node):
                begun = self._loop.time()
                await self._exchange(node, lanes)
                await self._company(node, begun)
        finally:
            del self._driven[node]
            self._pump_soon()

    async def _company(self, node: int, begun: float) -> None:
        """Wait until the request behind the one that began at `begun` is due."""
        if (early := begun + LEAST_PACE_S - self._loop.time()) > 0:
            await asyncio.sleep(early)
        due = begun + self._pace.seconds()
        hurried = (lane for lane in self._waiting.values() if lane.hurried)
        if due <= self._loop.time() or any(self._link.known_leader(lane.source) == node for lane in hurried):
            return
        waiting: Future[None] = self._loop.create_future()
        timer = self._loop.call_at(due, wake, waiting)
        self._patient[node] = waiting
        try:
            await waiting
        finally:
            timer.cancel()
            del self._patient[node]

    def _ready(self, node: int) -> list[Lane]:
        now = self._loop.time()
        lanes: list[Lane] = []
        for lane in self._waiting.values():
            if lane.sendable(now) and self._link.known_leader(lane.source) == node:
                lanes.append(lane)
                if len(lanes) == LANES_PER_REQUEST:
                    break
        return lanes

    async def _exchange(self, node: int, lanes: list[Lane]) -> None:
        """One request for `lanes`, and what became of each."""
        for lane in lanes:
            lane.in_flight = True
        begun = self._loop.time()
        connected_by = min(begun + REQUEST_TIMEOUT, *(lane.deadline for lane in lanes))
        sent, asked = False, lanes
        try:
            async with asyncio.timeout_at(connected_by):
                await self._link.ready(node, "produce")
                producer = await self._identity(node)
            asked = [lane for lane in lanes if lane.pending]  # `_give_up` may have emptied a lane
            if not asked:
                return
            request = _produce(asked, producer)
            self._pace.took(sum(len(lane.batch.queued) for lane in asked if lane.batch), begun)
            points.at("request made", asked)
            sent = True
            answered_by = min(begun + REQUEST_TIMEOUT + ANSWER_MARGIN, *map(_given_up, asked))
            left = answered_by - self._loop.time()
            answers = await self._link.send(node, request, "produce", left)
            points.at("request answered", asked)
            self._answered(asked, answers)
        except asyncio.CancelledError:
            for lane in asked:  # `close` fails them next, and must know whether they were sent
                lane.maybe_appended |= sent
            raise
        except Exception as error:
            if not isinstance(error, FAILURES):
                log.exception("produce request failed unexpectedly", node=node)
            self._link.stale()
            asked = [lane for lane in asked if lane.pending]
            self._unanswered(asked, error, sent and not isinstance(error, NodeNotReadyError))
        finally:
            for lane in lanes:
                lane.in_flight = False
                self._settled(lane)

    def _settled(self, lane: Lane) -> None:
        """Keep a lane with work, at the end of the line; forget one without."""
        self._waiting.pop(lane.source, None)
        if lane.pending:
            self._waiting[lane.source] = lane

    def _unanswered(self, lanes: list[Lane], error: BaseException, sent: bool) -> None:
        now = self._loop.time()
        for lane in lanes:
            lane.maybe_appended |= sent
            lane.last_error = error
            lane.retry_at = now + BACKOFF
            if lane.deadline <= now:
                self._fail(lane, self._outcome(lane, f"not acknowledged within {self._delivery_timeout} s"))

    def _answered(self, lanes: list[Lane], answers: Iterable[Produced]) -> None:
        by_source = {lane.source: lane for lane in lanes}
        for topic, partition, code, offset, timestamp in answers:
            lane = by_source[TopicPartition(topic, partition)]
            if code == 0:
                lane.acknowledged(offset, timestamp)
            else:
                self._refused(lane, code)

    def _refused(self, lane: Lane, code: int) -> None:
        error = for_code(code)
        lane.maybe_appended |= code in _MAYBE_APPENDED
        lane.last_error = error()
        if error.retriable:
            lane.retry_at = self._loop.time() + BACKOFF
            self._link.stale()
        else:
            self._fail(lane, self._refusal(lane, error))

    # -- failing -----------------------------------------------------------------------------------------

    def _refusal(self, lane: Lane, error: type[BaseException]) -> LogError:
        assert lane.batch is not None
        too_large = issubclass(error, MessageSizeTooLargeError | RecordListTooLargeError)
        if too_large and not lane.maybe_appended and len(lane.batch.queued) == 1:
            return RecordTooLarge(len(lane.batch.data), self._max_record_bytes)
        forbidden = explain(error(lane.source.topic), self._link.address.settings)
        return self._outcome(lane, forbidden or f"the broker refused it ({error.__name__})")

    def _outcome(self, lane: Lane, reason: str) -> LogError:
        """The error for a lane's batch: LogUnavailable if it is surely not in the log, else AppendUnknown."""
        cause = f": {lane.last_error}" if lane.last_error and str(lane.last_error) else ""
        text = f"append to {lane.source.topic}/{lane.source.partition} failed, {reason}{cause}"
        return AppendUnknown(text) if lane.maybe_appended else LogUnavailable(text)

    def _leader_unhealthy(self, node: int) -> None:
        """Give up the movable records for `node` that are in no batch: their callers move them elsewhere."""
        for lane in list(self._waiting.values()):
            if self._link.known_leader(lane.source) == node:
                self._give_up(lane, lane.moved(), Unsent)

    def _give_up(self, lane: Lane, queued: list[Queued], kind: type[LogUnavailable]) -> None:
        """Fail what was taken out of a lane before it was sent."""
        if not queued:
            return
        source = lane.source
        error = kind(f"append to {source.topic}/{source.partition} given up, nothing was sent")
        for one in queued:
            if one.waiter is not None and not one.waiter.done():
                one.waiter.set_exception(error)
        if not lane.pending:
            self._waiting.pop(source, None)

    def _fail(self, lane: Lane, error: LogError) -> None:
        """Fail a lane's batch and queue, and let it go on with a fresh producer id."""
        self._producer = None
        posted = lane.failed(error)
        self._settled(lane)
        log.warning("append failed", error=str(error))
        if posted and self._on_failure:
            try:
                self._on_failure(lane.source, posted, error)
            except Exception:
                log.exception("on_failure raised", topic=lane.source.topic)


def _given_up(lane: Lane) -> float:
    """Loop time at which the batch under way is given up."""
    assert lane.batch is not None
    return lane.batch.deadline


def _produce(lanes: list[Lane], producer: Producer) -> ProduceRequest:
    topics: defaultdict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for lane in lanes:
        topics[lane.source.topic].append((lane.source.partition, lane.next_batch(producer).data))
    return ProduceRequest(int(REQUEST_TIMEOUT * 1000), list(topics.items()))
