"""`/livez`, `/readyz` and `/metrics`.

`/livez` answers if the process runs, `/readyz` says whether the service has what it needs to serve. Ingest
and replay serve them beside their other routes, executor and projector on a port of their own.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.settings import Settings
from services.web.answers import json_answer
from services.web.connection import connection
from services.web.edge import Edge, route
from services.web.metrics import READY
from services.web.server import Server

NotReady = Callable[[], Sequence[str]]
"""Returns why a service is not ready, one string a reason; empty when it is ready. Must not block."""


class Health(Struct, frozen=True, omit_defaults=True):
    """The body of an answer of `/livez` or `/readyz`. `status` is `live`, `ready` or `not ready`."""

    status: str
    reasons: Sequence[str] = ()


def routes(not_ready: NotReady) -> list[Route]:
    """The three routes, for an app to put beside its own."""

    async def live(_: Request) -> Response:
        return json_answer(Health("live"))

    def reasons_of(request: Request) -> Sequence[str]:
        return [*not_ready(), *(["draining"] if connection(request.scope).draining else [])]

    async def ready(request: Request) -> Response:
        if reasons := reasons_of(request):
            return json_answer(Health("not ready", reasons), 503, {"retry-after": "1"})
        return json_answer(Health("ready"))

    async def metrics(request: Request) -> Response:
        READY.set(not reasons_of(request))
        text = await asyncio.to_thread(generate_latest, REGISTRY)  # in a thread: it reads files of the system
        return Response(text, headers={"content-type": CONTENT_TYPE_LATEST})

    return [
        route("GET", "/livez", live),
        route("GET", "/readyz", ready),
        route("GET", "/metrics", metrics),
    ]


@asynccontextmanager
async def serve_admin(settings: Settings, not_ready: NotReady) -> AsyncIterator[None]:
    """Serve the three routes on the admin port, if any, while the block runs. Raises CannotListen."""
    if not settings.admin_port:
        yield
        return
    server = Server(Edge(routes(not_ready)))
    await server.start(settings.internal_host, settings.admin_port)
    try:
        yield
    finally:
        await server.drain(0)
