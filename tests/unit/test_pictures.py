"""Pictures that do not fit: what the scribe leaves out, and how a response without it ends (U-90)."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from schemas import response
from schemas.ids import response_id
from schemas.pictures import PREVIEW, fitting, picture_bytes, without_picture
from services.executor.scribe import Draft, Limits, Scribe

INITIAL = response.initial({"model": "m", "input": "draw"}, response_id(0, bytes(16)), 1_700_000_000, "m")
LIMITS = Limits(record_bytes=10_000, output_bytes=60_000)
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


def scribe() -> Scribe:
    return Scribe(dict(INITIAL), origin=0, last=1, limits=LIMITS)


def image(result: str | None, id: str = "ig_1") -> dict[str, Any]:
    return {"type": "image_generation_call", "id": id, "status": "completed", "result": result}


def message() -> dict[str, Any]:
    content = [{"type": "output_text", "text": "here you are", "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


def done(index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def completed(*output: dict[str, Any]) -> dict[str, Any]:
    whole = {"status": "completed", "output": list(output), "usage": USAGE}
    return {"type": "response.completed", "response": whole}


def preview(size: int) -> dict[str, Any]:
    return {"type": PREVIEW, "output_index": 0, "item_id": "ig_1", "partial_image_b64": "A" * size}


def added(index: int, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def ends(drafts: list[Draft]) -> list[dict[str, Any]]:
    """The ends of items, and of the response."""
    return [event for event in values(drafts) if event["type"].endswith(("item.done", "completed", "failed"))]


def values(drafts: Iterator[Draft] | list[Draft]) -> list[dict[str, Any]]:
    drafts = list(drafts)
    assert max(len(draft.value) for draft in drafts) <= LIMITS.record_bytes
    return [json.loads(draft.value) for draft in drafts]


def test_a_preview_that_is_too_large_is_left_out_and_takes_no_number() -> None:
    held = scribe()
    held.write(added(0, image(None)), now=0)
    assert held.write(preview(20_000), now=0) == []
    [small] = values(held.write(preview(5_000), now=0))
    assert small["sequence_number"] == 3
    item, end = values(held.write(completed(image("A" * 100)), now=0))
    assert (item["item"]["result"], end["type"], end["sequence_number"]) == (
        "A" * 100,
        "response.completed",
        5,
    )


def test_previews_leave_the_result_half_of_what_a_response_may_put_out() -> None:
    held = scribe()
    held.write(added(0, image(None)), now=0)
    written = [held.write(preview(9_000), now=0) for _ in range(20)]
    assert sum(map(bool, written)) == 3
    [item] = values(held.write(done(0, image("A" * 9_000)), now=0))
    assert item["item"]["result"] == "A" * 9_000
    [end] = values(held.write(completed(image("A" * 9_000)), now=0))
    assert end["type"] == "response.completed"


def test_a_result_that_is_too_large_leaves_everything_else_and_an_honest_end() -> None:
    held = scribe()
    events = [
        *held.write(done(0, image("A" * 20_000)), now=0),
        *held.write(done(1, message()), now=0),
        *held.write(completed(image("A" * 20_000), message()), now=0),
    ]
    item, said, end = ends(events)
    assert (item["item"]["result"], item["item"]["status"]) == (None, "failed")
    assert said["item"] == message()
    final = end["response"]
    assert (end["type"], final["status"], final["error"]["type"]) == (
        "response.failed",
        "failed",
        "output_too_large",
    )
    assert "REJOINDER_MAX_RECORD_BYTES" in final["error"]["message"]
    assert final["output"] == [image(None) | {"status": "failed"}, message()]
    assert final["usage"]["total_tokens"] == 3
    assert [event["sequence_number"] for event in values(events)] == list(range(2, 2 + len(events)))


def test_pictures_that_fit_one_by_one_are_in_the_stream_and_as_many_as_fit_in_the_object() -> None:
    held, pictures = scribe(), [image("A" * size, f"ig_{size}") for size in (4_000, 6_000, 3_000)]
    streamed = [d for index, item in enumerate(pictures) for d in held.write(done(index, item), now=0)]
    assert [event["item"] for event in ends(streamed)] == pictures
    [_, end] = ends(held.write(completed(*pictures, message()), now=5))
    final = end["response"]
    assert [picture_bytes(item) for item in final["output"]] == [4_000, 0, 3_000, 0]
    assert (final["output"][3], final["status"]) == (message(), "failed")
    assert (final["completed_at"], final["incomplete_details"]) == (None, None)
    assert (final["error"]["type"], final["usage"]["total_tokens"]) == ("output_too_large", 3)


def test_what_failed_for_another_reason_keeps_it() -> None:
    held, pictures = scribe(), [image("A" * 6_000, "ig_1"), image("A" * 6_000, "ig_2")]
    error = {"code": "server_error", "message": "no ink", "type": "upstream_error"}
    event = {"type": "response.failed", "response": {"output": pictures, "error": error}}
    *_, end = values(held.write(event, now=0))
    assert end["response"]["error"]["message"] == "no ink"
    assert [picture_bytes(item) for item in end["response"]["output"]] == [0, 6_000]


@pytest.mark.parametrize(
    "item", [message(), image(None), image(""), {"type": "image_generation_call", "result": 3}, "x", None]
)
def test_what_has_no_picture_is_not_changed(item: Any) -> None:
    assert (picture_bytes(item), without_picture(item)) == (0, None)
    assert fitting([item], 10) == [item]
