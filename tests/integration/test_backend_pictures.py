"""Pictures that fit into no record, from a real server: what is left out, what stays, how it ends (U-90)."""

from typing import Any

import pytest

from schemas.pictures import PREVIEW
from services.executor.scribe import Ending
from tests.upstreams import Call, Outcome, outcome, raw, registry, request

RECORD = 1 << 20
LARGE = "A" * 2_000_000
CREATED: dict[str, Any] = {"type": "response.created", "response": {"id": "resp_up", "status": "in_progress"}}
IMAGE: dict[str, Any] = {"type": "image_generation_call", "id": "ig_1", "status": "completed"}
TEXT: dict[str, Any] = {"type": "response.output_text.delta", "output_index": 1, "delta": "there"}
PREVIEWED: dict[str, Any] = {"type": PREVIEW, "output_index": 0, "partial_image_b64": LARGE}
DONE: dict[str, Any] = {"type": "response.output_item.done", "output_index": 0}


def completed(result: str | None) -> dict[str, Any]:
    output = [{**IMAGE, "result": result}]
    return {
        "type": "response.completed",
        "response": {"id": "resp_up", "status": "completed", "output": output},
    }


async def said(*events: dict[str, Any], lines: str = "", numbered: bool = False) -> Outcome:
    """What comes of an upstream that sends `events`."""

    async def script(call: Call) -> None:
        await call.head()
        for number, event in enumerate(events):
            first = {"type": event["type"], "sequence_number": number}
            await call.events({**first, **event} if numbered else event)

    async with raw(script) as server:
        backends = registry(server.url, lines, record_bytes=RECORD)
        try:
            return await outcome(backends.resolve({"model": "m"}), request())
        finally:
            await backends.close()


@pytest.mark.parametrize("lines", ["", "resumable = true"])
async def test_a_large_preview_is_left_out_and_the_stream_goes_on(lines: str) -> None:
    small = completed("A")
    got = await said(CREATED, PREVIEWED, TEXT, PREVIEWED, small, lines=lines, numbered=True)
    assert got.error is None
    assert got.types == [CREATED["type"], TEXT["type"], small["type"]]


async def test_a_preview_whose_type_only_the_event_line_says_is_left_out_too() -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(CREATED)
        await call.write(f'event: {PREVIEW}\ndata: {{"partial_image_b64": "{LARGE}"}}\n\n'.encode())
        await call.events(completed("A"))

    async with raw(script) as server:
        backends = registry(server.url, record_bytes=RECORD)
        got = await outcome(backends.resolve({"model": "m"}), request())
        await backends.close()
    assert (got.types, got.error) == ([CREATED["type"], "response.completed"], None)


@pytest.mark.parametrize("last", [completed(LARGE), completed(None)], ids=["large", "small"])
async def test_without_a_large_result_the_rest_is_heard_and_the_end_is_honest(last: dict[str, Any]) -> None:
    got = await said(CREATED, {**DONE, "item": {**IMAGE, "result": LARGE}}, TEXT, last)
    assert got.types == [CREATED["type"], TEXT["type"]]
    assert (got.failure.type, "larger than 960000 bytes" in got.failure.message) == ("event_too_large", True)


async def test_an_end_that_repeats_too_much_is_an_end() -> None:
    items = [{**DONE, "output_index": index, "item": {**IMAGE, "result": "A" * 600_000}} for index in (0, 1)]
    both = {**completed(None)["response"], "output": [item["item"] for item in items]}
    got = await said(CREATED, *items, {"type": "response.completed", "response": both})
    assert got.events[1:] == items
    assert got.failure.type == "event_too_large"


USAGE = {
    "input_tokens": 3,
    "output_tokens": 4,
    "total_tokens": 7,
    "input_tokens_details": {"cached_tokens": 1},
}


@pytest.mark.parametrize("result", [LARGE, None], ids=["large", "small"])
@pytest.mark.parametrize(
    "more", [{}, {"user": None, "metadata": {"usage": "no object"}}], ids=["last", "not last"]
)
async def test_what_a_response_cost_is_known_though_it_ends_with_too_much(
    result: str | None, more: dict[str, Any]
) -> None:
    last = completed(result)
    last["response"] |= {"usage": USAGE, **more}
    got = await said(CREATED, {**DONE, "item": {**IMAGE, "result": LARGE}}, last)
    assert got.failure.usage == USAGE
    assert Ending.of(got.failure).usage == USAGE


async def test_anything_else_that_is_too_large_ends_the_response_at_once() -> None:
    got = await said(CREATED, {**TEXT, "delta": LARGE}, TEXT, completed("A"))
    assert got.types == [CREATED["type"]]
    assert got.failure.type == "event_too_large"
