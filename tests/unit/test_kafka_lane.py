"""A lane of the writer: the same batch until it is settled, then the next sequence, or a fresh producer."""

import asyncio
from math import inf

import pytest
from aiokafka.record.memory_records import MemoryRecords

from schemas.errors import AppendUnknown, LogUnavailable
from schemas.records import NewRecord
from services.eventlog.kafka_fetch import read_records
from services.eventlog.kafka_lane import BATCH_BYTES, Lane, Producer, Queued, WireBatch
from services.eventlog.port import Ack, TopicPartition

FIRST, SECOND = Producer(7, 0), Producer(8, 0)


def record(n: int, size: int = 1) -> NewRecord:
    return NewRecord(b"%d" % n, b"x" * size, [("kind", b"test")])


def lane_of(*records: NewRecord, deadline: float = 100) -> Lane:
    lane = Lane(TopicPartition("events", 3))
    lane.queue.extend(Queued(each, None, deadline) for each in records)
    return lane


def identity(batch: WireBatch) -> tuple[int, int, int]:
    """Producer id, first sequence and number of records, as the broker reads them."""
    head = MemoryRecords(batch.data).next_batch()
    return head.producer_id, head.base_sequence, len(list(head))


async def test_a_batch_is_repeated_as_it_is_until_it_is_acknowledged() -> None:
    lane = lane_of(record(1), record(2))
    first = lane.next_batch(FIRST)
    lane.queue.append(Queued(record(3), None, 100))
    assert lane.next_batch(SECOND) is first
    lane.acknowledged(40, 1000)
    assert identity(first) == (7, 0, 2)
    assert identity(lane.next_batch(SECOND)) == (7, 2, 1)


async def test_acks_follow_the_first_offset() -> None:
    lane, waiters = lane_of(), [asyncio.get_running_loop().create_future() for _ in range(2)]
    lane.queue.extend(Queued(record(n), waiter, 100) for n, waiter in enumerate(waiters))
    lane.next_batch(FIRST)
    lane.acknowledged(40, 1000)
    assert [waiter.result() for waiter in waiters] == [Ack(40, 1000), Ack(41, 1000)]


async def test_a_failure_takes_along_what_is_behind_and_ends_the_producer() -> None:
    lane = lane_of(record(1), record(2))
    lane.next_batch(FIRST)
    behind: asyncio.Future[Ack] = asyncio.get_running_loop().create_future()
    lane.queue.append(Queued(record(3), behind, 100))
    lane.queue.append(Queued(record(4), None, 100))
    assert lane.failed(AppendUnknown("perhaps")) == [record(1), record(2), record(4)]
    with pytest.raises(LogUnavailable, match="not sent: perhaps"):
        behind.result()
    assert lane.pending == 0
    lane.queue.append(Queued(record(5), None, 100))
    assert identity(lane.next_batch(SECOND)) == (8, 0, 1)


async def test_batches_are_bounded_and_one_large_record_is_a_batch() -> None:
    lane = lane_of(record(1, BATCH_BYTES * 2), *(record(n, 1000) for n in range(2, 200)))
    sizes = []
    while lane.pending:
        batch = lane.next_batch(FIRST)
        sizes.append(len(batch.data))
        records, _ = read_records(batch.data, 0)
        assert [each.key for each in records] == [queued.record.key for queued in batch.queued]
        lane.acknowledged(0, 0)
    assert sizes[0] > BATCH_BYTES * 2
    assert all(size <= BATCH_BYTES for size in sizes[1:])


async def test_flushed_waits_for_what_was_pending_then_and_for_no_more() -> None:
    lane = lane_of(record(1), record(2))
    flushed = lane.flushed()
    lane.next_batch(FIRST)
    lane.queue.append(Queued(record(3), None, 100))
    later = lane.flushed()
    lane.acknowledged(0, 0)
    assert flushed.done()
    assert not later.done()
    lane.failed(LogUnavailable("gone"))
    assert later.done()


def test_a_lane_waits_for_its_next_attempt_and_ends_at_its_deadline() -> None:
    lane = lane_of(record(1), deadline=10)
    assert lane.sendable(5)
    lane.retry_at = 6
    assert not lane.sendable(5)
    assert lane.due(5) == 6
    assert lane.due(6) == 10
    assert not lane.sendable(10)


def waiting(n: int, unsent_by: float = inf, *, movable: bool = False) -> Queued:
    return Queued(record(n), asyncio.get_running_loop().create_future(), 100, unsent_by, movable)


async def test_what_was_never_sent_is_given_up_alone() -> None:
    lane = lane_of()
    lane.queue.extend([waiting(1, 3), waiting(2, 5)])
    assert (lane.deadline, lane.due(0)) == (3, 3)
    assert [one.record for one in lane.expired(3)] == [record(1)]
    assert lane.pending == 1
    assert identity(lane.next_batch(FIRST)) == (7, 0, 1)
    assert lane.expired(99) == []


async def test_a_batch_that_was_never_sent_is_given_up_sooner_than_one_in_doubt() -> None:
    lane = lane_of()
    lane.queue.append(waiting(1, 3))
    lane.next_batch(FIRST)
    assert lane.deadline == 3
    lane.maybe_appended = True
    assert (lane.deadline, lane.sendable(50)) == (100, True)


async def test_what_waits_behind_a_batch_in_flight_is_given_up_in_time() -> None:
    lane = lane_of()
    lane.queue.append(waiting(1, 3))
    lane.next_batch(FIRST)
    lane.in_flight = lane.maybe_appended = True
    assert lane.due(0) == inf
    lane.queue.append(waiting(2, 5))
    assert lane.due(0) == 5
    assert [one.record for one in lane.expired(5)] == [record(2)]
    assert lane.batch is not None


async def test_what_may_go_elsewhere_leaves_and_the_rest_stays_in_order() -> None:
    lane = lane_of()
    lane.queue.append(waiting(1, movable=True))
    lane.next_batch(FIRST)
    lane.queue.extend([waiting(2), waiting(3, movable=True), waiting(4)])
    flushed = lane.flushed()
    assert [one.record for one in lane.moved()] == [record(3)]
    assert [one.record for one in lane.queue] == [record(2), record(4)]
    lane.acknowledged(0, 0)
    assert identity(lane.next_batch(FIRST)) == (7, 1, 2)
    lane.acknowledged(1, 0)
    assert flushed.done()
