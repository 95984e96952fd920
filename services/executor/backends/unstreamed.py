"""The stream that an upstream would have sent: from a final response object to its events.

For an agent that answers `stream: true` with one JSON object. Every item is added empty, filled at once and
done, so that clients that only follow deltas see the same output as those that read the object. Pure.
"""

from collections.abc import Iterator
from typing import Any

from schemas.events import TERMINAL_EVENTS, Event
from schemas.ids import ResponseId, item_id
from schemas.output import are_items
from services.executor.backends.compose import Item

_TERMINAL_OF = {status: type for type, status in TERMINAL_EVENTS.items()} | {"cancelled": "response.failed"}


def streamed(response: dict[str, Any], id: ResponseId) -> list[Event] | None:
    """The events of a closed `response`, or None when it is not closed. `id` names items without an id."""
    status = response.get("status")
    terminal = _TERMINAL_OF.get(status) if isinstance(status, str) else None
    output = response.get("output")
    if terminal is None or not are_items(output):
        return None
    items = [_named(item, id, index) for index, item in enumerate(output)]
    events = [event for index, item in enumerate(items) for event in _item_events(index, item)]
    return [*events, {"type": terminal, "response": {**response, "output": items}}]


def _named(item: dict[str, Any], id: ResponseId, index: int) -> dict[str, Any]:
    """`item` with an id: paging and the SDKs want one of every item."""
    return item if item.get("id") else {**item, "id": item_id("item", id, index)}


def _item_events(index: int, item: dict[str, Any]) -> Iterator[Event]:
    place = Item(index, item["id"])
    yield place.added(_begun(item))
    match item:
        case {"type": "message", "content": list(parts)}:
            for at, part in enumerate(parts):
                yield from _part_events(place, at, part)
        case {"type": "function_call", "arguments": str(arguments)}:
            yield place.arguments_delta(arguments)
            yield place.arguments_done(str(item.get("name", "")), arguments)
        case {"type": "reasoning", "summary": list(parts)}:
            for at, part in enumerate(parts):
                if isinstance(part, dict) and isinstance(part.get("text"), str):
                    yield from place.summary_events(at, part)
    yield place.done(item)


def _part_events(place: Item, index: int, part: Any) -> Iterator[Event]:
    match part:
        case {"type": "output_text", "text": str(text)}:
            whole: dict[str, Any] = {"annotations": [], "logprobs": [], **part}
            yield place.part_added(index, {**whole, "text": "", "annotations": [], "logprobs": []})
            yield place.delta("output_text", index, text, logprobs=whole["logprobs"] or [])
            yield from place.part_events(index, whole)
        case {"type": "refusal", "refusal": str(refusal)}:
            yield place.part_added(index, {**part, "refusal": ""})
            yield place.delta("refusal", index, refusal)
            yield from place.part_events(index, part)


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """`item` as it stands when it is added: nothing of what the deltas bring."""
    begun = {**item, "status": "in_progress"} if "status" in item else dict(item)
    match item.get("type"):
        case "message":
            begun["content"] = []
        case "function_call":
            begun["arguments"] = ""
        case "reasoning":
            begun["summary"] = []
    return begun
