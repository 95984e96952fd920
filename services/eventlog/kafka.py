"""The log on Kafka, through aiokafka: the facade over fetches, offsets, writers and memberships.

Reads share one client. Each writer and each membership has a client of its own, so that none waits for
another's requests. Nothing connects before it is used. When no broker can be reached, the first call raises
LogUnavailable, which names the address.
"""

from collections.abc import Collection, Mapping

from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_brokers import Brokers
from services.eventlog.kafka_fetch import LONGEST_POLL, KafkaFetcher
from services.eventlog.kafka_group import KafkaMembership
from services.eventlog.kafka_link import KafkaLink
from services.eventlog.kafka_offsets import KafkaOffsets
from services.eventlog.kafka_settings import PLAINTEXT, KafkaSettings
from services.eventlog.kafka_topics import check_topics, create_topics
from services.eventlog.kafka_writer import KafkaWriter
from services.eventlog.port import Batch, Bounds, Checkpoint, Leader, OnAssignment, OnFailure, TopicPartition
from services.eventlog.topics import MAX_RECORD_BYTES

__all__ = ["KafkaLog", "KafkaSettings", "check_topics", "create_topics"]


class KafkaLog:
    """`Log` on a Kafka cluster. `bootstrap` is `HOST:PORT[,HOST:PORT…]`. Make it inside a running loop."""

    def __init__(
        self,
        bootstrap: str,
        client_id: str = "rejoinder",
        settings: KafkaSettings = PLAINTEXT,
        *,
        max_record_bytes: int = MAX_RECORD_BYTES,
    ) -> None:
        self._address = KafkaAddress(bootstrap, client_id, settings)
        self._brokers = Brokers(self._address)
        self._max_record_bytes = max_record_bytes
        self._link = KafkaLink(self._brokers, LONGEST_POLL + 3, watches=True)
        self._fetcher = KafkaFetcher(self._link)
        self._offsets = KafkaOffsets(self._link)

    def __repr__(self) -> str:
        return f"KafkaLog({self._address.bootstrap})"

    async def partitions(self, topic: str) -> int:
        """How many partitions `topic` has. Raises TopicMissing."""
        return await self._offsets.partitions(topic)

    async def topic_id(self, topic: str) -> str:
        """The id that the brokers gave `topic`; "" where they give none. Raises TopicMissing."""
        return await self._offsets.topic_id(topic)

    async def fetch(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait: float = 0.5,
        max_bytes: int = 4 << 20,
        partition_bytes: int = 1 << 20,
    ) -> list[Batch]:
        """Read on from `positions`; waits up to `max_wait` (at most 5) seconds for the first record."""
        return await self._fetcher.fetch(positions, max_wait, max_bytes, partition_bytes)

    async def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        """First and next offset of each partition, as of now (high watermark)."""
        return await self._offsets.bounds(topic, partitions)

    async def offsets_at(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        """Per partition the first offset with time >= the given ms, or the end when there is none."""
        return await self._offsets.offsets_at(topic, times)

    def leader(self, topic: str, partition: int) -> Leader | None:
        """The leader of a partition by the metadata at hand, None without one. Sends no request."""
        node = self._link.known_leader(TopicPartition(topic, partition))
        return None if node is None else Leader(node, self._brokers.healthy(node))

    async def committed(self, group: str, topic: str, partitions: Collection[int]) -> dict[int, int | None]:
        """The checkpoints of a group, None where it has none. Any process may read them."""
        return {
            number: at and at.offset
            for number, at in (await self._offsets.checkpoints(group, topic, partitions)).items()
        }

    async def checkpoints(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> dict[int, Checkpoint | None]:
        """The checkpoints of a group and how far it had read then, None where it has none."""
        return await self._offsets.checkpoints(group, topic, partitions)

    async def join(self, group: str, topic: str, on_assignment: OnAssignment) -> KafkaMembership:
        """Become a member of `group` on `topic`, in the background. Raises TopicMissing, LogUnavailable."""
        await self.partitions(topic)
        membership = KafkaMembership(self._brokers, group, topic, on_assignment)
        membership.start()
        return membership

    def writer(self, *, on_failure: OnFailure | None = None, delivery_timeout: float = 120) -> KafkaWriter:
        """A writer of its own; `delivery_timeout` seconds bound how long a record may stay unacknowledged."""
        return KafkaWriter(
            self._brokers,
            on_failure=on_failure,
            delivery_timeout=delivery_timeout,
            max_record_bytes=self._max_record_bytes,
        )

    async def close(self) -> None:
        """Close the reading connections. Owners close their writers and memberships before."""
        await self._fetcher.close()
        await self._link.close()
