"""Measures the log's client alone: records per CPU second, and the broker's share beside it.

It sends and reads records of a stream event's size, through aiokafka's own calls and through ours
(`services.eventlog`): no HTTP, no fold, no JSON. These figures are the limits of the whole system.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from schemas.fold import Fold, State, Verdict
from schemas.ids import (
    ENTROPY_BYTES,
    TOKEN_BYTES,
    Tenant,
    claim_id,
    response_id,
)
from schemas.records import EventHeaders, NewRecord, parse
from services.broker import EmbeddedKafka
from services.eventlog import port
from services.eventlog.kafka import KafkaLog
from services.eventlog.kafka_fetch import read_records
from services.eventlog.kafka_writer import LONGEST_PACE_S
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.tail import Tail

TOPIC = "limits"
PARTITIONS = 8
VALUE = b'{"type":"response.output_text.delta","item_id":"msg_0123456789abcdef","delta":"word "}'.ljust(170)
TYPE = "response.output_text.delta"
HEADERS = [("type", TYPE.encode())]
STREAMS, BATCH = 50, 35
"""Responses under way at once, and records of one batch of them."""
PER_SECOND, PACED_SECONDS = 2_500, 10

Body = Callable[[], Awaitable[int]]


async def measure(name: str, broker: psutil.Process, body: Body) -> None:
    """Run `body`, which returns a number of records, and print the cost of a record."""
    began, cpu, broker_cpu = time.perf_counter(), time.process_time(), _cpu(broker)
    records = await body()
    cpu, broker_cpu = time.process_time() - cpu, _cpu(broker) - broker_cpu
    rate = records / (time.perf_counter() - began)
    each = f"{cpu / records * 1e6:.2f} | {broker_cpu / records * 1e6:.1f}"
    print(f"| {name} | {records / cpu:,.0f} | {each} | {rate:,.0f} |", flush=True)


async def run(records: int) -> None:
    """All limits, each over `records` records."""
    async with _broker() as kafka:
        print("\n## The log's client by itself\n")
        print(f"{records:,} records of {len(VALUE)} bytes and {len(HEADERS)} header:\n")
        print("| | per CPU-s | µs | broker, µs | per s |\n|---|---:|---:|---:|---:|", flush=True)
        broker = psutil.Process(kafka.pid)
        await _produce_aiokafka(kafka.bootstrap, broker, records)
        await _consume_aiokafka(kafka.bootstrap, broker, records)
        await _ours(kafka.bootstrap, broker, records)
        await _schema(broker, records)
        await _own(broker, records)
        await _paced(kafka.bootstrap, broker)


async def _produce_aiokafka(bootstrap: str, broker: psutil.Process, records: int) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, linger_ms=5)
    await producer.start()

    async def one_by_one() -> int:
        count = records // 4
        for index in range(count):
            await producer.send(
                TOPIC, VALUE, key=b"%d" % index, headers=HEADERS, partition=index % PARTITIONS
            )
        await producer.flush()
        return count

    async def in_batches() -> int:
        index = 0
        while index < records:
            batch = producer.create_batch()
            while index < records and batch.append(
                key=b"%d" % index, value=VALUE, timestamp=None, headers=HEADERS
            ):
                index += 1
            batch.close()
            await producer.send_batch(batch, TOPIC, partition=index % PARTITIONS)
        await producer.flush()
        return records

    try:
        await measure("aiokafka `send`, idempotent", broker, one_by_one)
        await measure("aiokafka `send_batch`, idempotent", broker, in_batches)
    finally:
        await producer.stop()


async def _consume_aiokafka(bootstrap: str, broker: psutil.Process, records: int) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    consumer.assign([TopicPartition(TOPIC, partition) for partition in range(PARTITIONS)])

    async def getmany() -> int:
        count = 0
        while count < records:
            batches = await consumer.getmany(timeout_ms=1000)
            count += sum(map(len, batches.values()))
        return count

    try:
        await measure("aiokafka `getmany`", broker, getmany)
    finally:
        await consumer.stop()


async def _schema(broker: psutil.Process, records: int) -> None:
    """The cost of an event's record in the schema alone: one writer makes it, three readers parse it."""
    id, claim = response_id(3, bytes(ENTROPY_BYTES)), claim_id(bytes(TOKEN_BYTES))
    events = EventHeaders(id, claim, 1, Tenant("default"))
    made = [MemoryRecord(0, 0, *events.event(7, TYPE, VALUE), 0)] * 1000

    async def write() -> int:
        for number in range(records):
            events.event(number, TYPE, VALUE)
        return records

    async def read() -> int:
        for _ in range(records // len(made)):
            for record in made:
                parse(record, 3)
        return records

    await measure("`EventHeaders.event`, without a log", broker, write)
    await measure("`parse` of an event, without a log", broker, read)


async def _own(broker: psutil.Process, records: int) -> None:
    """What the executor pays to read its own events back, in batches like those at saturation: so much could
    be saved at most by knowing a batch of one's own by its number.
    """
    ids = [response_id(3, number.to_bytes(ENTROPY_BYTES)) for number in range(STREAMS)]
    claim = claim_id(bytes(TOKEN_BYTES))
    events = {id: EventHeaders(id, claim, 1, Tenant("default")) for id in ids}
    batches = []
    for number in range(records // BATCH):
        builder = DefaultRecordBatchBuilder(2, 0, False, 1, 0, 0, 1 << 20)
        for place in range(BATCH):
            at = number * BATCH + place
            made = events[ids[at % STREAMS]].event(2 + at // STREAMS, TYPE, VALUE)
            builder.append(place, None, made.key, made.value, list(made.headers))
        batches.append((number * BATCH).to_bytes(8) + bytes(builder.build())[8:])

    async def read_back() -> int:
        fold = Fold()
        for id in ids:
            state = fold.responses[id] = State(id, Tenant("default"), 0, 0)
            state.claim, state.last = claim, 1
        counted = 0
        for batch in batches:
            for record in read_records(batch, 0)[0]:
                counted += fold.apply(record.offset, record.timestamp, parse(record, 3)) is Verdict.COUNTS
        return counted

    await measure("an own event read back: decode, parse, fold", broker, read_back)


async def _paced(bootstrap: str, broker: psutil.Process) -> None:
    """The floor of the common load: as many records as 50 streams of 50 a second have, in requests as far
    apart as the writer's, read by one follower.
    """
    log = KafkaLog(bootstrap, "rejoinder-bench")
    writer, tail = log.writer(), Tail(log, TOPIC)
    for partition, bounds in (await log.bounds(TOPIC, range(PARTITIONS))).items():
        tail.follow(partition, bounds.end)
    loop = asyncio.get_running_loop()

    async def trickle() -> int:
        reading = asyncio.create_task(_follow(tail))
        count, begun = 0, loop.time()
        while count < PACED_SECONDS * PER_SECOND:
            await asyncio.sleep(LONGEST_PACE_S)
            for _ in range(int((loop.time() - begun) * PER_SECOND) - count):
                writer.post(TOPIC, count % PARTITIONS, NewRecord(b"%d" % count, VALUE, HEADERS))
                count += 1
        reading.cancel()
        return count

    try:
        await measure(f"{PER_SECOND:,} records a second, written and followed", broker, trickle)
    finally:
        await writer.close()
        await log.close()


async def _follow(tail: Tail) -> None:
    while True:
        await tail.read()


async def _ours(bootstrap: str, broker: psutil.Process, records: int) -> None:
    log = KafkaLog(bootstrap, "rejoinder-bench")
    writer = log.writer()
    ends = await log.bounds(TOPIC, range(PARTITIONS))
    positions = {port.TopicPartition(TOPIC, partition): bounds.end for partition, bounds in ends.items()}

    async def post() -> int:
        for index in range(records):
            writer.post(TOPIC, index % PARTITIONS, NewRecord(b"%d" % index, VALUE, HEADERS))
            if index % 10_000 == 0:
                await writer.flush()
        await writer.flush()
        return records

    async def fetch() -> int:
        count = 0
        while count < records:
            for batch in await log.fetch(positions):
                count += len(batch.records)
                positions[batch.source] = batch.next_offset
        return count

    try:
        await measure("Rejoinder's writer", broker, post)
        await measure("Rejoinder's reader", broker, fetch)
    finally:
        await writer.close()
        await log.close()


@asynccontextmanager
async def _broker() -> AsyncIterator[EmbeddedKafka]:
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
        kafka = EmbeddedKafka(Path(folder))
        await kafka.start()
        try:
            admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
            await admin.start()
            await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
            await admin.close()
            await asyncio.sleep(1)  # until its partitions have leaders
            yield kafka
        finally:
            await kafka.stop()


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
