"""A process hears of partitions that are added: soon by itself, at once when another uses one (P-144)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from schemas.errors import LogUnavailable
from services.eventlog import known_partitions
from services.eventlog.known_partitions import KnownPartitions
from services.eventlog.memory import MemoryLog
from tests.conftest import eventually

TOPIC = "events"


class Counted(MemoryLog):
    """A log in memory that counts the looks."""

    looks = 0

    async def partitions(self, topic: str) -> int:
        self.looks += 1
        return await super().partitions(topic)


@pytest.fixture
def log() -> Counted:
    return Counted({TOPIC: 2})


@asynccontextmanager
async def looking(count: KnownPartitions) -> AsyncIterator[None]:
    task = asyncio.create_task(count.run())
    try:
        yield
    finally:
        task.cancel()


async def test_it_hears_of_them_by_itself_whatever_fails_on_the_way(
    log: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_partitions, "LOOK_S", 0.001)
    count, told = KnownPartitions(log, TOPIC, 2), list[int]()
    count.on_growth(told.append)
    async with looking(count):
        log.available = False
        await eventually(lambda: log.looks > 3)
        log.available = True
        log.grow(TOPIC, 5)
        await eventually(lambda: count.value == 5)
        log.grow(TOPIC, 8)
        await eventually(lambda: count.value == 8)
    assert told == [5, 8]


async def test_p144_one_that_is_not_known_is_looked_for_at_once_and_all_who_ask_share_the_look(
    log: Counted,
) -> None:
    count, told = KnownPartitions(log, TOPIC, 2), list[int]()
    count.on_growth(told.append)
    assert await count.includes(1)
    assert log.looks == 0
    log.grow(TOPIC, 4)
    assert await asyncio.gather(*(count.includes(number) for number in (2, 3, 4, 65535))) == [
        True,
        True,
        False,
        False,
    ]
    assert log.looks == 1
    assert told == [4]
    assert not await count.includes(4)
    assert log.looks == 2


async def test_who_cannot_look_says_so(log: Counted) -> None:
    count = KnownPartitions(log, TOPIC, 2)
    log.available = False
    with pytest.raises(LogUnavailable):
        await count.includes(2)
    log.available = True
    assert not await count.includes(2)
