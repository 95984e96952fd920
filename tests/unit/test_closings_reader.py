"""What `rejoinder tail` shows of `closings`: each closing once, in order, and what is lost is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from schemas.closings import ClosingRecord
from schemas.errors import TopicMissing
from schemas.ids import response_id
from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.memory_partition import MemoryPartition
from services.terminal.tail import ClosingsReader
from tests.conftest import eventually
from tests.unit.test_closing_line import CLOSING

TOPIC = "closings"


def closing(number: int, partition: int = 0) -> ClosingRecord:
    id = response_id(partition, number.to_bytes(16))
    return replace(CLOSING, id=id, accepted_offset=0, closed_offset=number)


class Topic:
    """The topic, and what a reader has shown of it: the number of each closing."""

    def __init__(self, partitions: int = 2) -> None:
        self.now = 0
        self.log = MemoryLog({TOPIC: partitions}, clock=lambda: self.now)
        self.shown: list[int] = []

    async def end(self, number: int, partition: int = 0) -> None:
        """Append the closing that closed at the offset `number`, at that time."""
        self.now = max(self.now, number)
        await self.put(closing(number, partition).new(), partition)

    async def put(self, record: NewRecord, partition: int = 0) -> None:
        writer = self.log.writer()
        await writer.append(TOPIC, partition, record)
        await writer.close()

    def show(self, found: ClosingRecord, _: bytes) -> None:
        self.shown.append(found.closed_offset)

    @asynccontextmanager
    async def read(self, since: int | None = None) -> AsyncIterator[None]:
        """A reader that has found its start."""
        reader = ClosingsReader(self.log, TOPIC, self.show, look_s=0.01)
        reading = asyncio.create_task(reader.run(since))
        await eventually(lambda: reading.done() or "{}" not in repr(reader))
        try:
            yield
        finally:
            reading.cancel()
            await asyncio.wait([reading])

    def has_shown(self, *numbers: int) -> Callable[[], bool]:
        return lambda: self.shown == list(numbers)


async def ended(topic: Topic, numbers: Collection[int], partition: int = 0) -> None:
    for number in numbers:
        await topic.end(number, partition)


async def test_only_what_ends_from_now_on_is_shown() -> None:
    topic = Topic()
    await ended(topic, [1, 2])
    async with topic.read():
        await ended(topic, [3, 4])
        await eventually(topic.has_shown(3, 4))


async def test_what_stood_there_comes_first_in_the_order_of_time_over_all_partitions() -> None:
    topic = Topic(partitions=3)
    for number in range(1, 30):
        await topic.end(number, number * number % 3)
    async with topic.read(since=5):
        await eventually(topic.has_shown(*range(5, 30)))
        await topic.end(30)
        await eventually(topic.has_shown(*range(5, 31)))


async def test_a_repeated_closing_is_shown_once_and_never_if_it_ended_before() -> None:
    topic = Topic(partitions=1)
    await ended(topic, [1, 2])
    async with topic.read():
        await ended(topic, [1, 2, 3, 1, 2, 3, 4])
        await eventually(topic.has_shown(3, 4))


async def test_what_was_removed_unread_is_told() -> None:
    topic = Topic(partitions=1)
    await ended(topic, [1, 2])
    with capture_logs() as logged:
        async with topic.read():
            partition = topic.log.stored[TOPIC][0]
            for number in (3, 4, 5):  # no fetch comes in between
                partition.append(closing(number).new(), number)
            topic.log.retain(TOPIC, 0, 4)
            await topic.end(6)
            await eventually(topic.has_shown(5, 6))
    told = "closings, partition 0: offsets 2 to 3 were removed unread"
    assert told in [entry["event"] for entry in logged]


async def test_a_topic_that_is_made_anew_is_read_from_its_start() -> None:
    topic = Topic(partitions=1)
    await ended(topic, [1, 2, 3])
    with capture_logs() as logged:
        async with topic.read():
            topic.log.make_anew(TOPIC)
            await topic.end(4)
            await eventually(topic.has_shown(4))
    told = "closings, partition 0: offsets 3 to the end of a topic that is gone were removed unread"
    assert told in [entry["event"] for entry in logged]


async def test_a_partition_that_is_added_is_read_from_its_start() -> None:
    topic = Topic(partitions=1)
    async with topic.read():
        topic.log.stored[TOPIC].append(MemoryPartition())
        await topic.end(7, partition=1)
        await eventually(topic.has_shown(7))


async def test_what_cannot_be_read_is_told_and_passed_over() -> None:
    topic = Topic(partitions=1)
    with capture_logs() as logged:
        async with topic.read():
            await topic.put(NewRecord(b"x", b"{}", [("kind", b"later")]))
            await topic.end(1)
            await eventually(topic.has_shown(1))
    (told,) = [entry for entry in logged if "unreadable" in entry["event"]]
    assert (told["partition"], told["offset"]) == (0, 0)


async def test_without_the_topic_it_says_how_to_make_it() -> None:
    reader = ClosingsReader(MemoryLog({}), TOPIC, Topic().show)
    with pytest.raises(TopicMissing, match="run `rejoinder topics --create`"):
        await reader.run(None)
