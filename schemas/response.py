"""The response object, as it is at first and as it ends: whole for strict clients (A-17).

A response's object is built twice. Ingest builds the initial one from the request; it is written into
`accepted` and every derived event repeats it. Whoever closes the response builds the final one on top of it.
In between, readers see the initial object with another status and the output so far.

Every field that the openai SDK's `Response` and the Open Responses `ResponseResource` require is there from
the start, with the request's value or the API's default. Identity, status and error are ours whatever an
upstream says; its other fields win, known or not.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.ids import ResponseId

Object = dict[str, Any]
"""A decoded JSON object."""

_CODES = """
server_error rate_limit_exceeded invalid_prompt data_residency_mismatch bio_policy
misalignment_policy_violation vector_store_timeout invalid_image invalid_image_format invalid_base64_image
invalid_image_url image_too_large image_too_small image_parse_error image_content_policy_violation
invalid_image_mode image_file_too_large unsupported_image_media_type empty_image_file failed_to_download_image
image_file_not_found
"""
ERROR_CODES = frozenset(_CODES.split())
"""The codes that `error.code` may have: the openai SDK's closed list; another fails strict clients (A-8)."""

INCOMPLETE_REASONS = frozenset({"max_output_tokens", "max_messages", "content_filter", "steered"})
"""What `incomplete_details.reason` may be: the openai SDK's closed list."""
_CHAT_DETAILS = {
    "input_tokens_details": "prompt_tokens_details",
    "output_tokens_details": "completion_tokens_details",
}
"""The names that Chat Completions has for details of `usage`."""

_DEFAULTS: Object = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "top_logprobs": 0,
    "top_p": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "tool_choice": "auto",
    "truncation": "disabled",
    "user": None,
}
_ECHOED = ("agent_reference", "include", "prompt", "prompt_cache_retention", "stream_options")
"""Fields of the request that are repeated only when they were given: no schema requires them."""

_OURS = """
id object created_at background store previous_response_id metadata agent_reference
status output error incomplete_details completed_at usage
"""
_IDENTITY = frozenset(_OURS.split())
"""Fields that an upstream cannot change: it has its own response, this one is ours."""

_FUNCTION_TOOL: Object = {"type": "function", "description": None, "parameters": None, "strict": None}
_JSON_SCHEMA: Object = {"type": "json_schema", "description": None, "strict": False}


def initial(body: Mapping[str, Any], id: ResponseId, created_at: int, model: str) -> Object:
    """The object that a response begins with: `queued` in the background, else `in_progress`.

    `body` is a validated create request, `created_at` in seconds since the epoch, `model` the model's or the
    agent's name.
    """
    background = bool(body.get("background"))
    return {
        "id": id,
        "object": "response",
        "created_at": created_at,
        "status": "queued" if background else "in_progress",
        "background": background,
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        **{name: _given(body, name, default) for name, default in _DEFAULTS.items()},
        "metadata": dict(_given(body, "metadata", {})),
        "reasoning": {"effort": None, "summary": None, **_given(body, "reasoning", {})},
        "text": _text(_given(body, "text", {})),
        "tools": [_whole_tool(tool) for tool in _given(body, "tools", [])],
        **{name: body[name] for name in _ECHOED if body.get(name) is not None},
    }


def running(initial: Object, status: str = "in_progress", output: Sequence[Object] = ()) -> Object:
    """The object of an open response: `status` as the fold says, the output so far."""
    return {**initial, "status": status, "output": list(output)}


def cancelled(initial: Object) -> Object:
    """The final object of a cancelled response: status `cancelled`, output `[]` (A-11)."""
    return {**initial, "status": "cancelled", "output": []}


def final_response(
    initial: Object,
    *,
    status: str,
    output: Sequence[Object],
    upstream: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    incomplete_details: Mapping[str, Any] | None = None,
    completed_at: int | None = None,
    usage: Mapping[str, Any] | None = None,
) -> Object:
    """The final object of a response that its run closes with `status`: completed, failed or incomplete.

    `upstream` is the object of the upstream's terminal event, if any: its fields that are not null win over
    the initial ones, but for identity and state. `completed_at` (seconds) is kept only when completed,
    `error` only when failed and never null then, `incomplete_details` only when incomplete. Those two and
    `usage` default to the upstream's.
    """
    fields = upstream or {}
    return {
        **heard(initial, fields),
        "status": status,
        "output": list(output),
        "completed_at": completed_at if status == "completed" else None,
        "error": response_error(error or _error_object(fields.get("error"))) if status == "failed" else None,
        "incomplete_details": _incomplete(incomplete_details or fields.get("incomplete_details"))
        if status == "incomplete"
        else None,
        "usage": whole_usage(usage if usage is not None else fields.get("usage")),
    }


def heard(initial: Object, upstream: Mapping[str, Any]) -> Object:
    """`initial` with the fields of the upstream's object over it (U-15). Identity and state stay ours."""
    fields = {
        name: _theirs(name, value, initial)
        for name, value in upstream.items()
        if _overrides(name, value, initial)
    }
    return {
        **initial,
        **fields,
        "metadata": with_metadata(initial.get("metadata"), upstream.get("metadata")),
    }


def says_more(heard: Object, before: Object) -> bool:
    """Whether `heard` has fields, or metadata, that `before` has not: an upstream's object added them."""
    return heard["metadata"] != (before.get("metadata") or {}) or not before.keys() >= heard.keys() - {
        "metadata"
    }


def with_metadata(ours: object, theirs: object) -> dict[str, str]:
    """The client's metadata, and the upstream's beside it, within the limits of A-16 (U-15)."""
    kept: dict[str, str] = dict(ours) if isinstance(ours, Mapping) else {}
    for key, value in theirs.items() if isinstance(theirs, Mapping) else ():
        fits = isinstance(key, str) and len(key) <= 64 and isinstance(value, str) and len(value) <= 512
        if fits and key not in kept and len(kept) < 16:
            kept[key] = value
    return kept


def failed(final: Object, error: Mapping[str, Any]) -> Object:
    """A final object as that of a failed response; an `error` that it has already is kept."""
    return {
        **final,
        "status": "failed",
        "completed_at": None,
        "incomplete_details": None,
        "error": final["error"] or response_error(error),
    }


def response_error(error: Mapping[str, Any]) -> Object:
    """`error` as the final object has it: `code` of the closed list, `message`, our own word in `type` (A-8).

    An upstream's other code is kept in `type`, if the error has none. One that is an HTTP status, as many
    servers have it, is kept in `upstream_status`.
    """
    code = error.get("code")
    known = isinstance(code, str) and code in ERROR_CODES
    status = http_status(code)
    return {
        **error,
        **({} if status is None else {"upstream_status": status}),
        "code": code if known else "server_error",
        "message": str(error.get("message") or "The response failed."),
        "type": str(error.get("type") or (code if code and not known else "upstream_error")),
    }


def http_status(code: object) -> int | None:
    """The HTTP status that an error's `code` is, as a number or in digits; None when it is another code."""
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdigit():
        code = int(code)
    return code if type(code) is int and 400 <= code < 600 else None


def _error_object(error: object) -> Mapping[str, Any]:
    """An upstream's `error` as an object; a mere text becomes its message.

    Its `retry_after` is left out: it speaks of a response that was started, and when a create may be repeated
    is ours to say (A-24).
    """
    if isinstance(error, Mapping):
        return {name: value for name, value in error.items() if name != "retry_after"}
    return {"message": error} if isinstance(error, str) else {}


def whole_usage(usage: object) -> Object | None:
    """`usage` with every count and both `*_details`, as strict clients need it (A-17, U-14); None without
    one.
    """
    if not isinstance(usage, Mapping) or not any(count_in(value) is not None for value in usage.values()):
        return None
    spent = _count(usage, "input_tokens") or _count(usage, "prompt_tokens")
    made = _count(usage, "output_tokens") or _count(usage, "completion_tokens")
    return {
        **usage,
        "input_tokens": spent,
        "input_tokens_details": _details(
            usage, "input_tokens_details", "cached_tokens", "cache_write_tokens"
        ),
        "output_tokens": made,
        "output_tokens_details": _details(usage, "output_tokens_details", "reasoning_tokens"),
        "total_tokens": _count(usage, "total_tokens") or spent + made,
    }


def _given(body: Mapping[str, Any], name: str, default: Any) -> Any:
    value = body.get(name)
    return default if value is None else value


def _text(given: Object) -> Object:
    text = {"format": {"type": "text"}} | {name: value for name, value in given.items() if value is not None}
    if text["format"]["type"] == "json_schema":
        text["format"] = {**_JSON_SCHEMA, **text["format"]}
    return text


def _whole_tool(tool: Object) -> Object:
    """A function tool may leave out what the response's type requires."""
    return {**_FUNCTION_TOOL, **tool} if tool.get("type") == "function" else tool


def _overrides(name: str, value: Any, initial: Object) -> bool:
    """Whether the upstream's `value` replaces ours: not null, not ours alone, of a type clients can read."""
    if value is None or name in _IDENTITY:
        return False
    ours = initial.get(name)
    if name == "model":
        return isinstance(value, str) and value != ""
    if name == "tool_choice":
        return isinstance(value, str | dict)
    return ours is None or _json_type(value) is _json_type(ours)


def _theirs(name: str, value: Any, initial: Object) -> Any:
    """An upstream's `value` of a field, as whole as ours."""
    if name == "tools":
        return [_whole_tool(tool) for tool in value if isinstance(tool, dict)]
    if name in ("text", "reasoning"):
        said = {name: part for name, part in value.items() if part is not None}
        if name == "reasoning":
            return initial[name] | said
        if "format" in said and not (isinstance(said["format"], dict) and "type" in said["format"]):
            del said["format"]  # it is no format: ours stays
        return _text(initial[name] | said)
    return value


def _json_type(value: Any) -> type:
    return float if type(value) is int else type(value)


def _incomplete(details: object) -> Object:
    """The Open Responses schema requires a reason; where the upstream gives none of the API's, length is the
    likeliest.
    """
    reason = details.get("reason") if isinstance(details, Mapping) else None
    if isinstance(details, Mapping) and isinstance(reason, str) and reason in INCOMPLETE_REASONS:
        return dict(details)
    return {"reason": "max_output_tokens"}


def _details(usage: Mapping[str, Any], name: str, *counts: str) -> Object:
    given = usage.get(name) or usage.get(_CHAT_DETAILS[name])
    details = given if isinstance(given, Mapping) else {}
    return {**details, **{count: _count(details, count) for count in counts}}


def _count(counts: Mapping[str, Any], name: str) -> int:
    return count_in(counts.get(name)) or 0


def count_in(value: object) -> int | None:
    """A count, also one that is sent as a float or as text; None for anything else, a negative one too."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value < 1e15 else None
