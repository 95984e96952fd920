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
from services.eventlog.memory_partition import MemoryRecord

TOPIC = "limits"
PARTITIONS = 8
VALUE = b'{"type":"response.output_text.delta","item_id":"msg_0123456789abcdef","delta":"word "}'.ljust(170)
TYPE = "response.output_text.delta"
HEADERS = [("type", TYPE.encode())]

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
