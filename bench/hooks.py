"""Measures webhooks: ends announced at once, until every one is delivered, per CPU-second of the worker.

The broker is real, the worker a process of its own. The receiver is in this process, which is left out.
"""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil

from services.broker import EmbeddedKafka
from services.broker.tcp import LOOPBACK, free_port
from services.clock import now_ms
from services.connect import connect, topic_names
from services.eventlog.port import Log
from services.eventlog.topics import Topics
from services.settings import Settings, environment
from services.topic_setup import make_topics
from tests.closings import CLOSING
from tests.conftest import eventually
from tests.process import REJOINDER
from tests.webhooks import KEY, Hooks, Receiver, announce, ended

PARTITIONS = 8
WARM = 500
"""Deliveries before the measurement: connections are open then."""
HEAD = (
    "| ends at once | endpoints | deliveries | s | per s | per CPU-s of the worker |\n"
    "|---:|---:|---:|---:|---:|---:|"
)


async def run(ends: int) -> None:
    """Deliver `ends` ends to one endpoint, then to four."""
    print(f"\n## Webhooks\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
        kafka = EmbeddedKafka(Path(folder))
        try:
            settings = Settings(kafka=await kafka.start(), internal_port=free_port(), partitions=PARTITIONS)
            await make_topics(settings)
            for endpoints in (1, 4):
                await _measure(settings, Path(folder), ends, endpoints)
        finally:
            await kafka.stop()


async def _measure(settings: Settings, folder: Path, ends: int, endpoints: int) -> None:
    own = {"kafka": settings.kafka, "internal_port": settings.internal_port, "log_level": "warning"}
    own |= {"webhooks_keys": (KEY,), "webhooks_allow_private": 1}
    with (folder / "log").open("ab") as sink:
        worker = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs yet
            [REJOINDER, "webhooks"], env={**os.environ, **environment(own)}, stdout=sink, stderr=sink
        )
    log, names = connect(settings, "bench"), topic_names(settings)
    try:
        async with aiohttp.ClientSession() as session, Receiver().serving() as receiver:
            hooks = Hooks(f"http://{LOOPBACK}:{settings.internal_port}", session, CLOSING.tenant)

            async def ready() -> bool:
                try:
                    return (await hooks.ask("GET", "/v1/webhook_endpoints"))[0] == 200
                except aiohttp.ClientError:
                    return False

            await eventually(ready, 60)
            made = [await hooks.make(receiver.url) for _ in range(endpoints)]
            first = endpoints * 1_000_000
            await _told(log, names, receiver, first, WARM, endpoints)
            process, began = psutil.Process(worker.pid), time.perf_counter()
            cpu = sum(process.cpu_times()[:2])
            await _told(log, names, receiver, first + WARM, ends, endpoints)
            took, cpu = time.perf_counter() - began, sum(process.cpu_times()[:2]) - cpu
            count = ends * endpoints
            rates = f"{count / took:,.0f} | {count / cpu:,.0f}"
            print(f"| {ends:,} | {endpoints} | {count:,} | {took:.1f} | {rates} |", flush=True)
            for endpoint in made:
                await hooks.remove(endpoint["id"])
    finally:
        worker.terminate()
        worker.wait(30)
        await log.close()


async def _told(log: Log, names: Topics, receiver: Receiver, first: int, ends: int, endpoints: int) -> None:
    """Announce ends, and wait until each endpoint has heard of all."""
    receiver.received.clear()
    now = now_ms()
    closings = [ended(first + n, partition=n % PARTITIONS, closed_at=now) for n in range(ends)]
    await announce(log, names, *closings, at_once=True)
    await eventually(lambda: len(receiver.ids) >= ends * endpoints, 300)
