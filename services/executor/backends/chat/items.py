"""Translates the items of an input, one by one, into the terms of Chat Completions. Pure.

    message → Said    reasoning → Thought    function_call, custom_tool_call, … → Call    outputs → Output

Each item is translated without a look at its neighbours: `messages` finds what belongs together. An item that
Chat Completions cannot express is refused, never left out; only items of vendors' tools may be dropped, if
the operator says so (U-68).
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct

from services.executor.backends.chat.tools import (
    KIND_OF_CALL,
    KIND_OF_OUTPUT,
    Object,
    Toolbox,
    UntranslatableError,
    arguments,
)

Parts = list[Object]
"""Content parts of Chat Completions."""

THOUGHTS = ("reasoning_content", "reasoning")
"""Fields in which servers have the text of thoughts. Each server takes it back in its own (U-65)."""

_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant"}
"""`developer` is OpenAI's own; the chat templates of open models know `system`."""
_SILENT = frozenset({"additional_tools", "configuration_update"})
"""Items without words for the model: they change the request's tools and options."""
_VENDORS = frozenset(
    {
        "code_interpreter_call",
        "computer_call",
        "computer_call_output",
        "file_search_call",
        "image_generation_call",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "program_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
"""Items of tools that only a vendor can run. A tool search with `execution: "client"` is none of them."""
_INSTEAD = {
    "item_reference": "send the item itself",
    "compaction": "send the conversation itself",
}


class SaidItem(Struct):
    """Words of the system, the user or the assistant. `kept` are the fields that the server wants back."""

    role: str
    parts: Parts
    kept: Object


class Thought(Struct):
    """Thoughts of the model. `kept` are the fields that the server wants back."""

    text: str
    kept: Object


class CallItem(Struct):
    """A call of the model. `id` is "" if it has none. `kept` are the fields that the server wants back."""

    id: str
    function: Object
    kept: Object


class ToolOutput(Struct):
    """The output of a tool. `call_id` is "" if the item has none."""

    call_id: str
    parts: Parts


Entry = SaidItem | Thought | CallItem | ToolOutput


def entries(items: Iterable[Any], tools: Toolbox, give_back: Sequence[str]) -> Iterator[Entry]:
    """The entries for `items`. `give_back` names the fields of an item that the server wants back.

    Raises UntranslatableError.
    """
    for item in items:
        if not isinstance(item, dict):
            raise UntranslatableError("items that are no objects", "make each item of 'input' an object")
        yield from _entry(item, tools, give_back)


def texts_of(parts: Iterable[Object], between: str = "\n\n") -> str:
    """The texts among `parts`, joined."""
    return between.join(part["text"] for part in parts if part["type"] == "text" and part["text"])


def _entry(item: Object, tools: Toolbox, give_back: Sequence[str]) -> Iterator[Entry]:
    kind = _type(item)
    kept = {name: item[name] for name in give_back if name not in THOUGHTS and item.get(name) is not None}
    if kind == "message":
        yield SaidItem(_role(item), _content(item.get("content")), kept)
    elif kind == "agent_message":  # words of another agent, in threads of Codex
        yield SaidItem("user", _content(item.get("content")), kept)
    elif kind == "reasoning":
        yield Thought(_thoughts(item), kept)
    elif kind in _VENDORS and item.get("execution") != "client":
        if not tools.drops_vendors:
            raise _refused(kind)
    elif called := KIND_OF_CALL.get(kind):
        name = tools.named(called, _text(item.get("name")) or called, item.get("namespace") or None)
        yield CallItem(_call_id(item), {"name": name, "arguments": arguments(item, called)}, kept)
    elif put_out := KIND_OF_OUTPUT.get(kind):
        yield ToolOutput(_call_id(item), _output(item, put_out, tools))
    elif kind not in _SILENT:
        raise _refused(kind)


def _type(item: Object) -> str:
    """The item's type. A message may have none, and so may a reference, which has an id and no role."""
    untyped = "message" if "role" in item or "id" not in item else "item_reference"
    return str(item.get("type") or untyped)


def _refused(kind: str) -> UntranslatableError:
    return UntranslatableError(f"input items of type {kind}", _INSTEAD.get(kind, "leave them out of 'input'"))


def _role(item: Object) -> str:
    role = _ROLES.get(str(item.get("role")))
    if role is None:
        raise UntranslatableError(f"role {item.get('role')}", "use another 'role'")
    return role


def _call_id(item: Object) -> str:
    """The id that a call and its output share. The outputs of a local shell have it as their `id`."""
    return _text(item.get("call_id")) or (
        _text(item.get("id")) if str(item.get("type")).startswith("local_shell") else ""
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _thoughts(item: Object) -> str:
    """The thoughts themselves, or their summary if a vendor shows no more."""
    for field in ("content", "summary"):
        parts = item.get(field)
        if isinstance(parts, str):
            return parts
        texts = [_text(part.get("text")) for part in parts or () if isinstance(part, dict)]
        if any(texts):
            return "\n\n".join(filter(None, texts))
    return ""


def _output(item: Object, kind: str, tools: Toolbox) -> Parts:
    """The parts of a tool's output. Some clients put JSON there: the model gets its text."""
    output = item.get("output")
    match kind:
        case "tool_search":
            return [_said(json.dumps(tools.names(item.get("tools") or ())))]
        case "apply_patch":
            return [_said(_text(output) or str(item.get("status") or ""))]
    if isinstance(output, list) and all(isinstance(part, dict) and "type" in part for part in output):
        return [_output_part(part) for part in output]
    return [_said(output if isinstance(output, str) else _json(output))] if output is not None else []


def _output_part(part: Object) -> Object:
    known = str(part["type"]).startswith(("input_", "output_")) or part["type"] in ("text", "refusal")
    return _part(part) if known else _said(_json(part))


def _content(content: object) -> Parts:
    if isinstance(content, str):
        return [_said(content)]
    return [_part(part) for part in content] if isinstance(content, list) else []


def _said(text: str) -> Object:
    return {"type": "text", "text": text}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _part(part: Any) -> Object:
    match part:
        case {"type": "input_text" | "output_text" | "text", "text": str(text)}:
            return _said(text)
        case {"type": "refusal", "refusal": str(refusal)}:
            return _said(refusal)
        case {"type": "encrypted_content", "encrypted_content": str(text)}:
            return _said(text)  # of an agent's message: Codex encrypts only for its own vendor
        case {"type": "input_image", "image_url": str(url)}:
            detail = part.get("detail")
            image = {"url": url, "detail": detail} if detail else {"url": url}
            return {"type": "image_url", "image_url": image}
        case {"type": "input_file", "file_data": str(data)}:
            return {"type": "file", "file": {"filename": part.get("filename") or "file", "file_data": data}}
        case {"type": "input_audio", "input_audio": dict(audio)}:
            return {"type": "input_audio", "input_audio": audio}
        case {"type": kind}:
            raise UntranslatableError(f"content of type {kind} as it stands", "send its text, data or URL")
    raise UntranslatableError("content without a type", "give each part of 'content' a 'type'")
