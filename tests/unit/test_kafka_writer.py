"""What a writer says of what it had under way, when it is closed or a broker takes long to connect to."""

import asyncio
from collections.abc import Hashable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from schemas.errors import AppendUnknown, LogUnavailable, Unsent
from schemas.records import NewRecord
from services.eventlog import kafka_writer
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_brokers import Brokers
from services.eventlog.kafka_lane import Lane
from services.eventlog.kafka_link import KafkaLink
from services.eventlog.kafka_wire import ProduceRequest
from services.eventlog.kafka_writer import KafkaWriter
from services.eventlog.pace import Pace
from services.eventlog.port import TopicPartition
from tests.points import when

SOURCE = "events", 0


class Silent(KafkaLink):
    """A broker that takes what is sent and says nothing to it."""

    def __init__(self) -> None:
        super().__init__(Brokers(KafkaAddress("nowhere:9")), 1)
        self.sent = asyncio.Event()

    async def ready(self, node: int, group: Hashable) -> None:
        """At once."""

    def known_leader(self, source: TopicPartition) -> int | None:  # noqa: ARG002
        return 1

    async def send(self, node: int, request: Any, group: Hashable = "", timeout: float = 2) -> Any:  # noqa: ARG002
        if isinstance(request, ProduceRequest):
            self.sent.set()
            await asyncio.Event().wait()
        return SimpleNamespace(error_code=0, producer_id=7, producer_epoch=0)


def writing(link: Silent, monkeypatch: pytest.MonkeyPatch) -> KafkaWriter:
    """A writer over `link`."""
    monkeypatch.setattr(kafka_writer, "KafkaLink", lambda *_: link)
    return KafkaWriter(link.brokers)


async def test_of_what_was_sent_nobody_knows_when_the_writer_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Silent()
    writer = writing(link, monkeypatch)
    sent = asyncio.create_task(writer.append("events", 0, NewRecord(b"sent", b"{}")))
    await link.sent.wait()
    behind = asyncio.create_task(writer.append("events", 0, NewRecord(b"behind", b"{}")))
    await asyncio.sleep(0)
    await writer.close(timeout=0)

    with pytest.raises(AppendUnknown, match="the writer was closed"):
        await sent
    with pytest.raises(LogUnavailable, match="not sent"):
        await behind


async def test_when_its_leader_turns_unhealthy_what_may_move_and_was_not_sent_is_given_back_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Silent()
    writer = writing(link, monkeypatch)
    sent = asyncio.create_task(writer.append(*SOURCE, NewRecord(b"sent", b"{}"), movable=True))
    await link.sent.wait()
    behind = asyncio.create_task(writer.append(*SOURCE, NewRecord(b"behind", b"{}"), movable=True))
    bound = asyncio.create_task(writer.append(*SOURCE, NewRecord(b"bound", b"{}"), unsent_s=0.2))
    await asyncio.sleep(0)
    link.brokers.leave(1)
    with pytest.raises(Unsent):
        await behind
    assert not bound.done()
    with pytest.raises(LogUnavailable, match="nothing was sent"):
        await bound
    assert not sent.done()
    await writer.close(timeout=0)
    with pytest.raises(AppendUnknown):
        await sent


async def test_a_connection_and_an_append_share_the_time_of_one_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_writer, "REQUEST_TIMEOUT", 0.4)
    monkeypatch.setattr(kafka_writer, "ANSWER_MARGIN", 0.1)
    given: list[float] = []

    class Slow(Silent):
        async def ready(self, node: int, group: Hashable) -> None:  # noqa: ARG002
            await asyncio.sleep(0.3)

        async def send(self, node: int, request: Any, group: Hashable = "", timeout: float = 2) -> Any:
            if isinstance(request, ProduceRequest):
                given.append(timeout)
            return await super().send(node, request, group, timeout)

    link = Slow()
    writer = writing(link, monkeypatch)
    appending = asyncio.create_task(writer.append(*SOURCE, NewRecord(b"key", b"{}")))
    await link.sent.wait()
    assert 0 < given[0] <= 0.21
    await writer.close(timeout=0)
    await asyncio.gather(appending, return_exceptions=True)


class Connecting(Silent):
    """A broker to which the first connection takes until `connected` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.connected = asyncio.Event(), asyncio.Event()
        self.requests: list[ProduceRequest] = []

    async def ready(self, node: int, group: Hashable) -> None:  # noqa: ARG002
        self.asked.set()
        await self.connected.wait()

    async def send(self, node: int, request: Any, group: Hashable = "", timeout: float = 2) -> Any:
        if isinstance(request, ProduceRequest):
            self.requests.append(request)
        return await super().send(node, request, group, timeout)


@pytest.mark.parametrize("others", [0, 1])
async def test_what_moves_while_its_leader_is_connected_to_holds_up_nobody_else(
    others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Connecting()
    writer = writing(link, monkeypatch)
    leaves = asyncio.create_task(writer.append("events", 0, NewRecord(b"leaves", b"{}"), movable=True))
    stays = [
        asyncio.create_task(writer.append("events", n, NewRecord(b"stays", b"{}")))
        for n in range(1, 1 + others)
    ]
    await link.asked.wait()
    link.brokers.leave(1)
    with pytest.raises(Unsent):
        await leaves
    link.connected.set()
    if not others:
        stays = [asyncio.create_task(writer.append("events", 1, NewRecord(b"comes", b"{}")))]
    await link.sent.wait()
    [request] = link.requests
    assert b"leaves" not in request.encode()
    await writer.close(timeout=0)
    for left in await asyncio.gather(*stays, return_exceptions=True):
        assert isinstance(left, AppendUnknown)


async def test_what_is_given_up_within_a_connect_leaves_the_others_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Connecting()
    writer = writing(link, monkeypatch)
    late = asyncio.create_task(writer.append("events", 0, NewRecord(b"late", b"{}"), unsent_s=0.1))
    stays = asyncio.create_task(writer.append("events", 1, NewRecord(b"stays", b"{}")))
    await link.asked.wait()
    with pytest.raises(LogUnavailable, match="nothing was sent"):
        await late
    link.asked.clear()
    await link.asked.wait()
    link.connected.set()
    await link.sent.wait()
    await writer.close(timeout=0)
    with pytest.raises(AppendUnknown):
        await stays


class Two(Silent):
    """Two brokers that take everything at once; each leads the partitions of its parity."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Sequence[Lane] = ()
        self.taken: list[int] = []
        """The partitions of which something was taken, in that order."""

    def known_leader(self, source: TopicPartition) -> int | None:
        return source.partition % 2

    def made(self, lanes: Sequence[Lane]) -> None:
        """A request is made; it is sent at once."""
        self.asked = lanes

    async def send(self, node: int, request: Any, group: Hashable = "", timeout: float = 2) -> Any:
        if not isinstance(request, ProduceRequest):
            return await super().send(node, request, group, timeout)
        self.taken += [lane.source.partition for lane in self.asked]
        return [(*lane.source, 0, 0, 0) for lane in self.asked]


async def test_what_is_in_a_hurry_takes_what_waits_for_its_own_broker_along_and_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kafka_writer, "LEAST_PACE_S", 0)
    monkeypatch.setattr(kafka_writer, "Pace", lambda *_: Pace(0, 1000))
    link = Two()
    writer = writing(link, monkeypatch)
    with when("request made", link.made):
        await writer.append("events", 0, NewRecord(b"first", b"{}"))
        writer.post("events", 2, NewRecord(b"waits", b"{}"), patient=True)
        writer.post("events", 2, NewRecord(b"waits too", b"{}"), patient=True)
        link.taken.clear()

        await writer.append("events", 1, NewRecord(b"elsewhere", b"{}"))
        assert link.taken == [1]
        await writer.append("events", 4, NewRecord(b"hurried", b"{}"))
        assert sorted(link.taken) == [1, 2, 4]
    await writer.close()
