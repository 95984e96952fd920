"""Reads what a request names and brings; makes JSON answers and error envelopes."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec
from msgspec import Struct
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from schemas.errors import ApiError, invalid, not_found
from schemas.ids import ResponseId, parse_response_id
from services.web.metrics import REFUSED
from services.web.served import served_in

_JSON = "application/json"
_POLL_AFTER: Mapping[str, str] = {"openai-poll-after-ms": "1000"}
"""Tells a poller that knows the header to wait so many milliseconds until its next GET (A-8)."""
_NO_HEADERS: Mapping[str, str] = {}


class ErrorBody(Struct, frozen=True):
    """What went wrong. `param` names the field of the request, `code` the class of the error."""

    message: str
    type: str
    param: str | None
    code: str | None


class Envelope(Struct, frozen=True):
    """The body of every answer that is an error (A-16)."""

    error: ErrorBody


class DeletedResponse(Struct, frozen=True):
    """The body of the answer to a delete (A-12)."""

    id: str
    object: Literal["response"] = "response"
    deleted: bool = True


def named_in(request: Request) -> ResponseId:
    """The response that a path with `{id}` names. Raises ApiError (404) if `{id}` is no response id."""
    given: str = request.path_params["id"]
    id = parse_response_id(given)
    if id is None:
        raise not_found(given)
    served_in(request.scope).response = id
    return id


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] = _NO_HEADERS) -> Response:
    """`value` as a JSON answer. It may hold structs and `msgspec.Raw`."""
    return Response(msgspec.json.encode(value), status, dict(headers), _JSON)


def object_answer(shown: bytes, *, open: bool) -> Response:
    """The answer with a response object (JSON bytes). If it is `open`, a header says when to ask again."""
    return Response(shown, media_type=_JSON, headers=_POLL_AFTER if open else None)


def deleted_answer(id: str) -> Response:
    """The answer to a delete (A-12)."""
    return json_answer(DeletedResponse(id))


def error_answer(error: ApiError) -> Response:
    """The envelope that every client parses: `{"error": {"message", "type", "param", "code"}}` (A-16).

    Making one counts it as a refusal, so the caller must send it.
    """
    REFUSED.labels(str(error.status), error.reason).inc()
    what = ErrorBody(error.message, error.type, error.param, error.code)
    return json_answer(Envelope(what), error.status, error.headers)


def check_body(headers: Headers, bound: int) -> None:
    """Refuse a body by the head of its request.

    Raises ApiError: 413 for more than `bound` bytes, 415 for a compressed body, 400 for a bad Content-Length.
    """
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        what = f"Content-Encoding '{encoding}' is not supported: send the body as it is."
        raise ApiError(415, what, param="content-encoding", code="unsupported_content_encoding")
    declared = headers.get("content-length", "0")
    if not declared.isdecimal():
        raise invalid("Content-Length must be a number.", None)
    if int(declared) > bound:
        raise too_large(bound)


async def read_body(request: Request, bound: int, take: Callable[[int], None] = lambda _: None) -> bytes:
    """The body of a request. Raises as `check_body`, and 413 as soon as more than `bound` bytes have come.

    `take` is called with the size of each piece when it comes, and may raise. Raises starlette's
    ClientDisconnect when the client goes before the body is whole.
    """
    check_body(request.headers, bound)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bound:
            raise too_large(bound)
        take(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


def too_large(bound: int) -> ApiError:
    """The error 413. The client is told not to retry: a repetition would be as large."""
    what = f"The request is too large: its body may have at most {bound} bytes."
    return ApiError(413, what, code="request_too_large", headers={"x-should-retry": "false"})
