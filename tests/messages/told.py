"""The events of the Messages API as those of the Responses API that they stand for: pure."""

from typing import Any

from schemas.events import ITEM_ADDED, ITEM_DONE, Event

_ITEMS: dict[str, dict[str, Any]] = {
    "text": {"type": "message", "role": "assistant", "content": []},
    "thinking": {"type": "reasoning", "summary": [], "content": []},
    "tool_use": {"type": "function_call", "arguments": ""},
}
_DELTAS = {
    "text_delta": ("response.output_text.delta", "text"),
    "thinking_delta": ("response.reasoning_text.delta", "thinking"),
    "input_json_delta": ("response.function_call_arguments.delta", "partial_json"),
}
_INCOMPLETE = {
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "refusal": "content_filter",
}
"""Why a turn stopped, where it did not come to its end."""


class Told:
    """What one stream has told so far."""

    def __init__(self) -> None:
        self.ended = False
        """Whether `message_stop` has come."""
        self._usage: dict[str, int] = {}
        self._stopped = ""
        self._items: dict[int, Event] = {}

    def event(self, event: Event) -> list[Event]:
        """The events that the next one stands for. Raises KeyError for one that lacks what it must have."""
        match event["type"]:
            case "message_start":
                self._usage |= event["message"].get("usage") or {}
            case "content_block_start":
                return self._begun(event["index"], event["content_block"])
            case "content_block_delta":
                return self._delta(event["index"], event["delta"])
            case "content_block_stop":
                return self._done(event["index"])
            case "message_delta":
                self._usage |= event.get("usage") or {}
                self._stopped = event["delta"].get("stop_reason") or self._stopped
            case "message_stop":
                self.ended = True
                return [self._end()]
        return []  # ping, and what a later version adds

    def _begun(self, index: int, block: dict[str, Any]) -> list[Event]:
        item: dict[str, Any] = {**_ITEMS[block["type"]], "id": f"block_{index}", "status": "in_progress"}
        if block["type"] == "tool_use":
            item |= {"call_id": block["id"], "name": block["name"]}
        self._items[index] = item
        return [{"type": ITEM_ADDED, "output_index": index, "item": item}]

    def _delta(self, index: int, delta: dict[str, Any]) -> list[Event]:
        item = self._items[index]
        if delta["type"] == "signature_delta":
            item["encrypted_content"] = item.get("encrypted_content", "") + delta["signature"]
            return []
        type, field = _DELTAS[delta["type"]]
        at = {"item_id": item["id"], "output_index": index}
        counted = {} if delta["type"] == "input_json_delta" else {"content_index": 0}
        return [{"type": type, **at, **counted, "delta": delta[field]}]

    def _done(self, index: int) -> list[Event]:
        return [
            {"type": ITEM_DONE, "output_index": index, "item": self._items[index] | {"status": "completed"}}
        ]

    def _end(self) -> Event:
        used = self._usage
        cached = used.get("cache_read_input_tokens") or 0
        given = used.get("input_tokens", 0) + cached + (used.get("cache_creation_input_tokens") or 0)
        usage = {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": used.get("output_tokens", 0),
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + used.get("output_tokens", 0),
        }
        why = _INCOMPLETE.get(self._stopped)
        end: dict[str, Any] = {"status": "incomplete" if why else "completed", "usage": usage}
        if why:
            end["incomplete_details"] = {"reason": why}
        return {"type": f"response.{end['status']}", "response": end}
