"""What lax upstreams leave out."""

from typing import Any

import pytest

from services.executor.backends.whole import fill

BARE = {"type": "output_text", "text": "hi"}
WHOLE = {**BARE, "annotations": [], "logprobs": []}
CITED = {**BARE, "annotations": [{"type": "url_citation"}], "logprobs": [1], "new": 1}


def message(part: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "message", "content": [dict(part)], **more}


@pytest.mark.parametrize(
    ("event", "filled"),
    [
        ({"type": "response.output_text.delta", "logprobs": None}, {"logprobs": []}),
        ({"type": "response.output_text.done", "logprobs": [1]}, {"logprobs": [1]}),
        ({"type": "response.content_part.added", "part": dict(BARE)}, {"part": WHOLE}),
        ({"type": "response.content_part.done", "part": dict(CITED)}, {"part": CITED}),
        ({"type": "response.content_part.done", "part": None}, {"part": None}),
        (
            {"type": "response.output_item.added", "item": {"type": "message"}},
            {"item": {"type": "message", "content": [], "status": "in_progress"}},
        ),
        (
            {"type": "response.output_item.done", "item": message(BARE)},
            {"item": message(WHOLE, status="completed")},
        ),
        (
            {"type": "response.output_item.done", "item": {"type": "function_call", "status": "incomplete"}},
            {"item": {"type": "function_call", "status": "incomplete"}},
        ),
        (
            {"type": "response.output_item.done", "item": {"type": "reasoning"}},
            {"item": {"type": "reasoning", "summary": []}},
        ),
        (
            {"type": "response.completed", "response": {"output": [message(BARE), {"type": "new"}]}},
            {"response": {"output": [message(WHOLE, status="completed"), {"type": "new"}]}},
        ),
        (
            {"type": "response.output_item.done", "item": {"type": "message", "content": "hi"}},
            {"item": message(WHOLE, status="completed")},
        ),
        ({"type": "response.completed", "response": {"output": None}}, {"response": {"output": None}}),
        ({"type": "response.new", "part": dict(BARE)}, {"part": BARE}),
    ],
)
def test_what_is_missing_is_filled_in_and_nothing_is_changed(
    event: dict[str, Any], filled: dict[str, Any]
) -> None:
    whole = {**event, **filled}
    fill(event)
    assert event == whole
