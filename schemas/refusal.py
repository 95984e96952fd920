"""Turns a failed response into the refusal of the create that waited for it, if it failed before any output.

Pure: the final object in, an ApiError or nothing out (A-24). Only what the log holds decides, so a later
request with the same Idempotency-Key gets the same answer. The first of these that is there decides:

    error.upstream_status   the HTTP status with which the upstream refused
    error.code              of the API's closed list, unless it is `server_error`, which says nothing
    error.type              Rejoinder's own word, or the upstream's
    else                    502: the upstream failed
"""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.errors import ApiError
from schemas.events import UNDECODABLE
from schemas.response import Object, http_status

RESPONSE_ID = "x-rejoinder-response-id"
"""The header that names the response which failed: it can be retrieved, unless it is not stored."""
LONGEST_RETRY_AFTER = 60
"""Seconds: openai-js fires at once when it reads more (A-10)."""

_BY_UPSTREAM: Mapping[int, int] = {400: 400, 413: 400, 422: 400, 429: 429}
"""Refusals that the client can mend, or wait out. Any other one is for the operator to mend: 502."""
_BY_CODE: Mapping[str, int] = {"rate_limit_exceeded": 429, "vector_store_timeout": 504}
"""The other codes speak of what the request holds: 400."""
_BY_TYPE: Mapping[str, int] = {
    "upstream_idle": 504,
    "deadline": 504,
    "no_backend": 400,
    "unsupported": 400,
    "invalid_request": 400,
    "invalid_request_error": 400,
    "rate_limit_error": 429,
    "conversation": 500,
    "executor_lost": 500,
    "attempts_exhausted": 500,
    "internal_error": 500,
    "unreadable": 500,
}
_SAID_IN: Mapping[str, tuple[str, ...]] = {"message": ("content",), "reasoning": ("summary", "content")}
"""Types of items that may be there and say nothing yet, and their lists of parts that say something."""


class _Final(msgspec.Struct):
    status: str = ""


_final = msgspec.json.Decoder(_Final).decode
_object = msgspec.json.Decoder(Object).decode


def refusal(final: bytes, *, keyed: bool) -> ApiError | None:
    """The refusal for a create whose response ended as `final`, its object as JSON.

    None if that object is the answer: it did not fail, or it had said something before. `keyed`: the create
    had an Idempotency-Key. A repetition would meet the same response, so the client is told not to repeat it.
    """
    try:
        if _final(final).status != "failed":
            return None
        failed = _object(final)
    except UNDECODABLE:  # written by a stranger: it is passed on as it is
        return None
    error = failed.get("error")
    if not isinstance(error, dict) or error.get("output_omitted") or says_something(failed.get("output")):
        return None
    status, wait = http_status_of(error), error.get("retry_after")
    again = isinstance(wait, int | float)
    repeat = "true" if again and not keyed else "false"
    headers = {RESPONSE_ID: str(failed.get("id")), "x-should-retry": repeat}
    if again or status == 429:
        headers["retry-after"] = str(_seconds(wait))
    return ApiError(
        status,
        str(error.get("message")),
        type=str(error.get("type")),
        param=param if isinstance(param := error.get("param"), str) else None,
        code=str(error.get("code")),
        headers=headers,
        reason="response_failed",
    )


def http_status_of(error: Mapping[str, Any]) -> int:
    """The HTTP status that a failed response's `error` is told with; see the module."""
    upstream, code, type = http_status(error.get("upstream_status")), error.get("code"), error.get("type")
    if upstream is not None:
        return _BY_UPSTREAM.get(upstream, 502)
    if isinstance(code, str) and code != "server_error":
        return _BY_CODE.get(code, 400)
    return _BY_TYPE.get(type, 502) if isinstance(type, str) else 502


def says_something(output: object) -> bool:
    """Whether an `output` holds more than items that were begun: a text, a thought, any call."""
    return isinstance(output, list) and any(map(_says, output))


def _says(item: object) -> bool:
    if not isinstance(item, dict):
        return True
    kept_in = _SAID_IN.get(str(item.get("type")))
    if kept_in is None or item.get("encrypted_content"):
        return True
    parts = [part for name in kept_in if isinstance(item.get(name), list) for part in item[name]]
    return any(not isinstance(part, dict) or _part_says(part) for part in parts)


def _part_says(part: Mapping[str, Any]) -> bool:
    return bool(part.get("text", part.get("refusal")) != "")


def _seconds(wait: object) -> int:
    """Whole seconds for a Retry-After, 1 to 60 (A-10)."""
    seconds = math.ceil(wait) if isinstance(wait, int | float) and math.isfinite(wait) else 1
    return min(max(seconds, 1), LONGEST_RETRY_AFTER)
