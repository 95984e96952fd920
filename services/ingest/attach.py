"""Serves a client that waits on the connection of its POST, for the stream or for the final object.

    created → ask replay past the response's own offset → pass its stream or result on
    the response failed before any output   a client that waits for the object gets an error (A-24)
    the client goes      a response that is neither in the background nor keyed is cancelled (A-7)
    replay goes          ask again for a while; if the answer has begun, cut it
    this process stops   refuse an answer that has not begun, cut a stream; a shutdown cancels nothing

The response exists, whatever happens here. So no refusal invites a client without an Idempotency-Key to send
its POST again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.errors import ApiError, unavailable
from schemas.refusal import refusal
from services.ingest.commands import Commands, Created
from services.web.commands import ABANDON_PAUSES_S
from services.web.metrics import ABANDONED
from services.web.replay_client import ReplayClient, persistently
from services.web.stream import Disconnected, End, while_connected

GONE_S = 0.3
"""Seconds to wait before a cancel: if the whole system stops, this process is told to stop within them, and
the client did not go by itself."""

log = structlog.get_logger()

T = TypeVar("T")
Spawn = Callable[[Coroutine[Any, Any, None]], object]
"""Starts a task that outlives its request."""


class Attachments:
    """What the waiting clients of one process share. `stopping` is set when the process drains."""

    def __init__(
        self,
        commands: Commands,
        replay: ReplayClient,
        spawn: Spawn,
        stopping: asyncio.Event,
    ) -> None:
        self.commands = commands
        self.replay = replay
        self.spawn = spawn
        self.stopping = stopping

    def attach(self, created: Created, *, stream: bool, cancels: bool, keyed: bool) -> ASGIApp:
        """The answer for a client that waits for `created`.

        `cancels`: its going cancels the response; `keyed`: its POST had an Idempotency-Key.
        """
        return _Attached(self, created, stream, cancels, keyed)


class _Attached:
    """An ASGI answer. Raises ApiError instead of an answer that cannot be had."""

    def __init__(
        self, shared: Attachments, created: Created, stream: bool, cancels: bool, keyed: bool
    ) -> None:
        self._shared = shared
        self._created = created
        self._ask = self._stream if stream else self._result
        self._cancels = cancels
        self._keyed = keyed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with while_connected(receive):
                answer = await self._unless_stopping(persistently(self._ask, self._gone))
        except Disconnected:
            self._ended("disconnected")
            raise
        await answer(scope, receive, send)

    async def _stream(self) -> ASGIApp:
        peer, answer = await self._shared.replay.stream(self._created.id, self._created.offset)
        return peer.stream(answer, self._ended)

    async def _result(self) -> ASGIApp:
        result = await self._shared.replay.result(self._created.id, self._created.offset)
        refused = refusal(result, keyed=self._keyed)
        if refused is not None:
            raise refused
        return Response(result, media_type="application/json")

    def _ended(self, end: End) -> None:
        if self._cancels and end in ("disconnected", "stalled"):
            self._shared.spawn(self._abandon())

    async def _abandon(self) -> None:
        try:
            async with asyncio.timeout(GONE_S):
                await self._shared.stopping.wait()
        except TimeoutError:
            ABANDONED.inc()
            await self._cancelled()

    async def _cancelled(self) -> None:
        """Abandon the response, with repeats until that is in the log. Raises nothing: no client waits."""
        for pause in ABANDON_PAUSES_S:
            await asyncio.sleep(pause)
            try:
                await self._shared.commands.abandon(self._created.id, self._created.tenant)
            except ApiError as error:
                what = "could not cancel an abandoned response"
                log.warning(what, id=self._created.id, error=error.message)
            else:
                return

    async def _unless_stopping(self, answer: Coroutine[Any, Any, T]) -> T:
        asking = asyncio.ensure_future(answer)
        stopping = asyncio.ensure_future(self._shared.stopping.wait())
        try:
            await asyncio.wait({asking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            raise self._gone("The server is shutting down")
        finally:
            asking.cancel()
            stopping.cancel()

    def _gone(self, why: str) -> ApiError:
        """The error 503: the response goes on without this connection. A repeated POST would make another
        response, unless it has a key.
        """
        created = self._created
        later = "can be retrieved" if created.retrievable else "is not stored, so it cannot be retrieved"
        what = f"{why}; response '{created.id}' goes on and {later}."
        return unavailable(what, outcome_unknown=not self._keyed)
