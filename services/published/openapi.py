"""The HTTP API as an OpenAPI 3.1 document: the paths of `services.web.paths`, with what is said of each here.

A path that is served and not described here, or described and not served, is an error.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

from schemas import ids
from schemas.checks import Shape
from schemas.refusal import LONGEST_RETRY_AFTER, RESPONSE_ID
from schemas.webhooks import DELIVERY_ID
from services.published.operations import EVERY, JSON, OPERATIONS, Content, Object, Operation, text_schema
from services.published.shapes import NUMBERS, Parts, as_components, needed, ref, whole_text
from services.settings import Settings
from services.web.edge import OPEN_PATHS
from services.web.keys import IDEMPOTENCY_KEY, MAX_KEY
from services.web.paths import SERVED

_HEADERS: Mapping[str, Object] = {
    "x-request-id": {
        "description": "The request's id, as logs have it.",
        "required": True,
        "schema": text_schema(),
    },
    "retry-after": {
        "description": "Seconds after which the request may be sent again.",
        "schema": {"type": "integer", "minimum": 1, "maximum": LONGEST_RETRY_AFTER},
    },
    "x-should-retry": {
        "description": "Whether the SDKs are to repeat the request by themselves.",
        "schema": text_schema(enum=["true", "false"]),
    },
    RESPONSE_ID: {
        "description": "The response that failed: it can be retrieved if it is stored.",
        "schema": text_schema(pattern=whole_text(ids.RESPONSE_ID.pattern)),
    },
    "openai-poll-after-ms": {
        "description": "On a response that is open: the milliseconds to wait until the next GET.",
        "schema": {"type": "integer", "minimum": 1},
    },
    "allow": {"description": "The methods that the path has.", "schema": text_schema()},
    "www-authenticate": {"description": "How to show a key.", "schema": text_schema()},
    "etag": {"description": "Changes when the document does.", "required": True, "schema": text_schema()},
    "cache-control": {"description": "How long an answer may be kept.", "schema": text_schema()},
    "x-accel-buffering": {"description": "Tells proxies to hold no event back.", "schema": text_schema()},
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
_PARAMETERS: Mapping[str, Object] = {
    IDEMPOTENCY_KEY: {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "The same key with the same body leads to the same response.",
        "required": False,
        "schema": text_schema(maxLength=MAX_KEY),
    },
    "Last-Event-ID": {
        "name": "Last-Event-ID",
        "in": "header",
        "description": "The last event that an EventSource has. The larger of it and starting_after counts.",
        "required": False,
        "schema": text_schema(),
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "description": "The etag of the copy that the caller has.",
        "required": False,
        "schema": text_schema(),
    },
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
                    "schema": text_schema(pattern=whole_text(pattern)),
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
        {"name": name, "in": "path", "required": True, "description": what[name], "schema": text_schema()}
        for name in names
    ]


def _tenant() -> Object:
    return {
        "name": Settings().tenant_header,
        "in": "header",
        "required": False,
        "description": "The tenant, as a proxy in front names it. Has no effect where keys are asked for.",
        "schema": text_schema(pattern=whole_text(ids.TENANT.pattern)),
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
