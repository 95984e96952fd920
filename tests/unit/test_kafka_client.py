"""Clients and brokers that hang, on real sockets: nobody waits for a broker that he does not ask."""

import asyncio
import math
import struct
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, NodeNotReadyError

from services.broker.tcp import LOOPBACK
from services.eventlog import broker_health
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_brokers import Brokers
from services.eventlog.kafka_client import CONNECT_S, KafkaClient
from services.eventlog.kafka_wire import ProbeRequest
from tests.conftest import eventually
from tests.shown import sample
from tests.steady import steady

METADATA, VERSIONS = 3, 18


class Broker:
    """Speaks two kinds of request: which versions, and who is there. `hung`: it reads, and says nothing."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.hung = False
        self.cluster: Sequence[Broker] = ()
        self.port = 0
        self.heard: list[int] = []
        self.said: list[int] = []
        """The kinds of the requests that came, and of those that were answered."""
        self.open = 0
        """How many connections are open."""
        self.answers = math.inf
        """How many requests of one connection are answered; it is ended at the next one."""
        self._awake = asyncio.Event()
        self._awake.set()

    def hang(self) -> None:
        self._awake.clear()

    def wake(self) -> None:
        self._awake.set()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        answered = 0
        self.open += 1
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                kind, _, correlation = struct.unpack_from(">hhi", await reader.readexactly(size))
                self.heard.append(kind)
                await self._awake.wait()
                if answered >= self.answers:
                    raise ConnectionAbortedError
                answered += 1
                body = struct.pack(">i", correlation) + (self.metadata() if kind == METADATA else versions())
                self.said.append(kind)
                writer.write(struct.pack(">i", len(body)) + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.open -= 1
            writer.close()

    def metadata(self) -> bytes:
        """Version 1: brokers, controller, no topics."""
        brokers = b"".join(
            struct.pack(">i", one.node) + text(LOOPBACK) + struct.pack(">ih", one.port, -1)
            for one in self.cluster
        )
        return struct.pack(">i", len(self.cluster)) + brokers + struct.pack(">ii", self.node, 0)


def text(value: str) -> bytes:
    return struct.pack(">h", len(value)) + value.encode()


def versions() -> bytes:
    return (
        struct.pack(">hi", 0, 2) + struct.pack(">hhh", METADATA, 0, 1) + struct.pack(">hhh", VERSIONS, 0, 0)
    )


@asynccontextmanager
async def serving(*brokers: Broker) -> AsyncIterator[Brokers]:
    servers = []
    for broker in brokers:
        broker.cluster = brokers
        servers.append(await asyncio.start_server(broker.serve, LOOPBACK, 0))
        broker.port = servers[-1].sockets[0].getsockname()[1]
    try:
        yield Brokers(KafkaAddress(",".join(f"{LOOPBACK}:{broker.port}" for broker in brokers)))
    finally:
        for broker in brokers:
            broker.wake()
        for server in servers:
            server.close()


@asynccontextmanager
async def started(brokers: Brokers) -> AsyncIterator[KafkaClient]:
    client = brokers.client(30)
    try:
        await client.bootstrap()
        yield client
    finally:
        await client.close()


async def ask(client: KafkaClient, node: int, group: str = "some") -> Any:
    return await client.send(node, ProbeRequest(), group=group)


async def reached(client: KafkaClient, node: int) -> bool:
    try:
        await ask(client, node)
    except NodeNotReadyError:
        return False
    return True


async def test_a_client_that_is_closed_amid_a_connect_leaves_no_connection_open() -> None:
    broker = Broker(1)
    async with serving(broker) as brokers:
        async with started(brokers) as client:
            broker.hang()
            asking = asyncio.create_task(reached(client, 1))
            await eventually(lambda: broker.heard.count(VERSIONS) == 2)  # the bootstrap's was the first
        broker.wake()
        assert not await asking
        await eventually(lambda: not broker.open)


async def test_a_connect_waits_for_no_other() -> None:
    living, hung = Broker(1), Broker(2)
    async with serving(living, hung) as brokers, started(brokers) as client:
        hung.hang()
        waiting = asyncio.create_task(ask(client, 2))
        await eventually(lambda: VERSIONS in hung.heard)
        began = steady()
        await ask(client, 1)
        assert steady() - began < CONNECT_S / 2
        assert not waiting.done()
        with pytest.raises(NodeNotReadyError):
            await waiting
        assert steady() - began < CONNECT_S + 1


async def test_a_hung_address_does_not_hold_up_the_start_for_long() -> None:
    living, hung = Broker(1), Broker(2)
    hung.hang()
    async with serving(living, hung) as brokers:
        for _ in range(2):  # addresses are tried in any order
            began = steady()
            async with started(brokers):
                assert steady() - began < CONNECT_S + 1


async def test_metadata_is_had_from_whoever_answers() -> None:
    living, hung = Broker(1), Broker(2)
    async with serving(living, hung) as brokers, started(brokers) as client:
        hung.hang()
        for _ in range(3):
            began = steady()
            assert await client.force_metadata_update()
            assert steady() - began < CONNECT_S + 1


async def test_all_addresses_hung_is_an_error_in_time() -> None:
    one = Broker(1)
    one.hang()
    async with serving(one) as brokers:
        client = brokers.client(30)
        began = steady()
        with pytest.raises(KafkaConnectionError):
            await client.bootstrap()
        assert steady() - began < CONNECT_S + 1


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_health, "PERIOD_S", 0.05)
    monkeypatch.setattr(broker_health, "PROBE_S", 0.4)
    monkeypatch.setattr(broker_health, "OLD_S", 0.2)
    monkeypatch.setattr(broker_health, "TICK_S", 0.02)


@pytest.mark.usefixtures("quick")
async def test_a_client_that_cannot_leave_a_broker_keeps_nobody_from_hearing_of_it() -> None:
    living, hung = Broker(1), Broker(2)

    def broken(_: int) -> None:
        raise RuntimeError("it cannot")

    async with serving(living, hung) as brokers, started(brokers):
        watch = asyncio.create_task(brokers.watch())
        unhealthy: list[int] = []
        brokers.on_unhealthy(broken)
        brokers.on_unhealthy(unhealthy.append)
        hung.hang()
        await eventually(lambda: unhealthy == [2])
        assert not watch.done()
        watch.cancel()


@pytest.mark.usefixtures("quick")
async def test_what_a_hung_broker_was_sent_fails_when_it_falls_silent_and_nothing_more_is_sent() -> None:
    living, hung = Broker(1), Broker(2)
    async with serving(living, hung) as brokers, started(brokers), started(brokers) as other:
        watch = asyncio.create_task(brokers.watch())
        unhealthy: list[int] = []
        brokers.on_unhealthy(unhealthy.append)
        await ask(other, 2)
        hung.hang()
        with pytest.raises(KafkaConnectionError):
            await ask(other, 2)  # its own time-out is 30 s
        assert unhealthy == [2]
        assert (brokers.healthy(1), brokers.healthy(2)) == (True, False)
        with pytest.raises(NodeNotReadyError):
            await ask(other, 2)
        await ask(other, 1)

        living.said.clear()
        hung.said.clear()
        hung.wake()
        await eventually(lambda: brokers.healthy(2))

        await eventually(lambda: reached(other, 2))
        assert METADATA in living.said, "it went on by metadata from before the silence"
        assert METADATA not in hung.said, "who was silent was asked who leads"
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


@pytest.mark.usefixtures("quick")
async def test_a_broker_that_ends_its_connections_now_and_then_is_not_silent() -> None:
    """As they do at the next request of credentials that have aged, and with idle connections."""
    one = Broker(1)
    async with serving(one) as brokers, started(brokers):
        one.answers = 3
        watch = asyncio.create_task(brokers.watch())
        unhealthy: list[int] = []
        brokers.on_unhealthy(unhealthy.append)
        await eventually(lambda: len(one.said) >= 30)
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert not unhealthy


@pytest.mark.usefixtures("quick")
async def test_a_broker_that_one_client_alone_knows_is_probed_too() -> None:
    """It comes back under the eyes of a writer: the readers are content with who answers them meanwhile."""
    first, second = Broker(1), Broker(2)
    async with serving(first, second) as brokers:
        for broker in (first, second):
            broker.cluster = [first]
        async with started(brokers), started(brokers) as writer:
            watch = asyncio.create_task(brokers.watch())
            brokers.health.probe(2, 0)
            brokers.health.probed(2, 0, answered=False)
            first.cluster = [first, second]
            assert await writer.force_metadata_update()
            await eventually(lambda: reached(writer, 2))
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


@pytest.mark.usefixtures("quick")
async def test_the_age_of_the_oldest_metadata_is_shown() -> None:
    def age() -> float:
        return sample("rejoinder_kafka_metadata_age_seconds")

    one = Broker(1)
    async with serving(one) as brokers, started(brokers) as old, started(brokers) as young:
        watch = asyncio.create_task(brokers.watch())
        await eventually(lambda: age() > 0.3)
        await young.force_metadata_update()
        await eventually(lambda: age() > 0.6)  # that of the other
        await asyncio.gather(old.force_metadata_update(), young.force_metadata_update())
        await eventually(lambda: age() < 0.5)
        one.hang()
        await eventually(lambda: age() > 1)  # what is asked for now does not come
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
