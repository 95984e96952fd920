"""A streaming reverse proxy: passes requests on to another service of ours, and its answers back.

Method, path, query, headers (without the hop-by-hop ones) and body go through untouched. What a `connection`
header names goes through as well: else a client could take away what a gateway has set, such as its tenant.
An upstream that breaks off cuts the client's answer; a client that goes closes the upstream's. Nothing is
buffered but what is on its way.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Self

import aiohttp
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from schemas.errors import unavailable
from services.web.stream import Disconnected, Headers, OnEnd, Stream, while_connected

CONNECT_S = 2.0
"""Seconds to connect to a service of ours."""
BUFFER_BYTES = 1 << 18
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
_NOT_FORWARDED = HOP_BY_HOP | {b"host", b"expect"}
_NOT_RETURNED = HOP_BY_HOP | {b"date"}
_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
"""What aiohttp would add."""


class Upstream:
    """Another service of ours, reached at `base_url`. Open from the first request to `close`."""

    def __init__(self, base_url: str, *, stall_s: float = 30) -> None:
        self._base_url = URL(base_url.rstrip("/"))
        self._stall_s = stall_s
        self._session: aiohttp.ClientSession | None = None

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
        if self._session is not None:
            await self._session.close()

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI app: answer a request with what the upstream answers to it."""
        path = scope["raw_path"].decode("ascii")
        if query := scope["query_string"]:
            path = f"{path}?{query.decode('ascii')}"
        body = _Body(receive) if _has_body(scope["headers"]) else None
        await Relay(self, scope["method"], path, scope["headers"], body)(scope, receive, send)

    def fetch(self, path: str, on_end: OnEnd | None = None) -> "Relay":
        """An ASGI answer: what the upstream answers to GET `path`; `on_end` is told how it ended."""
        return Relay(self, "GET", path, (), None, on_end)

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


class Relay:
    """An ASGI answer that is the upstream's. Raises ApiError 503 when the upstream cannot be asked."""

    def __init__(
        self,
        upstream: Upstream,
        method: str,
        path: str,
        headers: Headers,
        body: "_Body | None",
        on_end: OnEnd | None = None,
    ) -> None:
        self._upstream = upstream
        self._method = method
        self._path = path
        self._headers = headers
        self._body = body
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask, then pass the answer on; `on_end` also hears of a client that goes before there is any."""
        try:
            async with while_connected(self._body.and_then if self._body else receive):
                response = await self._ask()
        except Disconnected:
            if self._on_end is not None:
                self._on_end("disconnected")
            raise
        await self._upstream.stream(response, self._on_end)(scope, receive, send)

    async def _ask(self) -> aiohttp.ClientResponse:
        kept = _without(self._headers, _NOT_FORWARDED)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in kept]
        try:
            return await self._upstream.session.request(
                self._method,
                self._upstream.url(self._path),
                headers=headers,
                data=self._body,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise unavailable("A part of the server is away; try again.") from error
        except aiohttp.ClientError as error:
            if self._body is not None and self._body.disconnected:
                raise Disconnected("the client went away within its request") from error
            unknown = self._method not in _REPEATABLE
            raise unavailable(
                "A part of the server broke off; try again.", outcome_unknown=unknown
            ) from error


class _Body:
    """The body of the client's request on its way to the upstream."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._whole = asyncio.Event()
        self.disconnected = False

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


class _Chunks:
    """The upstream's answer, whatever has arrived at a time. A cut raises aiohttp's ClientError."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._read = response.content.readany

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._read()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._response.close()


def _has_body(headers: Headers) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in headers)


def _without(headers: Headers, dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """`headers` in lower case, without `dropped`."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]
