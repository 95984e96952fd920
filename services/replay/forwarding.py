"""Forwards the routes of the services behind the front door. One table says which service has which routes.

    request → who calls → the same method, query and body at the service's internal port → its answer

The client gets the answer of the service as it is. If the service cannot be asked, the client gets a 503. If
this installation does not run it, the client gets a 404 that says so (A-29).
"""

import re
import ssl
from collections.abc import Mapping, Sequence
from functools import partial

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from schemas.errors import ApiError, unavailable
from schemas.ids import Tenant
from schemas.webhooks import ENDPOINT_ID
from services.settings import PREFIX, Settings
from services.web.answers import read_body
from services.web.ask import KEPT, BrokenOff, PeerAnswer, Question, Unheard, ask, refusal_of
from services.web.callers import Callers
from services.web.edge import route
from services.web.forwarded import INSIDE, caller_header, target_of
from services.web.internal import Report
from services.web.paths import BEHIND
from services.web.peer import Peer
from services.web.room import Room
from services.web.served import served_in

BODY_BYTES = 1 << 20
"""Bytes of the largest body that is forwarded: no service behind the front door takes a large one."""
ANSWER_BYTES = 16 << 20
"""Bytes of the largest answer that is passed on."""
WITHIN_S = 15.0
"""Seconds that a service has to answer."""
NOBODY = Tenant("")
"""In whose place the body of an admin is counted."""
_KEPT = (*KEPT, "content-type", "cache-control")


class Behind(Struct, frozen=True):
    """A service behind the front door, and what the logs know of whether it can be asked."""

    name: str
    peer: Peer | None
    report: Report


def behind(settings: Settings, tls: ssl.SSLContext | None = None) -> Sequence[Behind]:
    """The services that `BEHIND` names, asked by `tls` if given. One whose URL is not set has no `peer`."""
    urls = {"analytics": settings.analytics_url, "webhooks": settings.webhooks_url}
    found = []
    for name in BEHIND:
        url = urls[name]
        where = f"{_variable(name)} must be the URL of the internal port of {name}"
        peer = Peer(url, secret=settings.internal_secret, tls=tls) if url else None
        found.append(Behind(name, peer, Report(url, name, where)))
    return found


class Forwarding:
    """The routes of `services`, the services behind the front door."""

    def __init__(self, services: Sequence[Behind], callers: Callers, room: Room) -> None:
        self._services = services
        self._callers = callers
        self._room = room

    def routes(self, table: Mapping[str, Mapping[str, Sequence[str]]] = BEHIND) -> Sequence[BaseRoute]:
        """The routes, for an `Edge`. `table` has the methods of each path, by service."""
        return [
            route(method, path, partial(self.forward, service))
            for service in self._services
            for path, methods in table[service.name].items()
            for method in methods
        ]

    async def close(self) -> None:
        """Close the connections."""
        for service in self._services:
            if service.peer is not None:
                await service.peer.close()

    async def forward(self, service: Behind, request: Request) -> Response:
        """The answer of `service` to `request`. Raises ApiError."""
        caller = await self._callers.who(request)
        id = request.path_params.get("id", "")
        if re.fullmatch(ENDPOINT_ID, id):
            served_in(request.scope).endpoint = id
        if service.peer is None:
            mend = f"its operator can start it and set {_variable(service.name)}"
            what = f"This installation runs no {service.name}: {mend}."
            raise ApiError(404, what, code="not_offered")
        with self._room.seat(caller.tenant or NOBODY) as seat:
            body = await read_body(request, BODY_BYTES, seat.take)
            question = Question(
                "GET" if request.method == "HEAD" else request.method,
                INSIDE + target_of(request),
                {**caller_header(caller), **_content_type(request)},
                body,
                WITHIN_S,
                ANSWER_BYTES,
                _KEPT,
            )
            answered = await _asked(service, service.peer, question)
        return Response(answered.body, answered.status, dict(answered.headers))


def _variable(name: str) -> str:
    """The setting with the URL of a service."""
    return f"{PREFIX}{name.upper()}_URL"


def _content_type(request: Request) -> Mapping[str, str]:
    given = request.headers.get("content-type")
    return {} if given is None else {"content-type": given}


async def _asked(service: Behind, peer: Peer, question: Question) -> PeerAnswer:
    """The answer of a service. A GET is sent again once. Raises ApiError."""
    try:
        try:
            answered = await ask(peer, question)
        except BrokenOff:
            if question.method != "GET":
                raise
            answered = await ask(peer, question)
        if answered.status >= 400:
            refusal_of(service.name, answered)
    except (Unheard, BrokenOff) as error:
        service.report.failed(error)
        raise _away(service.name, error, question.method) from error
    service.report.succeeded()
    return answered


def _away(name: str, error: Unheard | BrokenOff, method: str) -> ApiError:
    if isinstance(error, BrokenOff) and method != "GET":
        what = f"The service {name} broke off: look whether it did what was asked before you repeat it."
        return unavailable(what, outcome_unknown=True, reason=f"{name}_broke_off")
    return unavailable(f"The service {name} cannot be asked now.", reason=f"{name}_away")
