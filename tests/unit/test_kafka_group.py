"""A member of a group stays one, whatever goes wrong on the way."""

import asyncio

import pytest

from services.eventlog import kafka_group
from services.eventlog.kafka_group import KafkaMembership
from services.eventlog.kafka_link import KafkaAddress


async def test_an_error_of_whatever_kind_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka asserts what it takes for granted, such as that a starting broker knows itself."""
    again = asyncio.Event()
    errors = [AssertionError("Did we not perform bootstrap?"), KeyError("node"), ConnectionResetError()]

    async def session(self: KafkaMembership) -> None:
        if errors:
            raise errors.pop(0)
        again.set()
        await self._closing.wait()

    monkeypatch.setattr(KafkaMembership, "_session", session)
    monkeypatch.setattr(kafka_group, "REJOIN_AFTER", 0.01)
    member = KafkaMembership(KafkaAddress("127.0.0.1:9"), "g", "t", lambda _: None)
    member.start()
    async with asyncio.timeout(5):
        await again.wait()
    await member.close()
