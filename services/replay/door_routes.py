"""The front door's routes: commands of clients, which ingest carries out and replay answers.

    POST   /v1/responses               body, if there is room → create → the object, stream or final object
    POST   /v1/responses/{id}/cancel   the cancelled object
    DELETE /v1/responses/{id}          {"id", "object", "deleted"}

    the client goes           finish its create; then abandon the response, if it ends with its client (A-7)
    the client takes nothing  drop its stream, then the same
    its answer is "unknown"   the same: find out what came of its create, and abandon it
    this process stops        cut streams, tell clients that wait for a final object so; cancel nothing (A-21)

The response may exist once it was handed over. So no refusal after that invites a client without an
Idempotency-Key to send its POST again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from schemas.errors import ApiError
from schemas.ids import Tenant
from services import points
from services.replay.door import FrontDoor, Visit
from services.settings import Settings
from services.web.answers import deleted_answer, named_in, object_answer, read_body
from services.web.callers import Callers
from services.web.commands import Made
from services.web.edge import route
from services.web.keys import key_in
from services.web.metrics import ABANDONED
from services.web.room import Room, Seat
from services.web.served import served_in
from services.web.sse import EventStream
from services.web.stream import Disconnected, End, OnEnd, Sink, until, while_connected

GONE_S = 0.3
"""Seconds to wait before an abandon: if the whole system stops, this process is told to stop within them, and
the client did not go by itself."""
Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class DoorRoutes:
    """Takes commands of clients. `stopping` is set when the process drains; `spawn` starts a task that
    outlives its request.
    """

    def __init__(
        self,
        door: FrontDoor,
        settings: Settings,
        callers: Callers,
        room: Room,
        stopping: asyncio.Event,
        spawn: Spawn,
    ) -> None:
        self._door = door
        self._settings = settings
        self._callers = callers
        self._room = room
        self._stopping = stopping
        self._spawn = spawn

    def routes(self) -> list[BaseRoute]:
        """The routes, for an `Edge`."""
        return [
            route("POST", "/v1/responses", self._create),
            route("POST", "/v1/responses/{id}/cancel", self._cancel),
            route("DELETE", "/v1/responses/{id}", self._delete),
        ]

    async def _create(self, request: Request) -> ASGIApp:
        tenant, key = await self._callers.tenant(request), key_in(request.headers)
        visit, making = await self._handed_over(request, tenant, key)
        try:
            async with while_connected(request.receive):
                made = await asyncio.shield(making)
                served_in(request.scope).response = visit.id
                if made.answer == "object":
                    shown, is_open = await visit.object()
                    return object_answer(shown, open=is_open)
                if made.answer == "result":
                    async with until(self._stopped, lambda: visit.detached("The server is shutting down")):
                        return Response(await visit.result(), media_type="application/json")
                if visit.is_far:
                    peer, answer = await visit.stream_far()
                    return peer.stream(answer, self._ended(visit), silence_s=self._door.shards.silence_s)
        except Disconnected:
            self._spawn(self._left(visit, making))
            raise
        except ApiError as error:
            if visit.is_lost_by(error):
                self._spawn(self._left(visit))
            raise
        finally:
            del making  # its error holds this frame: a reference circle, which only the collector would free
        return self._stream(visit)

    async def _handed_over(
        self, request: Request, tenant: Tenant, key: str | None
    ) -> tuple[Visit, asyncio.Task[Made]]:
        """Read the body and hand it to ingest. Only the task holds the body: an answer may take hours."""
        seat = self._room.seat(tenant)
        try:
            raw = await read_body(request, self._settings.max_body_bytes, seat.take)
            seat.begin()
        except BaseException:
            seat.give_up()
            raise
        visit = self._door.visit(tenant, key)
        return visit, self._spawn(_made(visit, raw, seat))

    async def _stopped(self) -> None:
        await self._stopping.wait()

    def _stream(self, visit: Visit) -> EventStream:
        """The stream. Its head and keep-alives go out before the fold has passed the record."""
        settings, sink = self._settings, Sink()
        return EventStream(
            visit.chunks(sink.push),
            sink=sink,
            keepalive_s=settings.keepalive_s,
            stall_s=settings.stall_s,
            on_end=self._ended(visit),
        )

    def _ended(self, visit: Visit) -> OnEnd:
        """What is to be done at the end of the stream of `visit`."""

        def ended(end: End) -> None:
            if end in ("disconnected", "stalled"):
                self._spawn(self._left(visit))

        return ended

    async def _cancel(self, request: Request) -> ASGIApp:
        tenant, id = await self._callers.tenant(request), named_in(request)
        return object_answer(await self._door.cancel(id, tenant), open=False)

    async def _delete(self, request: Request) -> ASGIApp:
        tenant, id = await self._callers.tenant(request), named_in(request)
        await self._door.delete(id, tenant)
        return deleted_answer(id)

    async def _left(self, visit: Visit, making: asyncio.Task[Made] | None = None) -> None:
        """Abandon the response of `visit`, whose client went away. A create under way is finished first."""
        points.at("client left", visit, making)
        if making is not None:
            await asyncio.wait([making])
            making.exception()  # takes the error, or asyncio would log it
        if not visit.cancels:
            return
        try:
            async with asyncio.timeout(GONE_S):
                await self._stopping.wait()
        except TimeoutError:
            ABANDONED.inc()
            await visit.abandon()


async def _made(visit: Visit, raw: bytes, seat: Seat) -> Made:
    with seat:
        return await visit.create(raw)
