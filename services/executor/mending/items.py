"""Output items of every kind: the fields one must have, how it begins, how two versions of it are merged.

An upstream sends an item up to three times: when it is added, when it is done, and in the final object. Each
version may lack fields that another has. Pure; the upstream's values are kept where they are valid.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from schemas.output import Item, cut_status, objects_of
from services.executor.mending.annotations import annotations_of, recut

MESSAGE, REASONING = "message", "reasoning"

NAMED = frozenset({"function_call", "custom_tool_call", "mcp_call", "mcp_approval_request"})
"""Kinds that need a `name`. It cannot be invented, so such an item begins only when its name is known."""
CALLED = frozenset(
    [
        "function_call",
        "custom_tool_call",
        "computer_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "tool_search_call",
        "program",
    ]
)
"""Kinds with a `call_id`, to which a client answers."""
DECODED = ("function_call", "mcp_call")
"""Kinds whose text clients decode as JSON: an empty text is none."""
TEXT_FIELDS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "mcp_call": ("response.mcp_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
    "code_interpreter_call": ("response.code_interpreter_call_code", "code"),
}
"""By kind, the stem of its text's events, and the field with the text."""
PART_STEMS = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
    "summary_text": "response.reasoning_summary_text",
}
"""By type of a part, the stem of its text's events."""
PART_LISTS = ("content", "summary")

_RESULTS = ("result", "results", "output", "outputs")
"""Fields with the result of a tool that the upstream ran: often large, and empty when the item begins."""
_TEXTS = frozenset({"text", "refusal", "arguments", "input", "code"})
_REQUIRED: dict[str, dict[str, Any]] = {
    "message": {"role": "assistant", "content": []},
    "reasoning": {"summary": []},
    "function_call": {"arguments": ""},
    "custom_tool_call": {"input": ""},
    "file_search_call": {"queries": []},
    "web_search_call": {"action": {"type": "search", "query": ""}},
    "computer_call": {"pending_safety_checks": []},
    "code_interpreter_call": {"container_id": ""},
    "local_shell_call": {"action": {"type": "exec", "command": [], "env": {}}},
    "shell_call": {"action": {"commands": [], "max_output_length": None, "timeout_ms": None}},
    "mcp_call": {"arguments": "", "server_label": ""},
    "mcp_list_tools": {"server_label": "", "tools": []},
    "mcp_approval_request": {"arguments": "{}", "server_label": ""},
    "compaction": {"encrypted_content": ""},
}
"""By kind, the fields that the openai SDK's types require beside identity and status, with empty values."""
_WITH_STATUS = frozenset(
    [
        "message",
        "function_call",
        "function_call_output",
        "file_search_call",
        "web_search_call",
        "computer_call",
        "computer_call_output",
        "tool_search_call",
        "tool_search_output",
        "image_generation_call",
        "code_interpreter_call",
        "local_shell_call",
        "shell_call",
        "shell_call_output",
        "apply_patch_call",
        "custom_tool_call_output",
    ]
)
"""Kinds that must have a status, and may be `in_progress`."""
_STATUSES = ("in_progress", "completed", "incomplete")
_MORE_STATUSES: dict[str, tuple[str, ...]] = {
    "file_search_call": ("searching", "failed"),
    "web_search_call": ("searching", "failed"),
    "image_generation_call": ("generating", "failed"),
    "code_interpreter_call": ("interpreting", "failed"),
    "mcp_call": ("calling", "failed"),
    "computer_call_output": ("failed",),
    "apply_patch_call_output": ("failed",),
}
_PART_TEXT = {"output_text": "text", "refusal": "refusal", "reasoning_text": "text", "summary_text": "text"}
_UNDER_WAY = ("in_progress", "searching", "generating", "interpreting", "calling", "queued")


def understood(item: Mapping[str, Any]) -> Item:
    """An upstream's item, with a type, with strings for its texts, and with a status that its type has."""
    kind = kind_of(item)
    plain = {**item, "type": kind}
    if kind in TEXT_FIELDS:
        field = TEXT_FIELDS[kind][1]
        if (said := item.get(field)) is not None:
            plain[field] = as_text(said)
    if kind in NAMED and not isinstance(item.get("name"), str):
        plain["name"] = None
    if (kind in _WITH_STATUS or kind in NAMED or kind == REASONING) and item.get("status") is not None:
        plain["status"] = _known_status(kind, item["status"])
    return plain


def as_text(said: Any) -> str:
    """A text, which some upstreams send as a JSON value instead of a string."""
    if isinstance(said, str):
        return said
    return msgspec.json.encode(said).decode() if isinstance(said, dict | list) and said else ""


def _known_status(kind: str, said: object) -> str | None:
    if not isinstance(said, str):
        return None
    if said in _STATUSES or said in _MORE_STATUSES.get(kind, ()):
        return cut_status(kind) if said == "incomplete" else said
    if said in _UNDER_WAY:
        return "in_progress"
    return cut_status(kind) if said in ("failed", "error", "cancelled", "canceled") else None


def kind_of(item: Mapping[str, Any]) -> str:
    """The item's type; without one, the type that its fields suggest."""
    kind = item.get("type")
    if isinstance(kind, str) and kind:
        return kind
    if "summary" in item:
        return REASONING
    return "function_call" if "arguments" in item and "name" in item else MESSAGE


def filled(item: Item, status: str) -> Item:
    """`item` with all that strict clients need (A-17, U-5): whole parts, required fields, and a status, which
    is `status` if the item has none.
    """
    kind = item["type"]
    whole = {**item}
    for name, value in _REQUIRED.get(kind, {}).items():
        if whole.get(name) is None:
            whole[name] = value.copy() if isinstance(value, dict | list) else value
    if kind in _WITH_STATUS and not isinstance(whole.get("status"), str):
        whole["status"] = status
    for name in PART_LISTS:
        if name in whole and kind in (MESSAGE, REASONING):
            whole[name] = whole_parts(whole, name)
    return whole


def whole_parts(item: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The parts of a message or of reasoning, whole. A string in place of the list is the only part."""
    parts = item.get(name)
    if isinstance(parts, str) and parts:
        parts = [parts]
    if not isinstance(parts, list):
        return []
    return [filled_part(_part(part, item, name)) for part in parts if isinstance(part, dict | str)]


def filled_part(part: dict[str, Any]) -> dict[str, Any]:
    """`part` with its text, and with the lists that strict clients need in an `output_text`."""
    kind = part.get("type", "")
    field = _PART_TEXT.get(kind)
    if field is None:
        return part
    whole = {**part}
    if whole.get(field).__class__ is not str:
        whole[field] = ""
    if kind == "output_text":
        if whole.get("logprobs").__class__ is not list:
            whole["logprobs"] = []
        whole["annotations"] = annotations_of(whole["annotations"]) if whole.get("annotations") else []
    return whole


def aligned(said: Sequence[tuple[str, str]], told: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts of an end (`told`), cut as the streamed ones are (`said`: type and text of each).

    Some servers join the parts of a message in its end, or take one apart there. An end without parts has
    nothing to cut.
    """
    kinds = {kind for kind, _ in said} | {str(part.get("type")) for part in told}
    if not said or not told or len(said) == len(told):
        return told
    if len(kinds) != 1 or not kinds <= _PART_TEXT.keys():
        return told
    texts, streamed = [text_of(part) for part in told], [text for _, text in said]
    rest = "".join(texts)
    beyond = any(len(mine) > len(theirs) for mine, theirs in zip(streamed, texts, strict=False))
    if not rest.startswith("".join(streamed)) or not (beyond or len(said) > len(told)):
        return told
    (kind,) = kinds
    streamed[-1] += rest.removeprefix("".join(streamed))
    parts = [{**told[0], _PART_TEXT[kind]: text} for text in streamed]
    if kind == "output_text":
        cited = recut([(text_of(part), part.get("annotations")) for part in told], streamed)
        parts = [{**part, "annotations": own, "logprobs": []} for part, own in zip(parts, cited, strict=True)]
    return parts


def with_arguments(item: Item, said: bool) -> Item:
    """A whole call. If no arguments were told they are an empty object, because clients decode them."""
    return (
        item if said or item["type"] not in DECODED or item.get("arguments") else {**item, "arguments": "{}"}
    )


def text_of(part: Mapping[str, Any]) -> str:
    """The text of a part; "" if its type has none."""
    text = part.get(_PART_TEXT.get(part.get("type", ""), ""))
    return text if isinstance(text, str) else ""


def streamed_lists(kind: str) -> tuple[str, ...]:
    """The lists of an item of `kind` whose parts are streamed."""
    return PART_LISTS if kind in (MESSAGE, REASONING) else ()


def streamed_names(kind: str) -> tuple[str, ...]:
    """The fields of an item of `kind` whose values are streamed."""
    return (TEXT_FIELDS[kind][1],) if kind in TEXT_FIELDS else streamed_lists(kind)


def texts(item: Mapping[str, Any]) -> list[str]:
    """All texts of an item that events stream."""
    said = [text_of(part) for name in PART_LISTS for part in whole_parts(item, name)]
    field = item.get(TEXT_FIELDS[item["type"]][1]) if item["type"] in TEXT_FIELDS else None
    return [*said, field] if isinstance(field, str) else said


def without_text(part: dict[str, Any]) -> dict[str, Any]:
    """`part` as it is before its deltas."""
    field = _PART_TEXT.get(part.get("type", ""))
    if field is None:
        return part
    empty = {**part, field: ""}
    return {**empty, "annotations": [], "logprobs": []} if part["type"] == "output_text" else empty


def as_added(item: Item) -> Item:
    """`item` as it is when it is added: not ended, and without the texts that deltas bring."""
    kind = item["type"]
    if kind in (MESSAGE, REASONING):
        item = {**item, **{name: [] for name in PART_LISTS if item.get(name)}}
    start = filled(item, "in_progress")
    if start.get("status") in ("completed", "incomplete", "failed") and kind in (*_WITH_STATUS, *NAMED):
        start["status"] = "in_progress"
    for name in _RESULTS:
        if name in start and kind.endswith("_call"):
            start[name] = None
    if kind in TEXT_FIELDS and isinstance(start.get(TEXT_FIELDS[kind][1]), str):
        start[TEXT_FIELDS[kind][1]] = ""
    return start


def as_done(item: Item, status: str) -> Item:
    """`item` as it is when it is done: ended, with `status` unless it has a final one of its own."""
    status = cut_status(item["type"]) if status == "incomplete" else status
    over = filled(item, status)
    if over.get("status") in _UNDER_WAY:
        over["status"] = status
    return over


def overridden(told: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`told`, overridden by the values in `more` that are not null, "" or empty."""
    return {**told, **{name: value for name, value in more.items() if _says(value) or name not in told}}


def tells_more(item: Mapping[str, Any], shown: Mapping[str, Any]) -> bool:
    """Whether `item` says anything that the same item, as it is `shown`, does not; its status aside."""
    return any(_says(value) and value != shown.get(name) for name, value in item.items() if name != "status")


def completed_by(told: Item, final: Mapping[str, Any]) -> Item:
    """`told`, which was streamed, with the fields that only the `final` version has. Identity, status
    and texts stay; only a text that goes on in the final object becomes longer (U-6).
    """
    whole = {**told}
    for name, value in final.items():
        if name in ("id", "type", "call_id", "name", "status"):
            continue
        mine = whole.get(name)
        if mine == value:
            continue
        if name in PART_LISTS and isinstance(mine, list):
            whole[name] = _parts_completed(objects_of(mine), whole_parts(final, name))
        elif name in _TEXTS and isinstance(mine, str) and isinstance(value, str):
            whole[name] = value if value.startswith(mine) else mine
        elif not _says(mine) and _says(value):
            whole[name] = value
    return whole


def _parts_completed(told: list[dict[str, Any]], final: list[dict[str, Any]]) -> list[dict[str, Any]]:
    final = aligned([(str(part.get("type")), text_of(part)) for part in told], final)
    if [part.get("type") for part in told] != [part.get("type") for part in final[: len(told)]]:
        return told  # the parts do not match: the streamed ones stand
    whole = [
        mine if mine == theirs else completed_by(mine, theirs)
        for mine, theirs in zip(told, final, strict=False)
    ]
    return whole + final[len(told) :]


def _part(part: dict[str, Any] | str, item: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A part with its type. A string is a part of the usual type of its list."""
    if isinstance(part, dict) and isinstance(part.get("type"), str) and part["type"] not in ("", "text"):
        return part
    usual = "output_text" if kind_of(item) == MESSAGE else "reasoning_text"
    kind = "summary_text" if name == "summary" else usual
    return {"type": kind, "text": part} if isinstance(part, str) else {**part, "type": kind}


def _says(value: Any) -> bool:
    return value is not None and value != "" and value != [] and value != {}
