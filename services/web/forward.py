"""A streaming reverse proxy: passes requests on to another service of ours, and its answers back.

Method, path, query, headers (without the hop-by-hop ones) and body go through untouched. What a `connection`
header names goes through as well: else a client could take away what a gateway has set, such as its tenant.
An upstream that breaks off cuts the client's answer; a client that goes closes the upstream's. Nothing is
buffered but what is on its way.

    said to be too large        413, as the upstream itself would answer; a compressed body 415
    the upstream is away        503: it has heard nothing
    it breaks off, or is silent 503 that says whether the request may be sent again (A-10)
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from schemas.errors import ApiError, RejoinderError, unavailable
from services.web.answers import check_body
from services.web.internal import Report
from services.web.pulse import Pulse, Silent
from services.web.secret import secret_headers
from services.web.stream import Disconnected, OnEnd, Stream, until, while_connected

CONNECT_S = 2.0
"""Seconds to connect to a service of ours."""
BUFFER_BYTES = 1 << 18
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"expect"}
_NOT_RETURNED = HOP_BY_HOP | {b"date"}
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
_KEY = "idempotency-key"
"""The header that makes a repetition of any request the same one (A-10)."""
_OWN_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
"""What aiohttp would add."""


class Upstream:
    """Another service of ours, reached at `base_url`. Open from the first request to `close`.

    Requests that are not forwarded show `secret`, if there is one.
    """

    def __init__(self, base_url: str, *, stall_s: float = 30, secret: str = "") -> None:
        self._base_url = URL(base_url.rstrip("/"))
        self._secret = secret
        self._stall_s = stall_s
        self._session: aiohttp.ClientSession | None = None
        self._pulse = Pulse(self._look)

    def __repr__(self) -> str:
        return f"<upstream {self._base_url}>"

    @property
    def session(self) -> aiohttp.ClientSession:
        """For requests that are not forwarded. Its URLs are whole; see `url`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=BUFFER_BYTES,
                skip_auto_headers=_OWN_HEADERS,
                headers=secret_headers(self._secret),
            )
        return self._session

    def url(self, path: str) -> URL:
        """The URL of a path (and query) there; whatever the text is, it is nothing but that."""
        path, _, query = path.partition("?")
        base = self._base_url
        return URL.build(
            scheme=base.scheme,
            host=base.host or "",
            port=base.port,
            path=base.raw_path.rstrip("/") + path,
            query_string=query,
            encoded=True,
        )

    async def close(self) -> None:
        """Close all connections."""
        self._pulse.close()
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def while_alive(self, has_it: Callable[[], bool] = lambda: True) -> AsyncIterator[None]:
        """Cancel a block that waits for an answer when the service is silent, and raise Silent.

        `has_it`: whether the service has the whole request.
        """
        async with until(lambda: self._pulse.silence(has_it), Silent):
            yield
        self._pulse.felt()

    def stream(self, response: aiohttp.ClientResponse, on_end: OnEnd | None = None) -> Stream:
        """What the upstream answered, as an answer of ours. Closes `response` when it ends."""
        return Stream(
            _Chunks(response),
            status=response.status,
            headers=_without(response.raw_headers, _NOT_RETURNED),
            stall_s=self._stall_s,
            lasting=response.content_type == "text/event-stream",
            on_end=on_end,
        )

    async def _look(self) -> None:
        async with self.session.get(self.url("/livez")):
            pass


class Forward:
    """An ASGI app: answers a request with what `upstream` answers to it.

    A body that says it has more than `max_body_bytes` is refused here: the upstream hears of it only when its
    first byte comes. `report` tells the operator of an upstream that cannot be asked.
    """

    def __init__(self, upstream: Upstream, max_body_bytes: int, report: Report) -> None:
        self._upstream = upstream
        self._max_body_bytes = max_body_bytes
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask, then pass the answer on. Raises ApiError: 503 when the upstream cannot be asked, 413, 415."""
        headers = Headers(scope=scope)
        check_body(headers, self._max_body_bytes)
        has_body = "content-length" in headers or "transfer-encoding" in headers
        body = _Body(receive) if has_body else None
        async with while_connected(body.and_then if body else receive):
            response = await self._ask(scope, body)
        await self._upstream.stream(response)(scope, receive, send)

    async def _ask(self, scope: Scope, body: "_Body | None") -> aiohttp.ClientResponse:
        kept = _without(scope["headers"], _NOT_FORWARDED)
        request = self._upstream.session.request(
            scope["method"],
            self._upstream.url(_target(scope)),
            headers=[(name.decode("latin-1"), _text(value)) for name, value in kept],
            data=body,
            allow_redirects=False,
        )
        try:
            async with self._upstream.while_alive(lambda: body is None or body.whole):
                response = await request
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            self._report.failed(error)
            raise unavailable("A part of the server is away; try again.", reason="upstream_away") from error
        except (aiohttp.ClientError, Silent) as error:
            if body is not None and body.disconnected:
                raise Disconnected("the client went away within its request") from error
            self._report.failed(error)
            raise _doubtful(scope, silent=isinstance(error, Silent)) from error
        self._report.succeeded()
        return response


class _Body:
    """The body of the client's request on its way to the upstream."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._whole = asyncio.Event()
        self.disconnected = False

    @property
    def whole(self) -> bool:
        """Whether all of it has been passed on."""
        return self._whole.is_set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                self.disconnected = True
                raise Disconnected("the client went away within its request")
            if chunk := event.get("body"):
                yield chunk
            if not event.get("more_body"):
                break
        self._whole.set()

    async def and_then(self) -> Message:
        """`receive` for whoever waits for the disconnect: not before the body is whole."""
        await self._whole.wait()
        return await self._receive()


class BrokenOff(RejoinderError):
    """The service broke off within its answer: it says why in its own log."""


class _Chunks:
    """The upstream's answer, whatever has arrived at a time. A cut raises BrokenOff."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._read = response.content.readany

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._read()
        except (aiohttp.ClientError, OSError) as error:
            # A deleted response's stream is cut too: no fault of anybody's.
            raise BrokenOff(f"the service broke off: {type(error).__name__}") from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._response.close()


def _text(value: bytes) -> str:
    """A header's value such that aiohttp, which writes UTF-8, sends the same bytes; others become UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _target(scope: Scope) -> str:
    """The path and query, as they came."""
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    return (path + b"?" + query if query else path).decode("ascii")


def _doubtful(scope: Scope, *, silent: bool) -> ApiError:
    """503 after the upstream may have taken the request."""
    what, reason = ("does not answer", "upstream_silent") if silent else ("broke off", "upstream_broke_off")
    if scope["method"] in _REPEATABLE or Headers(scope=scope).get(_KEY):
        return unavailable(f"A part of the server {what}; try again.", reason=reason)
    sentence = (
        f"A part of the server {what}. The request may have been accepted all the same, and a repetition be "
        "a second one; with an Idempotency-Key it never is."
    )
    return unavailable(sentence, outcome_unknown=True, reason=reason)


def _without(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """`headers` in lower case, without `dropped`."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]
