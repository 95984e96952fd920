"""Measures analytics: closings that it counts per CPU second, with Faust and the topic `usage`.

A broker of its own; ten tenants, ten models, a minute for every 6,000 closings. One process counts all of it.
It is stopped while closings are announced, so what it takes to join its group again is within the time.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from msgspec.structs import asdict

from schemas.closings import ClosingRecord, TokenCounts
from schemas.ids import ExecutorId, Tenant, response_id
from schemas.usage import UsageMark, read_usage
from services.broker import EmbeddedKafka
from services.broker.tcp import free_port
from services.connect import connect, topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.eventlog.topics import MAX_RECORD_BYTES
from services.settings import Settings, environment

PARTITIONS = 8
TOGETHER = 20_000
REJOINDER = str(Path(sys.executable).with_name("rejoinder"))


async def run(closings: int) -> None:
    """Count so many closings, after a tenth of them."""
    with tempfile.TemporaryDirectory() as folder:
        broker = EmbeddedKafka(Path(folder))
        bootstrap = await broker.start()
        settings = Settings(
            kafka=bootstrap,
            internal_port=free_port(),
            log_level="error",
            max_record_bytes=MAX_RECORD_BYTES,
            max_body_bytes=MAX_RECORD_BYTES,
        )
        log = connect(settings, "bench")
        try:
            await create_topics(bootstrap, topic_names(settings), partitions=PARTITIONS)
            await _measure(settings, log, closings)
        finally:
            await log.close()
            await broker.stop()


async def _measure(settings: Settings, log: Log, closings: int) -> None:
    first = closings // 10
    await _announce(settings, log, range(first))
    environ = {**os.environ, **environment(asdict(settings))}
    process = await asyncio.to_thread(subprocess.Popen, [REJOINDER, "analytics"], env=environ)
    try:
        watched = psutil.Process(process.pid)
        await _counted(settings, log, first)
        stopped = watched.cpu_times()
        watched.suspend()
        await _announce(settings, log, range(first, first + closings))
        watched.resume()
        began = time.monotonic()
        await _counted(settings, log, first + closings)
        took, now = time.monotonic() - began, watched.cpu_times()
        cpu = now.user + now.system - stopped.user - stopped.system
        memory = watched.memory_info().rss >> 20
    finally:
        process.terminate()
        process.wait()
    print("\n## Counting what has ended\n")
    print("| closings | per CPU-s | per s | memory, MiB |\n|---:|---:|---:|---:|")
    print(f"| {closings:,} | {closings / cpu:,.0f} | {closings / took:,.0f} | {memory} |", flush=True)


async def _announce(settings: Settings, log: Log, numbers: range) -> None:
    writer, topic = log.writer(), topic_names(settings).closings
    for start in range(numbers.start, numbers.stop, TOGETHER):
        part = range(start, min(start + TOGETHER, numbers.stop))
        await asyncio.gather(*(writer.append(topic, n % PARTITIONS, _closing(n).new()) for n in part))
    await writer.close()


def _closing(number: int) -> ClosingRecord:
    closed_at = 1_796_058_000_000 + 10 * number
    return ClosingRecord(
        id=response_id(number % PARTITIONS, number.to_bytes(16)),
        tenant=Tenant(f"tenant-{number % 10}"),
        log="5Rk0yV2xTm6nQ1hJd8wZ3A",
        status="completed",
        model=f"gpt-{number // 10 % 10}",
        served="gpt-5-2026-08-01",
        route="gpt-*",
        agent=None,
        error_type=None,
        incomplete_reason=None,
        background=True,
        store=True,
        accepted_at=closed_at - 7_125,
        claimed_at=closed_at - 7_113,
        first_output_at=closed_at - 6_694,
        last_output_at=closed_at - 5,
        closed_at=closed_at,
        accepted_offset=number,
        closed_offset=number + 574,
        events=574,
        deltas=561,
        attempts=1,
        executors=(ExecutorId("exec_78c3a967b36711eb"),),
        usage=TokenCounts(912, 768, 0, 561, 0, 1473),
    )


async def _counted(settings: Settings, log: Log, closings: int) -> None:
    """Wait until the marks say that so many are counted. It costs the broker little, the process nothing."""
    topic, passed = topic_names(settings).usage, dict.fromkeys(range(PARTITIONS), 0)
    read = dict.fromkeys(range(PARTITIONS), 0)
    while sum(passed.values()) < closings:
        for number, bounds in (await log.bounds(topic, range(PARTITIONS))).items():
            async for record in scan(log, TopicPartition(topic, number), read[number], bounds.end):
                found = read_usage(record, number)
                if isinstance(getattr(found, "value", None), UsageMark):
                    passed[number] = found.value.passed  # type: ignore[union-attr]
            read[number] = bounds.end
        await asyncio.sleep(0.2)
