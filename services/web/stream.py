"""An answer that may last for hours: sends chunks as their source yields them, then ends cleanly or cuts.

The request's own task takes chunks from the source and sends what the transport makes of them. A second task
waits for the client to go. A timer sends keep-alives and finds a client that takes nothing. At the end the
stream closes its source and tells `on_end` how it ended:

    complete      the source returned: the answer ends cleanly
    disconnected  the client went away
    stalled       the client took nothing for `stall_s`: its socket is reset, if the system has not done that
    cut           the source failed, or the server drains: the transport tells the client why, or the socket
                  is reset, so that no client takes the answer for complete
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

import structlog
from starlette.types import Message, Receive, Scope, Send

from schemas.errors import RejoinderError
from services.web.connection import connection
from services.web.metrics import OPEN_STREAMS, STREAMS_ENDED
from services.web.served import served_in
from services.web.transport import Transport

End = Literal["complete", "disconnected", "stalled", "cut"]
OnEnd = Callable[[End], None]

LOOKS = 4
"""Looks in a row that must find the same write waiting, and nothing of it taken, before a client is dropped.
The clock alone would drop every client after this process has stood still."""
TURN_BYTES = 256 << 10
"""Bytes of events that a stream sends before others get a turn: 0.1 ms."""

log = structlog.get_logger()


class Disconnected(RejoinderError):
    """The client went away before its answer was whole."""


@asynccontextmanager
async def until(
    over: Callable[[], Awaitable[None]], error: Callable[[], RejoinderError]
) -> AsyncIterator[None]:
    """When `over` returns, cancel the block and raise what `error` makes."""
    try:
        async with asyncio.timeout(None) as limit:
            watch = asyncio.create_task(_watch(over, limit))
            try:
                yield
            finally:
                watch.cancel()
    except TimeoutError:
        if limit.expired():
            raise error() from None
        raise


async def _watch(over: Callable[[], Awaitable[None]], limit: asyncio.Timeout) -> None:
    await over()
    limit.reschedule(0)


def while_connected(receive: Receive) -> AbstractAsyncContextManager[None]:
    """When the client goes, cancel the block and raise Disconnected. Drops what else the client sends.

    Where that is more than the rest of a body, as on a WebSocket, its reader gives each stream a `receive`
    of its own, which answers when the client has gone.
    """

    async def gone() -> None:
        while not (await receive())["type"].endswith(".disconnect"):
            pass

    return until(gone, lambda: Disconnected("the client went away"))


class Sink:
    """Where a source may push frames while its stream waits for the next chunk: they are written at once."""

    def __init__(self) -> None:
        self.stream: Stream | None = None

    def push(self, frames: bytes) -> bool:
        """Write `frames`, if the client takes them. If not, the source must yield them."""
        return self.stream is not None and self.stream.push(frames)


class Stream:
    """An ASGI answer to one request: sends each chunk of `source` over `transport` as it comes."""

    def __init__(
        self,
        source: AsyncIterator[bytes],
        transport: Transport,
        *,
        sink: Sink | None = None,
        stall_s: float = 30,
        keepalive_s: float = 15,
        lasting: bool = True,
        on_end: OnEnd | None = None,
    ) -> None:
        """`sink`: what `source` may push to, if an event on the wire is its frame and nothing else.

        `keepalive_s`: seconds of silence after which the transport's keep-alive goes out, if it has one.

        `stall_s`: seconds for which the client may take nothing. A drain cuts a `lasting` stream at once, and
        lets any other finish.
        """
        self._source = source
        self._sink = sink
        self._transport = transport
        self._stall_s = stall_s
        self._keep_alive = transport.keep_alive()
        self._keepalive_s = keepalive_s
        self._lasting = lasting
        self._on_end = on_end
        self._end: End = "cut"
        self._told = False
        """Whether the client was told in words that no terminal event comes."""
        self._loop = asyncio.get_running_loop()
        self._wrote = self._loop.time()
        """Loop time (s) at which the last write began."""
        self._sending = False
        self._looked_at = self._wrote, 0
        self._looks = 0
        """How many looks in a row have found the same write waiting, and nothing of it taken."""
        self._beat: asyncio.Task[None] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. Returns when the stream has ended, in whatever way."""
        self._connection, self._served = connection(scope), served_in(scope)
        self._connection.streaming = self._lasting
        self._send = send
        if self._lasting:
            OPEN_STREAMS.inc()
        self._timer = self._loop.call_later(self._delay(), self._tick)
        try:
            async with while_connected(receive):
                await self._send_all(empty=scope.get("method") == "HEAD")
            self._end = "complete"
        except Disconnected:
            if not self._connection.aborted:
                self._end = "stalled" if self._connection.stalled else "disconnected"
        except RejoinderError as error:
            log.info("stream cut", path=scope["path"], why=str(error))
        except Exception as error:
            log.exception("stream cut", path=scope["path"], error=repr(error))
        finally:
            await self._finish()

    async def _send_all(self, empty: bool) -> None:
        """Send from head to end. If the source raises, tell the client so first, if the transport can."""
        transport = self._transport
        await self._send_each(transport.head())
        try:
            if not empty:
                if self._sink is not None:
                    self._sink.stream = self
                await self._send_events()
        except RejoinderError as error:
            last = transport.error(error)
            await self._send_each(last)
            self._told = bool(last)
            raise
        self._wrote, self._sending = self._loop.time(), True
        if not await self._connection.all_taken():  # to a connection that is gone every write succeeds
            raise Disconnected("the client went away before the end")
        await self._send_each(transport.end())

    async def _send_events(self) -> None:
        """The hot path: one clock reading and one write per chunk. A write waits for a slow client. A quick
        one may take a whole history before any write waits: others get a turn after each part of it.
        """
        sent = 0
        async for chunk in self._source:
            if self._sink is None or not (self.push(chunk) or await self._push_once_taken(chunk)):
                await self._send_each(self._transport.events(chunk))
            sent += len(chunk)
            if sent >= TURN_BYTES:
                sent = 0
                await asyncio.sleep(0)

    def push(self, frames: bytes) -> bool:
        """Write `frames` at once. False if nothing was written."""
        if self._sending or not self._connection.push(frames):
            return False
        self._wrote = self._loop.time()
        return True

    async def _push_once_taken(self, frames: bytes) -> bool:
        """Write `frames` when the client has taken what is under way. False if nothing was written."""
        self._wrote, self._sending = self._loop.time(), True
        await self._connection.taken()
        self._sending = False
        return self.push(frames)

    async def _send_each(self, messages: Iterable[Message]) -> None:
        """Send `messages`. A keep-alive waits like any write, so a client that takes nothing is found even if
        the source is silent.
        """
        for message in messages:
            self._wrote, self._sending = self._loop.time(), True
            await self._send(message)
            self._sending = False

    async def _finish(self) -> None:
        if self._lasting:
            OPEN_STREAMS.dec()
            STREAMS_ENDED.labels(self._end).inc()
            self._served.end = self._end
        self._timer.cancel()
        if self._beat is not None:
            self._beat.cancel()
        if self._end == "cut" and not self._told:
            self._connection.abort()
        try:
            if hasattr(self._source, "aclose"):
                await self._source.aclose()
        finally:
            if self._on_end is not None:
                self._on_end(self._end)

    def _tick(self) -> None:
        silence = self._loop.time() - self._wrote
        found = self._wrote, self._connection.untaken_bytes
        self._looks = self._looks + 1 if self._sending and self._looked_at == found else 0
        self._looked_at = found
        if silence >= self._stall_s and self._looks >= LOOKS - 1:
            self._end = "stalled"
            self._connection.abort()
            return
        if self._keep_alive and not self._sending and silence >= self._keepalive_s:
            self._beat = self._loop.create_task(self._send_each(self._keep_alive))
        self._timer = self._loop.call_later(self._delay(), self._tick)

    def _delay(self) -> float:
        """Seconds to the next look: soon enough to send a keep-alive and to find a stall in time."""
        if self._sending or not self._keep_alive:
            return self._stall_s / LOOKS
        due = self._wrote + self._keepalive_s - self._loop.time()
        return min(self._stall_s / LOOKS, max(due, 0.01))
