"""What is published of every method of every path: one `Operation` for each, in the order of the document.

What a path takes and answers is the code's own where the code says it. Which statuses a route answers, and
the sentences for people, are written here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from schemas.checks import Shape
from services.analytics.queries import COSTS, LATEST, USAGE, UsageQuestion
from services.published.shapes import NUMBERS, ref, whole_text
from services.replay.schemas import ASYNCAPI_TYPE, OPENAPI_TYPE, SCHEMA_TYPE
from services.web.keys import IDEMPOTENCY_KEY
from services.web.paging import DEFAULT_LIMIT, MAX_LIMIT
from services.web.paths import OPENAPI, SCHEMAS
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


def text_schema(**more: Any) -> Object:
    """The schema of a text, with `more` keywords."""
    return {"type": "string", **more}


def _query(name: str, what: str, schema: Object) -> Object:
    return {"name": name, "in": "query", "description": what, "required": False, "schema": schema}


_SWITCH = text_schema(enum=["true", "1", "false", "0"])
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
    _query("order", "The last items first, or the first.", text_schema(enum=["asc", "desc"], default="desc")),
    _query("after", "The id of the item after which the page begins.", text_schema()),
    _query("include", "Taken, without effect.", text_schema()),
)
_MANY = {"type": "array", "items": text_schema()}


def _usage(kind: UsageQuestion) -> Sequence[Object]:
    """The query of a question about usage."""
    most = max(width.most for width in kind.widths.values())
    usual = {name: width.usual for name, width in kind.widths.items()}
    grouped = {"type": "array", "items": text_schema(enum=list(kind.groups))}
    return (
        {**_query("start_time", "Unix seconds; rows are of whole minutes.", _TIME), "required": True},
        _query("end_time", "Unix seconds; not in it. Without it: the end of the bucket of now.", _TIME),
        _query("bucket_width", "How long a bucket is.", text_schema(enum=list(kind.widths), default="1d")),
        _query("group_by[]", "By what results are told apart; also as group_by, and with commas.", grouped),
        *(_query(f"{name}[]", f"Only these; also as {name}.", _MANY) for name in kind.filters),
        _query(
            "limit",
            f"How many buckets; without it {usual}, at most {most}, fewer of longer ones.",
            {"type": "integer", "minimum": 1, "maximum": most},
        ),
        _query("page", "The next_page of the answer before.", text_schema()),
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
            "event": text_schema(description="The event's type."),
            "id": text_schema(pattern=whole_text(NUMBERS), description="The event's sequence_number."),
            "data": text_schema(contentMediaType=JSON, contentSchema=ref("Event")),
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
