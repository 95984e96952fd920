"""A response of 50,000 events, read from its start by many readers at once, beside a static file.

    cold    it has ended, and replay has just started: from its transcript
    stored  the same, read before: from its transcript, whose chunks replay holds unpacked
    open    it has not ended: from memory

The file has the bytes of the stream. nginx serves it, where that is installed, and so does Starlette's
`FileResponse` on uvicorn. The readers of all are the same. CPU is that of all processes of a target while the
readers read, the readers' own left out; memory is the most that replay held meanwhile.
"""

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from math import nan
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import ClassVar
from urllib.request import urlopen

import msgspec
import psutil
import uvicorn
import uvloop
from msgspec.structs import replace
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from bench.load import OVERHEAD, Load, Outcome, Reader
from bench.nginx import installed, nginx
from bench.target import Target
from bench.throughput import settled
from bench.upstream import UpstreamLoad, before_upstream
from tests.process import ServerProcess

EVENTS = 50_000
READERS = (1, 20, 100)
STREAMS = 100
"""Streams that are read for a figure, one after the other if there are fewer readers."""
AT_ONCE = 50
PATIENCE_S = 120.0
FILE = "/file"
OPENING = 5
"""Events of an open response before its first word."""
SAMPLE_S = 0.02
TAIL = 1_024
"""Bytes that a reader looks at: more than the last event of an open response has."""
_VOCABULARY = ["".join(Random(n).choices("acdeilmnorstu", k=5)) for n in range(4096)]
SPOKEN = " ".join(Random(1).choices(_VOCABULARY, k=4096))
"""What echo says: words that differ, because a transcript is packed."""
HEAD = (
    "| from | readers | s | events per CPU-s | MB per CPU-s | replay alone | its memory, MiB "
    "| nginx | replay's | FileResponse | replay's |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


COUNTED_S = 0.15
"""CPU seconds that are too few to divide by: the system counts them in hundredths."""


class Replayed(msgspec.Struct, frozen=True):
    """What the readers of one target got. `cpu` in seconds, by process; `memory` in MiB, at its peak."""

    outcome: Outcome
    readers_cpu: float
    """CPU seconds of the readers: if that is near `outcome.seconds`, they are what took so long."""
    cpu: dict[str, float] = {}
    memory: float = 0.0

    def megabytes(self, *names: str) -> float:
        """Megabytes per CPU second of these processes; of all without any."""
        used = sum(used for name, used in self.cpu.items() if name in (names or self.cpu))
        return self.outcome.bytes / used / 1e6 if used >= COUNTED_S else nan


class Content(msgspec.Struct, frozen=True):
    """A stream or file: its events, about so many bytes. The stream of an open response does not end."""

    path: str
    events: int
    size: int
    open: bool = False


class Taker(asyncio.BufferedProtocol):
    """Takes a whole `Content`. It looks at the last bytes only: to count events costs more than to send them.

    All takers read into one buffer.
    """

    _buffer = memoryview(bytearray(256 << 10))

    def __init__(self, content: Content) -> None:
        self._last = b"\nid: %d\n" % (content.events - 1) if content.open else None
        self._tail = b""
        self.size = 0
        """The bytes that came, with heads and chunks."""
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the protocol's
        """Where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Note what came."""
        self.size += nbytes
        self._tail = self._tail[-TAIL:] + bytes(self._buffer[max(0, nbytes - TAIL) : nbytes])
        if self._last is not None and self._last in self._tail:
            self.connection_lost(None)

    def connection_lost(self, _: Exception | None) -> None:
        """The stream is over."""
        if not self.whole.done():
            self.whole.set_result(None)


class Crowd(Load):
    """Readers of one content."""

    def __init__(self, url: str, content: Content) -> None:
        super().__init__(url, content.events)
        self._content = content

    async def take(self, readers: int, streams: int) -> None:
        """Print a line, wait for one, read so many `streams`, `readers` at a time, and print the outcome."""

        async def reads(left: Iterator[int]) -> None:
            for _ in left:
                await self._whole()

        print("come", flush=True)
        sys.stdin.readline()
        begun, used = time.monotonic(), time.process_time()
        left = iter(range(streams))
        await asyncio.gather(*(reads(left) for _ in range(readers)))
        self.outcome.seconds = time.monotonic() - begun
        replayed = Replayed(self.outcome, time.process_time() - used)
        print(msgspec.json.encode(replayed).decode(), flush=True)

    async def _whole(self) -> None:
        content, loop = self._content, asyncio.get_running_loop()
        transport, taker = await loop.create_connection(lambda: Taker(content), self.host, self.port)
        transport.write(self._head("GET", content.path))
        await taker.whole
        transport.abort()
        if abs(taker.size - content.size) > 0.02 * content.size:
            sys.exit(f"{content.path}: {taker.size} bytes, and not about {content.size}")
        self.outcome.bytes += taker.size
        self.outcome.events += content.events


class WholeReader(Reader):
    """Is done when so many events have come."""

    def __init__(self, outcome: Outcome, events: int) -> None:
        super().__init__(outcome)
        self._wanted = events

    def data_received(self, data: bytes) -> None:
        """Count what came."""
        super().data_received(data)
        if self.events >= self._wanted:
            self.connection_lost(None)


class OpenLoad(UpstreamLoad):
    """Responses of the upstream that do not end, read up to the last event that comes at once."""

    def reader(self) -> Reader:
        """A reader of so many events."""
        return WholeReader(self.outcome, self.events)

    async def read(self, method: str, path: str, body: bytes = b"") -> None:
        """Read one stream. Exits if it ends before that event."""
        transport, reader = await self.open(method, path, body)
        await reader.closed
        transport.abort()
        if reader.events < self.events:
            sys.exit(f"{method} {path}: {reader.events} of {self.events} events")


class SpokenLoad(Load):
    """Responses of model echo in the background, that say `SPOKEN`."""

    ask: ClassVar[Mapping[str, object]] = {"background": True, "input": SPOKEN}


def run(events: int = EVENTS) -> None:
    """Print the table."""
    print(f"\n## A response of {events:,} events\n\n{HEAD}", flush=True)
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder, before_upstream() as ours:
        spoken = SpokenLoad(ours.base_url, events, tokens=events - OVERHEAD)
        path = stream_of(made(spoken)[0])
        file = Path(folder) / "file"
        with urlopen(ours.base_url + path) as answer:
            file.write_bytes(answer.read())
        stored = Content(path, events, file.stat().st_size)
        rivals = dict(_beside(file, events))
        for readers in READERS:
            start_without(ours, stored)
            show("cold", readers, read(ours, stored, readers, readers), rivals)
            show("stored", readers, read(ours, stored, readers), rivals)
        load = OpenLoad(ours.base_url, f"responses-{events - OPENING}-0-1-600000", events)
        path = stream_of(made(load)[0])
        still_open = Content(path, events, load.outcome.bytes, open=True)
        for readers in READERS:
            show("open", readers, read(ours, still_open, readers), rivals)


def start_without(ours: Target, content: Content) -> None:
    """Start replay again, until it does not hold `content` in memory: that of what has closed recently it
    reads from the log at its start.
    """
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        start_again(ours)
        settled(ours)
        if metric(ours, "rejoinder_replay_window_bytes") < content.size / 2:
            return
    raise RuntimeError("replay still starts with the response in memory")


def made(load: Load, count: int = 1) -> list[str]:
    """The ids of so many responses, each of which has its events now."""

    async def client(left: Iterator[int]) -> list[str]:
        ids = []
        for _ in left:
            ids.append(await load.created())
            await load.read("GET", stream_of(ids[-1]))
        return ids

    async def clients() -> list[str]:
        left = iter(range(count))
        found = await asyncio.gather(*(client(left) for _ in range(min(count, AT_ONCE))))
        return list(chain.from_iterable(found))

    return uvloop.run(clients())


def stream_of(id: str) -> str:
    """The path of a response's stream."""
    return f"{Load.path}/{id}?stream=true"


def start_again(ours: Target) -> None:
    """Kill replay, and wait until it serves again."""
    replay = ours.process("replay")
    replay.kill()
    psutil.wait_procs([replay])
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(OSError), urlopen(f"{ours.base_url}/readyz"):
            return
        time.sleep(0.05)
    raise RuntimeError(f"replay was not ready within {PATIENCE_S:g} s")


def metric(ours: Target, name: str) -> float:
    """A metric of replay that has no labels."""
    with urlopen(f"{ours.base_url}/metrics") as answer:
        lines = [line.split() for line in answer.read().decode().splitlines()]
    return float(next(value for first, value, *_ in lines if first == name))


def read(target: Target, content: Content, readers: int, streams: int = STREAMS) -> Replayed:
    """Read so many `streams` of one content, `readers` at a time."""
    command = [sys.executable, "-m", "bench.replay", target.base_url, f"--readers={readers}"]
    command += [f"--streams={streams}", f"--content={msgspec.json.encode(content).decode()}"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        load.stdout.readline()
        begin = target.cpu()
        with _held(target) as memory:
            load.stdin.write("\n")
            load.stdin.flush()
            line = load.stdout.readline()
        used = target.cpu()
    if load.returncode or not line:
        raise RuntimeError(f"the readers of {target.name} failed")
    cpu = {name: seconds - begin.get(name, 0.0) for name, seconds in used.items()}
    return replace(msgspec.json.decode(line, type=Replayed), cpu=cpu, memory=max(memory, default=0.0))


def show(source: str, readers: int, found: Replayed, rivals: Mapping[tuple[str, int], Replayed]) -> None:
    """Print one line of the table, `nan` for what took too little CPU to be counted."""
    whole, replay = found.megabytes(), found.megabytes("replay")
    each = found.outcome.events / found.outcome.bytes * 1e6
    busy = " *" if found.readers_cpu > 0.9 * found.outcome.seconds else ""
    row = f"| {source} | {readers} | {found.outcome.seconds:.2f}{busy} | {whole * each:,.0f} | {whole:,.0f} "
    row += f"| {replay:,.0f} | {found.memory:,.0f} "
    for name in ("nginx", "FileResponse"):
        if (rival := rivals.get((name, readers))) is None:
            row += "| not installed | "
        else:
            row += f"| {rival.megabytes():,.0f} | {replay / rival.megabytes():.2f} : 1 "
    print(f"{row}|", flush=True)


@contextmanager
def _held(target: Target) -> Iterator[list[float]]:
    """The memory of replay in MiB, again and again, while the block runs."""
    samples: list[float] = []
    over = Event()

    def sample(replay: psutil.Process) -> None:
        while not over.wait(SAMPLE_S):
            samples.append(replay.memory_info().rss / (1 << 20))

    if target.name != "rejoinder":
        yield samples
        return
    sampling = Thread(target=sample, args=(target.process("replay"),))
    sampling.start()
    try:
        yield samples
    finally:
        over.set()
        sampling.join()


def _beside(file: Path, events: int) -> Iterator[tuple[tuple[str, int], Replayed]]:
    """What the rivals do, by name and number of readers."""
    with ExitStack() as stack:
        command = [sys.executable, "-m", "bench.replay", "--serve", str(file)]
        served = stack.enter_context(ServerProcess(command, file.with_name("log")))
        rivals = [Target("FileResponse", served)]
        if installed():
            location = f"location = {FILE} {{ alias {file}; default_type text/event-stream; }}"
            rivals.append(stack.enter_context(nginx("nginx", location)))
        content = Content(FILE, events, file.stat().st_size)
        for rival in rivals:
            for readers in READERS:
                streams = STREAMS * (10 if rival.name == "nginx" else 1)
                yield (rival.name, readers), read(rival, content, readers, streams)


def _serve(file: str) -> None:
    async def whole(_: Request) -> FileResponse:
        return FileResponse(file, media_type="text/event-stream")

    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    app = Starlette(routes=[Route(FILE, whole)])
    config = uvicorn.Config(app, loop="uvloop", access_log=False, log_level="warning")
    print(f"ready http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run([listening])


def main() -> None:
    """The readers of one target, from the command line; with `--serve FILE` the server of a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", nargs="?", default="")
    parser.add_argument("--serve", metavar="FILE")
    parser.add_argument("--content", default="{}")
    parser.add_argument("--readers", type=int, default=1)
    parser.add_argument("--streams", type=int, default=1)
    given = parser.parse_args()
    if given.serve:
        _serve(given.serve)
    else:
        content = msgspec.json.decode(given.content, type=Content)
        uvloop.run(Crowd(given.url, content).take(given.readers, given.streams))


if __name__ == "__main__":
    main()
