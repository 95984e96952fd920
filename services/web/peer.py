"""Another service of ours, asked over HTTP: connections that are kept, answers that are bounded or passed on.

A peer that breaks off within a stream cuts the client's answer; a client that goes closes the peer's. Nothing
of a stream is buffered but what is on its way.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Self

import aiohttp
from yarl import URL

from schemas.errors import RejoinderError
from services.web.pulse import Pulse, Silent
from services.web.secret import secret_headers
from services.web.stream import OnEnd, Stream, until
from services.web.transport import Body

CONNECT_S = 2.0
"""Seconds to connect to a service of ours."""
BUFFER_BYTES = 1 << 18
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
_NOT_RETURNED = HOP_BY_HOP | {b"date"}
_OWN_HEADERS = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
"""What aiohttp would add."""


class Peer:
    """Another service of ours, reached at `base_url`. Open from the first request to `close`.

    Requests show `secret`, if there is one.
    """

    def __init__(self, base_url: str, *, stall_s: float = 30, secret: str = "") -> None:
        self._base_url = URL(base_url.rstrip("/"))
        self._secret = secret
        self._stall_s = stall_s
        self._session: aiohttp.ClientSession | None = None
        self._pulse = Pulse(self._look)

    def __repr__(self) -> str:
        return f"<peer {self._base_url}>"

    @property
    def session(self) -> aiohttp.ClientSession:
        """For requests to it. Their URLs are whole; see `url`."""
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
        """What the peer answered, as an answer of ours. Closes `response` when it ends."""
        headers = _without(response.raw_headers, _NOT_RETURNED)
        return Stream(
            _Chunks(response),
            Body(response.status, headers),
            stall_s=self._stall_s,
            lasting=response.content_type == "text/event-stream",
            on_end=on_end,
        )

    async def read(self, response: aiohttp.ClientResponse, bound: int) -> bytes:
        """The body of an answer, at most `bound` bytes. Raises aiohttp's ClientPayloadError for more."""
        chunks: list[bytes] = []
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            if (bound := bound - len(chunk)) < 0:
                raise aiohttp.ClientPayloadError("the answer is larger than any that was asked for")
        return b"".join(chunks)

    async def _look(self) -> None:
        async with self.session.get(self.url("/livez")):
            pass


class BrokenOff(RejoinderError):
    """The service broke off within its answer: it says why in its own log."""


class _Chunks:
    """The peer's answer, whatever has arrived at a time. A cut raises BrokenOff."""

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


def _without(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """`headers` in lower case, without `dropped`."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]
