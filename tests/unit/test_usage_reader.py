"""The reader of `usage`: ready at the end, whatever is added, removed or made anew."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from schemas.records import NewRecord
from services.analytics.counting import PartitionCount
from services.analytics.prices import Prices
from services.analytics.reader import UsageReader
from services.eventlog.memory import MemoryLog
from services.eventlog.memory_partition import MemoryPartition
from tests.conftest import eventually
from tests.usage import ended

TOPIC = "usage"
DAYS = 90 * 86_400_000


class Usage:
    """The topic, and a reader of it."""

    def __init__(self, partitions: int = 2) -> None:
        self.now = ended(0).closed_at
        self.log = MemoryLog({TOPIC: partitions}, clock=lambda: self.now)
        self.reader = UsageReader(self.log, TOPIC, DAYS, lambda: self.now, look_s=0.01)

    async def count(self, numbers: range, partition: int = 0) -> None:
        """Append what the ends of these responses come to."""
        count = PartitionCount(partition, "topic", Prices(), [])
        count.begin(0)
        for offset, number in enumerate(numbers):
            count.take(offset, ended(number, partition))
        changes = count.written()
        writer = self.log.writer()
        for pair in [*changes.names, *changes.rows, *changes.mark]:
            await writer.append(TOPIC, partition, NewRecord(*pair))
        await writer.close()

    @asynccontextmanager
    async def reading(self, *, ready: bool = True) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reader.run())
        try:
            if ready:
                await eventually(lambda: not self.reader.not_ready())
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    def responses(self) -> int:
        minute = ended(0).closed_at // 60_000
        return sum(
            row.responses for sums in self.reader.index.sums(minute, minute + 600) for row in sums.values()
        )


async def test_it_is_ready_when_it_has_read_to_the_end_and_goes_on() -> None:
    usage = Usage()
    await usage.count(range(100))
    assert usage.reader.not_ready() == ["usage is not read yet"]
    async with usage.reading():
        assert usage.responses() == 100
        await usage.count(range(50), 1)
        await eventually(lambda: usage.responses() == 150)


async def test_read_to_waits_for_what_is_read_and_not_taken_yet() -> None:
    usage = Usage(1)
    await usage.count(range(0, 15_000, 10))
    end = (await usage.log.bounds(TOPIC, [0]))[0].end
    assert end > 600

    async def counted_when_read() -> int:
        await usage.reader.read_to(0, end)
        return usage.responses()

    async with usage.reading(ready=False):
        asking = []
        for _ in range(100):
            asking.append(asyncio.create_task(counted_when_read()))
            await asyncio.sleep(0)
        assert set(await asyncio.gather(*asking)) == {1500}


async def test_a_partition_that_is_added_is_read() -> None:
    usage = Usage(1)
    async with usage.reading():
        usage.log.stored[TOPIC].append(MemoryPartition())
        await usage.count(range(30), 1)
        await eventually(lambda: usage.responses() == 30)


async def test_a_topic_that_is_made_anew_is_read_anew() -> None:
    usage = Usage(1)
    await usage.count(range(200))
    async with usage.reading():
        usage.log.make_anew(TOPIC)
        await usage.count(range(20))
        await eventually(lambda: usage.responses() == 20)


async def test_what_has_expired_is_forgotten() -> None:
    usage = Usage(1)
    await usage.count(range(20))
    async with usage.reading():
        usage.now += DAYS + 86_400_000
        await eventually(lambda: usage.responses() == 0)


async def test_who_wants_the_last_hours_reads_from_there() -> None:
    usage = Usage(2)
    await usage.count(range(20))
    usage.now += 3_600_000
    await usage.count(range(8000, 8030), 1)
    await usage.reader.catch_up(usage.now - 60_000)
    assert usage.responses() == 30
