"""The barrier: a read waits for the log's end as of its arrival, and is told 503 when that is not reached."""

import asyncio

import pytest

from schemas.errors import ApiError, LogUnavailable
from services.web.barrier import Barrier, Position
from tests.conftest import eventually

ALL = "one broker"


class Ends:
    """Ends of partitions as a test sets them; an answer waits for `release`, when there is one."""

    def __init__(self, *ends: int) -> None:
        self.ends = list(ends)
        self.asked: list[frozenset[int]] = []
        self.release: asyncio.Event | None = None
        self.away = False

    async def __call__(self, partitions: frozenset[int]) -> dict[int, int]:
        self.asked.append(partitions)
        if self.release is not None:
            await self.release.wait()
        if self.away:
            raise LogUnavailable("away")
        return {partition: self.ends[partition] for partition in partitions}


def barrier_on(ends: Ends, patience: float = 5) -> tuple[Barrier, list[Position]]:
    positions = [Position() for _ in ends.ends]
    return Barrier(dict(enumerate(positions)), ends, lambda _: ALL, patience), positions


async def test_it_waits_for_the_end_as_of_arrival() -> None:
    barrier, positions = barrier_on(ends := Ends(10))
    positions[0].set(9)
    reaching = asyncio.create_task(barrier.reach(0))
    await eventually(lambda: len(ends.asked) == 1)
    ends.ends[0] = 99
    assert not reaching.done()

    positions[0].set(10)
    await reaching


async def test_an_offset_of_ones_own_needs_no_look_up_and_must_be_passed() -> None:
    barrier, positions = barrier_on(ends := Ends(10))
    positions[0].set(7)
    reaching = asyncio.create_task(barrier.reach(0, 7))
    await asyncio.sleep(0)
    assert not reaching.done()

    positions[0].set(8)
    await reaching
    await barrier.reach(0, 7)
    assert ends.asked == []


async def test_who_comes_while_a_look_up_is_under_way_shares_the_next() -> None:
    barrier, positions = barrier_on(ends := Ends(1, 1))
    for position in positions:
        position.set(1)
    ends.release = asyncio.Event()
    first = asyncio.create_task(barrier.reach(0))
    await eventually(lambda: len(ends.asked) == 1)
    others = [asyncio.create_task(barrier.reach(partition)) for partition in (0, 1, 0, 1)]
    await asyncio.sleep(0)
    ends.release.set()
    await asyncio.gather(first, *others)

    assert ends.asked == [frozenset({0}), frozenset({0, 1})]


async def test_one_that_leaves_does_not_take_the_others_look_up_with_it() -> None:
    barrier, positions = barrier_on(ends := Ends(1))
    positions[0].set(1)
    ends.release = asyncio.Event()
    leaving, staying = (asyncio.create_task(barrier.reach(0)) for _ in range(2))
    await eventually(lambda: len(ends.asked) == 1)
    leaving.cancel()
    ends.release.set()

    await staying


async def test_a_slow_tail_is_a_503_that_says_when_to_come_again() -> None:
    barrier, positions = barrier_on(Ends(10), patience=0.01)
    positions[0].set(3)

    with pytest.raises(ApiError) as refused:
        await barrier.reach(0)
    assert refused.value.status == 503
    assert 1 <= int(refused.value.headers["retry-after"]) <= 60


async def test_a_log_that_is_away_is_a_503_and_the_next_one_asks_again() -> None:
    barrier, positions = barrier_on(ends := Ends(1))
    positions[0].set(1)
    ends.away = True
    with pytest.raises(ApiError) as refused:
        await barrier.reach(0)
    assert refused.value.status == 503

    ends.away = False
    await barrier.reach(0)


async def test_a_leader_that_is_gone_holds_up_readers_of_its_own_partitions_only() -> None:
    positions = [Position(), Position()]
    gone = asyncio.Event()

    async def ends(partitions: frozenset[int]) -> dict[int, int]:
        if 1 in partitions:
            await gone.wait()
            raise LogUnavailable("its leader is gone")
        return dict.fromkeys(partitions, 7)

    barrier = Barrier(dict(enumerate(positions)), ends, lambda partition: partition)
    positions[0].set(7)
    waiting = asyncio.create_task(barrier.reach(1))
    await asyncio.sleep(0)
    await asyncio.gather(*(barrier.reach(0) for _ in range(3)))
    assert not waiting.done()
    gone.set()
    with pytest.raises(ApiError, match="cannot be reached"):
        await waiting
    await barrier.reach(0)


async def test_a_look_up_that_fails_in_an_unforeseen_way_is_heard_and_the_next_goes_on() -> None:
    errors = [ValueError("an answer that nobody foresaw")]

    async def ends(_: frozenset[int]) -> dict[int, int]:
        if errors:
            raise errors.pop()
        return {0: 7}

    positions = [Position()]
    positions[0].set(7)
    barrier = Barrier(dict(enumerate(positions)), ends, lambda _: ALL)
    first = asyncio.create_task(barrier.reach(0))
    await asyncio.sleep(0)
    second = asyncio.create_task(barrier.reach(0))
    with pytest.raises(ValueError, match="nobody foresaw"):
        await first
    await second


async def test_a_position_wakes_those_it_passed_and_no_others() -> None:
    position = Position()
    waits = {offset: asyncio.create_task(position.reach(offset)) for offset in (3, 1, 2)}
    await asyncio.sleep(0)
    position.set(2)
    await asyncio.gather(waits[1], waits[2])

    assert not waits[3].done()
    position.set(-1)
    position.set(5)
    await waits[3]
