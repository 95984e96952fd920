"""The routes of webhooks, on the internal port: the front door forwards them (`services.web.forwarded`).

request → whose is it? → body, checked → management, or a test → answer
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from schemas.errors import ApiError
from schemas.ids import Tenant
from schemas.webhooks import EVENT_TYPES, EndpointId
from services.web.answers import json_answer, read_body
from services.web.edge import route
from services.web.forwarded import INSIDE, caller_of
from services.web.paging import page, parse_paging
from services.webhooks.bodies import create_asked, keep_asked, type_asked, update_asked
from services.webhooks.endpoints import Endpoint
from services.webhooks.management import Management, Revealed

BODY_BYTES = 64 << 10
"""Bytes of a request's body: name and URL have at most 9 KB."""

Test = Callable[[Endpoint, str], Awaitable[int]]
"""Sends an endpoint a sample event of a type. Returns the HTTP status that it answered. Raises ApiError."""
CheckUrl = Callable[[str], Awaitable[None]]
"""Raises ApiError (400) if no endpoint may be at this URL."""


class WebhookEndpoint(Struct, frozen=True):
    """A webhook endpoint as the API shows it. Times are in seconds since the epoch."""

    id: EndpointId
    name: str
    url: str
    event_types: tuple[str, ...]
    created_at: int
    updated_at: int
    signing_secret_hint: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"


class WebhookEndpointWithSecret(Struct, frozen=True):
    """A webhook endpoint that has just got its secret, which is shown this once."""

    id: EndpointId
    name: str
    url: str
    event_types: tuple[str, ...]
    created_at: int
    updated_at: int
    signing_secret_hint: str
    signing_secret: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"


class DeletedWebhookEndpoint(Struct, frozen=True):
    """The answer to the delete of a webhook endpoint."""

    id: EndpointId
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class WebhookTest(Struct, frozen=True):
    """What a webhook endpoint answered to a sample event."""

    webhook_endpoint_id: EndpointId
    event_type: str
    status_code: int
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    success: Literal[True] = True


class WebhookEventTypes(Struct, frozen=True):
    """The types of events that an endpoint may ask for."""

    data: tuple[str, ...]
    object: Literal["list"] = "list"


class WebhookRoutes:
    """Answers for `management`. `test` and `check_url` are the sender's."""

    def __init__(self, management: Management, test: Test, check_url: CheckUrl) -> None:
        self._management = management
        self._test = test
        self._check_url = check_url

    def routes(self) -> list[Route]:
        """The routes, for an `Edge`."""
        all_of_them, types = f"{INSIDE}/v1/webhook_endpoints", f"{INSIDE}/v1/webhook_event_types"
        one = f"{all_of_them}/{{id}}"
        return [
            route("POST", all_of_them, self._create),
            route("GET", all_of_them, self._list),
            route("GET", one, self._show),
            route("POST", one, self._change),
            route("DELETE", one, self._delete),
            route("POST", f"{one}/rotate_secret", self._rotate),
            route("POST", f"{one}/test", self._send_test),
            route("GET", types, self._types),
        ]

    async def _create(self, request: Request) -> Response:
        tenant = _tenant(request)
        asked = create_asked(await read_body(request, BODY_BYTES))
        await self._check_url(asked["url"])
        return json_answer(_revealed(await self._management.create(tenant, asked)))

    async def _list(self, request: Request) -> Response:
        tenant, paging = _tenant(request), parse_paging(request.query_params)
        found = [msgspec.to_builtins(_shown(each)) for each in await self._management.all_of(tenant)]
        return json_answer(page(found[::-1], paging, "webhook endpoint"))

    async def _show(self, request: Request) -> Response:
        return json_answer(_shown(await self._find(request)))

    async def _change(self, request: Request) -> Response:
        tenant = _tenant(request)
        asked = update_asked(await read_body(request, BODY_BYTES))
        if "url" in asked:
            await self._check_url(asked["url"])
        return json_answer(_shown(await self._management.change(tenant, _id(request), asked)))

    async def _delete(self, request: Request) -> Response:
        tenant = _tenant(request)
        await self._management.delete(tenant, _id(request))
        return json_answer(DeletedWebhookEndpoint(EndpointId(_id(request))))

    async def _rotate(self, request: Request) -> Response:
        tenant = _tenant(request)
        keep = keep_asked(await read_body(request, BODY_BYTES))
        return json_answer(_revealed(await self._management.rotate(tenant, _id(request), keep=keep)))

    async def _send_test(self, request: Request) -> Response:
        tenant = _tenant(request)
        type = type_asked(await read_body(request, BODY_BYTES))
        endpoint = await self._management.find(tenant, _id(request))
        return json_answer(WebhookTest(endpoint.id, type, await self._test(endpoint, type)))

    async def _types(self, request: Request) -> Response:
        _tenant(request)
        return json_answer(WebhookEventTypes(EVENT_TYPES))

    async def _find(self, request: Request) -> Endpoint:
        return await self._management.find(_tenant(request), _id(request))


def _tenant(request: Request) -> Tenant:
    """The tenant that asks. Raises ApiError: 403 for an administrator, who has no endpoints."""
    caller = caller_of(request)
    if caller.tenant is None:
        what = "An admin's key belongs to no tenant, so it has no webhook endpoints: use a tenant's key."
        raise ApiError(403, what, code="admin_key")
    return caller.tenant


def _id(request: Request) -> str:
    id: str = request.path_params["id"]
    return id


def _shown(endpoint: Endpoint) -> WebhookEndpoint:
    return WebhookEndpoint(
        endpoint.id,
        endpoint.name,
        endpoint.url,
        endpoint.event_types,
        endpoint.created_at // 1000,
        endpoint.updated_at // 1000,
        endpoint.hint,
    )


def _revealed(revealed: Revealed) -> WebhookEndpointWithSecret:
    shown = msgspec.structs.asdict(_shown(revealed.endpoint))
    return WebhookEndpointWithSecret(**shown, signing_secret=revealed.secret)
