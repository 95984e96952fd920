"""Short reads: partition counts, offsets and checkpoints, each one request per broker."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from schemas.errors import TopicMissing
from services.eventlog.kafka_borrowed import (
    CoordinationType,
    IncompatibleBrokerVersion,
    OffsetFetchRequest,
    OffsetRequest,
    for_code,
)
from services.eventlog.kafka_link import PATIENCE, KafkaLink
from services.eventlog.kafka_wire import Described, DescribeRequest
from services.eventlog.port import Bounds, Checkpoint, TopicPartition

OFFSET_DIGITS = 19
"""Kafka's offsets are below 2^63."""
UNKNOWN_TOPIC = 3
"""Kafka's code for a topic that does not exist."""
LATEST, EARLIEST = -1, -2
"""Kafka's special times: they ask for the end and for the start of a partition."""


class KafkaOffsets:
    """Where things are in the log. Each call tries for PATIENCE seconds, then raises LogUnavailable."""

    def __init__(self, link: KafkaLink) -> None:
        self._link = link

    async def partitions(self, topic: str) -> int:
        """How many partitions `topic` has by now. The metadata at hand have them all. Raises TopicMissing."""

        async def attempt() -> int:
            client = await self._link.client()
            count = len(client.cluster.partitions_for_topic(topic) or ())
            if not count or await client.count_partitions(topic) != count:
                await self._link.refresh()
                count = len(client.cluster.partitions_for_topic(topic) or ())
            return count

        count = await self._link.retrying(attempt, PATIENCE)
        if not count:
            raise TopicMissing(topic)
        return count

    async def topic_id(self, topic: str) -> str:
        """The id that the brokers gave `topic`; "" where they give none. Raises TopicMissing."""

        async def attempt() -> Described | None:
            client = await self._link.client()
            node = client.get_random_node()
            try:
                found: Described = await self._link.send(-1 if node is None else node, DescribeRequest(topic))
            except IncompatibleBrokerVersion:
                return None
            if found.error != UNKNOWN_TOPIC:
                _raise_for(found.error)
            return found

        found = await self._link.retrying(attempt, PATIENCE)
        if found is not None and found.error:
            raise TopicMissing(topic)
        return "" if found is None else found.id

    async def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        """First and next offset of each partition, as of now (high watermark)."""
        starts, ends = await asyncio.gather(
            self._offsets(topic, dict.fromkeys(partitions, EARLIEST)),
            self._offsets(topic, dict.fromkeys(partitions, LATEST)),
        )
        return {partition: Bounds(starts[partition], ends[partition]) for partition in partitions}

    async def offsets_at(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        """Per partition the first offset with time >= the given ms, or the end when there is none."""
        found = await self._offsets(topic, times)
        beyond = [partition for partition, offset in found.items() if offset < 0]
        return found | await self._offsets(topic, dict.fromkeys(beyond, LATEST))

    async def checkpoints(
        self, group: str, topic: str, partitions: Collection[int]
    ) -> dict[int, Checkpoint | None]:
        """The checkpoints of a group and how far it had read then, None where it has none."""

        async def attempt() -> dict[int, Checkpoint | None]:
            client = await self._link.client()
            node = await client.coordinator_lookup(CoordinationType.GROUP, group)
            request = OffsetFetchRequest(group, [(topic, list(partitions))])
            response = await self._link.send(node, request)
            # A coordinator that is still loading says so here, and names no partition at all.
            _raise_for(getattr(response, "error_code", 0))
            found: dict[int, Checkpoint | None] = dict.fromkeys(partitions)
            for _, answers in response.topics:
                for partition, offset, metadata, code in answers:
                    _raise_for(code)
                    found[partition] = None if offset < 0 else Checkpoint(offset, _read(metadata))
            return found

        return await self._link.retrying(attempt, PATIENCE) if partitions else {}

    async def _offsets(self, topic: str, times: Mapping[int, int]) -> dict[int, int]:
        """The first offset with time >= each time; -1 when there is none."""

        async def attempt() -> dict[int, int]:
            by_leader = await self._by_leader(TopicPartition(topic, partition) for partition in times)
            asked = [
                self._ask(node, topic, [(source.partition, times[source.partition]) for source in sources])
                for node, sources in by_leader.items()
            ]
            return {p: offset for found in await asyncio.gather(*asked) for p, offset in found.items()}

        return await self._link.retrying(attempt, PATIENCE) if times else {}

    async def _by_leader(self, sources: Iterable[TopicPartition]) -> dict[int, list[TopicPartition]]:
        groups: defaultdict[int, list[TopicPartition]] = defaultdict(list)
        for source in sources:
            groups[await self._link.leader(source)].append(source)
        return groups

    async def _ask(self, node: int, topic: str, times: list[tuple[int, int]]) -> dict[int, int]:
        response = await self._link.send(node, OffsetRequest(-1, 0, [(topic, times)]))
        found: dict[int, int] = {}
        for _, answers in response.topics:
            for partition, code, _, offset in answers:
                _raise_for(code)
                found[partition] = offset
        return found


def _read(metadata: str | None) -> int | None:
    """How far a member had read. None for other metadata: any client may have committed any (P-11)."""
    digits = (metadata or "").encode()
    return int(digits) if digits.isdigit() and len(digits) <= OFFSET_DIGITS else None


def _raise_for(code: int) -> None:
    if code:
        raise for_code(code)
