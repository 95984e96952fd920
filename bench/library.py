"""Measures replay's library: starts, memory, reads and holds of the event loop with many stored responses.

Synthetic closings: an entry in `transcripts.index` for each, as the projector writes it, and transcripts for
those that are read. The broker is real, replay a process of its own, which is asked over HTTP.

    rebuild   a start with an empty store: from the start of the process until it is ready
    restart   the same with the store that the rebuild left
    hold      the longest time for which the event loop ran one piece of work, in CPU time of its thread, so
              that other processes do not count
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from msgspec.structs import replace

from schemas.ids import ResponseId, Tenant, response_id
from services.broker import EmbeddedKafka
from services.broker.tcp import LOOPBACK, free_port
from services.connect import connect, projector_group, topic_names
from services.eventlog.port import Log
from services.eventlog.shelf import Shelved, Whereabouts
from services.process import serve
from services.replay import app
from services.settings import Settings, environment, load
from services.topic_setup import make_topics
from tests.conftest import eventually
from tests.responses import Author

PARTITIONS = 8
TOGETHER = 20_000
READ = 500
"""Responses that are read as objects, and as many as streams."""
EVENTS = 60
"""Deltas of each of them."""
TICK_S = 0.001
SAYS = "longest hold, ms: "
HEAD = (
    "| stored | rebuild, s | restart, s | RSS, MiB | store, MiB | GET p50 / p99, ms "
    "| cold replay p50 / p99, ms | hold at the rebuild, ms | hold at the reads, ms |\n"
    "|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


async def run(sizes: Sequence[int]) -> None:
    """Measure with so many stored responses, one number after the other."""
    print(f"\n## The library\n\n{HEAD}", flush=True)
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder:
            kafka = EmbeddedKafka(Path(folder) / "kafka")
            try:
                settings = Settings(
                    kafka=await kafka.start(),
                    port=free_port(),
                    internal_port=free_port(),
                    partitions=PARTITIONS,
                    store_dir=str(Path(folder) / "store"),
                    log_level="warning",
                )
                await make_topics(settings)
                print(await _measured(settings, size), flush=True)
            finally:
                await kafka.stop()


async def _measured(settings: Settings, size: int) -> str:
    log = connect(settings, "bench")
    try:
        ids = await _fill(log, settings, size)
    finally:
        await log.close()
    rebuild = await _started(settings)
    rebuilt_s, hold = rebuild.ready_s, await rebuild.longest_ms()
    await rebuild.stop()
    restart = await _started(settings)
    await restart.longest_ms()
    async with aiohttp.ClientSession(f"http://{LOOPBACK}:{settings.port}") as session:
        await _read(session, ids[-10:], "?stream=true")  # connections and code are warm
        gets = await _read(session, ids[:READ], "")
        streams = await _read(session, ids[READ : 2 * READ], "?stream=true")
    reading, memory = await restart.longest_ms(), restart.memory >> 20
    await restart.stop()
    disk = await asyncio.to_thread(_bytes_in, Path(settings.store_dir)) >> 20
    cells = (
        f"{size:,}",
        f"{rebuilt_s:.1f}",
        f"{restart.ready_s:.1f}",
        str(max(memory, rebuild.peak >> 20)),
        str(disk),
        _spread(gets),
        _spread(streams),
        f"{hold:.0f}",
        f"{reading:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def _bytes_in(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*"))


async def _fill(log: Log, settings: Settings, size: int) -> list[ResponseId]:
    """Write the entries; returns the ids of those that can be read."""
    names, writer = topic_names(settings), log.writer()
    authors = [Author(writer, n, n % PARTITIONS) for n in range(2 * READ + 10)]
    readable = await asyncio.gather(*map(_stored, authors))
    entry = Shelved(
        tenant=Tenant("default"),
        status="completed",
        background=True,
        body_sha256="5f2b9c1d" * 8,
        accepted_offset=123_456,
        created_at=1_796_058_000_000,
        closed_offset=124_030,
        closed_at=1_796_058_007_125,
        events=574,
        model="gpt-5-2026-08-01",
        metadata={"order": "70154"},
        where=Whereabouts(0, (1, 2), (0, 300)),
    )
    entropy = random.Random(size)
    for start in range(0, size, TOGETHER):
        numbers = range(start, min(start + TOGETHER, size))
        records = [(n % PARTITIONS, replace(entry, accepted_offset=n)) for n in numbers]
        new = [(p, one.new(response_id(p, entropy.randbytes(16)))) for p, one in records]
        await asyncio.gather(*(writer.append(names.index, p, record) for p, record in new))
    await writer.close()
    await _say_projected(log, settings)
    return list(readable)


async def _say_projected(log: Log, settings: Settings) -> None:
    """Commit watermarks at the ends of the log, as the projector does: replay then reads from the views."""
    topic = topic_names(settings).events
    ends = {n: bounds.end for n, bounds in (await log.bounds(topic, range(PARTITIONS))).items()}
    member = await log.join(projector_group(settings), topic, lambda _: None)
    await eventually(lambda: member.owned)
    await member.commit(ends, ends)
    await member.close()


async def _stored(author: Author) -> ResponseId:
    author.frames = []
    await (await author.accept()).take()
    await author.say(*("lorem ipsum " * 3 for _ in range(EVENTS)))
    await (await author.complete()).pack()
    return author.id


class Started:
    """A replay that is ready."""

    def __init__(self, process: "subprocess.Popen[str]", ready_s: float) -> None:
        self._process = process
        self.ready_s = ready_s
        """Seconds from its start."""
        self.peak = 0

    @property
    def memory(self) -> int:
        """Its resident bytes."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    async def longest_ms(self) -> float:
        """The longest hold since this was asked last; notes the memory."""
        self.peak = max(self.peak, self.memory)
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        while not (line := await asyncio.to_thread(self._process.stderr.readline)).startswith(SAYS):
            assert line, "replay ended"  # any other line is of its interpreter
        return float(line.removeprefix(SAYS))

    async def stop(self) -> None:
        """Stop it as an operator does."""
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)


async def _started(settings: Settings) -> Started:
    environ = {**os.environ, **environment(_own(settings))}
    began = time.monotonic()
    process = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-m", "bench.library"],
        env=environ,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,  # its access log
        stderr=subprocess.PIPE,
    )
    async with aiohttp.ClientSession(f"http://{LOOPBACK}:{settings.port}") as session:
        while not await _is_ready(session):
            assert process.poll() is None, "replay ended"
            await asyncio.sleep(0.05)
    return Started(process, time.monotonic() - began)


def _own(settings: Settings) -> dict[str, Any]:
    names = ("kafka", "port", "internal_port", "store_dir", "log_level")
    return {name: getattr(settings, name) for name in names}


async def _is_ready(session: aiohttp.ClientSession) -> bool:
    try:
        async with session.get("/readyz") as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def _read(session: aiohttp.ClientSession, ids: Sequence[ResponseId], query: str) -> list[float]:
    """Seconds of each read, one at a time."""
    took: list[float] = []
    for id in ids:
        began = time.perf_counter()
        async with session.get(f"/v1/responses/{id}{query}") as answer:
            assert answer.status == 200, await answer.text()
            assert b"completed" in await answer.read()
        took.append(time.perf_counter() - began)
    return took


def _spread(took: list[float]) -> str:
    ordered = sorted(took)
    p50, p99 = (ordered[int(len(ordered) * part)] * 1000 for part in (0.5, 0.99))
    return f"{p50:.1f} / {p99:.1f}"


# The measured process: replay as it is, and beside it a task that ticks.


class Ticker:
    """Ticks, and notes the longest CPU time of the thread between two ticks, but for its own."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def run(self) -> None:
        """Tick for ever."""
        while True:
            began = time.thread_time()
            await asyncio.sleep(TICK_S)
            self.longest = max(self.longest, time.thread_time() - began)

    def answer(self) -> None:
        """A line was asked for: say the longest hold, in ms, and begin anew."""
        sys.stdin.readline()
        sys.stderr.write(f"{SAYS}{self.longest * 1000}\n")
        sys.stderr.flush()
        self.longest = 0.0


async def _replay(stop: asyncio.Event, settings: Settings) -> None:
    ticker = Ticker()
    ticking = asyncio.create_task(ticker.run())
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ticker.answer)
    try:
        await app.run(settings, stop)
    finally:
        ticking.cancel()


if __name__ == "__main__":
    serve("replay", lambda stop: _replay(stop, load(os.environ)), 5)
