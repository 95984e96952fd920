"""What only a real broker can do to its clients: be away, hang, die and come back."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest

from schemas.errors import AppendUnknown, LogError, LogUnavailable, RecordTooLarge
from schemas.records import NewRecord
from services.broker import EmbeddedKafka
from services.eventlog import kafka_writer
from services.eventlog.kafka import KafkaLog, create_topics
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_borrowed import KafkaConnectionError
from services.eventlog.kafka_client import METADATA_S, KafkaClient, NoBrokerYet
from services.eventlog.kafka_topics import admin_at, alter, check_topics
from services.eventlog.metrics import READS_FAILING
from services.eventlog.port import Batch, TopicPartition
from services.eventlog.tail import Tail
from services.eventlog.topics import topics
from tests.conftest import eventually
from tests.counted import value_of
from tests.steady import steady

pytestmark = pytest.mark.usefixtures("forgotten_connections")
PARTITIONS = 2
NOWHERE = "127.0.0.1:9"


@pytest.fixture(scope="module")
async def broker(
    anyio_backend: object, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[EmbeddedKafka]:
    """A broker of this module's own, for others would notice what is done to it."""
    eager = {"log.cleaner.backoff.ms": "100"}
    broker = EmbeddedKafka(Path(tmp_path_factory.mktemp("trouble")), properties=eager)
    await broker.start()
    yield broker
    await broker.stop()


@pytest.fixture
async def topic(broker: EmbeddedKafka) -> str:
    names = topics(f"t{uuid4().hex[:8]}.")

    async def created() -> bool:
        with suppress(LogUnavailable):
            await create_topics(broker.bootstrap, names, partitions=PARTITIONS)
            return True
        return False

    # A broker that a test paused for longer than its session is no member of its cluster for a moment.
    await eventually(created)
    return names.events


@pytest.fixture
async def log(broker: EmbeddedKafka) -> AsyncIterator[KafkaLog]:
    log = KafkaLog(broker.bootstrap)
    yield log
    await log.close()


def record(n: int) -> NewRecord:
    return NewRecord(b"key-%d" % n, b"x")


async def test_what_is_queued_right_after_a_request_waits_for_its_pace(
    log: KafkaLog, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_writer, "LEAST_PACE_S", 1.0)
    loop, writer = asyncio.get_running_loop(), log.writer()
    began = loop.time()
    await writer.append(topic, 0, record(0))
    for n in range(1, 4):
        writer.post(topic, n % PARTITIONS, record(n))
    await writer.flush()
    assert loop.time() - began > 0.99  # a loop's timer may fire a moment early
    assert await everything(log, topic) == [[0, 2], [1, 3]]
    await writer.close()


async def everything(log: KafkaLog, topic: str) -> list[list[int]]:
    """The numbers of all records, by partition, in log order."""
    bounds = await log.bounds(topic, range(PARTITIONS))
    tail, found = Tail(log, topic), [list[int]() for _ in bounds]
    for partition in bounds:
        tail.follow(partition, 0)
    while any(tail.position(partition) < bound.end for partition, bound in bounds.items()):
        for batch in await tail.read():
            found[batch.source.partition] += [int((each.key or b"")[4:]) for each in batch.records]
    return found


async def test_an_address_where_nobody_listens_is_named_at_once() -> None:
    log, start = KafkaLog(NOWHERE), steady()
    with pytest.raises(LogUnavailable, match=f"Kafka at {NOWHERE} is away .*REJOINDER_KAFKA"):
        await log.partitions("events")
    with pytest.raises(LogUnavailable):
        await log.join("group", "events", lambda _: None)
    assert steady() - start < 9
    writer = log.writer(delivery_timeout=0.5)
    with pytest.raises(LogUnavailable):
        await writer.append("events", 0, record(1))
    await writer.close()
    await log.close()


async def test_a_broker_that_is_slow_to_answer_is_asked_again_about_topics(broker: EmbeddedKafka) -> None:
    await broker.pause()
    looking = asyncio.create_task(check_topics(broker.bootstrap, topics("slow.")))
    try:
        await asyncio.wait([looking], timeout=2.5 * METADATA_S)
        assert not looking.done()
    finally:
        broker.resume()
    assert {problem.what for problem in await looking} == {"does not exist"}


async def test_a_broker_that_knows_of_none_is_asked_again_about_topics(
    broker: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So answers a broker that has just come back."""
    asked, bootstrap = 0, KafkaClient.bootstrap

    async def lonely(self: KafkaClient) -> None:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise KafkaConnectionError("Unable to bootstrap") from NoBrokerYet("no broker")
        await bootstrap(self)

    monkeypatch.setattr(KafkaClient, "bootstrap", lonely)
    found = await check_topics(broker.bootstrap, topics("lonely."))
    assert {problem.what for problem in found} == {"does not exist"}


async def test_a_record_over_the_topics_own_bound_is_told_as_too_large(
    broker: EmbeddedKafka, log: KafkaLog, topic: str
) -> None:
    bound = 64 << 10
    async with admin_at(KafkaAddress(broker.bootstrap)) as admin:
        await alter(admin, {topic: {"max.message.bytes": str(bound)}})
    writer = log.writer()

    async def refused() -> bool:  # the broker takes its new setting in its own time
        try:
            await writer.append(topic, 0, NewRecord(b"key-0", b"x" * (bound + 1)))
        except RecordTooLarge:
            return True
        return False

    await eventually(refused)
    await writer.append(topic, 0, record(1))
    await writer.close()


async def test_the_holes_of_compaction_are_passed(broker: EmbeddedKafka, log: KafkaLog, topic: str) -> None:
    eager = {"segment.ms": "100", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "0"}
    async with admin_at(KafkaAddress(broker.bootstrap)) as admin:
        await alter(admin, {topic: eager})
    writer = log.writer()
    for n in 0, 1, 0, 1, 1, 2:
        await writer.append(topic, 0, record(n))

    async def compacted() -> bool:
        await writer.append(topic, 0, record(9))  # rolls the segment: the newest is never compacted
        return offsets(await log.fetch({TopicPartition(topic, 0): 0}))[:3] == [2, 4, 5]

    await eventually(compacted)
    assert (await everything(log, topic))[0][:3] == [0, 1, 2]
    assert offsets(await log.fetch({TopicPartition(topic, 0): 3}))[0] == 4
    await writer.close()


def offsets(batches: Sequence[Batch]) -> list[int]:
    return [each.offset for batch in batches for each in batch.records]


async def test_a_pause_within_the_delivery_timeout_costs_and_doubles_nothing(
    broker: EmbeddedKafka, log: KafkaLog, topic: str
) -> None:
    writer = log.writer(delivery_timeout=60)
    await writer.append(topic, 0, record(0))
    for n in range(1, 500):
        writer.post(topic, n % PARTITIONS, record(n))
    await broker.pause()
    try:
        for n in range(500, 1000):
            writer.post(topic, n % PARTITIONS, record(n))
        waiting = asyncio.create_task(writer.append(topic, 0, record(1000)))
        await asyncio.sleep(12)  # longer than one request may take: the batch goes out again
    finally:
        broker.resume()
    await waiting
    await writer.close()
    assert await everything(log, topic) == [list(range(p, 1001, PARTITIONS)) for p in range(PARTITIONS)]


async def test_a_pause_beyond_the_delivery_timeout_is_told_in_time(
    broker: EmbeddedKafka, log: KafkaLog, topic: str
) -> None:
    told: list[tuple[Sequence[NewRecord], LogError, float]] = []
    writer = log.writer(
        delivery_timeout=2, on_failure=lambda _, records, error: told.append((records, error, steady()))
    )

    async def appended(n: int) -> bool:  # a busy broker may take longer than the delivery timeout
        with suppress(LogError):
            await writer.append(topic, 0, record(n))
            return bool(await log.bounds(topic, [0]))
        return False

    await eventually(lambda: appended(0))
    await broker.pause()
    try:
        began, start = time.monotonic(), steady()
        writer.post(topic, 0, record(1))
        [(records, error, at)] = await eventually(lambda: told)
        assert time.monotonic() - began > 1.5
        assert at - start < 4
        assert records == [record(1)]
        assert isinstance(error, AppendUnknown)
        start = steady()
        with pytest.raises(LogUnavailable):
            await log.bounds(topic, [0])
        assert steady() - start < 4
    finally:
        broker.resume()
    await eventually(lambda: appended(2))
    counted = Counter((await everything(log, topic))[0])
    assert counted[0]
    assert counted[2]
    assert counted[1] <= 1
    await writer.close()


@pytest.mark.slow
async def test_a_broker_that_dies_and_comes_back_is_gone_on_with(
    broker: EmbeddedKafka, log: KafkaLog, topic: str
) -> None:
    writer, tail = log.writer(), Tail(log, topic)
    group = uuid4().hex
    member = await log.join(group, topic, lambda _: None)
    await eventually(lambda: member.owned)
    for partition in range(PARTITIONS):
        tail.follow(partition, 0)
    found: list[int] = []

    async def read() -> None:
        while True:
            for batch in await tail.read():
                found.extend(int((each.key or b"")[4:]) for each in batch.records)

    reading = asyncio.create_task(read())
    for n in range(300):
        writer.post(topic, n % PARTITIONS, record(n))
        if n == 100:
            await broker.kill()
            await eventually(lambda: value_of(READS_FAILING.labels(topic)))
            with pytest.raises(LogUnavailable):
                await member.commit({0: 1})
        await asyncio.sleep(0)
    await broker.start()
    await writer.flush()
    await eventually(lambda: len(found) >= 300)
    assert not value_of(READS_FAILING.labels(topic))
    assert sorted(found) == list(range(300))

    async def committed() -> bool:  # what is owned still may be assigned anew at any moment
        with suppress(LogUnavailable):
            await member.commit({0: 1})
            return (await log.committed(group, topic, [0])) == {0: 1}
        return False

    await eventually(committed)
    reading.cancel()
    await member.close()
    await writer.close()


async def test_closing_with_the_broker_away_takes_its_time_and_not_more(topic: str, log: KafkaLog) -> None:
    away = KafkaLog(NOWHERE)
    told: list[LogError] = []
    writer = away.writer(on_failure=lambda _, __, error: told.append(error))
    writer.post(topic, 0, record(1))
    start = steady()
    await writer.close(timeout=0.5)
    assert steady() - start < 2
    assert [type(error) for error in told] == [LogUnavailable]
    assert await log.fetch({TopicPartition(topic, 0): 0}, max_wait=0) == []
    await away.close()
