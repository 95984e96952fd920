"""One world per adapter: a log with a fresh topic, and what a test does behind the port's back."""

from collections.abc import AsyncIterator
from typing import Any, Protocol
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import TopicPartition as KafkaPartition

from schemas.records import NewRecord
from services.eventlog.kafka import KafkaLog
from services.eventlog.kafka_topics import add_partitions, until_led
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Log, TopicPartition, Writer
from tests.conftest import eventually

PARTITIONS = 3
NO_KEY: Any = None
"""What a broker refuses in a compacted topic and the writer lets through."""


class World(Protocol):
    """A log and one topic of `PARTITIONS` partitions in it, nobody else's."""

    log: Log
    topic: str

    async def retain(self, partition: int, before_offset: int) -> None:
        """Drop the records before an offset, as retention does."""
        ...

    async def make_anew(self) -> None:
        """Delete the topic, and create it again under its name."""
        ...

    async def grow(self, partitions: int) -> None:
        """Add partitions to the topic, up to so many."""
        ...

    async def refusable(self) -> NewRecord:
        """A record that the log, not the writer, is going to refuse when it is appended next."""
        ...


class MemoryWorld:
    def __init__(self) -> None:
        self.topic = f"topic-{uuid4().hex[:8]}"
        self._memory = MemoryLog({self.topic: PARTITIONS})
        self.log: Log = self._memory

    async def retain(self, partition: int, before_offset: int) -> None:
        self._memory.retain(self.topic, partition, before_offset)

    async def make_anew(self) -> None:
        self._memory.make_anew(self.topic)

    async def grow(self, partitions: int) -> None:
        self._memory.grow(self.topic, partitions)

    async def refusable(self) -> NewRecord:
        self._memory.fail_next("lost")
        return NewRecord(b"refused", b"x")


class KafkaWorld:
    def __init__(self, bootstrap: str, admin: AIOKafkaAdminClient) -> None:
        self.topic = f"topic-{uuid4().hex[:8]}"
        self.log: Log = KafkaLog(bootstrap)
        self._admin = admin

    async def create(self) -> None:
        settings = {
            "cleanup.policy": "compact,delete",
            "message.timestamp.type": "LogAppendTime",
            "max.message.bytes": str(2 << 20),
        }
        await self._admin.create_topics([NewTopic(self.topic, PARTITIONS, 1, topic_configs=settings)])
        await until_led(self._admin, {self.topic: PARTITIONS})

    async def retain(self, partition: int, before_offset: int) -> None:
        source = KafkaPartition(self.topic, partition)
        await self._admin.delete_records({source: RecordsToDelete(before_offset)})

    async def make_anew(self) -> None:
        await self._admin.delete_topics([self.topic])
        await eventually(self._gone)
        await self.create()

    async def grow(self, partitions: int) -> None:
        await add_partitions(self._admin, self.topic, partitions)

    async def _gone(self) -> bool:
        return self.topic not in {topic["topic"] for topic in await self._admin.describe_topics()}

    async def refusable(self) -> NewRecord:
        return NewRecord(NO_KEY, b"x")


@pytest.fixture(params=["memory", "kafka"])
def bootstrap(request: pytest.FixtureRequest) -> str | None:
    """The broker's address, or None for the log in memory; the broker is started only when it is wanted."""
    return None if request.param == "memory" else request.getfixturevalue("kafka")


@pytest.fixture
async def world(bootstrap: str | None) -> AsyncIterator[World]:
    if bootstrap is None:
        yield MemoryWorld()
        return
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    kafka = KafkaWorld(bootstrap, admin)
    await kafka.create()
    yield kafka
    await kafka.log.close()
    await admin.close()


@pytest.fixture
async def writer(world: World) -> AsyncIterator[Writer]:
    writer = world.log.writer(delivery_timeout=20)
    yield writer
    await writer.close()


def at(world: World, offset: int = 0, partitions: range = range(PARTITIONS)) -> dict[TopicPartition, int]:
    """The same position in several partitions."""
    return {TopicPartition(world.topic, partition): offset for partition in partitions}
