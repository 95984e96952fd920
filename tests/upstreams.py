"""Upstreams for tests: real HTTP on loopback, down to the bytes.

`raw` serves a script that writes anything to the socket: half an answer, a reset, an event cut short. The
server runs in the test's own loop, and ends with its block.
"""

import asyncio
import json
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from socket import SO_LINGER, SOL_SOCKET, socket
from typing import Any

from schemas.ids import ResponseId, Tenant
from services import config
from services.executor.backend import Backend, RunRequest, UpstreamError, UpstreamEvent
from services.executor.backends import Registry, build

ID = ResponseId("resp_" + "a" * 36)
JSON = "application/json"
SSE = "text/event-stream"


class Call:
    """One request as it came, and the means to answer it."""

    def __init__(self, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        line, *fields = head.decode("latin-1").split("\r\n")
        self.method, self.path, _ = line.split(" ")
        self.headers = {name.lower(): value for name, _, value in (f.partition(": ") for f in fields if f)}
        self.body: Any = json.loads(body) if body else None
        self.hung_up = asyncio.Event()
        """Set when the caller has closed the connection."""
        self._writer = writer
        self._chunked = False

    def __repr__(self) -> str:
        return f"<{self.method} {self.path} {self.body}>"

    async def send(self, data: bytes) -> None:
        """Write bytes as they are."""
        self._writer.write(data)
        await self._writer.drain()

    async def write(self, data: bytes) -> None:
        """Write a piece of the body, as a chunk if `head` announced chunks."""
        await self.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data)

    async def head(self, status: int = 200, type: str = SSE, **headers: object) -> None:
        """Begin an answer: in chunks unless `headers` give a length."""
        fields = {"content-type": type, **{k.replace("_", "-"): v for k, v in headers.items()}}
        if "content-length" not in fields:
            self._chunked = True
            fields["transfer-encoding"] = "chunked"
        lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
        await self.send("\r\n".join(lines).encode())

    async def answer(self, status: int, body: object, type: str = JSON, **headers: object) -> None:
        """A whole answer; `body` goes out as JSON unless it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.head(status, type, content_length=len(data), **headers)
        await self.send(data)

    async def events(self, *events: dict[str, Any]) -> None:
        """Stream events."""
        await self.write(b"".join(map(framed, events)))

    async def finish(self) -> None:
        """End the body as announced."""
        if self._chunked:
            await self.send(b"0\r\n\r\n")

    def reset(self) -> None:
        """Cut the connection with a TCP reset."""
        sock: socket = self._writer.get_extra_info("socket")
        sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self._chunked = False

    def cut(self) -> None:
        """Close the connection in the middle of the body."""
        self._chunked = False


Script = Callable[[Call], Awaitable[None]]


class Raw:
    """A server that runs a script per call and remembers the calls."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.calls: list[Call] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's only request, if it brings one."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n"))[:-4]
        except asyncio.IncompleteReadError:
            writer.close()
            return
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b""
        call = Call(head, body, writer)
        self.calls.append(call)
        watch = asyncio.create_task(_watch(reader, call))
        try:
            with suppress(ConnectionError):
                await self._script(call)
                await call.finish()
                writer.close()
                await writer.wait_closed()
        finally:
            watch.cancel()


async def _watch(reader: asyncio.StreamReader, call: Call) -> None:
    with suppress(ConnectionError):
        await reader.read()
    call.hung_up.set()


@asynccontextmanager
async def raw(script: Script) -> AsyncIterator[Raw]:
    """Serve `script` on a free port."""
    server = Raw(script)
    connections: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        connections.add(task)
        try:
            await server.serve(reader, writer)
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            connections.discard(task)

    listener = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


@contextmanager
def served(script: Script) -> Iterator[Raw]:
    """Serve `script` from a thread, beside tests that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="upstream")
    thread.start()
    serving = raw(script)
    try:
        yield asyncio.run_coroutine_threadsafe(serving.__aenter__(), loop).result(10)
    finally:
        asyncio.run_coroutine_threadsafe(serving.__aexit__(None, None, None), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def framed(event: dict[str, Any]) -> bytes:
    """An event as upstreams send it."""
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def registry(
    url: str,
    lines: str = "",
    environ: dict[str, str] | None = None,
    kind: str = "responses",
    record_bytes: int = 1 << 20,
) -> Registry:
    """A registry whose every model but echo (backend `kind`), and whose agent `helper`, are at `url`.

    `lines` are keys of the model, and of the agent where it has the same.
    """
    text = f'[[models]]\nmatch = "*"\nbackend = "{kind}"\nbase_url = "{url}/v1"\n{lines}\n'
    text += f'[[agents]]\nname = "helper"\nurl = "{url}"\n{lines if kind == "responses" else ""}\n'
    return build(config.parse(text, "rejoinder.toml"), environ or {}, record_bytes=record_bytes)


def request(input: Iterable[dict[str, Any]] | None = None, **body: Any) -> RunRequest:
    """A request for model `m` that says `hi`."""
    said = list(input) if input is not None else [{"role": "user", "content": "hi"}]
    whole = {"model": "m", "input": "hi", **body}
    return RunRequest(ID, Tenant("default"), 1, whole, said, {"id": ID, "status": "queued", "output": []})


class Outcome:
    """The outcome of a run: its events, and the error that ended it."""

    def __init__(self, upstream: list[UpstreamEvent], error: UpstreamError | None) -> None:
        self.upstream = upstream
        self.events = [one.event for one in upstream]
        self.types = [event["type"] for event in self.events]
        self.error = error

    @property
    def failure(self) -> UpstreamError:
        """The error that ended the run."""
        assert self.error is not None, self.types
        return self.error


async def outcome(backend: Backend, request: RunRequest, *args: Any) -> Outcome:
    """Run to the end."""
    got: list[UpstreamEvent] = []
    try:
        async for batch in backend.stream(request, *args):
            got.extend(batch)
    except UpstreamError as error:
        return Outcome(got, error)
    return Outcome(got, None)
