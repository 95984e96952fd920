"""The embedded broker as a process: it answers, keeps its data, ends when it must, says why it cannot."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

from services.broker import EmbeddedKafka, data
from services.broker.errors import DataUnusable, PortInUse, StartFailed
from services.broker.probe import serving_cluster
from services.broker.tcp import LOOPBACK, free_port
from tests.conftest import eventually

HEAP_MB = 256
PARENT = """
import asyncio, sys
from pathlib import Path
from services.broker import EmbeddedKafka

async def main():
    broker = EmbeddedKafka(Path(sys.argv[1]), heap_mb=256)
    await broker.start()
    print("started", broker.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def broker_over(folder: Path) -> AsyncIterator[EmbeddedKafka]:
    broker = EmbeddedKafka(folder, heap_mb=HEAP_MB)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
async def broker(anyio_backend: object, folder: Path) -> AsyncIterator[EmbeddedKafka]:
    """A broker over `folder`, which each test leaves running."""
    async with broker_over(folder) as running:
        yield running


async def create(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def append(bootstrap: str, topic: str, value: bytes) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(topic, value, partition=0)
    finally:
        await producer.stop()


async def read(bootstrap: str, topic: str) -> list[bytes | None]:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        source = TopicPartition(topic, 0)
        consumer.assign([source])
        end = (await consumer.end_offsets([source]))[source]
        values: list[bytes | None] = []
        while len(values) < end:
            values += [record.value for record in (await consumer.getmany(timeout_ms=500)).get(source, [])]
        return values
    finally:
        await consumer.stop()


def gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)  # dead, not yet reaped by init
    except psutil.NoSuchProcess:
        return True


async def test_what_was_appended_is_still_there_after_a_stop_and_after_a_kill(broker: EmbeddedKafka) -> None:
    await create(broker.bootstrap, "kept")
    await append(broker.bootstrap, "kept", b"before the stop")
    first = broker.bootstrap

    await broker.stop()
    assert gone(broker.pid)
    assert await broker.start() == first
    await append(broker.bootstrap, "kept", b"before the kill")

    await broker.kill()
    assert gone(broker.pid)
    assert await broker.start() == first
    assert await read(broker.bootstrap, "kept") == [b"before the stop", b"before the kill"]


async def test_a_paused_broker_answers_nothing_until_it_is_resumed(broker: EmbeddedKafka) -> None:
    port = int(broker.bootstrap.rpartition(":")[2])
    await eventually(lambda: serving_cluster(LOOPBACK, port), timeout=30)
    await broker.pause()
    assert await serving_cluster(LOOPBACK, port, timeout=0.5) is None
    broker.resume()
    await eventually(lambda: serving_cluster(LOOPBACK, port), timeout=30)


async def test_a_second_broker_over_the_same_data_is_refused_and_harms_nothing(
    broker: EmbeddedKafka, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "RELEASE_TIMEOUT", 0.3)
    with pytest.raises(DataUnusable, match="another broker uses"):
        await EmbeddedKafka(folder).start()
    await create(broker.bootstrap, "unharmed")
    await append(broker.bootstrap, "unharmed", b"x")
    assert broker.log_path.read_text()


async def test_sigkill_of_the_parent_leaves_no_broker(tmp_path: Path) -> None:
    parent, pid = await start_parent(tmp_path)
    parent.kill()
    await parent.wait()
    await eventually(lambda: gone(pid))
    async with broker_over(tmp_path) as next_one:  # which finds the data free
        assert next_one.running


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_sigkill_of_parent_and_guard_at_once_leaves_no_broker(tmp_path: Path) -> None:
    parent, pid = await start_parent(tmp_path)
    guard = psutil.Process(pid).parent()
    assert guard is not None
    os.kill(parent.pid, signal.SIGSTOP)  # it must not see the guard die and tidy up
    guard.kill()
    parent.kill()
    await parent.wait()
    await eventually(lambda: gone(pid))


async def start_parent(folder: Path) -> tuple[asyncio.subprocess.Process, int]:
    """A process that starts a broker over `folder` and waits, and the broker's pid."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(folder), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    async for line in parent.stdout:
        if line.startswith(b"started "):
            return parent, int(line.split()[1])
    raise AssertionError(f"the parent ended with {await parent.wait()}")


async def test_a_port_in_use_is_named_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=rf"port {port} on 127.0.0.1 is in use: stop what listens there"):
            await EmbeddedKafka(tmp_path, port=port).start()


async def test_the_usual_port_is_its_own_if_that_is_free(tmp_path: Path) -> None:
    """People look for Kafka there; who comes second gets another port, and starts all the same."""
    usual = free_port()
    first, second = (
        EmbeddedKafka(tmp_path / name, heap_mb=HEAP_MB, usual_port=usual) for name in ("first", "second")
    )
    try:
        assert await first.start() == f"{LOOPBACK}:{usual}"
        assert await second.start() != first.bootstrap
    finally:
        await asyncio.gather(first.kill(), second.kill())


async def test_data_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataUnusable, match=r"cannot write the data directory .*/file: Not a directory"):
        await EmbeddedKafka(tmp_path / "file").start()


async def test_data_of_a_newer_kafka_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kafka-version").write_text("99.1.0\n")
    with pytest.raises(DataUnusable, match=r"was made by Kafka 99\.1\.0"):
        await EmbeddedKafka(tmp_path).start()


async def test_a_broker_that_ends_at_its_start_is_told_with_its_reason(tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path, heap_mb=HEAP_MB, properties={"num.network.threads": "none"})
    with pytest.raises((StartFailed, DataUnusable), match=r"num\.network\.threads.*kafka\.log"):
        await broker.start()
    assert not broker.running


async def test_a_start_that_is_cancelled_or_late_leaves_no_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = EmbeddedKafka(tmp_path, heap_mb=HEAP_MB)
    starting = asyncio.create_task(broker.start())
    await eventually(lambda: broker.pid, timeout=60)
    starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting
    assert gone(broker.pid)

    with pytest.raises(StartFailed, match=r"did not answer within 0\.5 s"):
        await broker.start(timeout=0.5)
    assert gone(broker.pid)


def test_the_fixture_names_nothing_twice(fresh: Callable[[str], str], topic_prefix: str) -> None:
    assert fresh("events") == fresh("events") == f"{topic_prefix}events" != fresh("claims")
