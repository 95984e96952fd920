"""Looks up the hosts of endpoints, and lets pass those of which all addresses are public (P-128).

Each lookup is a thread of its own. A name server that hangs holds its thread for half a minute, whatever its
caller does. In a pool of few threads, as a loop has one, a handful of dead names would hold up every living
endpoint, and the connections to Kafka. The threads are daemons: none delays the end of the process.
"""

import asyncio
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from services.webhooks.addresses import is_public

GetAddrInfo = Callable[..., list[tuple[Any, ...]]]
"""`socket.getaddrinfo`, or what stands for it."""


class PrivateAddress(OSError):
    """A host leads to an address to which no delivery may go."""


class HostLookups(AbstractResolver):
    """Resolves hosts, `most` at once. What comes beyond that fails at once: it would wait for names that
    hang.
    """

    def __init__(self, *, allow_private: bool, most: int, look_up: GetAddrInfo) -> None:
        self._allow_private = allow_private
        self._most = most
        self._look_up = look_up
        self._under_way = 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`. Raises PrivateAddress, or OSError: it has none, or too much hangs."""
        infos = await self._in_a_thread(host, port, family)
        if not self._allow_private:
            for info in infos:
                require_public(info[4][0])
        return [_result(host, info) for info in infos]

    async def close(self) -> None:
        """Nothing waits for what is under way."""

    async def _in_a_thread(self, host: str, port: int, family: socket.AddressFamily) -> list[tuple[Any, ...]]:
        if self._under_way >= self._most:
            raise OSError(f"{self._most} lookups are under way, no other one begins")
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[tuple[Any, ...]]] = loop.create_future()

        def over(infos: list[tuple[Any, ...]], error: Exception | None) -> None:
            self._under_way -= 1
            if found.done():
                return  # its caller has given up
            if error is None:
                found.set_result(infos)
            else:
                found.set_exception(error)

        def look() -> None:
            infos, failed = list[tuple[Any, ...]](), None
            try:
                infos = self._look_up(
                    host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
                )
            except Exception as error:
                failed = error
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(over, infos, failed)

        self._under_way += 1
        threading.Thread(target=look, name="lookup", daemon=True).start()
        return await found


def require_public(address: str) -> None:
    """Raise PrivateAddress if no delivery may go to `address`."""
    if not is_public(address):
        raise PrivateAddress(f"{address} is not on the public internet")


def _result(host: str, info: tuple[Any, ...]) -> ResolveResult:
    family, _, protocol, _, address = info
    zone = f"%{address[3]}" if len(address) > 3 and address[3] else ""
    return ResolveResult(
        hostname=host,
        host=address[0].partition("%")[0] + zone,
        port=address[1],
        family=family,
        proto=protocol,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
