"""What an upstream may leave out and strict clients cannot do without (A-17): filled in, nothing is changed.

The openai SDK's types want `annotations` of every text part, `logprobs` of every text event and `summary` of
reasoning; the Open Responses schema wants a status of every message and call. A message whose content is a
mere text gets it as its only part.
"""

from typing import Any

from schemas.events import Event
from schemas.output import objects_of

_WITH_STATUS = frozenset({"message", "function_call", "function_call_output"})
_TEXT = frozenset({"response.output_text.delta", "response.output_text.done"})
_ITEM = {"response.output_item.added": "in_progress", "response.output_item.done": "completed"}
_PART = frozenset({"response.content_part.added", "response.content_part.done"})


def fill(event: Event) -> None:
    """Fill in what is missing of an upstream's `event`, in place."""
    type = event["type"]
    if type in _TEXT:
        _default(event, "logprobs")
    elif type in _ITEM:
        _fill_item(event.get("item"), _ITEM[type])
    elif type in _PART:
        _fill_part(event.get("part"))
    elif isinstance(response := event.get("response"), dict):
        fill_output(response)


def fill_output(response: dict[str, Any]) -> None:
    """Fill in what is missing of the output of an upstream's `response`, in place."""
    for item in objects_of(response.get("output")):
        _fill_item(item, "completed")


def _fill_item(item: Any, status: str) -> None:
    if not isinstance(item, dict):
        return
    kind = item.get("type")
    if isinstance(kind, str) and kind in _WITH_STATUS and item.get("status") is None:
        item["status"] = status
    if kind == "reasoning":
        _default(item, "summary")
    if kind == "message":
        content = item.get("content")
        if isinstance(content, str) and content:
            item["content"] = [{"type": "output_text", "text": content}]
        _default(item, "content")
        for part in item["content"]:
            _fill_part(part)


def _fill_part(part: Any) -> None:
    if isinstance(part, dict) and part.get("type") == "output_text":
        _default(part, "annotations")
        _default(part, "logprobs")


def _default(holder: dict[str, Any], name: str) -> None:
    if not isinstance(holder.get(name), list):
        holder[name] = []
