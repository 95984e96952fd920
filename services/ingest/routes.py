"""Ingest's routes: each turns a request into a command, and its outcome into an answer.

On the internal port the front door asks (`services.web.commands`):

    POST /internal/create/{id}    body, if there is room → valid? → create → Made, or Elsewhere
    POST /internal/cancel/{id}    cancel → the cancelled object
    POST /internal/delete/{id}    delete → nothing
    POST /internal/abandon/{id}   cancel, if no client is to come back for it → nothing

On the public port, for one release, the same for clients whose balancer routes by method:

    POST   /v1/responses               mint an id, create → object, stream or final object
    POST   /v1/responses/{id}/cancel   cancel → the cancelled object
    DELETE /v1/responses/{id}          delete → {"id", "object", "deleted"}
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from schemas.errors import ApiError, away, invalid
from schemas.ids import ResponseId, Tenant, parse_tenant
from schemas.request import CreateRequest, parsing
from services import points
from services.ingest.appends import Patience
from services.ingest.attach import Attachments
from services.ingest.commands import Commands, Created
from services.ingest.decide import answer_to, ends_with_its_client
from services.ingest.metrics import COMMANDS
from services.loops import in_turns
from services.settings import Settings
from services.web.answers import deleted_answer, json_answer, named_in, object_answer, read_body
from services.web.callers import Callers
from services.web.commands import ORDER, TENANT, Elsewhere, Made, Order, command_path
from services.web.edge import route
from services.web.keys import key_in
from services.web.room import Room
from services.web.served import served_in

_order = msgspec.json.Decoder(Order).decode
_ID = ResponseId("{id}")


class InternalDesk:
    """Takes commands from the front door, and trusts its word on which tenant asks."""

    def __init__(self, settings: Settings, commands: Commands, room: Room) -> None:
        self._settings = settings
        self._commands = commands
        self._room = room

    def routes(self) -> list[Route]:
        """The routes, for an app to put beside others."""
        return [
            route("POST", command_path("create", _ID), self._create),
            route("POST", command_path("cancel", _ID), self._cancel),
            route("POST", command_path("delete", _ID), self._delete),
            route("POST", command_path("abandon", _ID), self._abandon),
        ]

    async def create(self, id: ResponseId, order: Order, request: CreateRequest) -> Made | Elsewhere:
        """Create `id`. Returns what the front door is to answer. Raises ApiError."""
        points.at("create taken", id, order)
        created = await self._commands.create(id, order, request, Patience(order.waited_s))
        if isinstance(created, Elsewhere):
            return created
        answer = answer_to(request)
        return Made(
            created.offset,
            answer,
            cancels=ends_with_its_client(request, keyed=order.keyed),
            retrievable=created.retrievable,
            object=msgspec.Raw(created.object if answer == "object" else b"null"),
        )

    async def _create(self, request: Request) -> ASGIApp:
        order = _ordered(request)
        with _counted("create"), self._room.seat(order.tenant) as seat:
            raw = await read_body(request, self._settings.max_body_bytes, seat.take)
            seat.begin()
            asked = await in_turns(parsing(raw, self._settings.max_body_values))
            return json_answer(await self.create(named_in(request), order, asked))

    async def _cancel(self, request: Request) -> ASGIApp:
        with _counted("cancel"):
            return object_answer(await self._commands.cancel(named_in(request), _tenant(request)), open=False)

    async def _delete(self, request: Request) -> ASGIApp:
        with _counted("delete"):
            await self._commands.delete(named_in(request), _tenant(request))
        return Response(status_code=204)

    async def _abandon(self, request: Request) -> ASGIApp:
        with _counted("abandon"):
            await self._commands.abandon(named_in(request), _tenant(request))
        return Response(status_code=204)


class Desk:
    """Takes requests from clients. `clock` returns milliseconds since the epoch."""

    def __init__(
        self,
        settings: Settings,
        callers: Callers,
        commands: Commands,
        room: Room,
        attachments: Attachments,
        clock: Callable[[], int],
    ) -> None:
        self._settings = settings
        self._callers = callers
        self._commands = commands
        self._room = room
        self._attachments = attachments
        self._clock = clock

    def routes(self) -> list[Route]:
        """The routes, for an app to put beside others."""
        return [
            route("POST", "/v1/responses", self._create),
            route("POST", "/v1/responses/{id}/cancel", self._cancel),
            route("DELETE", "/v1/responses/{id}", self._delete),
        ]

    async def _create(self, request: Request) -> ASGIApp:
        tenant, key = await self._callers.tenant(request), key_in(request.headers)
        with _counted("create"), self._room.seat(tenant) as seat:
            raw = await read_body(request, self._settings.max_body_bytes, seat.take)
            seat.begin()
            asked = await in_turns(parsing(raw, self._settings.max_body_values))
            created = await self._created(asked, tenant, key)
            served_in(request.scope).response = created.id
        keyed = key is not None
        if answer_to(asked) == "object":
            return object_answer(created.object, open=created.open)
        cancels = ends_with_its_client(asked, keyed=keyed)
        return self._attachments.attach(created, stream=asked.stream, cancels=cancels, keyed=keyed)

    async def _created(self, asked: CreateRequest, tenant: Tenant, key: str | None) -> Created:
        """Mint an id and create once. A create that belongs elsewhere is refused: only the front door tries
        another id.
        """
        patience, not_after = Patience(), self._clock() + self._settings.acceptance_ms
        order = Order(tenant, keyed=key is not None, not_after=not_after)
        created = await self._commands.create(self._commands.id(asked, tenant, key), order, asked, patience)
        if isinstance(created, Elsewhere):
            raise away()
        if order.keyed:
            return created
        return await self._commands.winner(created, asked, patience, keyed=False)

    async def _cancel(self, request: Request) -> ASGIApp:
        with _counted("cancel"):
            tenant = await self._callers.tenant(request)
            cancelled = await self._commands.cancel(named_in(request), tenant)
        return object_answer(cancelled, open=False)

    async def _delete(self, request: Request) -> ASGIApp:
        with _counted("delete"):
            tenant, id = await self._callers.tenant(request), named_in(request)
            await self._commands.delete(id, tenant)
        return deleted_answer(id)


@contextmanager
def _counted(command: str) -> Iterator[None]:
    """Count the outcome of a command."""
    try:
        yield
    except ApiError as error:
        COMMANDS.labels(command, str(error.status)).inc()
        raise
    COMMANDS.labels(command, "ok").inc()


def _ordered(request: Request) -> Order:
    try:
        return _order(request.headers.get(ORDER, ""))
    except msgspec.DecodeError as error:
        raise invalid(f"{ORDER}: {error}", ORDER) from error


def _tenant(request: Request) -> Tenant:
    tenant = parse_tenant(request.headers.get(TENANT, ""))
    if tenant is None:
        raise invalid(f"{TENANT} must name a tenant", TENANT)
    return tenant
