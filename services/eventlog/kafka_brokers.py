"""The brokers of the cluster as one process sees them. All of its clients share what is known.

    watch → probe every broker → `broker_health` decides → clients drop a silent broker, writers hear of it

When a broker falls silent, every client drops its connections to it. So the requests that wait for it fail at
once, and their callers ask the next leader.
"""

import asyncio
from asyncio import Task
from collections.abc import Callable
from contextlib import suppress
from math import inf
from weakref import WeakSet

import structlog

from services.eventlog.broker_health import BrokerHealth
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_borrowed import KafkaError
from services.eventlog.kafka_client import PROBE, KafkaClient
from services.eventlog.metrics import METADATA_AGE, SILENCES, SILENT_BROKERS

log = structlog.get_logger(__name__)

BACKOFF = 0.1
"""Seconds between two attempts."""

OnUnhealthy = Callable[[int], None]


class Brokers:
    """What the clients of one process share. `address` is where the cluster is."""

    def __init__(self, address: KafkaAddress) -> None:
        self.address = address
        self._suspicion = asyncio.Event()
        self.health = BrokerHealth(self._suspicion.set)
        self._clients: WeakSet[KafkaClient] = WeakSet()
        self._listeners: list[OnUnhealthy] = []
        self._probes: dict[int, tuple[KafkaClient, Task[None]]] = {}

    def __repr__(self) -> str:
        return f"Brokers({self.address.bootstrap}, {self.health})"

    def client(self, request_timeout: float) -> KafkaClient:
        """A fresh client, not yet started; one request takes at most `request_timeout` seconds."""
        client = KafkaClient(
            self.health,
            request_timeout,
            bootstrap_servers=self.address.bootstrap,
            client_id=self.address.client_id,
            metadata_max_age_ms=60_000,
            retry_backoff_ms=int(BACKOFF * 1000),
            **self.address.settings.options(),
        )
        self._clients.add(client)
        return client

    def on_unhealthy(self, listener: OnUnhealthy) -> None:
        """Have `listener` called with each broker that turns unhealthy, until `forget`."""
        self._listeners.append(listener)

    def forget(self, listener: OnUnhealthy) -> None:
        """Call `listener` no more."""
        self._listeners.remove(listener)

    def leave(self, node: int) -> None:
        """Tell who listens that `node` has turned unhealthy."""
        for listener in list(self._listeners):
            try:
                listener(node)
            except Exception:  # that client has to mend it; the others must still hear
                log.exception("a client could not leave a broker that is not healthy", broker=node)

    def healthy(self, node: int) -> bool:
        """Whether `node` is healthy (`broker_health`)."""
        return self.health.healthy(node)

    async def watch(self) -> None:
        """Probe every broker that some client knows of, until cancelled.

        The addresses come from all clients. When a broker comes back, the first client to know it is the one
        whose metadata names it a leader again.
        """
        loop = asyncio.get_running_loop()
        try:
            while True:
                now, known = loop.time(), self._known()
                SILENT_BROKERS.dec(self.health.forget(known, now))
                METADATA_AGE.set(self._metadata_age(now))
                for node in self.health.due(known, now):
                    self.health.probe(node, now)
                    self._probes[node] = known[node], asyncio.create_task(self._probe(known[node], node))
                self._look(now)
                self._suspicion.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.health.pause(loop.time())):
                        await self._suspicion.wait()
        finally:
            probes = [probe for _, probe in self._probes.values()]
            for probe in probes:
                probe.cancel()
            await asyncio.gather(*probes, return_exceptions=True)

    def _known(self) -> dict[int, KafkaClient]:
        """Each broker, and a client that knows where it is."""
        living = [client for client in self._clients if not client.closed]
        return {broker.nodeId: client for client in living for broker in client.cluster.brokers()}

    def _metadata_age(self, now: float) -> float:
        """The age in seconds of the oldest metadata that a client goes by; 0 if none has any yet."""
        ages = [now - client.metadata_from for client in self._clients if not client.closed]
        return max((age for age in ages if age < inf), default=0.0)

    def _look(self, now: float) -> None:
        """Act on the brokers whose state changed since the last look."""
        turned = self.health.tick(now)
        for node in turned.overdue:
            client, probe = self._probes[node]
            probe.cancel()
            client.hang_up(node, PROBE)
        for node in turned.silent:
            log.warning("a broker of Kafka is silent", broker=node)
            SILENCES.inc()
            for each in self._clients:
                each.drop(node)
        for node in turned.answering:
            log.info("a broker of Kafka answers again", broker=node)
            for each in self._clients:
                each.force_metadata_update()
        if turned.silent or turned.answering:
            SILENT_BROKERS.inc(len(turned.silent) - len(turned.answering))
        for node in turned.unhealthy:
            self.leave(node)

    async def _probe(self, client: KafkaClient, node: int) -> None:
        answered = False
        try:
            await client.probe(node)
            answered = True
        except (KafkaError, OSError):
            pass
        finally:
            self.health.probed(node, asyncio.get_running_loop().time(), answered=answered)
