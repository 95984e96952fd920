"""Reads HTTP/1.1 and SSE as they come over the wire, because client libraries hide what a test must see.

A reader here tells a body that ended from one that was cut, sees keep-alive comments and blank lines in their
places, and keeps the bytes of every frame. Plain sockets, blocking, one per request; `http://` only.
"""

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

KEEP_ALIVE = b": keep-alive\n"
TIMEOUT = 30.0
"""Seconds without a byte after which a read fails the test (TimeoutError)."""


class MalformedError(AssertionError):
    """A stream breaks A-1."""


class Frame(NamedTuple):
    """One SSE frame: its three fields and its bytes, blank line included."""

    type: str
    number: int
    data: bytes
    raw: bytes

    @property
    def event(self) -> Any:
        """The decoded event."""
        return json.loads(self.data)


class Answer(NamedTuple):
    """A whole answer. `headers` have lower-case names."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)


class Connection:
    """One request on a connection of its own, and its answer."""

    def __init__(self, base_url: str, timeout: float = TIMEOUT, receive_buffer: int | None = None) -> None:
        url = urlsplit(base_url)
        assert url.scheme == "http", base_url
        self._host = f"{url.hostname}:{url.port or 80}"
        self._prefix = url.path.rstrip("/")
        self._socket = socket.socket()
        if receive_buffer is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect((url.hostname, url.port or 80))
        except OSError:
            self._socket.close()
            raise
        self._file = self._socket.makefile("rb")
        self._bodiless = False
        self.status = 0
        self.headers: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, whether or not the answer has ended."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._socket.close()

    def ask(self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}) -> Self:
        """Send the request and read the head of the answer; hangs up when that fails."""
        try:
            self.send(method, path, body, headers)
            self.read_head()
        except BaseException:
            self.close()
            raise
        return self

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] = {}
    ) -> None:
        """Send the request and do not wait for anything."""
        fields = {"host": self._host, "connection": "close", **headers}
        if body is not None:
            fields = {"content-type": "application/json", "content-length": str(len(body)), **fields}
        lines = [f"{method} {self._prefix}{path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
        self.write("\r\n".join(lines).encode() + (body or b""))

    def write(self, data: bytes) -> None:
        """Send these bytes. A server that refused a large body early has closed; its answer is there."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(data)

    def read_head(self) -> None:
        """Read the status line and the headers. Raises ConnectionError when there are none, or not all.

        A server may close a connection instead of answering: one that is dying, or that drains (A-18).
        """
        line = self._file.readline()
        if not line.endswith(b"\n"):
            raise ConnectionAbortedError(f"closed without an answer: {line!r}")
        assert line.startswith(b"HTTP/1.1 "), f"no answer: {line!r}"
        self.status = int(line.split()[1])
        while (line := self._file.readline()) != b"\r\n":
            if not line.endswith(b"\n"):
                raise ConnectionAbortedError(f"closed within the headers: {line!r}")
            name, _, value = line.decode("latin-1").partition(":")
            assert name.lower() not in self.headers, f"header {name} came twice"
            self.headers[name.lower()] = value.strip()
        self._bodiless = self.status in (204, 304)

    def body(self) -> bytes:
        """The whole body. Raises ConnectionError when it is cut."""
        return b"".join(self._pieces())

    def frames(self) -> Iterator[Frame]:
        """The frames of the stream, until it ends; keep-alives are checked and passed over.

        Raises ConnectionError when the body is cut, MalformedError when it is not as A-1 says.
        """
        for line_or_frame in self.parts():
            if isinstance(line_or_frame, Frame):
                yield line_or_frame

    def parts(self) -> Iterator[Frame | bytes]:
        """The frames and, as bytes, the keep-alive lines between them. Raises like `frames`."""
        held, at = b"", 0
        for piece in self._pieces():
            held, at = held[at:] + piece, 0
            while (part := _next_part(held, at)) is not None:
                at += len(part if isinstance(part, bytes) else part.raw)
                yield part
        if at < len(held):
            raise MalformedError(f"the body ends inside a frame: {held[at:][-200:]!r}")

    def _pieces(self) -> Iterator[bytes]:
        if self._bodiless:
            return
        if self.headers.get("transfer-encoding") == "chunked":
            yield from self._chunks()
        elif "content-length" in self.headers:
            length = int(self.headers["content-length"])
            data = self._file.read(length)
            if len(data) < length:
                raise ConnectionAbortedError(f"cut after {len(data)} of {length} bytes")
            yield data
        else:
            raise MalformedError("a body with neither length nor chunks: its end cannot be told from a cut")

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self._file.readline()
            if not line.endswith(b"\r\n"):
                raise ConnectionAbortedError("cut between chunks")
            size = int(line, 16)
            data = self._file.read(size + 2)
            if len(data) < size + 2:
                raise ConnectionAbortedError("cut inside a chunk")
            if size == 0:
                return
            yield data[:-2]


def _next_part(held: bytes, at: int) -> Frame | bytes | None:
    """The keep-alive or frame that begins at `at`, or None when it has not come in full."""
    if held.startswith(b":", at):
        end = held.find(b"\n", at) + 1
        line = held[at:end]
        if end and line != KEEP_ALIVE:
            raise MalformedError(f"a comment that is no keep-alive: {line!r}")
        return line or None
    end = held.find(b"\n\n", at)
    return None if end < 0 else _frame(held[at : end + 2])


def _frame(raw: bytes) -> Frame:
    lines = raw[:-2].split(b"\n")
    fields = [line.split(b": ", 1) for line in lines]
    if [field[0] for field in fields] != [b"event", b"id", b"data"]:
        raise MalformedError(f"not event, id, data: {raw[:500]!r}")
    return Frame(fields[0][1].decode(), int(fields[1][1]), fields[2][1], raw)


def ask(
    base_url: str,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str] = {},
    timeout: float = TIMEOUT,
) -> Answer:
    """One request and its whole answer. A `body` that is not bytes is sent as JSON."""
    raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    with Connection(base_url, timeout) as connection:
        connection.ask(method, path, raw, headers)
        return Answer(connection.status, connection.headers, connection.body())
