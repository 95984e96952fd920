"""Creating, checking and mending the topics on a Kafka cluster. `topics` decides what is right."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TypeVar

from schemas.errors import LogUnavailable, TopicMisconfigured
from services.backoff import Backoff
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_borrowed import (
    AIOKafkaAdminClient,
    ConfigResource,
    ConfigResourceType,
    DeleteGroupsRequest,
    GroupIdNotFound,
    KafkaConnectionError,
    KafkaError,
    MetadataRequest,
    NewPartitions,
    NewTopic,
    NodeNotReadyError,
    NonEmptyGroup,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    for_code,
)
from services.eventlog.kafka_brokers import BACKOFF, Brokers
from services.eventlog.kafka_client import NoBrokerYet
from services.eventlog.kafka_link import FAILURES
from services.eventlog.kafka_settings import PLAINTEXT, KafkaSettings
from services.eventlog.kafka_trouble import FORBIDDEN
from services.eventlog.topics import (
    DAY,
    MAX_RECORD_BYTES,
    RETENTION,
    USAGE_RETENTION,
    ActualTopic,
    Problem,
    Topics,
    TopicSpec,
    check_all,
    config,
    growth,
    partitions_for,
    specs,
)

REQUEST_S = 10.0
"""Seconds for one request: a broker takes long to create many partitions."""
PATIENCE = 30.0
"""Seconds for all of one call: the metadata of a new topic takes long to reach every broker."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
"""Seconds between two tries to connect to a broker that is busy."""
_DYNAMIC_TOPIC_CONFIG = 1
T = TypeVar("T")
_TOPIC_EXISTS = 36


async def check_topics(
    bootstrap: str,
    names: Topics,
    settings: KafkaSettings = PLAINTEXT,
    *,
    max_record_bytes: int = MAX_RECORD_BYTES,
    kept: int = DAY,
    closings_ms: int = RETENTION,
    usage_ms: int = USAGE_RETENTION,
) -> list[Problem]:
    """What is wrong with the topics, held against `specs` with these bounds. Raises LogUnavailable."""
    wanted = specs(names, max_record_bytes, kept, closings_ms, usage_ms)
    async with admin_at(KafkaAddress(bootstrap, settings=settings)) as admin:
        return check_all(wanted, await _look(admin, wanted))


async def create_topics(
    bootstrap: str,
    names: Topics,
    *,
    partitions: int | None = None,
    replication: int = 1,
    fix: bool = False,
    settings: KafkaSettings = PLAINTEXT,
    max_record_bytes: int = MAX_RECORD_BYTES,
    kept: int = DAY,
    closings_ms: int = RETENTION,
    usage_ms: int = USAGE_RETENTION,
    projector: str | None = None,
) -> list[str]:
    """Create the topics that are missing and say what was done, a line each.

    `partitions` is how many a new `responses.events` and its views get; None means DEFAULT_PARTITIONS.
    `fix` also mends what can be mended safely: settings, and topics that have fewer partitions than the
    events. `projector` is the group that fills the views. Before a view is made
    anew its checkpoints are dropped, so that it begins at the log's start (P-77).
    Raises LogUnavailable, or TopicMisconfigured when the cluster refuses.
    """
    wanted = specs(names, max_record_bytes, kept, closings_ms, usage_ms)
    async with admin_at(KafkaAddress(bootstrap, settings=settings)) as admin:
        found = await _look(admin, wanted)
        events = found.get(names.events)
        count = partitions_for(wanted, found, partitions)
        missing = [spec for spec in wanted if spec.name not in found]
        views = [spec.name for spec in missing if spec.view]
        if views == [names.index] and not (projector and await _is_indexed(admin, projector)):
            views = []  # it is made for the first time: the projector makes it of transcripts (P-138)
        done = await _fill_again(admin, projector, views) if projector and events and views else []
        done += await _create(admin, missing, count, replication)
        if fix:
            done += await _fix(admin, wanted)
        return done


async def grow_topics(
    bootstrap: str, names: Topics, partitions: int, settings: KafkaSettings = PLAINTEXT
) -> AsyncGenerator[str, None]:
    """Raise the topics to `partitions`, in the order that `growth` says, a line for each when it is done.

    What was interrupted goes on where it stood. Raises LogUnavailable, or TopicMisconfigured as `growth`.
    """
    wanted, address = specs(names), KafkaAddress(bootstrap, settings=settings)
    async with admin_at(address) as admin:
        lacking = growth(wanted, await _look(admin, wanted), partitions)
    for name in lacking:
        async with admin_at(address) as admin:  # each topic has the patience for one
            for line in await add_partitions(admin, name, partitions):
                yield line


@asynccontextmanager
async def admin_at(address: KafkaAddress) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client of the cluster. Raises LogUnavailable."""
    admin, brokers = AIOKafkaAdminClient(), Brokers(address)
    # The admin's own client waits for brokers that hang, and does not say why it cannot connect.
    admin._client = brokers.client(REQUEST_S)
    watch: asyncio.Task[None] | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            await _started(admin)
            watch = asyncio.create_task(brokers.watch())
            yield admin
    except FAILURES as error:
        raise address.away(error) from error
    finally:
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await admin.close()


async def _started(admin: AIOKafkaAdminClient) -> None:
    """Connect. A broker that listens but does not answer is busy, and one that knows no broker has just come
    back: it is asked again for as long as the caller waits.
    """
    again = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
    while True:
        try:
            await admin.start()
        except KafkaConnectionError as error:
            if not isinstance(error.__cause__, TimeoutError | NoBrokerYet):
                raise
            await again.wait()
        else:
            return


async def _look(admin: AIOKafkaAdminClient, wanted: Iterable[TopicSpec]) -> dict[str, ActualTopic]:
    """The wanted topics that exist. Raises TopicAuthorizationFailedError where we may not look at one."""
    names = {spec.name for spec in wanted}
    listed = [topic for topic in await _any(admin.describe_topics) if topic["topic"] in names]
    unlisted = sorted(names - {topic["topic"] for topic in listed})
    await _any(lambda: _check_unlisted(admin, unlisted))
    try:
        configs = await _any(lambda: configs_of(admin, [topic["topic"] for topic in listed]))
    except LogUnavailable:  # a topic was deleted since it was listed, or this broker does not know it yet
        await asyncio.sleep(BACKOFF)
        return await _look(admin, wanted)
    return {
        topic["topic"]: ActualTopic(
            partitions=len(topic["partitions"]),
            replication=min((len(partition["replicas"]) for partition in topic["partitions"]), default=0),
            config={key: value for key, (value, _) in configs[topic["topic"]].items()},
        )
        for topic in listed
    }


async def _check_unlisted(admin: AIOKafkaAdminClient, names: list[str]) -> None:
    """Raise TopicAuthorizationFailedError if ACLs hide one of `names` from us.

    A broker leaves such a topic out of its list, and refuses it only when it is asked for by name.
    """
    if not names:
        return
    answer = await admin._send_request(MetadataRequest(names, allow_auto_topic_creation=False))
    for topic in answer.to_object()["topics"]:
        if topic["error_code"] == TopicAuthorizationFailedError.errno:
            raise TopicAuthorizationFailedError(topic["topic"])


async def _any(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` returns. Tries again when a broker does not answer: the client then asks another."""
    while True:
        try:
            return await ask()
        except (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError):
            await asyncio.sleep(BACKOFF)


async def configs_of(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, tuple[str, bool]]]:
    """Per topic and key the value in force, and whether the topic itself sets it."""
    if not names:
        return {}
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, dict[str, tuple[str, bool]]] = {}
    for response in await admin.describe_configs(wanted):
        for code, reason, _, name, entries in response.resources:
            _raise_for(code, name, reason)
            configs[name] = {
                key: (value, source == _DYNAMIC_TOPIC_CONFIG) for key, value, _, source, *_ in entries
            }
    return configs


async def _create(
    admin: AIOKafkaAdminClient, missing: list[TopicSpec], partitions: int, replication: int
) -> list[str]:
    if not missing:
        return []
    counts = {spec.name: spec.partitions or partitions for spec in missing}
    new = [
        NewTopic(spec.name, counts[spec.name], replication, topic_configs=config(spec, replication))
        for spec in missing
    ]
    response = await admin.create_topics(new)
    for name, code, reason in response.topic_errors:
        if code != _TOPIC_EXISTS:
            _raise_for(code, name, reason)
    await until_led(admin, counts)
    return [f"created topic {name} with {count} partitions" for name, count in counts.items()]


async def _fill_again(admin: AIOKafkaAdminClient, projector: str, views: list[str]) -> list[str]:
    """Drop the projector's checkpoints: they claim that all before them is in `views` (P-77)."""
    while True:
        try:
            await _delete_group(admin, projector)
        except GroupIdNotFound:  # it never ran, or this was done before
            return []
        except NonEmptyGroup as error:
            raise TopicMisconfigured(
                f"{' and '.join(views)} cannot be made anew while the projector runs: stop it, try again"
            ) from error
        except KafkaError as error:
            if not error.retriable:
                raise
            await asyncio.sleep(0.1)
        else:
            return [f"the projector fills {' and '.join(views)} from the start of the log; restart replay"]


async def _is_indexed(admin: AIOKafkaAdminClient, projector: str) -> bool:
    """Whether the projector's checkpoints claim that all before them is in the index (P-138)."""
    found = await _any(lambda: admin.list_consumer_group_offsets(projector))
    return any(at.metadata for at in found.values())


async def _delete_group(admin: AIOKafkaAdminClient, group: str) -> None:
    node = await admin.find_coordinator(group)
    response = await admin._send_request(DeleteGroupsRequest([group]), node)
    for _, code in response.results:
        if code:
            raise for_code(code)


async def until_led(admin: AIOKafkaAdminClient, counts: dict[str, int]) -> None:
    """Wait until every partition has a leader: before that, appends and reads fail."""
    while True:
        led = {
            topic["topic"]: sum(partition["leader"] >= 0 for partition in topic["partitions"])
            for topic in await admin.describe_topics()
        }
        if all(led.get(name, 0) >= count for name, count in counts.items()):
            return
        await asyncio.sleep(0.05)


async def _fix(admin: AIOKafkaAdminClient, wanted: list[TopicSpec]) -> list[str]:
    problems = check_all(wanted, await _look(admin, wanted))
    done: list[str] = []
    for problem in problems:
        if problem.partitions:
            done += await add_partitions(admin, problem.topic, problem.partitions)
    changes: dict[str, dict[str, str]] = {}
    for problem in problems:
        if problem.setting:
            key, value = problem.setting
            changes.setdefault(problem.topic, {})[key] = value
            done.append(f"set {key}={value} on topic {problem.topic}")
    await alter(admin, changes)
    return done


async def add_partitions(admin: AIOKafkaAdminClient, name: str, count: int) -> list[str]:
    """Raise a topic to `count` partitions, all with a leader. Returns what was done, in words."""
    await admin.create_partitions({name: NewPartitions(count)})
    await until_led(admin, {name: count})
    return [f"raised topic {name} to {count} partitions"]


async def alter(admin: AIOKafkaAdminClient, changes: dict[str, dict[str, str]]) -> None:
    """Set `changes` on top of what each topic sets already: the request replaces all of it."""
    configs = await configs_of(admin, list(changes))
    resources = [
        ConfigResource(
            ConfigResourceType.TOPIC,
            name,
            {key: value for key, (value, own) in configs[name].items() if own} | change,
        )
        for name, change in changes.items()
    ]
    if resources:
        for response in await admin.alter_configs(resources):
            for code, reason, _, name in response.resources:
                _raise_for(code, name, reason)


def _raise_for(code: int, name: str, reason: str | None) -> None:
    error = for_code(code)
    if issubclass(error, FORBIDDEN):
        raise error(name)
    if getattr(error, "retriable", False):
        raise LogUnavailable(f"topic {name}: {reason or error.__name__}")
    if code:
        raise TopicMisconfigured(f"topic {name}: the cluster refuses: {reason or error.__name__}")
