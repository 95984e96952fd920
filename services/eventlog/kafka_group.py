"""Membership: a consumer group that assigns partitions and keeps checkpoints, and never fetches (P-60).

A membership joins with aiokafka's group coordinator alone, without a consumer. A consumer would fetch records
without being asked, and the group would expel it if its poll loop ever stood still.
A background task keeps the session up for as long as the membership is open. After a fatal error it builds
client and coordinator anew, `REJOIN_AFTER` seconds later; the member owns nothing meanwhile.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from math import inf
from typing import Any

import msgspec
import structlog

from schemas.errors import LogUnavailable
from services.eventlog.assignment import assign
from services.eventlog.kafka_borrowed import (
    AbstractPartitionAssignor,
    CommitFailedError,
    ConsumerProtocolMemberAssignment,
    ConsumerProtocolMemberMetadata,
    ConsumerRebalanceListener,
    GroupCoordinator,
    KafkaPartition,
    OffsetAndMetadata,
    SubscriptionState,
)
from services.eventlog.kafka_brokers import Brokers
from services.eventlog.kafka_client import KafkaClient
from services.eventlog.kafka_link import FAILURES
from services.eventlog.kafka_trouble import explain
from services.eventlog.port import OnAssignment

log = structlog.get_logger(__name__)

SESSION_TIMEOUT = 6.0
"""Seconds without a heartbeat after which the group gives a member's partitions away."""
HEARTBEAT = 1.0
"""Seconds between heartbeats. A heartbeat tells a member of a rebalance, so one takes about as long."""
REBALANCE_TIMEOUT = 15.0
"""Seconds that a rebalance waits for its members."""
COMMIT_TIMEOUT = 5.0
REJOIN_AFTER = 1.0
LOOK = 1.0
"""Seconds between two looks at how many partitions the topic has."""


class KafkaMembership:
    """`Membership` on Kafka. `start` it once; it then keeps itself joined until `close`."""

    def __init__(self, brokers: Brokers, group: str, topic: str, on_assignment: OnAssignment) -> None:
        self._brokers = brokers
        self._group = group
        self._topic = topic
        self._on_assignment = on_assignment
        self._owned: frozenset[int] = frozenset()
        self._heard_at = -inf
        self.session: tuple[GroupCoordinator, SubscriptionState] | None = None
        """What it commits through, while it has joined."""
        self._assignor = _Sticky(topic)
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Join in the background."""
        self._task = asyncio.create_task(self._stay())

    @property
    def owned(self) -> frozenset[int]:
        """The partitions assigned to this member now; empty while a rebalance is under way."""
        return self._owned

    @property
    def heard_at(self) -> float:
        """Loop time of the last heartbeat that was answered well, -inf before the first."""
        return self._heard_at

    async def commit(self, checkpoints: Mapping[int, int], read: Mapping[int, int] | None = None) -> None:
        """Commit explicit offsets for partitions that are owned still. Raises LogUnavailable.

        How far the member has read (`read`) becomes the metadata of the offset, in decimals.
        """
        offsets = {
            KafkaPartition(self._topic, partition): OffsetAndMetadata(
                offset, str((read or {}).get(partition, ""))
            )
            for partition, offset in checkpoints.items()
            if partition in self._owned
        }
        if not offsets or self.session is None:
            return
        coordinator, subscription = self.session
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT):
                await coordinator.commit_offsets(subscription.subscription.assignment, offsets)
        except FAILURES as error:
            text = f"checkpoints of group {self._group} not committed: {_why(error)}"
            raise LogUnavailable(text) from error

    async def close(self) -> None:
        """Leave the group, so that its partitions move on at once."""
        self._closing.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=COMMIT_TIMEOUT)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.become(frozenset())

    def become(self, owned: frozenset[int]) -> None:
        """Own `owned` from now on, and call `on_assignment` if that is news."""
        if owned == self._owned:
            return
        self._owned = owned
        log.info("partitions owned", group=self._group, topic=self._topic, partitions=sorted(owned))
        try:
            self._on_assignment(owned)
        except Exception:
            log.exception("on_assignment raised", group=self._group)

    def _heard(self, sent_at: float) -> None:
        self._heard_at = sent_at

    async def _stay(self) -> None:
        """Be a member until closed; on an error that aiokafka does not mend, begin anew."""
        while not self._closing.is_set():
            try:
                await self._session()
            except Exception as error:  # of whatever kind: a member that gave up would own nothing for ever
                refusal = explain(error, self._brokers.address.settings)
                log.warning("group membership lost", group=self._group, error=refusal or repr(error))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), REJOIN_AFTER)
            finally:
                self.become(frozenset())

    async def _session(self) -> None:
        """One client and coordinator, from joining until closed or broken."""
        client = self._brokers.client(request_timeout=REBALANCE_TIMEOUT + 5)
        try:
            await client.bootstrap()
            subscription = SubscriptionState()
            subscription.subscribe(topics={self._topic}, listener=_Listener(self))
            with subscription.fetch_context():
                await self._attend(client, subscription)
        finally:
            self.session = None
            await client.close()

    async def _attend(self, client: KafkaClient, subscription: SubscriptionState) -> None:
        coordinator = self._join(client, subscription)
        self.session = coordinator, subscription
        closing = asyncio.create_task(self._closing.wait())
        try:
            while not closing.done():
                await asyncio.wait([closing], timeout=LOOK)
                coordinator.check_errors()
                count = len(client.cluster.partitions_for_topic(self._topic) or ())
                # The topic may have been made anew, or have more partitions: then the coordinator of the
                # group's leader shares them out, when it sees the new metadata.
                if not count or await client.count_partitions(self._topic) not in (count, None):
                    client.force_metadata_update()
        finally:
            closing.cancel()
            await _leave(coordinator)

    def _join(self, client: KafkaClient, subscription: SubscriptionState) -> GroupCoordinator:
        return Coordinator(
            client,
            subscription,
            heard=self._heard,
            group_id=self._group,
            session_timeout_ms=int(SESSION_TIMEOUT * 1000),
            heartbeat_interval_ms=int(HEARTBEAT * 1000),
            rebalance_timeout_ms=int(REBALANCE_TIMEOUT * 1000),
            enable_auto_commit=False,
            assignors=(self._assignor,),
        )


class Coordinator(GroupCoordinator):  # type: ignore[misc]
    """A coordinator that calls `heard` with the loop time of each heartbeat that is answered well.

    It takes the outcome of a commit that its caller gave up: aiokafka lets it go on, and no task waits.
    """

    def __init__(self, *args: Any, heard: Callable[[float], None], **options: Any) -> None:
        self._heard = heard
        super().__init__(*args, **options)

    async def _do_heartbeat(self) -> bool:
        sent_at = asyncio.get_running_loop().time()
        alive: bool = await super()._do_heartbeat()
        if alive:
            self._heard(sent_at)
        return alive

    def _do_commit_offsets(self, assignment: object, offsets: object) -> asyncio.Task[None]:
        commit: asyncio.Task[None] = asyncio.ensure_future(super()._do_commit_offsets(assignment, offsets))
        commit.add_done_callback(_settled)
        return commit


def _settled(commit: asyncio.Task[None]) -> None:
    """Retrieve the commit's exception, which asyncio would else log as never retrieved."""
    if not commit.cancelled():
        commit.exception()


def _why(error: BaseException) -> str:
    if isinstance(error, CommitFailedError):  # its own text advises settings of a consumer, which this is not
        return "the group gave the partitions away meanwhile"
    if isinstance(error, TimeoutError):
        return f"not answered within {COMMIT_TIMEOUT:g} s"
    return str(error) or type(error).__name__


async def _leave(coordinator: GroupCoordinator) -> None:
    """Leave the group; give up after half of COMMIT_TIMEOUT when its broker does not answer."""
    try:
        async with asyncio.timeout(COMMIT_TIMEOUT / 2):
            await coordinator.close()
    except FAILURES as error:
        log.warning("left a group without saying so", error=repr(error))


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Passes the group's decisions on to the membership."""

    def __init__(self, membership: KafkaMembership) -> None:
        self._membership = membership

    def on_partitions_revoked(self, _revoked: Iterable[KafkaPartition]) -> None:
        self._membership.become(frozenset())

    def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        self._membership.become(frozenset(source.partition for source in assigned))


class _Sticky(AbstractPartitionAssignor):  # type: ignore[misc]
    """Our assignment over Kafka's protocol: each member says what it held, the leader decides by `assign`.

    aiokafka's own sticky assignor keeps its state in the class, shared by all members of a process.
    """

    name = "rejoinder-sticky"

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._held: list[int] = []

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        return ConsumerProtocolMemberMetadata(0, list(topics), msgspec.json.encode(self._held))

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        partitions = len(cluster.partitions_for_topic(self._topic) or ())
        held = {name: _held(member) for name, member in members.items()}
        return {
            name: ConsumerProtocolMemberAssignment(0, [(self._topic, mine)], b"")
            for name, mine in assign(partitions, held).items()
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        self._held = [source.partition for source in assignment.partitions()]


def _held(member: ConsumerProtocolMemberMetadata) -> list[int]:
    """What a member says that it held; nothing when that cannot be read."""
    try:
        return msgspec.json.decode(member.user_data or b"[]", type=list[int])
    except msgspec.DecodeError:
        return []
