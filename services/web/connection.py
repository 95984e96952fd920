"""A client's connection: uvicorn's HTTP/1.1 protocol, with an abort and bounds on slow and dead peers.

Every end of a stream but the honest one must look like a failure to the client: an SSE body that ends early
but cleanly is taken for success by most clients. So `abort` resets the socket, with the chunked framing cut.

A request must come whole, headers and body, within `request_s` of its first byte: else 408. Its head may have
`MAX_HEAD_BYTES`: else 431. These and what is no HTTP are answered here, in the one envelope (A-16), because
no app sees such a request. The `Crowd` says how many connections and unfinished heads there may be; one too
many is closed without an answer.

An answer whose length is not known is chunked. A client of HTTP/1.0 knows no chunks and gets it bare: the end
of the connection is the end of the answer (RFC 9112, 6.3).

No upgrade is taken, and a request that offers one is served as any other (RFC 9110, 7.8): Java's HttpClient
and `curl --http2` offer it with the first request of a connection.
"""

import os
import socket
import struct
import sys
from asyncio import AbstractEventLoop, TimerHandle, Transport
from collections.abc import Iterator
from typing import Any

import httptools
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from schemas.errors import NO_RETRY, ApiError, invalid
from services.web.answers import error_answer
from services.web.cors import Cors
from services.web.crowd import Bounds, Crowd, Leaver
from services.web.metrics import CROWDS, TURNED_OUT

EXTENSION = "rejoinder"
"""The key of the connection in an ASGI scope's `extensions`: `{"connection": Connection}`."""

MAX_HEAD_BYTES = 64 << 10
"""Bytes of a request's line and headers: uvicorn's parser has no bound, and keeps what has come."""
PIECE_BYTES = 16 << 10
"""Bytes that the parser is fed at once. It does not say where in a piece a head begins, so an unfinished head
behind a body may have so many more before it is refused."""
LINGER_S = 1.0
"""Seconds in which a refused client may read why: what it still sends would reset a closed connection."""
_NO_LINGER = struct.pack("ii", 1, 0)
_DARWIN_TCP_RXT_CONNDROPTIME = 0x80
"""macOS's like of TCP_USER_TIMEOUT, in seconds; the socket module has no name for it."""


class State(ServerState):
    """What the connections of one server share."""

    def __init__(self, cors: Cors, socket_timeout_s: float, request_s: float, bounds: Bounds) -> None:
        super().__init__()
        self.cors = cors
        self.socket_timeout_s = socket_timeout_s
        self.request_s = request_s
        self.crowd: Crowd[Connection] = Crowd(bounds)
        CROWDS.add(self.crowd)
        self.draining = False


class Connection(HttpToolsProtocol):
    """One client connection. Requests on it are served one after the other."""

    server_state: State

    def __init__(
        self, config: Config, server_state: State, app_state: dict[str, Any], _loop: AbstractEventLoop
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.streaming = False
        """Whether the answer under way may last for hours, so that a drain cuts it instead of waiting."""
        self.aborted = False
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
        """Whether the server is going away."""
        return self.server_state.draining

    @property
    def busy(self) -> bool:
        """Whether a request is being answered."""
        return self._running is not None and not self._running.response_complete

    def abort(self) -> None:
        """Reset the connection, now: the peer sees an error, never a clean end. Harmless when it is gone."""
        self.aborted = True
        if self._running is not None:
            # uvicorn would log an unfinished answer; and what the app still sends goes nowhere.
            self._running.disconnected = True
        if self._refused:
            self.transport.close()  # behind the refusal, which is on its way
            return
        if not self.transport.is_closing():
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Bound how long a dead peer can hold the socket: it would outlive every timeout in the app."""
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        option, value = _user_timeout(self.server_state.socket_timeout_s)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        self._await_request()
        _turn_out(self.server_state.crowd.came(self, self.client[0] if self.client else ""))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request under way, also when others are pipelined behind it (uvicorn tells the last)."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        self.pipeline.clear()
        self._arrived()
        self._unset_keepalive_if_required()
        self.server_state.crowd.left(self)
        super().connection_lost(exc)
        # They and the connection hold each other. Left to the garbage collector, which goes seldom
        # (services/process.py), thousands of served connections would pile up.
        self.cycle = self._running = self.scope = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse; bound a head without an end, and see to it that the rest of a request comes in time."""
        self._unset_keepalive_if_required()
        for piece in _pieces(data):
            if self._refused or self.transport.is_closing():
                return  # it was told so, and what it still sends is not read
            self._take(piece)
        if self._in_head:
            _turn_out(self.server_state.crowd.begun(self))
        if self._arriving and self._deadline is None:
            self._deadline = self.loop.call_later(self.server_state.request_s, self._late)
        elif not self._arriving and not self.busy:
            self._await_request()

    def _take(self, piece: memoryview) -> None:
        """Parse one piece of what came, and refuse the head that it makes too large.

        A piece counts where all of it belongs to that head. The parser does not say how much does where the
        head begins behind something else.
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
        """What is no HTTP: an envelope, where uvicorn answers plain text."""
        self._refuse(invalid(msg, None))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What comes behind the body is none: whoever stands in front has not looked at it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request begins, unless it is to be parsed again, or its head is too large."""
        if self.parser.should_upgrade():
            return
        self.server_state.crowd.known(self)
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refuse(_head_too_large())
            return
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body; that of a refused request goes nowhere."""
        if not self._refused:
            super().on_body(body)

    def on_message_begin(self) -> None:
        """Put the connection into the scope of each request."""
        self._in_head, self._head_bytes, self._arriving = True, 0, True
        self._heads_begun += 1
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"connection": self}}

    def on_message_complete(self) -> None:
        """The request is whole, unless it is to be parsed again."""
        if not self.parser.should_upgrade():
            self._arrived()
            if not self._refused:
                super().on_message_complete()

    def _parse(self, data: memoryview) -> None:
        """Feed the parser. It stops behind the head that offers an upgrade: another takes that without it."""
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
        """The head that was parsed last, without its `upgrade`."""
        lines = [
            b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        ]
        lines += [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self.streaming = False
        cycle.keep_alive = cycle.keep_alive and not self.draining
        if cycle.scope["http_version"] == "1.0":
            app = _Bare(cycle, app)
        super()._start_asgi_task(cycle, app)

    def _await_request(self) -> None:
        """Close after a while of nothing: uvicorn does so between two requests, not before the first."""
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
        if self.pipeline:  # the request before it is being answered, so it is we who do not read
            self._deadline = self.loop.call_later(self.server_state.request_s, self._late)
        elif self._running is not None and self._running.response_complete and not self._in_head:
            self.transport.close()
        else:
            what = f"The request did not come whole within {self.server_state.request_s:g} s."
            self._refuse(ApiError(408, what, code="request_timeout"))

    def _refuse(self, error: ApiError) -> None:
        """Answer in place of the app, which is told that the client went, and close. Once is enough."""
        if self._refused:
            return
        cycle = self._running
        under_way = cycle is not None and not cycle.response_complete
        if cycle is not None and under_way:
            cycle.disconnected = True
            cycle.message_event.set()
            if cycle.response_started or self._in_head:  # an answer from here would be taken for the app's
                self.abort()
                return
        answer = error_answer(error)
        # As far as headers came. Without these a browser shows its page nothing of the refusal.
        origin = dict(self.headers or ()).get(b"origin", b"").decode("latin-1")
        own = [(b"x-request-id", b"req_%b" % os.urandom(16).hex().encode()), (b"connection", b"close")]
        own += self.server_state.cors.headers(origin)
        headers = [*self.server_state.default_headers, *answer.raw_headers, *own]
        lines = b"".join(b"%b: %b\r\n" % header for header in headers)
        self._refused = True
        self.transport.write(b"%b%b\r\n%b" % (STATUS_LINE[error.status], lines, bytes(answer.body)))
        self.transport.write_eof()
        self.flow.resume_reading()
        self._arrived()
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)


class _Bare:
    """An app whose answer goes to a client of HTTP/1.0: without chunks, also where it has no length.

    uvicorn sends the pieces of an answer bare when it knows their length, which it checks. Before each piece
    it is told that this one is all that is left.
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
    """The connection that a request came on. Only our own server provides it."""
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
    """Close the connection that a bound says is too many, if there is one."""
    if leaver is not None:
        TURNED_OUT.labels(leaver.why).inc()
        leaver.guest.abort()


def _head_too_large() -> ApiError:
    what = f"The request's line and headers are over {MAX_HEAD_BYTES} bytes: send fewer or shorter ones."
    return ApiError(431, what, code="request_head_too_large", headers=NO_RETRY)
