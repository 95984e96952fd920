"""The HTTP API as an OpenAPI 3.1 document: the paths of `services.web.paths`, with what is said of each here.

A path that is served and not described here, or described and not served, is an error.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from msgspec import Struct

from schemas import ids
from schemas.checks import Shape
from schemas.refusal import LONGEST_RETRY_AFTER, RESPONSE_ID
from schemas.webhooks import DELIVERY_ID
from services.analytics.queries import COSTS, LATEST, USAGE, UsageQuestion
from services.published.shapes import NUMBERS, Parts, as_components, needed, ref, whole_text
from services.replay.schemas import ASYNCAPI_TYPE, OPENAPI_TYPE, SCHEMA_TYPE
from services.settings import Settings
from services.web.edge import OPEN_PATHS
from services.web.keys import IDEMPOTENCY_KEY, MAX_KEY
from services.web.paging import DEFAULT_LIMIT, MAX_LIMIT
from services.web.paths import OPENAPI, SCHEMAS, SERVED
from services.web.sse import HEADERS as STREAM_HEADERS

JSON, STREAM, TEXT = "application/json", "text/event-stream", "text/plain"

Object = dict[str, Any]


class Content(Struct, frozen=True):
    """A body of an answer: media type and schema."""

    type: str
    shape: Shape


class Operation(Struct, frozen=True):
    """What is published of a method of a path.

    `answers` are those of success by status, `headers` the headers of each. `errors` are the statuses of
    errors beside those of every operation.
    """

    id: str
    what: str
    answers: Mapping[int, Sequence[Content]]
    headers: Sequence[str] = ()
    errors: Sequence[int] = ()
    query: Sequence[Object] = ()
    given: Sequence[str] = ()
    """Headers of the request, by their component."""
    body: Object | None = None
    open: bool = False
    """No key is asked for."""


EVERY = (400, 408, 421, 431, 500, 503)
"""Errors of every operation: a bad head, a slow one, another host, too large a head, a fault, a drain."""
KEYED = (401,)
WRITES = (403,)
"""A page of another origin."""
_FORWARDED = (*KEYED, 403, 404, 429)
"""Of a route that a service behind the front door answers (A-29): an admin's key where a tenant's is needed,
what is not there or not run, no room for the body."""


def _text(**more: Any) -> Object:
    return {"type": "string", **more}


_HEADERS: Mapping[str, Object] = {
    "x-request-id": {
        "description": "The request's id, as logs have it.",
        "required": True,
        "schema": _text(),
    },
    "retry-after": {
        "description": "Seconds after which the request may be sent again.",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_RETRY_AFTER},
    },
    "x-should-retry": {
        "description": "Whether the SDKs are to repeat the request by themselves.",
        "schema": _text(enum=["true", "false"]),
    },
    RESPONSE_ID: {
        "description": "The response that failed: it can be retrieved if it is stored.",
        "schema": _text(pattern=whole_text(ids.RESPONSE_ID.pattern)),
    },
    "openai-poll-after-ms": {
        "description": "On a response that is open: the milliseconds to wait until the next GET.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "allow": {"description": "The methods that the path has.", "schema": _text()},
    "www-authenticate": {"description": "How to show a key.", "schema": _text()},
    "etag": {"description": "Changes when the document does.", "required": True, "schema": _text()},
    "cache-control": {"description": "How long an answer may be kept.", "schema": _text()},
    "x-accel-buffering": {"description": "Tells proxies to hold no event back.", "schema": _text()},
}
_OF_ERRORS: Mapping[int, Sequence[str]] = {
    401: ("www-authenticate",),
    429: ("retry-after", "x-should-retry"),
    503: ("retry-after", "x-should-retry"),
}
_RETRIED = (400, 413, 421, 422, 431, 500, 502, 504)
"""Other errors that may say whether to repeat the request."""
_FAILED = (400, 429, 500, 502, 504)
"""Errors that a failed response may be told as (A-24)."""


def _query(name: str, what: str, schema: Object) -> Object:
    return {"name": name, "in": "query", "description": what, "required": False, "schema": schema}


_PARAMETERS: Mapping[str, Object] = {
    IDEMPOTENCY_KEY: {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "The same key with the same body leads to the same response.",
        "required": False,
        "schema": _text(maxLength=MAX_KEY),
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The last event that an EventSource has. The larger of it and starting_after counts.",
        "required": False,
        "schema": _text(),
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The etag of the copy that the caller has.",
        "required": False,
        "schema": _text(),
    },
}
_SWITCH = _text(enum=["true", "1", "false", "0"])
_STREAMED = (
    _query("stream", "Whether to answer with the events as they come.", _SWITCH),
    _query(
        "starting_after",
        "With stream: the number of the last event that the caller has.",
        {"type": "integer"},
    ),
)
_PAGED = (
    _query(
        "limit",
        "How many items.",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    ),
    _query("order", "The last items first, or the first.", _text(enum=["asc", "desc"], default="desc")),
    _query("after", "The id of the item after which the page begins.", _text()),
    _query("include", "Taken, without effect.", _text()),
)
_MANY = {"type": "array", "items": _text()}


def _usage(kind: UsageQuestion) -> Sequence[Object]:
    """The query of a question about usage."""
    most = max(width.most for width in kind.widths.values())
    usual = {name: width.usual for name, width in kind.widths.items()}
    grouped = {"type": "array", "items": _text(enum=list(kind.groups))}
    return (
        {**_query("start_time", "Unix seconds; rows are of whole minutes.", _TIME), "required": True},
        _query("end_time", "Unix seconds; not in it. Without it: the end of the bucket of now.", _TIME),
        _query("bucket_width", "How long a bucket is.", _text(enum=list(kind.widths), default="1d")),
        _query("group_by[]", "By what results are told apart; also as group_by, and with commas.", grouped),
        *(_query(f"{name}[]", f"Only these; also as {name}.", _MANY) for name in kind.filters),
        _query(
            "limit",
            f"How many buckets; without it {usual}, at most {most}, fewer of longer ones.",
            {"type": "integer", "minimum": 1, "maximum": most},
        ),
        _query("page", "The next_page of the answer before.", _text()),
    )


_TIME: Object = {"type": "integer", "minimum": 0, "maximum": LATEST}
_PAGE = (Content(JSON, ref("UsagePage")),)
_STREAM = Content(
    STREAM,
    {
        "type": "object",
        "description": "Each frame. A keep-alive, which is a comment, may stand between two of them.",
        "required": ["event", "id", "data"],
        "properties": {
            "event": _text(description="The event's type."),
            "id": _text(pattern=whole_text(NUMBERS), description="The event's sequence_number."),
            "data": _text(contentMediaType=JSON, contentSchema=ref("Event")),
        },
    },
)
_STREAM_HEADERS = tuple(name.decode() for name, _ in STREAM_HEADERS if name != b"content-type")
_RESPONSE = Content(JSON, ref("Response"))
_CREATE = {
    "required": True,
    "description": "It has model or agent_reference; input unless previous_response_id or prompt is there.",
    "content": {
        JSON: {
            "schema": ref("CreateRequest"),
            "examples": {
                "background": {"value": {"model": "echo", "background": True, "input": "hello again"}},
                "waiting": {
                    "value": {"model": "echo", "input": [{"role": "user", "content": "hello again"}]}
                },
                "streamed": {"value": {"model": "echo", "input": "hello again", "stream": True}},
            },
        }
    },
}
_FILE_HEADERS = ("etag", "cache-control")
_DOCUMENT: Shape = {"type": "object"}

_WEBHOOKS = "/v1/webhook_endpoints"
_ENDPOINT = Content(JSON, ref("WebhookEndpoint"))
_WITH_SECRET = Content(JSON, ref("WebhookEndpointWithSecret"))


def _asks(name: str, example: Object) -> Object:
    return {
        "required": True,
        "content": {JSON: {"schema": ref(name), "examples": {"usual": {"value": example}}}},
    }


_HOOKED = {"name": "builds", "url": "https://hooks.example/rejoinder", "event_types": ["response.completed"]}
_OF_WEBHOOKS: Mapping[tuple[str, str], Operation] = {
    ("POST", _WEBHOOKS): Operation(
        "createWebhookEndpoint",
        "Make a webhook endpoint. Its secret is shown here, and never again.",
        {200: (_WITH_SECRET,)},
        errors=(*_FORWARDED, *WRITES, 413, 415),
        body=_asks("CreateWebhookEndpoint", _HOOKED),
    ),
    ("GET", _WEBHOOKS): Operation(
        "listWebhookEndpoints",
        "The tenant's webhook endpoints, in pages, the newest first.",
        {200: (Content(JSON, ref("WebhookEndpoints")),)},
        errors=_FORWARDED,
        query=_PAGED[:3],
    ),
    ("GET", f"{_WEBHOOKS}/{{id}}"): Operation(
        "getWebhookEndpoint",
        "One webhook endpoint.",
        {200: (_ENDPOINT,)},
        errors=_FORWARDED,
    ),
    ("POST", f"{_WEBHOOKS}/{{id}}"): Operation(
        "updateWebhookEndpoint",
        "Change what is given of name, URL and types of events.",
        {200: (_ENDPOINT,)},
        errors=(*_FORWARDED, *WRITES, 413, 415),
        body=_asks("UpdateWebhookEndpoint", {"name": "nightly builds"}),
    ),
    ("DELETE", f"{_WEBHOOKS}/{{id}}"): Operation(
        "deleteWebhookEndpoint",
        "Delete a webhook endpoint. What is due to it is not delivered.",
        {200: (Content(JSON, ref("DeletedWebhookEndpoint")),)},
        errors=(*_FORWARDED, *WRITES),
    ),
    ("POST", f"{_WEBHOOKS}/{{id}}/rotate_secret"): Operation(
        "rotateWebhookSecret",
        "Give a webhook endpoint a new secret, which is shown here, and never again.",
        {200: (_WITH_SECRET,)},
        errors=(*_FORWARDED, *WRITES, 413, 415),
        body=_asks("RotateWebhookSecret", {"keep_old_secret_active_for_24_hours": True}),
    ),
    ("POST", f"{_WEBHOOKS}/{{id}}/test"): Operation(
        "testWebhookEndpoint",
        "Send a webhook endpoint a sample event, and tell the status of its answer.",
        {200: (Content(JSON, ref("WebhookTest")),)},
        errors=(*_FORWARDED, *WRITES, 413, 415),
        body=_asks("TestWebhookEndpoint", {"event_type": "response.completed"}),
    ),
    ("GET", "/v1/webhook_event_types"): Operation(
        "listWebhookEventTypes",
        "The types of events that an endpoint may ask for.",
        {200: (Content(JSON, ref("WebhookEventTypes")),)},
        errors=_FORWARDED,
    ),
}

OPERATIONS: Mapping[tuple[str, str], Operation] = {
    ("POST", "/v1/responses"): Operation(
        "createResponse",
        "Create a response. Without background and stream the answer is the final object. A failure before "
        "any output is an error, with the response's id in a header.",
        {200: (_RESPONSE, _STREAM)},
        headers=("openai-poll-after-ms", *_STREAM_HEADERS),
        errors=(*KEYED, *WRITES, 404, 413, 415, 422, 429, 502, 504),
        given=(IDEMPOTENCY_KEY,),
        body=_CREATE,
    ),
    ("GET", "/v1/responses/{id}"): Operation(
        "getResponse",
        "The response as it is now, or its events. 204: nothing is left for an EventSource to reconnect for.",
        {200: (_RESPONSE, _STREAM), 204: ()},
        headers=("openai-poll-after-ms", *_STREAM_HEADERS),
        errors=(*KEYED, 404),
        query=_STREAMED,
        given=("Last-Event-ID",),
    ),
    ("DELETE", "/v1/responses/{id}"): Operation(
        "deleteResponse",
        "Stop a response and erase it.",
        {200: (Content(JSON, ref("DeletedResponse")),)},
        errors=(*KEYED, *WRITES, 404),
    ),
    ("POST", "/v1/responses/{id}/cancel"): Operation(
        "cancelResponse",
        "Stop a response that runs in the background.",
        {200: (_RESPONSE,)},
        errors=(*KEYED, *WRITES, 404),
    ),
    ("GET", "/v1/responses/{id}/input_items"): Operation(
        "listInputItems",
        "The items of a response's input, in pages.",
        {200: (Content(JSON, ref("InputItems")),)},
        errors=(*KEYED, 404),
        query=_PAGED,
    ),
    ("GET", "/v1/models"): Operation(
        "listModels",
        "Which models and agents there are.",
        {200: (Content(JSON, ref("ModelList")),)},
        errors=KEYED,
    ),
    ("GET", "/v1/models/{id:path}"): Operation(
        "getModel",
        "One model. Its name may have slashes.",
        {200: (Content(JSON, ref("ListedModel")),)},
        errors=(*KEYED, 404),
    ),
    ("GET", "/v1/organization/usage/completions"): Operation(
        "getCompletionsUsage",
        "Responses that have ended, and their tokens, by time. A tenant is a project_id.",
        {200: _PAGE},
        errors=(*KEYED, 404),
        query=_usage(USAGE),
    ),
    ("GET", "/v1/organization/costs"): Operation(
        "getCosts",
        "What they cost, by day and the operator's prices.",
        {200: _PAGE},
        errors=(*KEYED, 404),
        query=_usage(COSTS),
    ),
    ("GET", "/v1/usage/latency"): Operation(
        "getLatency",
        "How long they took and how they ended, by time.",
        {200: _PAGE},
        errors=(*KEYED, 404),
        query=_usage(USAGE),
    ),
    **_OF_WEBHOOKS,
    ("GET", SCHEMAS): Operation(
        "listSchemas",
        "The published documents.",
        {200: (Content(JSON, ref("SchemaList")),), 304: ()},
        headers=_FILE_HEADERS,
        given=("If-None-Match",),
        open=True,
    ),
    ("GET", f"{SCHEMAS}/{{name:path}}"): Operation(
        "getSchema",
        "A published document.",
        {200: [Content(type, _DOCUMENT) for type in (SCHEMA_TYPE, OPENAPI_TYPE, ASYNCAPI_TYPE)], 304: ()},
        headers=_FILE_HEADERS,
        errors=(404,),
        given=("If-None-Match",),
        open=True,
    ),
    ("GET", OPENAPI): Operation(
        "getOpenapi",
        "This document.",
        {200: (Content(OPENAPI_TYPE, _DOCUMENT),), 304: ()},
        headers=_FILE_HEADERS,
        given=("If-None-Match",),
        open=True,
    ),
    ("GET", "/livez"): Operation(
        "live", "Whether the process runs.", {200: (Content(JSON, ref("Health")),)}, open=True
    ),
    ("GET", "/readyz"): Operation(
        "ready",
        "Whether the process has started and caught up.",
        {200: (Content(JSON, ref("Health")),)},
        open=True,
    ),
    ("GET", "/metrics"): Operation(
        "metrics", "Prometheus text.", {200: (Content(TEXT, {"type": "string"}),)}, open=True
    ),
}


def api_document(version: str, parts: Parts) -> Shape:
    """The document. Raises KeyError for a path that is served and not described, or the other way round."""
    served = {(method, path) for path, methods in SERVED.items() for method in methods}
    served |= {("GET", path) for path in OPEN_PATHS}
    if unlike := served ^ OPERATIONS.keys():
        raise KeyError(f"served or described, and not both: {sorted(unlike)}")
    paths: dict[str, Object] = {}
    for (method, path), operation in OPERATIONS.items():
        paths.setdefault(path.replace(":path", ""), {})[method.lower()] = _operation(path, operation)
    found: Shape = as_components(_document(version, paths, parts))
    return found


_TOLD: Mapping[str, Object] = {
    "response": {
        "post": {
            "operationId": "responseEnded",
            "summary": "A response in the background has ended. The type says how.",
            "parameters": [
                {
                    "name": name,
                    "in": "header",
                    "required": True,
                    "description": what,
                    "schema": _text(pattern=whole_text(pattern)),
                }
                for name, what, pattern in (
                    ("webhook-id", "The same for all attempts of a delivery.", DELIVERY_ID),
                    ("webhook-timestamp", "When this attempt was made, in seconds.", NUMBERS),
                    ("webhook-signature", "One for each secret that holds.", "v1,[^ ]+( v1,[^ ]+)*"),
                )
            ],
            "requestBody": {"required": True, "content": {JSON: {"schema": ref("WebhookEvent")}}},
            "responses": {"2XX": {"description": "Taken. Any other answer is a failure: it comes again."}},
        }
    }
}
"""What is sent to webhook endpoints, by what it is about."""


def _document(version: str, paths: Object, parts: Parts) -> Shape:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rejoinder",
            "version": version,
            "description": "The OpenAI Responses API for work that outlives its connection. A path with GET "
            "has HEAD as well. Other fields than those named here may come, in requests and in answers.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "webhooks": _TOLD,
        "components": {
            "schemas": needed({**paths, **_TOLD}, parts),
            "headers": {name: dict(header) for name, header in _HEADERS.items()},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Where the operator has set keys. Else a proxy in front authorises.",
                }
            },
        },
    }


def _operation(path: str, operation: Operation) -> Object:
    tenant = [] if operation.open else [_tenant()]
    parameters = [
        *_in_path(path),
        *operation.query,
        *(_PARAMETERS[name] for name in operation.given),
        *tenant,
    ]
    statuses = sorted({*EVERY, *operation.errors} - operation.answers.keys())
    answers = {
        status: _answer(status, bodies, operation.headers) for status, bodies in operation.answers.items()
    }
    errors = {status: _error(path, status) for status in statuses}
    return {
        "operationId": operation.id,
        "summary": operation.what,
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": operation.body} if operation.body else {}),
        "responses": {str(status): answer for status, answer in sorted({**answers, **errors}.items())},
        "security": [] if operation.open else [{}, {"key": []}],
    }


def _in_path(path: str) -> list[Object]:
    names = [part.partition(":")[0] for part in path.replace("}", "{").split("{")[1::2]]
    what = {
        "id": "The id of a response or a webhook endpoint, or the name of a model.",
        "name": "The name of a document.",
    }
    return [
        {"name": name, "in": "path", "required": True, "description": what[name], "schema": _text()}
        for name in names
    ]


def _tenant() -> Object:
    return {
        "name": Settings().tenant_header,
        "in": "header",
        "required": False,
        "description": "The tenant, as a proxy in front names it. Has no effect where keys are asked for.",
        "schema": _text(pattern=whole_text(ids.TENANT.pattern)),
    }


def _answer(status: int, bodies: Sequence[Content], headers: Sequence[str]) -> Object:
    content = {body.type: {"schema": body.shape} for body in bodies}
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _headers(headers),
        **({"content": content} if content else {}),
    }


def _error(path: str, status: int) -> Object:
    """An error in the envelope; but `/readyz` says why it is not ready."""
    health = path == "/readyz" and status == HTTPStatus.SERVICE_UNAVAILABLE
    retried = ("x-should-retry",) if status in _RETRIED else ()
    failed = (RESPONSE_ID,) if path == "/v1/responses" and status in _FAILED else ()
    shape = ref("Health" if health else "Envelope")
    return {
        "description": HTTPStatus(status).phrase,
        "headers": _headers((*_OF_ERRORS.get(status, ()), *retried, *failed)),
        "content": {JSON: {"schema": shape}},
    }


def _headers(names: Sequence[str]) -> Object:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("x-request-id", *names)}
