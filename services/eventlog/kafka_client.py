"""aiokafka's client, made to leave a broker that is gone as quickly as Kafka does.

What aiokafka has and this replaces:

    one lock for all connects        a connect to a living broker waits behind the one to a hung broker
    bootstrap and metadata           each broker may take a whole request's time to answer
    a request to a hung broker       waits for its own time-out, a long poll's or a rebalance's

Here a connect waits for no other and takes `CONNECT_S` at most; a silent broker gets none. Metadata is asked
of the brokers that answer, one after the other, for `METADATA_S` each. `drop` fails what a silent broker was
sent.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Hashable
from math import inf
from typing import Any

from services.eventlog.broker_health import BrokerHealth
from services.eventlog.kafka_borrowed import (
    AIOKafkaClient,
    AIOKafkaConnection,
    CloseReason,
    ConnectionGroup,
    KafkaConnectionError,
    KafkaError,
    MetadataRequest,
    NodeNotReadyError,
    OAuthAuthenticator,
    RequestTimedOutError,
    SaslAuthenticationFailed,
)
from services.eventlog.kafka_wire import DescribeRequest, ProbeRequest

CONNECT_S = 2.0
"""Seconds for a connection, the TLS and SASL handshakes included."""
METADATA_S = 1.0
"""Seconds for one broker to answer with metadata; then the next one is asked."""
SHORT = "short"
"""The connection group of requests that a broker answers at once."""
PROBE = "probe"
"""The connection group of the probes, which alone may go to a silent broker."""
_ANSWERED_AT_ONCE = frozenset({SHORT, ConnectionGroup.DEFAULT})
_ANY_TOPIC = None


class NoBrokerYet(KafkaConnectionError):  # type: ignore[misc]
    """A broker answers, and knows of none: the cluster, or this broker, has just come back."""


class KafkaClient(AIOKafkaClient):  # type: ignore[misc]
    """One client; `health` is what its process knows of the brokers. Built by `kafka_brokers.Brokers`."""

    _sync_task: Any

    def __init__(self, health: BrokerHealth, request_timeout: float, **options: Any) -> None:
        super().__init__(request_timeout_ms=int(request_timeout * 1000), **options)
        self._health = health
        self._connecting: defaultdict[Hashable, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.closed = False
        self.metadata_from = -inf
        """Loop time at which the metadata in use was asked for; -inf before any."""

    async def bootstrap(self) -> None:
        """Read the metadata from the first bootstrap address that answers. Raises KafkaError or OSError.

        The error's cause is what the last address said.
        """
        last: BaseException = KafkaConnectionError("no address")
        for host, port, _ in self.hosts:
            try:
                await self._bootstrap_from(host, port)
            except (KafkaError, OSError) as error:  # TimeoutError is one of the latter
                last = error
            else:
                break
        else:
            raise KafkaConnectionError(f"Unable to bootstrap from {self.hosts}") from last
        if self._sync_task is None:
            self._sync_task = asyncio.create_task(self._md_synchronizer())

    async def close(self) -> None:
        """Close all connections."""
        self.closed = True
        await super().close()

    async def _bootstrap_from(self, host: str, port: int) -> None:
        asked_at = self._loop.time()
        connection = await self._connection(host, port)
        try:
            async with asyncio.timeout(METADATA_S):
                metadata = await connection.send(MetadataRequest(_ANY_TOPIC))
        finally:
            connection.close()
        if not metadata.brokers:
            raise NoBrokerYet("no broker has joined the cluster yet")
        self._take(metadata, asked_at)

    def _take(self, metadata: Any, asked_at: float) -> None:
        self.cluster.update_metadata(metadata)
        self.metadata_from = asked_at

    async def _metadata_update(self, cluster_metadata: Any, topics: Any) -> bool:
        """Read the metadata into `cluster_metadata`; false when no broker answered. Never raises."""
        for node in self._order():
            asked_at = self._loop.time()
            request = self._health.asked(node, asked_at)
            try:
                connection = await self._reach(node, ConnectionGroup.DEFAULT)
                async with asyncio.timeout(METADATA_S):
                    metadata = await connection.send(MetadataRequest(list(topics) if topics else _ANY_TOPIC))
            except (KafkaError, OSError):
                self._health.suspected(node)
                continue
            finally:
                self._health.answered(node, request)
            if not metadata.brokers:
                continue
            if cluster_metadata is self.cluster:
                self._take(metadata, asked_at)
            else:
                cluster_metadata.update_metadata(metadata)
            return True
        cluster_metadata.failed_update(None)
        return False

    async def _get_conn(
        self, node_id: int, *, group: Hashable = ConnectionGroup.DEFAULT, **_: Any
    ) -> AIOKafkaConnection | None:
        """A connection to a broker, None when there is none.

        A silent broker gets none. A broker that was silent gets none while the metadata in use is older than
        its silence: that metadata may still call it a leader.
        """
        if self._health.silent(node_id) or self.metadata_from < self._health.trusted_since(node_id):
            self.force_metadata_update()
            return None
        try:
            return await self._reach(node_id, group)
        except (KafkaError, OSError):
            self._health.suspected(node_id)
            self.force_metadata_update()
            return None

    async def _reach(self, node: int, group: Hashable) -> AIOKafkaConnection:
        """The connection to `node` in `group`, made if need be. Raises KafkaError or OSError."""
        key = node, group
        if (found := self._conns.get(key)) is not None and found.connected():
            return found
        broker = self.cluster.broker_metadata(node)
        if broker is None:
            raise KafkaConnectionError(f"broker {node} is not in the metadata")
        async with self._connecting[key]:
            if (found := self._conns.get(key)) is not None and found.connected():
                return found
            made = await self._connection(broker.host, broker.port, self._on_connection_closed)
            if self.closed:  # meanwhile: nobody else would close this one
                made.close()
                raise KafkaConnectionError("the client was closed")
            self._conns[key] = made
            return made

    async def _connection(self, host: str, port: int, on_close: Any = None) -> AIOKafkaConnection:
        connection = _Connection(
            host,
            port,
            client_id=self._client_id,
            request_timeout_ms=self._request_timeout_ms,
            ssl_context=self._ssl_context,
            security_protocol=self._security_protocol,
            on_close=on_close,
            max_idle_ms=self._connections_max_idle_ms,
            sasl_mechanism=self._sasl_mechanism,
            sasl_plain_username=self._sasl_plain_username,
            sasl_plain_password=self._sasl_plain_password,
            sasl_kerberos_service_name=self._sasl_kerberos_service_name,
            sasl_kerberos_domain_name=self._sasl_kerberos_domain_name,
            sasl_oauth_token_provider=self._sasl_oauth_token_provider,
        )
        async with asyncio.timeout(CONNECT_S):
            await connection.connect()
        return connection

    async def send(self, node_id: int, request: Any, *, group: Hashable = ConnectionGroup.DEFAULT) -> Any:
        """Send one request. Raises NodeNotReadyError when nothing was sent, and other KafkaErrors."""
        asked = self._health.asked(node_id, self._loop.time()) if group in _ANSWERED_AT_ONCE else None
        try:
            connection = await self._get_conn(node_id, group=group)
            if connection is None:
                raise NodeNotReadyError(f"no connection to broker {node_id}")
            try:
                return await connection.send(request)
            except TimeoutError as error:
                connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
                raise RequestTimedOutError from error
        finally:
            if asked is not None:
                self._health.answered(node_id, asked)

    def get_random_node(self) -> int | None:
        """A known broker, one that answers if there is any, for a question that every broker can answer."""
        nodes = self._order() or [broker.nodeId for broker in self.cluster.brokers()]
        return nodes[0] if nodes else None

    def _order(self) -> list[int]:
        """The brokers that are not silent, best first, for a question that every broker can answer."""
        nodes = [broker.nodeId for broker in self.cluster.brokers()]
        random.shuffle(nodes)
        return self._health.order(nodes, self._loop.time())

    async def probe(self, node: int) -> None:
        """Ask `node` for a sign of life, however long it takes. Raises KafkaError or OSError.

        A connection that ends is no sign of death: brokers close idle ones and those whose credentials have
        aged (`connections.max.reauth.ms`), and firewalls close some. So it then asks over a new connection.
        """
        kept = self._conns.get((node, PROBE))
        if kept is not None and kept.connected():
            try:
                await kept.send(ProbeRequest())
            except (KafkaError, OSError):
                kept.close()
            else:
                return
        await (await self._reach(node, PROBE)).send(ProbeRequest())

    async def count_partitions(self, topic: str) -> int | None:
        """How many partitions `topic` has by now, as one broker knows; None if that one does not tell.

        The metadata in use, which are of all topics, stay as they are: where they say something else, the
        caller has them read anew.
        """
        node = self.get_random_node()
        if node is None:
            return None
        try:
            async with asyncio.timeout(METADATA_S):
                found = await self.send(node, DescribeRequest(topic), group=SHORT)
        except (KafkaError, OSError):
            return None
        return None if found.error else found.partitions

    def drop(self, node: int) -> None:
        """Close all connections to `node`, which fails the requests under way to it."""
        for key in [key for key in self._conns if key[0] == node]:
            self._conns.pop(key).close(reason=CloseReason.CONNECTION_TIMEOUT)

    def hang_up(self, node: int, group: Hashable) -> None:
        """Close one connection, which fails the requests under way over it."""
        if (connection := self._conns.pop((node, group), None)) is not None:
            connection.close()


class _Connection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that raises when the broker refuses its token; aiokafka's takes that for a yes."""

    def authenticator_oauth(self) -> OAuthAuthenticator:
        return _Bearer(sasl_oauth_token_provider=self._sasl_oauth_token_provider)


class _Bearer(OAuthAuthenticator):  # type: ignore[misc]
    async def step(self, payload: bytes | None) -> tuple[bytes, bool] | None:
        """A broker answers a token with nothing, or with why it refuses it (RFC 7628, 3.2.2)."""
        if self._token_sent and payload:
            raise SaslAuthenticationFailed(payload.decode(errors="replace"))
        step: tuple[bytes, bool] | None = await super().step(payload)
        return step
