"""A create request: from the body's bytes to what Rejoinder acts on (A-9, A-13, A-14, A-16).

    bytes → JSON, bounded in depth → an object whose known fields have the right types → CreateRequest

Everything fails with an ApiError (400) that names the field. Only fields that could mislead a backend or a
client are checked; unknown ones are kept and passed on. The raw bytes are kept as well: they go into the log
as they came. Which models and agents there are is not known here (`services.config`).
"""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from schemas.checks import (
    Check,
    array,
    boolean,
    either,
    fields,
    integer,
    is_deeper,
    missing,
    number,
    one_of,
    shown,
    string,
    text_map,
)
from schemas.errors import ApiError, invalid
from schemas.ids import ResponseId, item_id, parse_response_id

MAX_DEPTH = 100
"""How deep a body may be nested: far more than any schema of a tool, far less than a decoder's stack."""

Item = dict[str, Any]
"""A decoded input item."""


class CreateRequest(Struct, frozen=True):
    """A validated create request.

    `body` is the request decoded, `raw` as it came. `sha256` (hex) is that of the body re-encoded with its
    keys sorted: two requests that mean the same have the same, whatever their white space and order of keys.
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


def _item(value: Any, param: str) -> None:
    fields({"id": string(empty=False), "type": string()})(value, param)
    check = _ITEMS.get(_type_of(value))
    if check:
        check(value, param)


_NAMED_TOOLS: Mapping[str, str] = {"function": "name", "custom": "name", "mcp": "server_label"}
"""What a tool, or the choice of it, cannot do without."""


def _tool(value: Any, param: str) -> None:
    _typed(value, param)
    name = _NAMED_TOOLS.get(value["type"])
    if name:
        fields({name: string()}, required=(name,))(value, param)


def _tool_choice(value: Any, param: str) -> None:
    modes = one_of("none", "auto", "required")
    either("one of an object or string", {str: modes, dict: _tool})(value, param)


_FIELDS: Mapping[str, Check] = {
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
    "service_tier": one_of("auto", "default", "flex", "scale", "priority"),
    "stream_options": fields({"include_obfuscation": boolean}),
    "prompt": fields({"id": string()}, required=("id",)),
    "prompt_cache_key": string(),
    "prompt_cache_retention": string(),
    "safety_identifier": string(),
    "user": string(),
}
_body = fields(_FIELDS)


def parse(raw: bytes) -> CreateRequest:
    """The create request in the body `raw`.

    Raises ApiError: 400 that names the field, or 404 for a `previous_response_id` that cannot be one of ours.
    """
    body = _decode(raw)
    if not isinstance(body, dict):
        raise invalid("The JSON body of a request must be an object.", None, "invalid_type")
    _body(body, "")
    _together(body)
    return CreateRequest(
        body=body,
        raw=raw,
        sha256=hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest(),
        background=bool(body.get("background")),
        stream=bool(body.get("stream")),
        store=body.get("store") is not False,
        previous=_previous(body),
    )


def previous_not_found(id: str) -> ApiError:
    """404: `previous_response_id` is unknown, foreign, deleted or malformed (A-13)."""
    sentence = f"Previous response with id '{shown(id)}' not found."
    return ApiError(404, sentence, param="previous_response_id", code="previous_response_not_found")


def input_items(body: Mapping[str, Any], id: ResponseId | None = None) -> list[Item]:
    """The input in `body`, a validated request, as items with a type; text is one user message.

    A message's content is always a list of parts. With the response's `id` the items are as clients read them
    (A-14): each has an id, derived, so it is the same at every read, and what the SDKs' types require.
    Of items with the same id the first keeps it: pages go on after an id. Without `id` nothing is made up: so
    upstreams get them.
    """
    given = body.get("input")
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given or []
    if id is None:
        return [_whole_item(item, None, index) for index, item in enumerate(items)]
    shown, taken = [], set()
    for index, item in enumerate(items):
        whole = _whole_item(item, id, index)
        if whole["id"] in taken:
            # With its type: a bare reference is told by its id.
            whole = _whole_item(item | {"type": whole["type"], "id": None}, id, index)
        taken.add(whole["id"])
        shown.append(whole)
    return shown


_PREFIXES: Mapping[str, str] = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "computer_call_output": "cco",
}
_WITH_STATUS = frozenset({"message", "function_call", "function_call_output", "computer_call_output"})
"""Items that the API always shows with a status; what a client sends in is complete."""


def _whole_item(item: Item, id: ResponseId | None, index: int) -> Item:
    kind = _type_of(item)
    derived: Item = {"type": kind}
    if id is not None:
        derived = {"id": item_id(_PREFIXES.get(kind, "item"), id, index, role="input"), "type": kind}
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


def _type_of(item: Item) -> str:
    """Messages may leave out their type, and so may references, which are nothing but an id."""
    kind = item.get("type")
    if kind is None:
        return "item_reference" if item.keys() <= {"id", "type"} and item.get("id") else "message"
    return str(kind)


def _together(body: Mapping[str, Any]) -> None:
    """What the fields say together."""
    if body.get("conversation") is not None:
        sentence = "Unsupported parameter: 'conversation'. Chain with 'previous_response_id' instead."
        raise invalid(sentence, "conversation", "unsupported_parameter")
    if body.get("background") and body.get("store") is False:
        sentence = "Unsupported parameter: 'background' requires 'store' to be true."
        raise invalid(sentence, "background", "unsupported_parameter")
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


_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def _decode(raw: bytes) -> Any:
    try:
        body = msgspec.json.decode(raw)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _not_json(raw, error) from error
    if is_deeper(body, MAX_DEPTH):
        raise _too_deep()
    return body


def _too_deep() -> ApiError:
    return invalid(f"The JSON body is nested more than {MAX_DEPTH} levels deep.", None, "invalid_json")


def _not_json(raw: bytes, error: Exception) -> ApiError:
    reason = str(error)
    # The decoder calls a half surrogate truncated input: a client would look in the wrong place.
    if reason == "Input data was truncated" and _LONE_SURROGATE.search(raw):
        reason = r"half of a surrogate pair (\ud800 to \udfff) stands alone"
    return invalid(f"We could not parse the JSON body of your request: {reason}.", None, "invalid_json")
