"""A link to the cluster: one aiokafka client, started on first use, its errors translated once.

aiokafka's client keeps the metadata and one connection per (broker, group); a broker answers the requests
of one connection one after the other, so the group decides what waits for what. Requests are
built and read by the modules beside this one. The client asks for the metadata of all topics, always:
asking for one by name would let a careless broker create it, with the wrong settings.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Literal, TypeVar

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import (
    CorruptRecordException,
    KafkaConnectionError,
    KafkaError,
    NodeNotReadyError,
    StaleMetadata,
)
from msgspec import Struct

from schemas.errors import LogUnavailable
from services.eventlog.port import TopicPartition

# aiokafka tells each failed attempt of each connection, 70 lines a second while a broker is away. What
# matters of it is raised, and told once by us.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)

T = TypeVar("T")

BACKOFF = 0.1
"""Seconds between two attempts."""
PATIENCE = 3.0
"""Seconds that a read is tried for: a client must hear 503 within 5 s (A-10)."""
FAILURES = (KafkaError, OSError, TimeoutError)
"""What a request to a broker may raise."""


class KafkaSettings(Struct, frozen=True):
    """How to reach the cluster beside its addresses. Files are paths of PEM files."""

    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: str | None = None

    def options(self) -> dict[str, Any]:
        """The keyword arguments that every aiokafka client takes for it."""
        return {
            "security_protocol": self.security,
            "ssl_context": self._ssl_context() if "SSL" in self.security.split("_")[-1] else None,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


PLAINTEXT = KafkaSettings()


class KafkaAddress(Struct, frozen=True):
    """Where the cluster is and how to reach it: all that a client of its own needs."""

    bootstrap: str
    client_id: str = "rejoinder"
    settings: KafkaSettings = PLAINTEXT

    def client(self, request_timeout: float) -> AIOKafkaClient:
        """A fresh client, not yet started; one request takes at most `request_timeout` seconds."""
        return AIOKafkaClient(
            bootstrap_servers=self.bootstrap,
            client_id=self.client_id,
            request_timeout_ms=int(request_timeout * 1000),
            metadata_max_age_ms=60_000,
            retry_backoff_ms=int(BACKOFF * 1000),
            **self.settings.options(),
        )

    def away(self, error: BaseException) -> LogUnavailable:
        """`error` as the port's: names the address and how to mend it."""
        if isinstance(error, CorruptRecordException):
            return LogUnavailable(
                f"Kafka at {self.bootstrap}: {error}. Let a replica lead that is whole (docs/reliability.md)"
            )
        if isinstance(error, StaleMetadata):
            return LogUnavailable(
                f"Kafka at {self.bootstrap}: {error}. If it stays away: `rejoinder topics` says what is wrong"
            )
        no_broker = isinstance(error, KafkaConnectionError | NodeNotReadyError)
        reason = "no broker answers" if no_broker else str(error) or "it does not answer in time"
        return LogUnavailable(
            f"Kafka at {self.bootstrap} is away ({reason}): is it running, "
            "and is the address right (REJOINDER_KAFKA)?"
        )


class KafkaLink:
    """One started client. Requests raise aiokafka's errors; `retrying` turns them into LogUnavailable."""

    def __init__(self, address: KafkaAddress, request_timeout: float) -> None:
        self.address = address
        self._request_timeout = request_timeout
        self._client: AIOKafkaClient | None = None
        self._starting = asyncio.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"KafkaLink({self.address.bootstrap})"

    async def client(self) -> AIOKafkaClient:
        """The client, connected once. Raises KafkaConnectionError when no broker answers."""
        if self._client is None:
            async with self._starting:
                if self._closed:
                    raise LogUnavailable("the log is closed")
                if self._client is None:
                    self._client = await self._start()
        return self._client

    async def _start(self) -> AIOKafkaClient:
        client = self.address.client(self._request_timeout)
        try:
            await client.bootstrap()
        except BaseException:
            await client.close()
            raise
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
        """The node that leads a partition, as far as is known."""
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

    async def send(self, node: int, request: object, group: Hashable = "short", timeout: float = 2) -> Any:
        """Send one request, return aiokafka's response. A connection silent for `timeout` s is dropped."""
        client = await self.client()
        try:
            async with asyncio.timeout(timeout):
                return await client.send(node, request, group=group)
        except TimeoutError:
            self._drop(client, node, group)
            raise

    @staticmethod
    def _drop(client: AIOKafkaClient, node: int, group: Hashable) -> None:
        """Close one connection. aiokafka has one timeout for all kinds of requests."""
        connection = client._conns.pop((node, group), None)
        if connection is not None:
            connection.close()

    async def retrying(self, attempt: Callable[[], Awaitable[T]], patience: float) -> T:
        """What `attempt` returns, tried for up to `patience` seconds. Raises LogUnavailable.

        A time-out that comes more than `patience` late is no word about Kafka: it was this process that stood
        still, so it begins again.
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
            if self._client is not None:
                client, self._client = self._client, None
                await client.close()


def no_leader(source: TopicPartition) -> str:
    """Why nothing can be asked of `source`."""
    return f"topic {source.topic} has no partition {source.partition}, or it has no leader"
