"""Upstreams as they are: other ends (U-8), other errors and signs of life (U-9), other content types (U-10),
and streams that are gone while the response is not (U-13).
"""

import asyncio
import json
from typing import Any

import pytest

from services.executor.backend import Resume
from services.executor.backends import responses
from tests.integration.test_backend_responses import (
    COMPLETED,
    CREATED,
    DELTA,
    Background,
    run,
    serving,
)
from tests.upstreams import SSE, Call, Script, framed, outcome, request
from tests.whole import followed, told

MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
TEXT = {"type": "output_text", "text": "Good day", "annotations": [], "logprobs": []}
WHOLE = {
    "id": "resp_theirs",
    "object": "response",
    "status": "completed",
    "output": [{**MESSAGE, "content": [TEXT]}],
}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses, "REJOIN_PAUSE", 0.01)
    monkeypatch.setattr(responses, "POLL_PAUSE", 0.01)


def sending(*pieces: dict[str, Any] | bytes, type: str = SSE) -> Script:
    async def script(call: Call) -> None:
        await call.head(type=type)
        for piece in pieces:
            await call.write(piece if isinstance(piece, bytes) else framed(piece))

    return script


def status_of(events: list[dict[str, Any]]) -> str:
    return str(followed(told(events))["status"])


# Other ends (U-8).


@pytest.mark.parametrize(
    ("last", "status"),
    [
        ({"type": "response.done", "response": WHOLE}, "completed"),
        ({"type": "response.done", "response": {"id": "resp_theirs"}}, "completed"),
        ({"type": "response.done"}, "completed"),
        ({"type": "response.done", "response": {**WHOLE, "status": "failed"}}, "failed"),
        ({"type": "response.done", "response": {**WHOLE, "status": "incomplete"}}, "incomplete"),
        ({"type": "response.finished", "response": WHOLE}, "completed"),
        ({"type": "response.cancelled", "response": WHOLE | {"status": "cancelled"}}, "failed"),
        ({"type": "response.canceled"}, "failed"),
        ({"type": "response.failed", "response": WHOLE | {"status": "canceled"}}, "failed"),
        ({"type": "response.error", "response": {**WHOLE, "status": "failed"}}, "failed"),
        ({"type": "response.expired", "response": {**WHOLE, "status": "expired"}}, "failed"),
        ({"type": "response.completed", "response": {**WHOLE, "status": "failed"}}, "failed"),
    ],
)
async def test_an_end_by_another_name_is_the_end(last: dict[str, Any], status: str) -> None:
    _, got = await run(sending(CREATED, DELTA, last))
    assert got.error is None
    assert status_of(got.events) == status


async def test_an_object_without_a_type_is_the_response_itself() -> None:
    _, got = await run(sending(CREATED, b"data: " + json.dumps(WHOLE).encode() + b"\n\n"))
    assert status_of(got.events) == "completed"


@pytest.mark.parametrize("type", ["response.created", "response.in_progress", "response.output_item.done"])
async def test_what_only_looks_like_an_end_is_none(type: str) -> None:
    _, got = await run(sending(CREATED, {"type": type, "response": WHOLE}, DELTA))
    assert "ended its stream without a terminal event" in got.failure.message


# Other errors, and signs of life (U-9).


@pytest.mark.parametrize(
    "piece",
    [
        {"type": "response.error", "error": {"message": "no more"}},
        {"type": "response.error", "message": "no more"},
        {"type": "error", "error": [{"message": "no more"}]},
        {"type": "error", "detail": "no more"},
        {"type": "response.failed", "error": {"message": "no more"}},
        b'event: error\ndata: {"detail": "no more"}\n\n',
        b'data: {"detail": "no more"}\n\n',
        b'data: {"errors": [{"message": "no more"}]}\n\n',
        b'data: {"object": "error", "message": "no more"}\n\n',
        b"event: error\ndata: no more\n\n",
        b'data: [{"error": {"message": "no more"}}]\n\n',
    ],
)
async def test_an_error_is_told_in_the_upstreams_words(piece: dict[str, Any] | bytes) -> None:
    _, got = await run(sending(CREATED, DELTA, piece))
    assert got.failure.message == "The model server reported an error: no more"


@pytest.mark.parametrize(
    "piece",
    [
        {"type": "ping"},
        {"type": "response.heartbeat", "sequence_number": 7},
        b"event: ping\ndata: now\n\n",
        b"event: keepalive\ndata: {}\n\n",
        b"data: {}\n\n",
        b"data: null\n\n",
        b": alive\n\n",
        b"data:\n\n",
    ],
)
async def test_a_sign_of_life_is_passed_over(piece: dict[str, Any] | bytes) -> None:
    _, got = await run(sending(piece, CREATED, piece, DELTA, COMPLETED))
    assert (got.events, got.error) == ([CREATED, DELTA, COMPLETED], None)


@pytest.mark.parametrize(
    ("body", "type", "says"),
    [
        ([{"error": {"message": "no more"}}], "application/json", "answered 400: no more"),
        (b"no more", "text/plain", "answered 400: no more"),
        (b"<html><title>No more</title></html>", "text/html", "answered 400: No more"),
    ],
)
async def test_a_refusal_is_told_in_the_upstreams_words(body: object, type: str, says: str) -> None:
    async def script(call: Call) -> None:
        await call.answer(400, body, type)

    _, got = await run(script)
    assert got.failure.message == f"The model server {says}"


# Other content types (U-10).


@pytest.mark.parametrize("type", ["text/plain", "application/json", "application/x-ndjson", "x/y"])
async def test_a_stream_is_one_under_any_type(type: str) -> None:
    _, got = await run(sending(CREATED, DELTA, COMPLETED, b"data: [DONE]\n\n", type=type))
    assert (got.events, got.error) == ([CREATED, DELTA, COMPLETED], None)


async def test_a_stream_may_be_json_line_by_line() -> None:
    lines = [json.dumps(event).encode() + b"\n" for event in (CREATED, DELTA, COMPLETED)]
    _, got = await run(sending(*lines, type="application/x-ndjson"))
    assert (got.events, got.error) == ([CREATED, DELTA, COMPLETED], None)


@pytest.mark.parametrize("type", ["text/plain", SSE, "application/json"])
async def test_an_unstreamed_answer_is_one_under_any_type(type: str) -> None:
    _, got = await run(sending(json.dumps(WHOLE, indent=1).encode(), type=type))
    assert followed(told(got.events))["output"] == WHOLE["output"]


@pytest.mark.parametrize(
    ("type", "body", "says"),
    [
        ("text/html", b"<html><title>Sign in</title>", "text/html instead of an event stream: Sign in"),
        ("text/plain", b"try later", "text/plain instead of an event stream: try later"),
        (SSE, b'{"error": {"message": "no more"}}', "reported an error: no more"),
    ],
)
async def test_what_is_neither_is_told_with_its_words(type: str, body: bytes, says: str) -> None:
    _, got = await run(sending(body, type=type))
    assert says in got.failure.message


# A stream that is gone, of a response that is not (U-13).


class Kept(Background):
    """One whose stream is refused once it broke, and whose object says `queued`, … in turn, then the last."""

    def __init__(self, refusal: int | dict[str, Any], *objects: Any, breaks: int = 3) -> None:
        super().__init__(breaks)
        self.refusal = refusal
        self.objects = list(objects)

    async def __call__(self, call: Call) -> None:
        if call.method == "POST":
            await super().__call__(call)
        elif "stream=true" not in call.path:
            whole = self.objects.pop(0) if len(self.objects) > 1 else self.objects[0]
            await call.answer(*(whole if isinstance(whole, tuple) else (200, whole)))
        elif isinstance(self.refusal, int):
            await call.answer(self.refusal, {"error": {"message": "too old to be streamed"}})
        else:
            await call.answer(200, self.refusal)


STREAMED = {**WHOLE, "output": [{**MESSAGE, "content": [{**TEXT, "text": "1 2 3 4 "}]}]}
RUNS = {**WHOLE, "status": "in_progress", "output": []}


@pytest.mark.parametrize(
    "script",
    [
        Kept(400, STREAMED),
        Kept(400, RUNS, {**RUNS, "status": "queued"}, STREAMED),
        Kept(500, RUNS, (500, {}), (503, {}), (429, {}), STREAMED),
        Kept(STREAMED, STREAMED),
        Kept(RUNS, RUNS, STREAMED),
        Kept(400, STREAMED, breaks=1),
        Kept(400, STREAMED, breaks=5),
    ],
    ids=["refused", "polled", "ailing", "object", "object that runs", "after created", "before the end"],
)
async def test_what_was_not_streamed_is_made_from_the_object(script: Kept) -> None:
    _, got = await run(script, "resumable = true")
    assert got.error is None
    events = told(got.events)
    assert [item["content"][0]["text"] for item in followed(events)["output"]] == ["1 2 3 4 "]
    assert "".join(event["delta"] for event in events if "delta" in event) == "1 2 3 4 "
    assert not script.cancelled.is_set()


async def test_a_stream_with_a_gap_is_made_whole_from_the_object() -> None:
    script = Kept(400, STREAMED)
    del script.stream[2]
    script.stream[2]["sequence_number"] = 1  # no higher than the one before it
    _, got = await run(script, "resumable = true")
    assert status_of(got.events) == "completed"
    assert not script.cancelled.is_set()


async def test_streams_that_always_break_lead_to_the_object() -> None:
    class Breaking(Background):
        async def __call__(self, call: Call) -> None:
            if call.method == "GET" and "stream=true" not in call.path:
                await call.answer(200, STREAMED)
            else:
                await super().__call__(call)

    script = Breaking(2, *[0] * 50)
    _, got = await run(script, "resumable = true")
    assert status_of(got.events) == "completed"


async def test_one_without_numbers_is_read_as_an_object() -> None:
    script = Kept(400, STREAMED)
    for event in script.stream:
        del event["sequence_number"]
    server, got = await run(script, "resumable = true")
    assert status_of(got.events) == "completed"
    assert [call.path for call in server.calls if "stream=true" in call.path] == []


@pytest.mark.parametrize("cursor", [2, None])
async def test_the_next_executor_reads_the_object_as_well(cursor: int | None) -> None:
    script = Kept(400, RUNS, STREAMED)
    async with serving(script, "resumable = true") as (_, backend, _):
        got = await outcome(backend, request(), Resume("resp_theirs", cursor, 4))
    assert [event["type"] for event in got.events] == ["response.completed"]
    assert not script.cancelled.is_set()


async def test_one_that_answers_that_it_runs_is_asked_again() -> None:
    async def script(call: Call) -> None:
        await call.answer(200, WHOLE if call.method == "GET" else {**RUNS, "status": "queued"})

    _, got = await run(script, "resumable = true")
    assert got.upstream[0].upstream_id == "resp_theirs"
    assert status_of(got.events) == "completed"


@pytest.mark.parametrize("status", [404, 400])
async def test_an_object_that_cannot_be_had_ends_the_response(status: int) -> None:
    script = Kept(400, (status, {"error": {"message": "who?"}}))
    _, got = await run(script, "resumable = true")
    assert "too old to be streamed" in got.failure.message or "answered 404: who?" in got.failure.message


async def test_the_upstream_says_how_often_it_is_asked() -> None:
    asked: list[float] = []

    async def script(call: Call) -> None:
        if call.method == "POST":
            await call.answer(200, RUNS)
            return
        asked.append(asyncio.get_running_loop().time())
        await call.answer(200, RUNS if len(asked) == 1 else WHOLE, openai_poll_after_ms=300)

    await run(script, "resumable = true")
    assert asked[1] - asked[0] > 0.29  # a loop's timer may fire a moment early


async def test_an_object_in_which_nothing_changes_is_given_up_where_the_route_says_when() -> None:
    script = Kept(400, RUNS)
    _, got = await run(script, "resumable = true\ntimeout = 0.2")
    assert got.failure.message == "The model server answered 400: too old to be streamed"
    assert script.cancelled.is_set()
