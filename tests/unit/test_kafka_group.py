"""A member of a group stays one, whatever goes wrong on the way."""

import asyncio
import gc
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import UnknownMemberIdError

from schemas.errors import LogUnavailable
from services.eventlog import kafka_group
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_brokers import Brokers
from services.eventlog.kafka_client import KafkaClient
from services.eventlog.kafka_group import KafkaMembership
from tests.conftest import PATIENCE


async def test_an_error_of_whatever_kind_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """aiokafka asserts what it takes for granted, such as that a starting broker knows itself."""
    again = asyncio.Event()
    errors = [AssertionError("Did we not perform bootstrap?"), KeyError("node"), ConnectionResetError()]

    class Failing(Brokers):
        def client(self, request_timeout: float) -> KafkaClient:
            if errors:
                raise errors.pop(0)
            again.set()
            return super().client(request_timeout)

    monkeypatch.setattr(kafka_group, "REJOIN_AFTER", 0.01)
    member = KafkaMembership(Failing(KafkaAddress("127.0.0.1:9")), "g", "t", lambda _: None)
    member.start()
    async with asyncio.timeout(PATIENCE):
        await again.wait()
    await member.close()


class Expelled(kafka_group.Coordinator):
    """A coordinator whose broker answers a commit when it is told to, and knows the member no more."""

    group_id = coordinator_id = member_id = "g"
    generation = 1

    def __init__(self) -> None:
        self._commit_lock = asyncio.Lock()
        self.answers = asyncio.Event()

    async def ensure_coordinator_known(self) -> None:
        pass

    async def _send_req(self, _request: object) -> None:
        await self.answers.wait()
        raise UnknownMemberIdError("g")


def member_of(coordinator: Expelled) -> KafkaMembership:
    member = KafkaMembership(Brokers(KafkaAddress("127.0.0.1:9")), "g", "t", lambda _: None)
    member.become(frozenset({0}))
    subscription: Any = SimpleNamespace(subscription=SimpleNamespace(assignment=None))
    member.session = coordinator, subscription
    return member


async def test_a_commit_that_fails_after_it_was_given_up_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_group, "COMMIT_TIMEOUT", 0.01)
    coordinator, loop, reported = Expelled(), asyncio.get_running_loop(), list[object]()
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context))
    try:
        with pytest.raises(LogUnavailable, match=r"not answered within 0.01 s"):
            await member_of(coordinator).commit({0: 1})
        coordinator.answers.set()
        for _ in range(5):
            await asyncio.sleep(0)
        gc.collect()
    finally:
        loop.set_exception_handler(before)
    assert not reported


async def test_a_commit_of_who_is_no_member_any_more_is_told_in_our_words() -> None:
    coordinator = Expelled()
    coordinator.answers.set()
    with pytest.raises(LogUnavailable) as raised:
        await member_of(coordinator).commit({0: 1})
    assert str(raised.value).endswith("not committed: the group gave the partitions away meanwhile")
