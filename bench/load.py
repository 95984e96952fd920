"""The load: clients in a process of their own, whose CPU is not counted.

`at_once` clients each create a background response of model echo and read its stream to the end, again
and again until `responses` were created or the time is up. They count frames by their `data:` lines and check
that a stream that ended had them all. Prints one line of JSON.

    python -m bench.load http://127.0.0.1:8000 --events 1000 --at-once 50 --responses 100 --seconds 20
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec
import uvloop

OVERHEAD = 9
"""Events of a background response of model echo besides one per word."""
_MARK = b"\ndata: "
CANCEL_TRIES = 20


class Outcome(msgspec.Struct):
    """The figures of a load. `seconds` is from the first request to the last byte that counted."""

    events: int = 0
    bytes: int = 0
    finished: int = 0
    cut: int = 0
    seconds: float = 0.0


class Reader(asyncio.Protocol):
    """Counts the frames of one stream as they arrive, at the price of one `bytes.count` per read."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._tail = b""
        self.events = 0
        self.clean = False
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Count marks. The last bytes are kept, because a mark may lie across two reads."""
        held = self._tail + data
        found = held.count(_MARK)
        self._tail = held[-(len(_MARK) - 1) :]
        self.events += found
        self._outcome.events += found
        self._outcome.bytes += len(data)
        self.clean = held.endswith(b"\r\n0\r\n\r\n") or self.clean

    def connection_lost(self, _: Exception | None) -> None:
        """The stream is over; `clean` says how."""
        if not self.closed.done():
            self.closed.set_result(None)


class Load:
    """One load against one server. `events`: of each stream. `ask`: what a request asks for; `steering`: how
    it steers model echo.
    """

    ask: ClassVar[Mapping[str, object]] = {"background": True}
    path = "/v1/responses"

    def __init__(self, base_url: str, events: int, **steering: int) -> None:
        url = urlsplit(base_url)
        self.host, self.port = url.hostname or "", url.port or 80
        self.events = events
        metadata = {f"echo.{key}": str(value) for key, value in steering.items()}
        body = {"model": "echo", "input": "the quick brown fox jumps over the lazy dog", **self.ask}
        self.body = json.dumps(body | {"metadata": metadata}).encode()
        self.outcome = Outcome()
        self._open: set[str] = set()

    async def run(self, at_once: int, responses: int, seconds: float, *, leave: bool = False) -> Outcome:
        """Create and read, `at_once` at a time, until all `responses` are read or `seconds` are over.

        Responses that are open then are cancelled, unless `leave`.
        """
        begin = time.monotonic()
        left = iter(range(responses))
        clients = [asyncio.create_task(self._client(left)) for _ in range(at_once)]
        _, late = await asyncio.wait(clients, timeout=seconds)
        self.outcome.seconds = time.monotonic() - begin
        self.outcome.cut = len(self._open)
        done = msgspec.structs.replace(self.outcome)
        for client in late:
            client.cancel()
        for finished in set(clients) - late:
            finished.result()
        print(json.dumps(msgspec.to_builtins(done)), flush=True)
        if not leave:
            await asyncio.gather(*map(self.cancel, self._open))
        return done

    async def cancel(self, id: str) -> None:
        """Cancel a response that still runs. A server at its limit may answer 503 at first."""
        for _ in range(CANCEL_TRIES):
            status, _ = await self.exchange("POST", f"{self.path}/{id}/cancel")
            if status != 503:
                break
            await asyncio.sleep(1)

    def reader(self) -> Reader:
        """A reader for one stream."""
        return Reader(self.outcome)

    async def one(self) -> None:
        """Create a response, and read its stream to the end."""
        id = await self.created()
        self._open.add(id)
        await self.read("GET", f"{self.path}/{id}?stream=true")
        self._open.remove(id)

    async def created(self) -> str:
        """The id of a response that is made now."""
        return str(json.loads(await self._request("POST", self.path, self.body))["id"])

    async def open(self, method: str, path: str, body: bytes = b"") -> tuple[asyncio.Transport, Reader]:
        """Begin to read the stream that answers a request."""
        loop = asyncio.get_running_loop()
        transport, reader = await loop.create_connection(self.reader, self.host, self.port)
        transport.write(self._head(method, path, body))
        return transport, reader

    async def read(self, method: str, path: str, body: bytes = b"") -> None:
        """Read the stream that answers a request. Exits if it is not whole."""
        transport, reader = await self.open(method, path, body)
        try:
            await reader.closed
        finally:
            transport.abort()
        if not reader.clean or reader.events != self.events:
            how = "whole" if reader.clean else "cut"
            sys.exit(f"{method} {path}: {reader.events} of {self.events} events, {how}")
        self.outcome.finished += 1

    async def _client(self, left: Any) -> None:
        for _ in left:
            await self.one()

    async def _request(self, method: str, path: str, body: bytes = b"") -> bytes:
        status, content = await self.exchange(method, path, body)
        if status != 200:
            sys.exit(f"{method} {path}: {status} {content[:500]!r}")
        return content

    async def exchange(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer to one request, on a connection of its own."""
        reading, writing = await asyncio.open_connection(self.host, self.port)
        writing.write(self._head(method, path, body))
        answer = await reading.read()
        writing.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        return int(head.split(None, 2)[1]), content

    def _head(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\nconnection: close\r\n"
        head += "accept: text/event-stream\r\n" if method == "GET" else ""
        if method == "POST":
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body


def main() -> None:
    """One load, from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base_url")
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--at-once", type=int, default=50)
    parser.add_argument("--responses", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--leave", action="store_true", help="do not cancel what is open when the time is up")
    given = parser.parse_args()
    load = Load(given.base_url, given.events, tokens=given.events - OVERHEAD)
    uvloop.run(load.run(given.at_once, given.responses, given.seconds, leave=given.leave))


if __name__ == "__main__":
    main()
