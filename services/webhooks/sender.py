"""Sends one event to one endpoint over HTTPS, to addresses that were checked.

    URL → host resolved → every address is public? → connect to one of them → TLS for the host's name → POST

The certificate must be for that name, and of an authority that this machine trusts.
There is one resolution, and the socket is made for an address of it: a name that changes in between leads
nowhere else (P-128). No proxy of the environment is used, no redirect followed, no cookie kept. Of the answer
the status counts, whatever else it says.
"""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from schemas.errors import ApiError
from services.webhooks.addresses import checked_url, private_refused
from services.webhooks.attempts import AttemptResult
from services.webhooks.lookups import GetAddrInfo, HostLookups, PrivateAddress, require_public

ANSWER_BYTES = 16 << 10
"""Bytes of an answer that are read, so that its connection may serve again. A longer one loses it."""
MOST_SAID = 64 << 10
"""Bytes of one answer after which its connection is cut, those of interim answers and headers included."""
LOWEST_STATUS = 100
"""aiohttp takes any three digits for a status. A record of less than this could not be read."""
RESOLVE_S = 2.0
"""Seconds for which a new endpoint's name is looked up. Each attempt looks again."""
LOOKUPS, CHECKS = 512, 16
"""Names that are looked up at once, for attempts and for new endpoints: tenants who make endpoints of names
that hang hold up no delivery. 128 of 256 attempts may be at endpoints that failed, and a name that hangs is
given up by an attempt after 10 s and by the system after some 30 s."""
IDLE_S = 15.0
"""Seconds for which an unused connection to an endpoint is kept."""
USER_AGENT = "Rejoinder-Webhooks"


class _BoundedAnswer(ResponseHandler):
    """A connection that is cut where an endpoint has said more than MOST_SAID bytes in one answer. aiohttp
    bounds lines, headers and what is kept of a body, but not how many interim answers (100 Continue) come
    before a status: with 26 bytes each an endpoint could have all of a worker's time and memory.
    """

    _said = 0

    def set_response_params(self, **params: Any) -> None:
        """Another answer begins."""
        self._said = 0
        super().set_response_params(**params)

    def data_received(self, data: bytes) -> None:
        """The endpoint said `data`."""
        room = MOST_SAID - self._said
        self._said += len(data)
        if room > 0:
            super().data_received(data[:room])
        if self._said > MOST_SAID and self.transport is not None:
            self.transport.close()
            self.set_exception(aiohttp.ClientPayloadError(f"an answer of more than {MOST_SAID} bytes"))


class _BoundedConnector(aiohttp.TCPConnector):
    """Its connections are bounded. aiohttp has no other place to say of which class they are."""

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        bounded: type[ResponseHandler] = _BoundedAnswer
        self._factory = partial(bounded, loop=self._loop)


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for the address in `info`. An address that stands in the URL itself is not resolved: it is
    looked at here.
    """
    family, type, protocol, _, address = info
    require_public(address[0])
    return socket.socket(family, type, protocol)


class Sender:
    """Sends to endpoints; each attempt takes `timeout_s` at most. Holds connections until `close`.

    It trusts the authorities that OpenSSL finds: the system's, or those that SSL_CERT_FILE names.
    """

    def __init__(
        self, *, allow_private: bool, timeout_s: float, look_up: GetAddrInfo = socket.getaddrinfo
    ) -> None:
        self._allow_private = allow_private
        self._checks = HostLookups(allow_private=allow_private, most=CHECKS, look_up=look_up)
        self._session = aiohttp.ClientSession(
            connector=_BoundedConnector(
                limit=0,
                ssl=ssl.create_default_context(),
                resolver=HostLookups(allow_private=allow_private, most=LOOKUPS, look_up=look_up),
                socket_factory=None if allow_private else _public_socket,
                keepalive_timeout=IDLE_S,
                ttl_dns_cache=10,
            ),
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            headers={"user-agent": USER_AGENT},
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def send(self, url: str, body: bytes, headers: Mapping[str, str]) -> AttemptResult:
        """POST `body` to an endpoint. Whatever happens is a result."""
        try:
            target = checked_url(url, allow_private=self._allow_private)
        except ApiError:
            return AttemptResult("private_address")  # the operator allowed it once
        try:
            status = await self._post(target, body, headers)
        except TimeoutError:
            return AttemptResult("timeout")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return AttemptResult("private_address" if _is_private(error) else "unreachable")
        if status < LOWEST_STATUS:
            return AttemptResult("unreachable")  # what answered does not speak HTTP
        if 300 <= status < 400:
            return AttemptResult("redirected", status)
        return AttemptResult("delivered" if 200 <= status < 300 else "refused", status)

    async def check_url(self, text: str) -> None:
        """Raise ApiError (400) if no endpoint may be at the URL `text`, as far as that can be seen now.

        A name that does not resolve passes: each attempt looks again.
        """
        url = checked_url(text, allow_private=self._allow_private)
        try:
            async with asyncio.timeout(RESOLVE_S):
                await self._checks.resolve(url.raw_host or "", url.port or 443)
        except PrivateAddress as error:
            raise private_refused() from error
        except (OSError, TimeoutError, ValueError):
            return

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> int:
        async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as answer:
            try:
                read = 0
                async for chunk in answer.content.iter_any():
                    read += len(chunk)
                    if read > ANSWER_BYTES:
                        answer.close()
                        break
            except (aiohttp.ClientError, TimeoutError):
                answer.close()  # the status has been said: a body that stalls or breaks off unsays nothing
            return answer.status


def _is_private(error: BaseException) -> bool:
    """Whether a host's address was refused. aiohttp wraps what a resolver or a socket raises."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, PrivateAddress):
        found = getattr(found, "os_error", None) or found.__cause__
    return found is not None
