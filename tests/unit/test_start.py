"""Where a reader starts (P-62), on a log in memory whose clock the test sets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import LogUnavailable
from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Bounds
from services.eventlog.start import StartingPoint, floor, probes, starting_points, starting_points_at

TOPIC = "responses.events"
MEMORY = 70_000


async def log_with(*times: int, partitions: int = 1) -> MemoryLog:
    """A log whose partition 0 has one record at each of `times` (ms)."""
    now = 0
    log = MemoryLog({TOPIC: partitions}, clock=lambda: now)
    writer = log.writer()
    for number, now in enumerate(times):  # noqa: B007 - the clock reads it
        await writer.append(TOPIC, 0, NewRecord(b"k%d" % number, b"{}"))
    return log


async def start(log: MemoryLog, committed: int | None) -> StartingPoint:
    return (await starting_points_at(log, TOPIC, {0: committed}, memory_ms=MEMORY))[0]


async def test_starts_a_window_and_the_skew_before_the_watermark_and_acts_from_it() -> None:
    log = await log_with(100_000, 150_000, 180_000, 200_000, 300_000)
    assert await start(log, 3) == StartingPoint(offset=1, floor=3, since=130_000)


async def test_with_nothing_after_the_watermark_the_time_before_it_counts() -> None:
    log = await log_with(100_000, 150_000, 180_000, 200_000)
    assert await start(log, 4) == StartingPoint(offset=1, floor=4, since=130_000)


async def test_without_a_watermark_everything_is_read_and_acted_on() -> None:
    log = await log_with(100_000, 900_000)
    assert await start(log, None) == StartingPoint(offset=0, floor=0, since=30_000)


async def test_an_empty_partition_starts_where_it_will_be_written() -> None:
    assert await start(await log_with(), None) == StartingPoint(0, 0)


async def test_a_partition_emptied_by_retention_starts_at_its_end() -> None:
    log = await log_with(100_000, 200_000)
    log.retain(TOPIC, 0, 2)
    assert await start(log, 1) == StartingPoint(2, 2)


async def test_a_watermark_before_the_logs_start_is_moved_there() -> None:
    log = await log_with(100_000, 110_000, 120_000, 130_000)
    log.retain(TOPIC, 0, 2)
    assert await start(log, 0) == StartingPoint(2, 2, 50_000)


async def test_a_watermark_beyond_the_end_belongs_to_another_log() -> None:
    log = await log_with(100_000, 110_000)
    assert await start(log, 99) == StartingPoint(0, 0, 30_000)


async def test_holes_at_the_watermark_are_passed_over() -> None:
    log = await log_with(100_000, 150_000, 180_000, 200_000)
    writer = log.writer()
    for key in (b"k1", b"k2", b"k3"):
        await writer.append(TOPIC, 0, NewRecord(key, None))
    log.compact(TOPIC)
    log.retain(TOPIC, 0, 0)
    assert [record.offset for record in log.records(TOPIC, 0)] == [0, 4, 5, 6]
    assert await start(log, 2) == StartingPoint(offset=2, floor=2, since=130_000)


async def test_the_groups_checkpoints_are_the_watermarks() -> None:
    log = await log_with(100_000, 900_000, partitions=2)
    membership = await log.join("g", TOPIC, lambda _: None)
    await membership.commit({0: 1})
    assert await starting_points(log, "g", TOPIC, [0, 1], memory_ms=MEMORY) == {
        0: StartingPoint(1, 1, 830_000),
        1: StartingPoint(0, 0),
    }


async def test_how_far_was_read_holds_for_the_checkpoint_that_said_so() -> None:
    log = await log_with(100_000, 900_000, partitions=2)
    membership = await log.join("g", TOPIC, lambda _: None)
    await membership.commit({0: 1, 1: 7}, {0: 2, 1: 9})
    starts = await starting_points(log, "g", TOPIC, [0, 1], memory_ms=MEMORY)
    assert {number: (start.floor, start.read) for number, start in starts.items()} == {
        0: (1, 2),
        1: (0, None),
    }


async def test_an_absent_log_is_told() -> None:
    log = await log_with(1)
    log.available = False
    with pytest.raises(LogUnavailable):
        await starting_points(log, "g", TOPIC, [0], memory_ms=MEMORY)


bounds = st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)).map(lambda pair: Bounds(*sorted(pair)))


@given(bounds, st.none() | st.integers(0, 2 * 10**9))
def test_the_floor_lies_in_the_log_and_probes_reach_its_start(bounds: Bounds, committed: int | None) -> None:
    at = floor(committed, bounds)
    assert bounds.start <= at <= bounds.end
    found = probes(at, bounds)
    assert found == sorted(found, reverse=True)
    assert all(bounds.start <= offset < bounds.end for offset in found)
    assert not found or found[-1] == bounds.start
    assert len(found) < 12
