"""A crowd on one replay: what an open stream holds, a storm of reconnects, and readers that take nothing.

    open     so many readers, spread over responses of model echo that say a word a second
    storm    all of them reset their connections at once, and ask again with the cursor at which they stood
    stalled  readers of closed responses that take nothing: until replay has dropped the last one

The readers are a process of their own. They check that no event is missing or comes twice.
"""

import argparse
import asyncio
import re
import socket
import struct
import subprocess
import sys
import time
import urllib.request

import msgspec
import uvloop

from bench.load import Load
from bench.target import Target

READERS, RESPONSES, STALLED = 5_000, 200, 500
LASTS_S = 600
"""Seconds that the open responses last at most; they are cancelled at the end."""
PACKED_WORDS = 4_000
"""A closed response of so many words is 1 MB of frames, more than systems take for a client that does not."""
SETTLE_S = 3.0
ON_THE_WAY = 1
"""Events by which readers of one response may differ at one moment."""
BOUND_S = 120.0
FLAGS = ("--slots", str(RESPONSES + 50), "--max-queue", str(2 * RESPONSES))
_ID = re.compile(rb"\nid: (\d+)\n")
_STALLED = re.compile(r'^rejoinder_http_streams_ended_total\{how="stalled"\} ([\d.]+)', re.MULTILINE)
_RESET = struct.pack("ii", 1, 0)


class Crowded(msgspec.Struct):
    """What came of it. Seconds, and the readers' counts."""

    storm_s: float
    missing: int
    twice: int


def run(target: Target, readers: int = READERS, stalled: int = STALLED) -> None:
    """Print the table."""
    before = target.rss()["replay"]
    load = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "bench.crowd",
            target.base_url,
            f"--readers={readers}",
            f"--stalled={stalled}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert load.stdout is not None
    assert load.stdin is not None
    load.stdout.readline()
    held = target.rss()["replay"] - before
    line = load.stdout.readline()
    if not line:
        raise RuntimeError("the readers failed")
    found = msgspec.json.decode(line, type=Crowded)
    begun = time.monotonic()
    while (counted := stalled_readers(target)) < stalled and time.monotonic() - begun < BOUND_S:
        time.sleep(0.2)
    took = time.monotonic() - begun
    load.stdin.close()
    load.wait(BOUND_S)
    print(f"\n## {readers:,} open streams on one replay\n\n| | |\n|---|---:|")
    print(f"| memory, KiB a stream | {held / readers * 1024:.1f} |")
    print(f"| all reset and asked again with their cursors, s | {found.storm_s:.1f} |")
    print(f"| events missing, events twice | {found.missing}, {found.twice} |")
    print(f"| readers that take nothing counted as stalled, of {stalled} | {counted:.0f} |")
    print(f"| s until the last was dropped | {took:.1f} |", flush=True)


def stalled_readers(target: Target) -> float:
    """How many streams replay has counted as stalled."""
    for port in target.ports("replay"):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                said = answer.read().decode()
        except OSError:
            continue
        return float(found[1]) if (found := _STALLED.search(said)) else 0.0
    raise RuntimeError("replay has no metrics")


class Place(asyncio.Protocol):
    """One reader's place in a stream, over all of its connections: the number of the last event it has."""

    def __init__(self, path: str, host: str) -> None:
        self.path, self._host = path, host
        self.last = -1
        self.missing = self.twice = 0
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport | None = None
        self._rest = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask for what comes behind the last event."""
        self.transport, self._rest = transport, b""
        self.heard = asyncio.get_running_loop().create_future()
        cursor = f"&starting_after={self.last}" if self.last >= 0 else ""
        head = f"GET {self.path}?stream=true{cursor} HTTP/1.1\r\nhost: {self._host}\r\n\r\n"
        transport.write(head.encode())

    def data_received(self, data: bytes) -> None:
        """Count what comes by its numbers."""
        held = self._rest + data
        end = 0
        for found in _ID.finditer(held):
            number, end = int(found[1]), found.end()
            self.missing += max(0, number - self.last - 1)
            self.twice += number <= self.last
            self.last = number
            if not self.heard.done():
                self.heard.set_result(None)
        self._rest = held[max(end - 1, len(held) - 64) :]

    def reset(self) -> None:
        """Lose the connection, as a client does whose network goes."""
        assert self.transport is not None
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class CrowdLoad(Load):
    """The readers of one crowd."""

    def __init__(self, url: str, words: int, interval_ms: int) -> None:
        super().__init__(url, 0, tokens=words, interval_ms=interval_ms)

    async def join(self, places: list[Place]) -> None:
        """Connect all of them, and wait until each has heard an event."""
        loop = asyncio.get_running_loop()
        at_once = asyncio.Semaphore(500)

        async def one(place: Place) -> None:
            async with at_once:
                await loop.create_connection(lambda: place, self.host, self.port)
            await place.heard

        async with asyncio.timeout(BOUND_S):
            await asyncio.gather(*map(one, places))

    async def whole(self, id: str) -> None:
        """Wait until a response has closed."""
        while True:
            status, content = await self.exchange("GET", f"{self.path}/{id}")
            if status == 200 and msgspec.json.decode(content)["status"] == "completed":
                return
            await asyncio.sleep(0.1)


async def _crowd(url: str, readers: int, stalled: int) -> None:
    load = CrowdLoad(url, LASTS_S, 1000)
    ids = [await load.created() for _ in range(min(RESPONSES, readers))]
    places = [Place(f"{load.path}/{ids[number % len(ids)]}", load.host) for number in range(readers)]
    await load.join(places)
    await asyncio.sleep(SETTLE_S)
    print("come", flush=True)
    for place in places:
        place.reset()
    begun = time.monotonic()
    await load.join(places)
    storm_s = time.monotonic() - begun
    await asyncio.sleep(SETTLE_S)
    furthest = [max(place.last for place in places[number :: len(ids)]) for number in range(len(ids))]
    behind = [furthest[number % len(ids)] - place.last for number, place in enumerate(places)]
    missing = sum(place.missing for place in places) + sum(by for by in behind if by > ON_THE_WAY)
    twice = sum(place.twice for place in places)
    for place in places:
        place.reset()
    await asyncio.gather(*(load.exchange("POST", f"{load.path}/{id}/cancel") for id in ids))
    packed = CrowdLoad(url, PACKED_WORDS, 0)
    closed = await packed.created()
    await packed.whole(closed)
    clients = [_asks(packed, closed) for _ in range(stalled)]
    print(msgspec.json.encode(Crowded(storm_s, missing, twice)).decode(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for client in clients:
        client.close()


def _asks(load: Load, id: str) -> socket.socket:
    """A client that asks for a stream and takes nothing of it."""
    client = socket.create_connection((load.host, load.port))
    client.sendall(f"GET {load.path}/{id}?stream=true HTTP/1.1\r\nhost: {load.host}\r\n\r\n".encode())
    return client


def main() -> None:
    """The crowd, from the command line; prints a line when all have come, and the outcome."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--readers", type=int, default=READERS)
    parser.add_argument("--stalled", type=int, default=STALLED)
    given = parser.parse_args()
    uvloop.run(_crowd(given.url, given.readers, given.stalled))


if __name__ == "__main__":
    main()
