"""services/executor/backends/scripted.py and services/echo.py: model `echo`."""

import asyncio
import time
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ApiError
from schemas.events import KNOWN_EVENTS, Event
from schemas.ids import ResponseId, Tenant, item_id
from services import config
from services.echo import EchoSteering, steering
from services.executor.backend import Resume, RunRequest, UpstreamError
from services.executor.backends import build
from services.executor.backends.scripted import BATCH, ScriptedBackend, last_user_text
from tests.strict import checked

ID = ResponseId("resp_" + "0" * 36)


def request(text: str = "one two three", **metadata: str) -> RunRequest:
    asked = {f"echo.{key}": value for key, value in metadata.items()}
    said: list[dict[str, Any]] = [{"role": "user", "content": text}]
    body = {"model": "echo", "input": text, "metadata": asked}
    return RunRequest(ID, Tenant("default"), 1, body, said, {"id": ID, "status": "queued", "output": []})


async def batches_of(request: RunRequest, counted: int | None = None) -> list[list[Event]]:
    resume = None if counted is None else Resume(None, None, counted)
    async with aclosing(ScriptedBackend().stream(request, resume)) as stream:
        return [[upstream.event for upstream in batch] async for batch in stream]


def events_of(request: RunRequest, counted: int | None = None) -> list[Event]:
    return [event for batch in asyncio.run(batches_of(request, counted)) for event in batch]


def deltas(events: list[Event]) -> list[str]:
    return [event["delta"] for event in events if event["type"] == "response.output_text.delta"]


def failing_events_of(request: RunRequest, counted: int | None = None) -> tuple[list[Event], UpstreamError]:
    got: list[Event] = []

    async def collect() -> None:
        resume = None if counted is None else Resume(None, None, counted)
        async for batch in ScriptedBackend().stream(request, resume):
            got.extend(upstream.event for upstream in batch)

    with pytest.raises(UpstreamError) as caught:
        asyncio.run(collect())
    return got, caught.value


def test_echo_streams_the_whole_event_sequence() -> None:
    events = events_of(request())
    item = item_id("msg", ID, 0)
    part = {"type": "output_text", "text": "one two three", "annotations": [], "logprobs": []}
    message = {"id": item, "type": "message", "status": "completed", "role": "assistant", "content": [part]}
    at = {"item_id": item, "output_index": 0, "content_index": 0}
    assert [event["type"] for event in events] == [
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert events[0]["response"]["status"] == "in_progress"
    assert events[1]["item"] == message | {"status": "in_progress", "content": []}
    assert events[2] == {"type": "response.content_part.added", **at, "part": part | {"text": ""}}
    assert events[3] == {"type": "response.output_text.delta", **at, "delta": "one ", "logprobs": []}
    assert events[6] == {"type": "response.output_text.done", **at, "text": "one two three", "logprobs": []}
    assert events[7] == {"type": "response.content_part.done", **at, "part": part}
    assert events[8] == {"type": "response.output_item.done", "output_index": 0, "item": message}
    response = events[9]["response"]
    assert (response["status"], response["output"]) == ("completed", [message])
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 6,
    }
    assert {event["type"] for event in events} <= KNOWN_EVENTS


def test_the_events_are_what_the_sdk_expects() -> None:
    checked(events_of(request(tokens="5")))


def test_every_word_but_the_last_has_its_trailing_space() -> None:
    assert deltas(events_of(request(" one  two\nthree "))) == ["one ", "two ", "three"]


@pytest.mark.parametrize(
    ("tokens", "said"), [("1", ["a"]), ("2", ["a ", "b"]), ("5", ["a ", "b ", "a ", "b ", "a"])]
)
def test_tokens_go_round_the_words(tokens: str, said: list[str]) -> None:
    events = events_of(request("a b", tokens=tokens))
    assert deltas(events) == said
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "".join(said)
    assert events[-1]["response"]["usage"]["output_tokens"] == len(said)


def test_nothing_said_is_echoed_as_an_empty_text() -> None:
    events = events_of(request("", tokens="5"))
    assert deltas(events) == []
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


@pytest.mark.parametrize("after", [0, 1, 2])
def test_fail_after_fails_after_so_many_words(after: int) -> None:
    got, error = failing_events_of(request(fail_after=str(after)))
    assert deltas(got) == ["one ", "two ", "three"][:after]
    assert len(got) == 3 + after
    assert (error.code, error.type) == ("server_error", "upstream_error")
    assert f"after {after} words" in error.message


def test_fail_after_more_words_than_there_are_completes() -> None:
    assert events_of(request(fail_after="3"))[-1]["type"] == "response.completed"


def test_a_resumed_run_goes_on_identically_at_every_event() -> None:
    whole = events_of(request("a b", tokens="7"))
    for counted in range(len(whole) + 1):
        assert events_of(request("a b", tokens="7"), counted) == whole[counted:]


def test_a_resumed_run_fails_where_the_first_would_have_failed() -> None:
    whole, _ = failing_events_of(request(fail_after="2"))
    for counted in range(len(whole) + 1):
        got, _ = failing_events_of(request(fail_after="2"), counted)
        assert got == whole[counted:]


@given(st.lists(st.text(min_size=1, alphabet="abü🙂", max_size=3), max_size=4), st.integers(1, 20))
def test_the_deltas_are_the_text_whatever_is_said(words: list[str], tokens: int) -> None:
    events = events_of(request(" ".join(words), tokens=str(tokens)))
    assert "".join(deltas(events)) == events[-1]["response"]["output"][0]["content"][0]["text"]


def test_without_pauses_events_come_in_batches() -> None:
    sizes = [len(batch) for batch in asyncio.run(batches_of(request(tokens="1000")))]
    assert sizes == [BATCH] * 3 + [1007 - 3 * BATCH]


def test_an_interval_pauses_between_words_and_hands_over_each_at_once() -> None:
    started = time.monotonic()
    batches = asyncio.run(batches_of(request(interval_ms="20")))
    assert [len(batch) for batch in batches] == [1] * 10
    assert time.monotonic() - started >= 0.04


def test_the_last_thing_the_user_said_is_echoed() -> None:
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "first"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "second"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "no"}]},
        {"type": "function_call_output", "call_id": "c", "output": "no"},
    ]
    assert last_user_text(said) == "second"
    assert last_user_text(said[2:]) == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("echo.tokens", "many"),
        ("echo.tokens", "0"),
        ("echo.tokens", "-1"),
        ("echo.tokens", "1000001"),
        ("echo.tokens", "9" * 5000),
        ("echo.tokens", "1.5"),
        ("echo.tokens", "٣"),
        ("echo.tokens", " 1"),
        ("echo.tokens", 5),
        ("echo.interval_ms", "60001"),
        ("echo.fail_after", ""),
        ("echo.token", "5"),
    ],
)
def test_bad_steering_is_refused_and_names_the_key(key: str, value: object) -> None:
    with pytest.raises(ApiError) as caught:
        steering({"metadata": {key: value}})
    assert (caught.value.status, caught.value.param) == (400, f"metadata.{key}")


def test_steering_ignores_what_is_not_its_own() -> None:
    assert (
        steering({})
        == steering({"metadata": None})
        == steering({"metadata": {"user": "x"}})
        == EchoSteering()
    )
    asked = {"echo.tokens": "1000000", "echo.interval_ms": "5", "echo.fail_after": "0", "other": "x"}
    assert steering({"metadata": asked}) == EchoSteering(1_000_000, 5, 0)


def test_bad_steering_that_reached_the_log_ends_the_run_honestly() -> None:
    _, error = failing_events_of(request(tokens="many"))
    assert "metadata.echo.tokens" in error.message


def test_the_registry_finds_the_backend_of_a_request() -> None:
    async def scenario() -> tuple[list[Event], str]:
        registry = build(config.load("", {}), {})
        async with aclosing(registry.resolve({"model": "echo"}).stream(request())) as stream:
            events = [upstream.event async for batch in stream for upstream in batch]
        with pytest.raises(UpstreamError) as caught:
            registry.resolve({"model": "gone"})
        await registry.close()
        return events, caught.value.type

    assert asyncio.run(scenario()) == (events_of(request()), "no_backend")


@pytest.mark.parametrize(
    ("accepted", "route"),
    [
        (b'{"request": {"input": "hi", "model": "echo"}, "response": {}}', config.ECHO),
        (b'{"request": {"model": "gone"}, "response": {}}', None),
        (b'{"request": {}, "response": {}}', None),
        (b'{"request": [1], "respon', None),
        (b'{"request": {"input": ' + b"[" * 100_000, None),
    ],
    ids=["echo", "gone", "none", "broken", "deep"],
)
def test_the_registry_finds_the_route_of_a_response_or_says_that_it_cannot(
    accepted: bytes, route: config.Route | None
) -> None:
    async def scenario() -> config.Route | None:
        return build(config.load("", {}), {}).route(accepted)

    assert asyncio.run(scenario()) == route


def test_a_stamp_says_when_an_event_left_and_changes_nothing_else() -> None:
    begin = time.time_ns()
    stamped = events_of(request(stamp="1", interval_ms="1"))

    stamps = [event.pop("stamp") for event in stamped]
    assert stamps == sorted(stamps)
    assert begin <= stamps[0] < stamps[-1] <= time.time_ns()
    assert [event["type"] for event in stamped] == [event["type"] for event in events_of(request())]
    assert deltas(stamped) == deltas(events_of(request()))
