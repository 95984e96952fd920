"""An HTTP server in this process: uvicorn's protocol with our own start and drain.

uvicorn's Server takes the process's signals and waits for streams that never end. This one leaves signals to
the process, and several can run side by side. Its `drain` is bounded:

    new requests      refused
    streams           cut: their readers rejoin elsewhere
    plain requests    may finish
    idle connections  stay for a moment: a client that is just sending hears a refusal, and not a reset that
                      leaves it in doubt
"""

import asyncio
import errno
import socket
import ssl
import time
from typing import Self

import structlog
import uvicorn

from schemas.errors import RejoinderError
from services.settings import Settings
from services.web.connection import Connection, ConnectionState
from services.web.crowd import CrowdBounds
from services.web.edge import Edge

IDLE_S = 75
"""Seconds that an idle connection stays open: longer than our own clients keep theirs. So they never send on
a connection that the server is closing, which would leave a POST in doubt."""
LINGER_S = 1.0
"""Seconds that an idle connection stays open in a drain: longer than a request takes to arrive."""
BACKLOG = 4096
HANDSHAKE_S = 5.0
"""Seconds for a TLS handshake."""
_STEP_S = 0.02
_BOUNDS = CrowdBounds()

log = structlog.get_logger()


class CannotListen(RejoinderError):
    """The server cannot listen on a port. The message says on which, why, and what to do."""


class Server:
    """Serves one app on one port. `socket_timeout_s`, `request_s` (s): see `connection.ConnectionState`."""

    def __init__(
        self, app: Edge, *, socket_timeout_s: float = 30, request_s: float = 20, bounds: CrowdBounds = _BOUNDS
    ) -> None:
        self._config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=IDLE_S,
        )
        self._config.load()
        self._state = ConnectionState(app.cors, socket_timeout_s, request_s, bounds)
        self._listener: asyncio.AbstractServer | None = None

    @classmethod
    def of(cls, app: Edge, settings: Settings) -> Self:
        """A server for clients, with the bounds of the settings."""
        heads, per_address = settings.max_unfinished_heads, settings.max_connections_per_address
        return cls(
            app,
            socket_timeout_s=settings.socket_timeout_s,
            request_s=settings.request_s,
            bounds=CrowdBounds(settings.max_connections, heads, per_address),
        )

    @property
    def draining(self) -> bool:
        """Whether the server refuses new requests."""
        return self._state.draining

    @property
    def connections(self) -> int:
        """How many client connections are open."""
        return len(self._state.connections)

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> int:
        """Listen on `host`:`port` (0: any), by `tls` if given, and return the port. Raises CannotListen."""
        loop = asyncio.get_running_loop()
        try:
            listener = await loop.create_server(
                lambda: Connection(self._config, self._state, {}, loop),
                host,
                port,
                reuse_address=True,
                backlog=BACKLOG,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_S if tls else None,
            )
        except OSError as error:
            raise CannotListen(_explain(error, host, port)) from error
        self._listener = listener
        actual: int = listener.sockets[0].getsockname()[1]
        return actual

    async def drain(self, bound_s: float = 10) -> None:
        """Refuse new requests, cut streams at once, let other requests finish for `bound_s` seconds, close.

        Idle connections are closed after `LINGER_S`. Returns as soon as no client is connected.
        """
        self._state.draining = True
        began = time.monotonic()
        linger = min(LINGER_S, bound_s / 2)
        # A poll, because uvicorn does not tell when a request ends.
        while self._cut(idle=time.monotonic() - began >= linger) and time.monotonic() - began < bound_s:  # noqa: ASYNC110
            await asyncio.sleep(_STEP_S)
        await self._close()

    def _cut(self, *, idle: bool) -> bool:
        """Cut the streams, and close idle connections if `idle`. Returns whether something is under way."""
        for client in list(self._state.connections):
            assert isinstance(client, Connection)
            if client.streaming:
                client.abort()
            elif idle or client.busy:
                client.shutdown()
        return bool(self._state.connections) or any(not task.done() for task in self._state.tasks)

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for client in list(self._state.connections):
            if isinstance(client, Connection):
                client.abort()
        tasks = [task for task in self._state.tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            log.info("requests cut", count=len(tasks))
            await asyncio.wait(tasks, timeout=5)


def _explain(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop what listens there, or choose another port"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs privileges: choose one from 1024 on"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host} is no address of this machine: choose one that is, such as 127.0.0.1"
    return f"cannot listen on port {port} of {host}: {error.strerror or error}"
