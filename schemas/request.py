"""A create request: from the body's bytes to what Rejoinder acts on (A-9, A-13, A-14, A-16).

    bytes → counted → the canonical form's hash → an object with fields of the right types → CreateRequest

The work comes in steps, none of which holds a process for long, whatever the body's shape (`schemas.values`).

Everything fails with an ApiError (400, or 413 for too many values) that names the field. Only fields that
could mislead a backend or a client are checked; unknown ones are kept and passed on. The raw bytes are kept
as well: they go into the log as they came. Which models and agents there are is not known here
(`services.config`).
"""

import codecs
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from schemas.checks import (
    Check,
    Shape,
    array,
    boolean,
    either,
    fields,
    integer,
    is_deeper,
    missing,
    number,
    one_of,
    shape_of,
    shaped,
    shown,
    string,
    text_map,
)
from schemas.errors import NO_RETRY, ApiError, invalid
from schemas.ids import ResponseId, item_id, item_prefix, parse_response_id
from schemas.steps import Steps, each, finished
from schemas.values import counting, largest_field

MAX_DEPTH = 100
"""How deep a body may be nested: far more than any schema of a tool, far less than a decoder's stack."""

MAX_VALUES = 50_000
"""JSON values that a body may have where nothing else is chosen. A decoded one takes 30 to 250 bytes, and all
steps on one together up to 2 microseconds (`pytest tests/property/test_bodies.py`)."""

LONG_COMPLETION = ("2h", "8h")
"""Completion windows of hours: they need `background` and no stream, since no client waits so long."""
COMPLETION = ("soonest", *LONG_COMPLETION)

Item = dict[str, Any]
"""A decoded input item."""


class CreateRequest(Struct, frozen=True):
    """A validated create request.

    `body` is the request decoded, `raw` as it came. `sha256` (hex) is that of the body's canonical form: two
    requests that mean the same have the same, whatever their white space and order of members.
    `previous` is `previous_response_id`.
    """

    body: dict[str, Any]
    raw: bytes
    sha256: str
    background: bool
    stream: bool
    store: bool
    previous: ResponseId | None


_typed = fields({"type": string()}, required=("type",))
_content = either("one of an array of objects or string", {str: string(), list: array(_typed)})
_output = either("one of an array of objects or string", {str: string(), list: array(_typed)})
_role = one_of("assistant", "system", "developer", "user")
_ITEMS: Mapping[str, Check] = {
    "message": fields({"role": _role, "content": _content}, required=("role", "content")),
    "function_call": fields(
        {"call_id": string(), "name": string(), "arguments": string()},
        required=("call_id", "name", "arguments"),
    ),
    "function_call_output": fields({"call_id": string(), "output": _output}, required=("call_id", "output")),
    "item_reference": fields({"id": string()}, required=("id",)),
}
"""What must hold of the items whose shape Rejoinder looks into; items of other types only have a type."""


_any_item = fields({"id": string(empty=False), "type": string()})


def _by_type(checks: Mapping[str, Check]) -> list[Shape]:
    """What else holds of an object with one of these types."""
    return [
        {"if": {"properties": {"type": {"const": type}}, "required": ["type"]}, "then": shape_of(check)}
        for type, check in checks.items()
    ]


@shaped({**shape_of(_any_item), "allOf": _by_type(_ITEMS)})
def _item(value: Any, param: str) -> None:
    _any_item(value, param)
    check = _ITEMS.get(item_type(value))
    if check:
        check(value, param)


_NAMED_TOOLS: Mapping[str, Check] = {
    type: fields({name: string()}, required=(name,))
    for type, name in (("function", "name"), ("custom", "name"), ("mcp", "server_label"))
}
"""Type of a tool to what must hold of the tool, or of the choice of it: it has a name."""


@shaped({**shape_of(_typed), "allOf": _by_type(_NAMED_TOOLS)})
def _tool(value: Any, param: str) -> None:
    _typed(value, param)
    named = _NAMED_TOOLS.get(value["type"])
    if named:
        named(value, param)


@shaped({"anyOf": [shape_of(one_of("none", "auto", "required")), shape_of(_tool)]})
def _tool_choice(value: Any, param: str) -> None:
    modes = one_of("none", "auto", "required")
    either("one of an object or string", {str: modes, dict: _tool})(value, param)


FIELDS: Mapping[str, Check] = {
    "model": string(256, empty=False),
    "input": either("one of an array of objects or string", {str: string(), list: array(_item)}),
    "background": boolean,
    "stream": boolean,
    "store": boolean,
    "instructions": either("one of an array of objects or string", {str: string(), list: array(_item)}),
    "previous_response_id": string(),
    "agent_reference": fields({"type": one_of("agent_reference"), "name": string()}, required=("name",)),
    "metadata": text_map(pairs=16, key_length=64, value_length=512),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "top_logprobs": integer(0, 20),
    # OpenAI's own bound is 16; other model servers and agents take less.
    "max_output_tokens": integer(1),
    "max_tool_calls": integer(1),
    "parallel_tool_calls": boolean,
    "tools": array(_tool),
    "tool_choice": _tool_choice,
    "text": fields({"format": _typed, "verbosity": one_of("low", "medium", "high")}),
    "reasoning": fields({"effort": string(), "summary": string()}),
    "include": array(string()),
    "truncation": one_of("auto", "disabled"),
    "service_tier": string(),  # an open list
    "background_options": fields({"completion_window": one_of(*COMPLETION), "continuation_id": string()}),
    "stream_options": fields({"include_obfuscation": boolean}),
    "prompt": fields({"id": string()}, required=("id",)),
    "prompt_cache_key": string(),
    "prompt_cache_retention": string(),
    "safety_identifier": string(),
    "user": string(),
}
_body = fields(FIELDS)
BODY: Shape = shape_of(_body)
"""The JSON Schema of a create's body."""
_Fields = msgspec.defstruct("_Fields", [(name, msgspec.Raw, msgspec.Raw(b"")) for name in FIELDS])


def parse(raw: bytes, most_values: int = MAX_VALUES) -> CreateRequest:
    """The create request in the body `raw`. Raises as `parsing`."""
    return finished(parsing(raw, most_values))


def parsing(raw: bytes, most_values: int) -> Steps[CreateRequest]:
    """The create request in the body `raw`, in steps.

    Raises ApiError: 400 that names the field, 404 for a `previous_response_id` that cannot be one of ours, or
    413 for more than `most_values` JSON values, with the field that holds most of them.
    A byte order mark before it, as .NET and PowerShell send, is ignored (RFC 8259, 8.1).
    """
    raw = raw.removeprefix(codecs.BOM_UTF8)
    if (yield from counting(raw, most_values)) > most_values:
        raise (yield from _too_many(raw, most_values))
    sha256 = yield from _hash(raw)
    body = _object(raw)
    yield
    _body(body, "")
    _together(body)
    return CreateRequest(
        body=body,
        raw=raw,
        sha256=sha256,
        background=bool(body.get("background")),
        stream=bool(body.get("stream")),
        store=body.get("store") is not False,
        previous=_previous(body),
    )


def previous_not_found(id: str) -> ApiError:
    """404: `previous_response_id` is unknown, foreign, deleted or malformed (A-13)."""
    sentence = f"Previous response with id '{shown(id)}' not found."
    return ApiError(404, sentence, param="previous_response_id", code="previous_response_not_found")


def previous_not_stored(id: str) -> ApiError:
    """404: `previous_response_id` is ephemeral (A-13). The code is that at which clients send everything."""
    sentence = f"Previous response with id '{shown(id)}' is not stored: send its items as 'input' instead."
    return ApiError(404, sentence, param="previous_response_id", code="previous_response_not_found")


def input_items(body: Mapping[str, Any], id: ResponseId | None = None) -> list[Item]:
    """The input in `body`, a validated request, as items with a type; text is one user message.

    A message's content is always a list of parts. With the response's `id` the items are as clients read them
    (A-14): each has an id, derived, so it is the same at every read, and what the SDKs' types require.
    Of items with the same id the first keeps it, because pages go on after an id. Without `id` nothing is
    added: upstreams get the items in this form, after references were replaced (`schemas.references`).
    """
    return finished(listing(body, id))


def listing(body: Mapping[str, Any], id: ResponseId | None = None) -> Steps[list[Item]]:
    """`input_items` in steps: a body may have tens of thousands."""
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    listed: list[Item] = []
    taken: set[str] = set()
    for item, pause in each(items):
        whole = _whole_item(item, id, len(listed))
        if id is not None:
            if whole["id"] in taken:
                # Its type is spelled out: a bare reference without its id would pass for a message.
                whole = _whole_item(item | {"type": whole["type"], "id": None}, id, len(listed))
            taken.add(whole["id"])
        listed.append(whole)
        if pause:
            yield
    return listed


_WITH_STATUS = frozenset({"message", "function_call", "function_call_output", "computer_call_output"})
"""Items that the API always shows with a status; what a client sends in is complete."""


def _whole_item(item: Item, id: ResponseId | None, index: int) -> Item:
    kind = item_type(item)
    derived: Item = {"type": kind}
    if id is not None:
        derived = {"id": item_id(item_prefix(kind), id, index, given=True), "type": kind}
    if id is not None and kind in _WITH_STATUS:
        derived["status"] = "completed"
    given = {name: value for name, value in item.items() if value is not None or name not in derived}
    content = {"content": _parts(item, shown=id is not None)} if kind == "message" else {}
    return {**derived, **given, **content}


def _parts(message: Item, *, shown: bool) -> list[Item]:
    content = message["content"]
    spoken = message["role"] == "assistant"
    if isinstance(content, str):
        content = [{"type": "output_text" if spoken else "input_text", "text": content}]
    defaults: dict[str, Item] = {
        "output_text": {"annotations": []},
        "input_image": {"detail": "auto"} if shown else {},
    }
    return [{**defaults.get(part["type"], {}), **part} for part in content]


def item_type(item: Item) -> str:
    """The type of `item`. A message may leave it out, and so may a reference that is nothing but an id."""
    kind = item.get("type")
    if kind is None:
        return "item_reference" if item.keys() <= {"id", "type"} and item.get("id") else "message"
    return str(kind)


def _together(body: Mapping[str, Any]) -> None:
    """Check what concerns several fields together. Raises ApiError (400)."""
    if body.get("conversation") is not None:
        sentence = "Unsupported parameter: 'conversation'. Chain with 'previous_response_id' instead."
        raise invalid(sentence, "conversation", "unsupported_parameter")
    completion = (body.get("background_options") or {}).get("completion_window")
    if completion in LONG_COMPLETION and (not body.get("background") or body.get("stream")):
        sentence = f"'{completion}' requires 'background' to be true, and no 'stream'."
        param = "background_options.completion_window"
        raise invalid(f"Invalid value for '{param}': {sentence}", param)
    if body.get("model") is None and body.get("agent_reference") is None:
        raise missing("model")
    # A turn without new input goes on from what came before, or from a stored prompt.
    continued = body.get("previous_response_id") is not None or body.get("prompt") is not None
    if not continued and body.get("input") is None:
        raise missing("input")
    if not continued and body["input"] == []:
        rule = "empty array. Expected an array with minimum length 1"
        sentence = f"Invalid 'input': {rule}, but got an empty array instead."
        raise invalid(sentence, "input", "empty_array")


def _previous(body: Mapping[str, Any]) -> ResponseId | None:
    given = body.get("previous_response_id")
    if given is None:
        return None
    id = parse_response_id(given)
    if id is None:
        raise previous_not_found(given)
    return id


def _hash(raw: bytes) -> Steps[str]:
    """The SHA-256 of the canonical form: compact JSON with the members of every object sorted by their names'
    code points. A logged hash is compared for as long as its response is kept: the form must never change.

    The members are sorted in a copy, which is gone before the body is decoded for use. So what is shown keeps
    its order, and no body is in memory twice.
    The encoder's own `order="deterministic"` sorts in quadratic time, and recursively.
    """
    body = _object(raw)
    yield
    if is_deeper(body, MAX_DEPTH):
        raise _too_deep()
    _sort(body)
    yield
    return hashlib.sha256(msgspec.json.encode(body)).hexdigest()


def _sort(body: dict[str, Any]) -> None:
    """Sort the members of every object in `body`, in place; no recursion, n log n."""
    containers: list[Any] = [body]
    while containers:
        container = containers.pop()
        children = container
        if type(container) is dict:
            names = sorted(container)
            if names != list(container):
                members = [(name, container[name]) for name in names]
                container.clear()
                container.update(members)
            children = container.values()
        containers.extend(child for child in children if type(child) is dict or type(child) is list)


_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _object(raw: bytes) -> dict[str, Any]:
    body = _decode(raw)
    if not isinstance(body, dict):
        raise _no_object()
    return body


def _decode(raw: bytes, type: Any = Any) -> Any:
    try:
        return msgspec.json.decode(raw, type=type)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(raw, error) from error


def _no_object() -> ApiError:
    return invalid("The JSON body of a request must be an object.", None, "invalid_type")


def _too_many(raw: bytes, most: int) -> Steps[ApiError]:
    """413 that names the field which holds most, or 400 when it is no object that could be counted."""
    _decode(raw, msgspec.Raw)
    yield
    if not raw.lstrip().startswith(b"{"):
        return _no_object()
    try:
        field = yield from largest_field(raw, _Fields)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _not_json(raw, error)  # in a name, which was only passed over before
    param = None if field is None else shown(field)
    where = f"; '{param}' holds most of them" if param is not None else ""
    what = f"The request is too large: its body may have at most {most} JSON values{where}."
    return ApiError(413, what, param=param, code="request_too_large", headers=NO_RETRY)


def _too_deep() -> ApiError:
    return invalid(f"The JSON body is nested more than {MAX_DEPTH} levels deep.", None, "invalid_json")


def _not_json(raw: bytes, error: Exception) -> ApiError:
    reason = str(error)
    # The decoder calls a half surrogate truncated input: a client would look in the wrong place.
    if reason == "Input data was truncated" and _LONE_SURROGATE.search(raw):
        reason = r"half of a surrogate pair (\ud800 to \udfff) stands alone"
    return invalid(f"We could not parse the JSON body of your request: {reason}.", None, "invalid_json")
