"""A link to the cluster: one aiokafka client, started on first use, its errors translated once.

aiokafka's client keeps the metadata and one connection per (broker, group); a broker answers the requests
of one connection one after the other, so the group decides what waits for what. Requests are
built and read by the modules beside this one. The client asks for the metadata of all topics, always:
asking for one by name would make a broker that creates topics by itself create it, with the wrong settings.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from schemas.errors import LogUnavailable
from services.eventlog.kafka_borrowed import KafkaError, NodeNotReadyError, StaleMetadata
from services.eventlog.kafka_brokers import BACKOFF, Brokers
from services.eventlog.kafka_client import SHORT, KafkaClient
from services.eventlog.port import TopicPartition

# aiokafka logs each failed attempt of each connection, 70 lines a second while a broker is away. Its errors
# reach us as exceptions, and we log each trouble once.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds for which a read is tried: a client must hear 503 within 5 s (A-10)."""
FAILURES = (KafkaError, OSError, TimeoutError)
"""What a request to a broker may raise."""


class KafkaLink:
    """One started client. Requests raise aiokafka's errors; `retrying` turns them into LogUnavailable.

    `watches`: it also probes the brokers, for all links of its process.
    """

    def __init__(self, brokers: Brokers, request_timeout: float, *, watches: bool = False) -> None:
        self.brokers = brokers
        self.address = brokers.address
        self._request_timeout = request_timeout
        self._watches = watches
        self._client: KafkaClient | None = None
        self._watch: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"KafkaLink({self.address.bootstrap})"

    async def client(self) -> KafkaClient:
        """The client, connected once. Raises KafkaConnectionError when no broker answers."""
        if self._client is None:
            async with self._starting:
                if self._closed:
                    raise LogUnavailable("the log is closed")
                if self._client is None:
                    self._client = await self._start()
        return self._client

    async def _start(self) -> KafkaClient:
        client = self.brokers.client(self._request_timeout)
        try:
            await client.bootstrap()
        except BaseException:
            await client.close()
            raise
        if self._watches:
            self._watch = asyncio.create_task(self.brokers.watch())
        return client

    async def leader(self, source: TopicPartition) -> int:
        """The node that leads a partition, after one look at fresh metadata. Raises StaleMetadata."""
        node = self.known_leader(source)
        if node is None:
            await self.refresh()
            node = self.known_leader(source)
        if node is None:
            raise StaleMetadata(no_leader(source))
        return node

    def known_leader(self, source: TopicPartition) -> int | None:
        """The node that leads a partition by the metadata at hand, None without one."""
        if self._client is None:
            return None
        node: int | None = self._client.cluster.leader_for_partition(source)
        return None if node == -1 else node

    async def refresh(self) -> None:
        """Read the metadata anew, from the bootstrap addresses when no known broker answers."""
        client = await self.client()
        if not await client.force_metadata_update():
            await client.bootstrap()

    def stale(self) -> None:
        """Have the metadata read anew, in the background."""
        if self._client is not None:
            self._client.force_metadata_update()

    async def ready(self, node: int, group: Hashable) -> None:
        """Connect to `node` in connection group `group`. Raises NodeNotReadyError; nothing was sent then."""
        client = await self.client()
        if not await client.ready(node, group=group):
            raise NodeNotReadyError(f"no connection to broker {node}")

    async def send(self, node: int, request: object, group: Hashable = SHORT, timeout: float = 2) -> Any:
        """Send one request, return aiokafka's response. A connection silent for `timeout` s is dropped."""
        client = await self.client()
        try:
            async with asyncio.timeout(timeout):
                return await client.send(node, request, group=group)
        except TimeoutError:
            client.hang_up(node, group)  # aiokafka has one time-out for all kinds of requests
            raise

    async def retrying(self, attempt: Callable[[], Awaitable[T]], patience: float) -> T:
        """What `attempt` returns, tried for up to `patience` seconds. Raises LogUnavailable.

        A time-out that comes more than `patience` late says nothing of Kafka: this process stood still, so
        the time begins anew.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + patience
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    return await attempt()
            except FAILURES as error:
                if loop.time() > deadline + patience:
                    deadline = loop.time() + patience
                elif loop.time() + BACKOFF >= deadline:
                    raise self.address.away(error) from error
            await asyncio.sleep(BACKOFF)
            self.stale()

    async def close(self) -> None:
        """Close all connections, and make no more."""
        self._closed = True
        async with self._starting:
            if self._watch is not None:
                self._watch.cancel()
                await asyncio.gather(self._watch, return_exceptions=True)
            if self._client is not None:
                client, self._client = self._client, None
                await client.close()


def no_leader(source: TopicPartition) -> str:
    """Why nothing can be asked of `source`."""
    return f"topic {source.topic} has no partition {source.partition}, or it has no leader"
