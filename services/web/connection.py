"""A client's connection: uvicorn's HTTP/1.1 protocol, with an abort and bounds on slow and dead clients.

Most clients take an SSE body that ends early but cleanly for a success. So every end of a stream but its own
must look like a failure: `abort` resets the socket, and leaves the chunked framing unfinished.

A request must come whole, headers and body, within `request_s` of its first byte, else the answer is 408. Its
head may have `MAX_HEAD_BYTES`, else the answer is 431. No app sees such a request, nor bytes that are no
HTTP, so this module answers them, in the one envelope (A-16). The `Crowd` bounds connections and unfinished
heads; a connection too many is closed without an answer.

An answer of unknown length is chunked. A client of HTTP/1.0 knows no chunks and gets the bare bytes: the end
of the connection is the end of the answer (RFC 9112, 6.3).

The server takes no upgrade: it serves a request that offers one as any other (RFC 9110, 7.8). Java's
HttpClient and `curl --http2` offer one with the first request of a connection.
"""

import asyncio
import os
import socket
import struct
import sys
import time
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from schemas.errors import NO_RETRY, ApiError, invalid
from services.web.answers import error_answer
from services.web.cors import Cors
from services.web.crowd import Crowd, CrowdBounds, Leaver
from services.web.metrics import CROWDS, TURNED_OUT
from services.web.served import EXTENSION

MAX_HEAD_BYTES = 64 << 10
"""Most bytes of a request's line and headers: uvicorn's parser has no bound, and keeps all that has come."""
PIECE_BYTES = 16 << 10
"""Bytes that the parser gets at once. It does not say where in a piece a head begins, so an unfinished head
behind a body may have so many bytes more before it is refused."""
SHARED_BYTES = 32 << 10
"""Bytes of a pushed piece from which on it is written as it is. To copy a smaller one costs less."""
UNSENT_BYTES = 64 << 10
"""Bytes that the system takes of an answer beyond what the client's window has room for. Its own bound is
4 MB: so much it would hold for a client that takes nothing, and a whole answer would count as taken."""
LINGER_S = 1.0
"""Seconds for which a connection stays open behind a refusal: bytes that the client still sends would reset a
closed one, before the client has read the refusal."""
_NO_LINGER = struct.pack("ii", 1, 0)
_DARWIN_TCP_RXT_CONNDROPTIME = 0x80
"""The counterpart of TCP_USER_TIMEOUT on macOS, in seconds. The socket module has no name for it."""


class _Event(asyncio.Event):
    """An event for which few wait: a deque of those takes 760 bytes, and a stream has two such events."""

    def __init__(self) -> None:
        super().__init__()
        self._waiters = []  # type: ignore[assignment]


class _Flow(FlowControl):
    """uvicorn's, with a small event."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport)
        self._is_writable_event = _Event()
        self._is_writable_event.set()


class _Pipeline(list[tuple[RequestResponseCycle, Any]]):
    """The requests behind the one under way, the last one first: a deque of none takes 760 bytes."""

    def appendleft(self, cycle: tuple[RequestResponseCycle, Any]) -> None:
        """Add the last one."""
        self.insert(0, cycle)


class ConnectionState(ServerState):
    """What the connections of one server share. `socket_timeout_s`: seconds until a client that acknowledges
    nothing is dead. `request_s`: seconds for a whole request.
    """

    def __init__(self, cors: Cors, socket_timeout_s: float, request_s: float, bounds: CrowdBounds) -> None:
        super().__init__()
        self.cors = cors
        self.socket_timeout_s = socket_timeout_s
        self.request_s = request_s
        self.crowd: Crowd[Connection] = Crowd(bounds)
        CROWDS.add(self.crowd)
        self.draining = False
        self._dated = 0
        self._pushed, self._chunk = b"", b""

    def chunk(self, body: bytes) -> bytes:
        """`body` as a chunk of HTTP, one object for all connections to which the same is pushed in turn."""
        if body is not self._pushed:
            self._pushed, self._chunk = body, b"%x\r\n%b\r\n" % (len(body), body)
        return self._chunk

    def date(self) -> None:
        """Renew the `date` header, when bytes come: a timer would wake an idle server every second."""
        now = int(time.time())
        if now != self._dated:
            self._dated = now
            self.default_headers = [(b"date", formatdate(now, usegmt=True).encode())]


class Connection(HttpToolsProtocol):
    """One client connection. Requests on it are served one after the other."""

    server_state: ConnectionState

    def __init__(
        self,
        config: Config,
        server_state: ConnectionState,
        app_state: dict[str, Any],
        _loop: AbstractEventLoop,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.pipeline = _Pipeline()  # type: ignore[assignment]
        self.streaming = False
        """Whether the answer under way may last for hours: a drain cuts it and does not wait."""
        self.aborted = False
        self.certified = False
        """Whether the client has shown a certificate, which TLS has checked."""
        self.pushed_bytes = 0
        """Bytes of the answer's body that were pushed."""
        self.stalled = False
        """Whether the system gave the client up, because it took nothing for `socket_timeout_s`."""
        self._lost = False
        self._running: RequestResponseCycle | None = None
        self._in_head = False
        self._head_bytes = 0
        self._heads_begun = 0
        self._arriving = False
        self._deadline: TimerHandle | None = None
        self._refused = False

    def __repr__(self) -> str:
        return f"<connection from {self.client} {'streaming' if self.streaming else ''}>"

    @property
    def draining(self) -> bool:
        """Whether the server is shutting down."""
        return self.server_state.draining

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._running is not None and not self._running.response_complete

    def push(self, body: bytes) -> bool:
        """Write a piece of the answer's body now. False if nothing was written, because the client is slow,
        gone, or gets no chunks: the app must `send` it.

        A large piece is not copied, so clients that get the same bytes and are slow hold them once.
        """
        cycle = self._running
        if cycle is None or cycle.disconnected or self.flow.write_paused or not cycle.chunked_encoding:
            return False
        size = len(body)
        if size < SHARED_BYTES:
            self.transport.write(self.server_state.chunk(body))
        else:
            self.transport.writelines((b"%x\r\n" % size, body, b"\r\n"))
        self.pushed_bytes += size
        return True

    async def taken(self) -> None:
        """Wait until the client takes more, or has gone."""
        await self.flow.drain()

    async def all_taken(self) -> bool:
        """Return when the system has taken all that was written; False if the client has gone. For a client
        that takes nothing the system takes little (`UNSENT_BYTES`).
        """
        if self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(high=0)
            try:
                await self.flow.drain()
            finally:
                if not self.transport.is_closing():
                    self.transport.set_write_buffer_limits()
        return not self._lost

    @property
    def untaken_bytes(self) -> int:
        """Bytes that were written and not taken by the system: fewer whenever a slow client takes some."""
        return self.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Reset the connection now: the client sees an error, never a clean end. Harmless when repeated."""
        self.aborted = True
        if self._running is not None:
            # Keeps uvicorn from logging an unfinished answer, and drops what the app still sends.
            self._running.disconnected = True
        if self._refused:
            self.transport.close()  # not abort: that would drop the refusal, which is on its way
            return
        if not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Bound for how long a dead client holds the socket: the system would hold it beyond any timeout of
        the app.
        """
        super().connection_made(transport)
        self.flow = _Flow(transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
        option, value = _user_timeout(self.server_state.socket_timeout_s)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self.certified = bool(transport.get_extra_info("peercert"))
        self._await_request()
        _turn_out(self.server_state.crowd.came(self, self.client[0] if self.client else ""))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request under way. uvicorn would tell the last of the pipelined ones only."""
        self._lost, self.stalled = True, isinstance(exc, TimeoutError)
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        self._arrived()
        self._unset_keepalive_if_required()
        self.server_state.crowd.left(self)
        super().connection_lost(exc)
        # These and the connection refer to each other. The garbage collector runs seldom
        # (services/process.py), so thousands of served connections would pile up.
        self.cycle = self._running = self.scope = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse what came, bound an unfinished head, and bound the time until the request is whole."""
        self._unset_keepalive_if_required()
        self.server_state.date()
        for piece in _pieces(data):
            if self._refused or self.transport.is_closing():
                return  # the client was refused: what it still sends is dropped
            self._take(piece)
        if self._in_head:
            _turn_out(self.server_state.crowd.begun(self))
        if self._arriving and self._deadline is None:
            self._deadline = self.loop.call_later(self.server_state.request_s, self._late)
        elif not self._arriving and not self.busy:
            self._await_request()

    def _take(self, piece: memoryview) -> None:
        """Parse one piece of what came, and refuse a head that becomes too large with it.

        A piece counts only if all of it belongs to that head: the parser does not say where in a piece a head
        begins.
        """
        began_before, between_requests = self._in_head, not self._arriving
        self._heads_begun = 0
        self._parse(piece)
        begins_here = between_requests and self._heads_begun == 1
        if self._in_head and (begins_here or (began_before and self._heads_begun == 0)):
            self._head_bytes += len(piece)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(_head_too_large())

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that are no HTTP with an envelope; uvicorn would answer plain text."""
        self._refuse(invalid(msg, None))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header. A trailer behind the body is dropped: no proxy in front has checked it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin the request, unless its head is parsed again without an upgrade, or is too large."""
        if self.parser.should_upgrade():
            return
        self.server_state.crowd.known(self)
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
            return
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body. That of a refused request is dropped."""
        if not self._refused:
            super().on_body(body)

    def on_message_begin(self) -> None:
        """Put the connection into the scope of each request."""
        self._in_head, self._head_bytes, self._arriving = True, 0, True
        self._heads_begun += 1
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"connection": self}}

    def on_message_complete(self) -> None:
        """End the request, unless its head is parsed again without an upgrade."""
        if not self.parser.should_upgrade():
            self._arrived()
            if not self._refused:
                super().on_message_complete()

    def _parse(self, data: memoryview) -> None:
        """Feed the parser. It stops at a head that offers an upgrade; a new parser then takes that head
        without the offer.
        """
        pieces = [data]
        while pieces:
            piece = pieces.pop(0)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._refuse(invalid("This is no proxy.", None))
                    return
                pieces = [memoryview(self._plain_head()), piece[upgrade.args[0] :], *pieces]
                self.parser = httptools.HttpRequestParser(self)
            except httptools.HttpParserError:
                self.send_400_response("Invalid HTTP request received.")
                return

    def _plain_head(self) -> bytes:
        """The last parsed head, without its `upgrade`."""
        lines = [
            b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self.streaming, self.pushed_bytes = False, 0
        cycle.keep_alive = cycle.keep_alive and not self.draining
        if cycle.scope["http_version"] == "1.0":
            app = _Bare(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _await_request(self) -> None:
        """Close a connection on which no request comes. uvicorn does so between two requests only."""
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _arrived(self) -> None:
        self._arriving = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        if self.pipeline:  # an earlier request is being answered: this process, not the client, is slow
            self._deadline = self.loop.call_later(self.server_state.request_s, self._late)
        elif self._running is not None and self._running.response_complete and not self._in_head:
            self.transport.close()
        else:
            what = f"The request did not come whole within {self.server_state.request_s:g} s."
            self._refuse(ApiError(408, what, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer in place of the app, tell the app that the client went, close. Harmless when repeated."""
        if self._refused:
            return
        cycle = self._running
        under_way = cycle is not None and not cycle.response_complete
        if cycle is not None and under_way:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self._in_head:  # the client would take our answer for the app's
                self.abort()
                return
        answer = error_answer(error)
        # As far as the headers have come. Without CORS headers a browser hides the refusal from its page.
        origin = dict(self.headers or ()).get(b"origin", b"").decode("latin-1")
        own = [(b"x-request-id", b"req_%b" % os.urandom(16).hex().encode()), (b"connection", b"close")]
        own += self.server_state.cors.headers(origin)
        headers = [*self.server_state.default_headers, *answer.raw_headers, *own]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._refused = True
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[error.status], lines, bytes(answer.body)))
        if self.transport.can_write_eof():  # not within TLS
            self.transport.write_eof()
        self.flow.resume_reading()
        self._arrived()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)


class _Bare:
    """An app whose answer goes to a client of HTTP/1.0: without chunks, even if its length is not known.

    uvicorn sends an answer bare only if it knows the length, and checks the pieces against it. So this app
    tells uvicorn before each piece that the rest of the answer is as long as that piece.
    """

    def __init__(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        self._cycle = cycle
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        measured = True

        async def bare(message: Message) -> None:
            nonlocal measured
            if message["type"] == "http.response.start":
                measured = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                if not measured:
                    self._cycle.chunked_encoding = False
            elif not measured:
                self._cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, bare)


def connection(scope: Scope) -> Connection:
    """The connection of a request. Only our own server puts it into the scope."""
    found: Connection = scope["extensions"][EXTENSION]["connection"]
    return found


def _user_timeout(seconds: float) -> tuple[int | None, int]:
    if sys.platform == "darwin":
        return _DARWIN_TCP_RXT_CONNDROPTIME, max(1, round(seconds))
    return getattr(socket, "TCP_USER_TIMEOUT", None), round(seconds * 1000)


def _pieces(data: bytes) -> Iterator[memoryview]:
    """What came, in pieces of at most PIECE_BYTES."""
    view = memoryview(data)
    return (view[at : at + PIECE_BYTES] for at in range(0, len(view), PIECE_BYTES))


def _turn_out(leaver: "Leaver[Connection] | None") -> None:
    """Close the connection that is one too many, if there is one."""
    if leaver is not None:
        TURNED_OUT.labels(leaver.why).inc()
        leaver.guest.abort()


def _head_too_large() -> ApiError:
    what = f"The request's line and headers are over {MAX_HEAD_BYTES} bytes: send fewer or shorter ones."
    return ApiError(431, what, code="request_head_too_large", headers=NO_RETRY)
