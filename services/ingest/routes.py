"""Ingest's routes: a request becomes a command, its outcome an answer. What is refused never reaches the log.

POST   /v1/responses               body, if there is room → valid? → create → object, stream or final object
POST   /v1/responses/{id}/cancel   cancel → the cancelled object
DELETE /v1/responses/{id}          delete → {"id", "object", "deleted"}
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from schemas.errors import ApiError, not_found
from schemas.ids import ResponseId, Tenant, parse_response_id
from schemas.request import parsing
from services.ingest.admission import Admission
from services.ingest.attach import Attachments
from services.ingest.commands import Commands
from services.ingest.decide import IDEMPOTENCY_KEY, ends_with_its_client, parse_key
from services.ingest.metrics import COMMANDS
from services.loops import in_turns
from services.settings import Settings
from services.web.answers import json_answer, object_answer, read_body
from services.web.edge import route
from services.web.tenant import tenant_of


class Desk:
    """Takes requests in."""

    def __init__(
        self, settings: Settings, commands: Commands, admission: Admission, attachments: Attachments
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._admission = admission
        self._attachments = attachments

    def routes(self) -> list[Route]:
        """The routes, for an app to put beside others."""
        return [
            route("POST", "/v1/responses", self._create),
            route("POST", "/v1/responses/{id}/cancel", self._cancel),
            route("DELETE", "/v1/responses/{id}", self._delete),
        ]

    async def _create(self, request: Request) -> ASGIApp:
        tenant = self._tenant(request)
        key = parse_key(request.headers.get(IDEMPOTENCY_KEY))
        with _counted("create"), self._room(tenant) as take:
            raw = await read_body(request, self._settings.max_body_bytes, take)
            asked = await in_turns(parsing(raw, self._settings.max_body_values))
            created = await self._commands.create(asked, tenant, key)
        if asked.background and not asked.stream:
            return object_answer(created.object, open=created.open)
        cancels = ends_with_its_client(asked, key)
        return self._attachments.attach(created, stream=asked.stream, cancels=cancels, keyed=key is not None)

    async def _cancel(self, request: Request) -> ASGIApp:
        with _counted("cancel"):
            tenant = self._tenant(request)
            cancelled = await self._commands.cancel(_id(request), tenant)
        return object_answer(cancelled, open=False)

    async def _delete(self, request: Request) -> ASGIApp:
        with _counted("delete"):
            tenant, id = self._tenant(request), _id(request)
            await self._commands.delete(id, tenant)
        return json_answer({"id": id, "object": "response", "deleted": True})

    def _tenant(self, request: Request) -> Tenant:
        return tenant_of(request, self._settings)

    @contextmanager
    def _room(self, tenant: Tenant) -> Iterator[Callable[[int], None]]:
        """Memory for a body, taken piece by piece and held until its record is acknowledged."""
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            self._admission.arrive(tenant, size)
            taken += size

        try:
            yield take
        finally:
            self._admission.leave(tenant, taken)


@contextmanager
def _counted(command: str) -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        COMMANDS.labels(command, str(error.status)).inc()
        raise
    COMMANDS.labels(command, "ok").inc()


def _id(request: Request) -> ResponseId:
    given: str = request.path_params["id"]
    id = parse_response_id(given)
    if id is None:
        raise not_found(given)
    return id
