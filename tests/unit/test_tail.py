"""The tail: positions that move with what is read, and stop where the log says so."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog, MemoryWriter
from services.eventlog.metrics import READS_FAILING
from services.eventlog.pace import Pace
from services.eventlog.port import Batch, TopicPartition
from services.eventlog.tail import Tail
from tests.conftest import PATIENCE
from tests.counted import value_of
from tests.steady import steady

TOPIC = "events"


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({TOPIC: 3})


@pytest.fixture
async def writer(log: MemoryLog) -> AsyncIterator[MemoryWriter]:
    writer = log.writer()
    yield writer
    await writer.close()


async def append(writer: MemoryWriter, partition: int, *keys: bytes) -> None:
    for key in keys:
        await writer.append(TOPIC, partition, NewRecord(key, b"v"))


def keys(batches: list[Batch]) -> list[bytes | None]:
    return [record.key for batch in batches for record in batch.records]


async def test_positions_move_past_what_was_read(log: MemoryLog, writer: MemoryWriter) -> None:
    await append(writer, 0, b"a", b"b", b"c")
    tail = Tail(log, TOPIC)
    tail.follow(0, 1)
    assert keys(await tail.read()) == [b"b", b"c"]
    assert tail.position(0) == 3
    assert await tail.read(0) == []
    await append(writer, 0, b"d")
    assert keys(await tail.read()) == [b"d"]


async def test_holes_are_passed(log: MemoryLog, writer: MemoryWriter) -> None:
    await append(writer, 0, b"a", b"b", b"a", b"b", b"c", b"c")
    log.compact(TOPIC)
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    assert keys(await tail.read()) == [b"a", b"b", b"c"]
    assert tail.position(0) == 6


async def test_a_dropped_partition_is_not_read(log: MemoryLog, writer: MemoryWriter) -> None:
    await append(writer, 0, b"a")
    await append(writer, 1, b"b")
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    tail.follow(1, 0)
    tail.drop(0)
    tail.drop(2)
    assert keys(await tail.read()) == [b"b"]
    assert tail.followed == {1}
    with pytest.raises(KeyError):
        tail.position(0)


async def test_a_partition_that_rests_is_read_on_where_it_stands_and_at_once(
    log: MemoryLog, writer: MemoryWriter
) -> None:
    await append(writer, 0, b"a")
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    tail.follow(1, 0)
    assert keys(await tail.read()) == [b"a"]
    tail.rest(0)
    await append(writer, 0, b"b")
    await append(writer, 1, b"c")
    assert keys(await tail.read()) == [b"c"]
    assert await tail.read(0) == []
    tail.rest(1)
    reading = asyncio.create_task(tail.read(PATIENCE))
    await asyncio.sleep(0)
    tail.go_on(0)
    assert keys(await reading) == [b"b"]


@pytest.mark.parametrize("dropped", [False, True])
async def test_a_partition_that_is_followed_anew_rests_no_longer(
    log: MemoryLog, writer: MemoryWriter, dropped: bool
) -> None:
    await append(writer, 0, b"a")
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    tail.rest(0)
    if dropped:
        tail.drop(0)
    tail.follow(0, 0)
    assert keys(await tail.read()) == [b"a"]


async def test_following_another_partition_interrupts_a_long_poll(
    log: MemoryLog, writer: MemoryWriter
) -> None:
    await append(writer, 1, b"b")
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    reading = asyncio.create_task(tail.read(max_wait=30))
    await asyncio.sleep(0.01)
    tail.follow(1, 0)
    async with asyncio.timeout(PATIENCE):
        assert keys(await reading) == [b"b"]


async def test_a_tail_of_nothing_waits_for_something_to_follow(log: MemoryLog, writer: MemoryWriter) -> None:
    await append(writer, 0, b"a")
    tail = Tail(log, TOPIC)
    assert await tail.read(0.01) == []
    reading = asyncio.create_task(tail.read(max_wait=30))
    await asyncio.sleep(0.01)
    tail.follow(0, 0)
    async with asyncio.timeout(PATIENCE):
        assert keys(await reading) == [b"a"]


async def test_a_batch_under_way_is_thrown_away_when_its_partition_is_dropped(
    log: MemoryLog, writer: MemoryWriter
) -> None:
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    tail.follow(1, 0)
    reading = asyncio.create_task(tail.read(max_wait=0.2))
    await asyncio.sleep(0.01)
    tail.drop(0)
    await append(writer, 0, b"unwanted")
    assert await reading == []


async def test_out_of_range_is_handed_up_and_the_partition_rests_until_followed_anew(
    log: MemoryLog, writer: MemoryWriter
) -> None:
    await append(writer, 0, b"a", b"b", b"c")
    await append(writer, 1, b"d")
    log.retain(TOPIC, 0, 2)
    tail = Tail(log, TOPIC)
    tail.follow(0, 1)
    tail.follow(1, 0)
    batches = {batch.source.partition: batch for batch in await tail.read()}
    assert batches[0].out_of_range
    assert keys([batches[1]]) == [b"d"]
    assert await tail.read(0.01) == []
    tail.follow(0, 2)
    assert keys(await tail.read()) == [b"c"]


async def test_with_the_log_away_it_says_so_and_goes_on_trying(log: MemoryLog, writer: MemoryWriter) -> None:
    await append(writer, 0, b"a")
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    log.available = False
    assert await tail.read(0.01) == []
    assert value_of(READS_FAILING.labels(TOPIC)) == 1
    log.available = True
    assert keys(await tail.read()) == [b"a"]
    assert value_of(READS_FAILING.labels(TOPIC)) == 0


async def test_cancelling_a_read_leaves_the_positions(log: MemoryLog, writer: MemoryWriter) -> None:
    tail = Tail(log, TOPIC)
    tail.follow(0, 0)
    reading = asyncio.create_task(tail.read(max_wait=30))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await append(writer, 0, b"a")
    assert keys(await tail.read()) == [b"a"]


async def test_a_paced_tail_reads_a_trickle_in_fewer_and_fuller_batches(
    log: MemoryLog, writer: MemoryWriter
) -> None:
    tail = Tail(log, TOPIC, pace=Pace(0.2, 0.2))
    tail.follow(0, 0)
    await append(writer, 0, b"a")
    began, shown = asyncio.get_running_loop().time(), steady()
    assert keys(await tail.read()) == [b"a"]
    for key in (b"b", b"c", b"d"):
        await append(writer, 0, key)
    assert keys(await tail.read()) == [b"b", b"c", b"d"]
    assert asyncio.get_running_loop().time() - began > 0.15
    assert steady() - shown < 1


async def test_a_paced_tail_reads_at_once_when_something_is_in_a_hurry(
    log: MemoryLog, writer: MemoryWriter
) -> None:
    hurried: list[bool] = []
    tail = Tail(log, TOPIC, pace=Pace(0.0, 60.0, hurry=lambda: bool(hurried)))
    tail.follow(0, 0)
    await append(writer, 0, b"a")
    assert keys(await tail.read()) == [b"a"]
    await append(writer, 0, b"b")
    reading = asyncio.create_task(tail.read())
    tail.stir()
    await asyncio.sleep(0.05)
    assert not reading.done(), "nothing was in a hurry"
    hurried.append(True)
    tail.stir()
    assert keys(await reading) == [b"b"]


async def test_a_paced_tail_reads_at_once_after_a_silence(log: MemoryLog, writer: MemoryWriter) -> None:
    tail = Tail(log, TOPIC, pace=Pace(0.2, 0.2))
    tail.follow(0, 0)
    took = []
    for key in (b"a", b"b", b"c"):
        assert await tail.read(0.25) == []
        reading = asyncio.create_task(tail.read())
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        await append(writer, 0, key)
        assert keys(await reading) == [key]
        took.append(asyncio.get_running_loop().time() - began)
    assert min(took) < 0.1, "it waited for its pace each time"


async def test_who_reads_a_topic_says_so_though_another_one_was_left_failing(
    log: MemoryLog, writer: MemoryWriter
) -> None:
    failing = READS_FAILING.labels(TOPIC)
    left, next_one = Tail(log, TOPIC), Tail(log, TOPIC)
    left.follow(0, 0)
    log.available = False
    await left.read(0)
    assert value_of(failing) == 1
    log.available = True
    await append(writer, 0, b"a")
    next_one.follow(0, 0)
    assert keys(await next_one.read()) == [b"a"]
    assert value_of(failing) == 0


class Asked(MemoryLog):
    """A log that never waits, and notes how long it was asked to."""

    def __init__(self) -> None:
        super().__init__({TOPIC: 1})
        self.waits: list[float] = []

    async def fetch(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait: float = 0.5,
        max_bytes: int = 4 << 20,
        partition_bytes: int = 1 << 20,
    ) -> list[Batch]:
        self.waits.append(round(max_wait, 1))
        return await super().fetch(
            positions, max_wait=0, max_bytes=max_bytes, partition_bytes=partition_bytes
        )


async def test_the_longer_nothing_came_the_longer_a_broker_may_sit_on_a_fetch() -> None:
    log = Asked()
    tail, writer = Tail(log, TOPIC), log.writer()
    tail.follow(0, 0)
    for _ in range(6):
        assert await tail.read() == []
    assert log.waits == [0.5, 1, 2, 4, 5, 5]
    await append(writer, 0, b"a")
    assert keys(await tail.read()) == [b"a"]
    assert await tail.read() == []
    assert log.waits[-2:] == [5, 0.5]
    await writer.close()
