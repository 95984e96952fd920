"""Sends one event to one endpoint over HTTPS, to addresses that were checked.

    URL → host resolved → every address is public? → connect to one of them → TLS for the host's name → POST

There is one resolution, and the socket is made for an address of it: a name that changes in between leads
nowhere else (P-128). No proxy of the environment is used, no redirect followed, no cookie kept. Of the answer
the status counts, whatever else it says.
"""

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from schemas.errors import ApiError
from services.webhooks.addresses import checked_url, is_public, private_refused
from services.webhooks.attempts import AttemptResult

ANSWER_BYTES = 16 << 10
"""Bytes of an answer that are read, so that its connection may serve again. A longer one loses it."""
RESOLVE_S = 2.0
"""Seconds for which a new endpoint's name is looked up. Each attempt looks again."""
IDLE_S = 15.0
"""Seconds for which an unused connection to an endpoint is kept."""
USER_AGENT = "Rejoinder-Webhooks"


class PrivateAddress(OSError):
    """A host leads to an address to which no delivery may go."""


class _PublicResolver(AbstractResolver):
    """Resolves a host if all of its addresses are public."""

    def __init__(self) -> None:
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for address in found:
            _require_public(address["host"])
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _require_public(address: str) -> None:
    if not is_public(address):
        raise PrivateAddress(f"{address} is not on the public internet")


def _public_socket(info: tuple[Any, ...]) -> socket.socket:
    """A socket for the address in `info`. An address that stands in the URL itself is not resolved: it is
    looked at here.
    """
    family, type, protocol, _, address = info
    _require_public(address[0])
    return socket.socket(family, type, protocol)


class Sender:
    """Sends to endpoints; each attempt takes `timeout_s` at most. Holds connections until `close`."""

    def __init__(self, *, allow_private: bool, timeout_s: float) -> None:
        self._allow_private = allow_private
        self._resolver: AbstractResolver = ThreadedResolver() if allow_private else _PublicResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0,
                resolver=self._resolver,
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
        await self._resolver.close()

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
                await self._resolver.resolve(url.raw_host or "", url.port or 443)
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
