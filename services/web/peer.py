"""Asks another service of ours over HTTP, and passes its streams on to clients.

A peer that breaks off within a stream cuts the client's answer. A client that goes closes the peer's answer.
A stream is not buffered, but for the bytes on their way.
"""

import asyncio
import ssl
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
"""Headers that aiohttp would add to each request."""


class Peer:
    """Another service of ours, reached at `base_url`. Holds connections from the first request to `close`.

    Each request shows `secret`, if there is one. `tls` has our certificate, and says whose the service's may
    be; without it an https URL is checked against the system's authorities. `stall_s`: seconds for which a
    client of a stream that is passed on may take nothing.
    """

    def __init__(
        self, base_url: str, *, stall_s: float = 30, secret: str = "", tls: ssl.SSLContext | None = None
    ) -> None:
        self._base_url = URL(base_url.rstrip("/"))
        self._secret = secret
        self._tls = tls
        self._stall_s = stall_s
        self._session: aiohttp.ClientSession | None = None
        self._pulse = Pulse(self._look)

    def __repr__(self) -> str:
        return f"<peer {self._base_url}>"

    @property
    def session(self) -> aiohttp.ClientSession:
        """The HTTP session for requests to the service. Give it whole URLs; see `url`."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ssl=self._tls or True),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=BUFFER_BYTES,
                skip_auto_headers=_OWN_HEADERS,
                headers=secret_headers(self._secret),
            )
        return self._session

    def url(self, path: str) -> URL:
        """The URL of a path (and query) of the service. No text in `path` can change scheme, host or port."""
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
        """Bound a block that waits for an answer: when the service is silent, cancel it and raise Silent.

        `has_it` says whether the service has the whole request.
        """
        async with until(lambda: self._pulse.silence(has_it), Silent):
            yield
        self._pulse.felt()

    def stream(
        self,
        response: aiohttp.ClientResponse,
        on_end: OnEnd | None = None,
        *,
        silence_s: float | None = None,
    ) -> Stream:
        """An answer that passes `response` on to our client, and closes it at its end. `silence_s`: seconds
        without a byte after which the service counts as broken off (None: no bound).
        """
        headers = _without(response.raw_headers, _NOT_RETURNED)
        return Stream(
            _Chunks(response, silence_s),
            Body(response.status, headers),
            stall_s=self._stall_s,
            lasting=response.content_type == "text/event-stream",
            on_end=on_end,
        )

    async def read(self, response: aiohttp.ClientResponse, bound: int) -> bytes:
        """The body of an answer. Raises aiohttp's ClientPayloadError for more than `bound` bytes."""
        chunks: list[bytes] = []
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            if (bound := bound - len(chunk)) < 0:
                raise aiohttp.ClientPayloadError("the answer is larger than any that was asked for")
        return b"".join(chunks)

    async def _look(self) -> None:
        async with self.session.get(self.url("/livez")):
            pass


class AnswerCut(RejoinderError):
    """A service broke off within its answer. Its own log says why."""


class _Chunks:
    """The body of the peer's answer, in pieces as they arrive. Raises AnswerCut when the peer breaks off, or
    sends nothing for `silence_s`.
    """

    def __init__(self, response: aiohttp.ClientResponse, silence_s: float | None) -> None:
        self._response = response
        self._silence_s = silence_s
        self._read = response.content.readany

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            async with asyncio.timeout(self._silence_s):
                chunk = await self._read()
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is one of the second
            # Not always a fault: the peer also cuts the stream of a response that is deleted.
            raise AnswerCut(f"the service broke off: {type(error).__name__}") from error
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def aclose(self) -> None:
        self._response.close()


def _without(headers: Iterable[tuple[bytes, bytes]], dropped: frozenset[bytes]) -> list[tuple[bytes, bytes]]:
    """`headers` in lower case, without `dropped`."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]
