"""Three brokers of a test's own, each broker and controller in one, which tests kill, stop and start again.

Every topic has a replica on each, and an append needs two of them. Blocking, as `rig` is.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from aiokafka.admin import AIOKafkaAdminClient
from anyio.from_thread import BlockingPortal

from services.broker import ClusterNode
from services.broker.data import new_cluster_id
from services.broker.tcp import free_port
from services.eventlog.kafka import KafkaLog
from tests.reliability.rig import Broker, until

NODES = (1, 2, 3)
HEAP_MB = 256
SESSION_S = 9.0
"""Kafka's own default: seconds without a heartbeat after which a broker is fenced, and others lead."""
SHORT_SESSION_S = 3.0
"""What deploy/ sets."""
_ACTIVE = re.compile(r"Becoming the active controller at epoch (\d+)")


class Cluster:
    """Three brokers. `session_s`: seconds after which a silent broker is fenced."""

    def __init__(self, portal: BlockingPortal, folder: Path, session_s: float = SESSION_S) -> None:
        self._portal = portal
        self.session_s = session_s
        cluster, controllers = new_cluster_id(), {node: free_port() for node in NODES}
        properties = {
            "broker.session.timeout.ms": str(int(session_s * 1000)),
            "min.insync.replicas": "2",
            "default.replication.factor": "3",
            "offsets.topic.replication.factor": "3",
            # A broker that was away leads again soon: else the next fault would hit no leader.
            "leader.imbalance.check.interval.seconds": "3",
            "leader.imbalance.per.broker.percentage": "0",
        }
        self.brokers = {
            node: Broker(
                portal,
                folder / f"broker-{node}",
                properties,
                heap_mb=HEAP_MB,
                member=ClusterNode(node, cluster, controllers),
            )
            for node in NODES
        }

    def __enter__(self) -> Self:
        self.start(self.brokers.values())
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(Broker.stop, self.brokers.values()))

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of all three."""
        return ",".join(broker.bootstrap for broker in self.brokers.values())

    def start(self, brokers: Iterable[Broker]) -> None:
        """Start some of them, together: one alone may wait for another's vote."""
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(Broker.start, brokers))

    def controller(self) -> int:
        """The node whose controller is active."""
        epochs = {
            node: [int(epoch) for epoch in _ACTIVE.findall(broker.log)]
            for node, broker in self.brokers.items()
        }
        return max(epochs, key=lambda node: max(epochs[node], default=-1))

    def settle(self) -> None:
        """Wait until every partition has all its replicas in sync, and is led by the first of them."""

        async def settled() -> bool:
            admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap)
            try:
                await admin.start()
                topics = await admin.describe_topics()
            finally:
                await admin.close()
            return all(
                len(partition["isr"]) == len(partition["replicas"])
                and partition["leader"] == partition["replicas"][0]
                for topic in topics
                for partition in topic["partitions"]
            )

        until(lambda: self._portal.call(settled), pause=0.5)

    def led(self, topic: str) -> dict[int, int]:
        """The broker that leads each partition."""

        async def look() -> dict[int, int]:
            log = KafkaLog(self.bootstrap, "rejoinder-test")
            try:
                found = {p: log.leader(topic, p) for p in range(await log.partitions(topic))}
            finally:
                await log.close()
            return {partition: leader.broker for partition, leader in found.items() if leader is not None}

        found: dict[int, int] = self._portal.call(look)
        return found
