"""A-2, A-4, A-5, A-7: the order of events, their end, cursors and readers."""

import json
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.api import CLOSED, TERMINAL, Api, numbers, request, text, types
from tests.wire import Connection, Frame

OPENING = [
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_item.added",
    "response.content_part.added",
]
CLOSING = [
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "response.completed",
]


def test_a2_order_in_the_background(api: Api) -> None:
    frames = api.events(api.create("one two three"))

    assert types(frames) == [*OPENING, *["response.output_text.delta"] * 3, *CLOSING]


@pytest.mark.parametrize("stream", ["plain", "replayed"])
def test_a2_no_queued_event_outside_the_background(api: Api, stream: str) -> None:
    with api.connect("POST", "/v1/responses", request("one two", background=False, stream=True)) as posted:
        frames = list(posted.frames())
    if stream == "replayed":
        frames = api.events(frames[0].event["response"]["id"])

    expected = [type for type in OPENING if type != "response.queued"]
    assert types(frames) == [*expected, *["response.output_text.delta"] * 2, *CLOSING]
    assert numbers(frames) == list(range(10))


@pytest.mark.parametrize(
    "fields, last, status",
    [
        ({}, "response.completed", "completed"),
        ({"fail_after": 2}, "response.failed", "failed"),
        ({"fail_after": 0}, "response.failed", "failed"),
    ],
)
def test_a2_one_terminal_event_and_nothing_after_it(
    api: Api, fields: dict[str, int], last: str, status: str
) -> None:
    frames = api.events(api.create("one two three", **fields))

    assert [frame.type for frame in frames if frame.type in TERMINAL] == [last]
    assert frames[-1].type == last
    assert frames[-1].event["response"]["status"] == status


def test_a2_a_cancelled_response_ends_with_failed_and_status_cancelled(api: Api) -> None:
    id = api.open()
    with api.stream(id) as stream:
        api.cancel(id)
        frames = list(stream.frames())

    assert frames[-1].type == "response.failed"
    assert frames[-1].event["response"]["status"] == "cancelled"
    assert numbers(frames) == list(range(len(frames)))
    assert api.events(id) == frames


def test_a2_created_has_no_output_and_every_event_has_the_same_id(api: Api) -> None:
    id = api.create("one two three")
    frames = api.events(id)

    assert frames[0].event["response"]["output"] == []
    assert {frame.event["response"]["id"] for frame in frames if "response" in frame.event} == {id}


def test_a2_item_ids_are_stable(api: Api) -> None:
    id = api.create("one two three")
    events = [frame.event for frame in api.events(id)]

    added = next(event for event in events if event["type"] == "response.output_item.added")
    done = next(event for event in events if event["type"] == "response.output_item.done")
    assert {event["item_id"] for event in events if "item_id" in event} == {added["item"]["id"]}
    assert done["item"]["id"] == added["item"]["id"] == api.response(id)["output"][0]["id"]


def test_a2_deltas_add_up_to_the_text(api: Api) -> None:
    id = api.create("alpha beta gamma", tokens=20)
    deltas = [frame.event["delta"] for frame in api.events(id) if frame.type == "response.output_text.delta"]

    assert "".join(deltas) == text(api.response(id)) == " ".join((["alpha", "beta", "gamma"] * 7)[:20])


def test_a2_no_event_has_an_error_at_the_top(api: Api) -> None:
    for frame in api.events(api.create(fail_after=1)):
        assert "error" not in frame.event
        assert frame.type != "error"


def test_a4_rejoining_at_every_cursor_gives_the_rest(api: Api) -> None:
    id = api.create("one two three")
    frames = api.events(id)

    assert api.events(id, -1) == frames
    for cursor in range(len(frames) - 1):
        assert api.events(id, cursor) == frames[cursor + 1 :]


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(1, 30), max_size=6), words=st.integers(1, 40), interval=st.sampled_from([0, 1])
)
def test_a4_cut_anywhere_and_rejoined_every_event_comes_once(
    api: Api, cuts: list[int], words: int, interval: int
) -> None:
    id = api.create("a b", tokens=words, interval_ms=interval)
    seen: list[Frame] = []
    for count in cuts:
        if len(seen) + count < words + 9:
            seen += api.take(id, count, seen[-1].number if seen else None)
    seen += api.events(id, seen[-1].number if seen else None)

    assert numbers(seen) == list(range(words + 9))
    assert seen == api.events(id)


@pytest.mark.parametrize("beyond", [0, 1, 1000, 10**12])
def test_a4_at_or_past_the_end_of_a_closed_response_the_stream_is_empty(api: Api, beyond: int) -> None:
    id = api.create()
    last = api.events(id)[-1].number

    with api.stream(id, last + beyond) as stream:
        assert (stream.status, stream.body()) == (200, b"")
    with api.stream(id, last + beyond, {"accept": "application/json"}) as stream:
        assert (stream.status, stream.body()) == (200, b"")
    with api.stream(id, last + beyond, {"accept": "text/event-stream"}) as stream:
        assert (stream.status, stream.body()) == (204, b"")


def test_a4_past_the_last_event_of_an_open_response_the_stream_waits(api: Api) -> None:
    id = api.open()
    with api.stream(id, 4) as stream:
        api.cancel(id)
        assert numbers(list(stream.frames())) == [5]


def test_a4_last_event_id_and_the_larger_of_both_cursors(api: Api) -> None:
    id = api.closed("one two three")

    def first(after: object, last_event_id: str) -> int:
        with api.stream(id, after, {"last-event-id": last_event_id}) as stream:
            return next(stream.frames()).number

    assert first(None, "3") == 4
    assert first(2, "6") == 7
    assert first(6, "2") == 7


def test_a4_stream_1_means_true_and_accept_alone_starts_no_stream(api: Api) -> None:
    id = api.closed()

    streamed = api.get(id, "?stream=1")
    plain = api.get(id, headers={"accept": "text/event-stream"})

    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert plain.headers["content-type"].startswith("application/json")
    assert api.get(id, "?stream=false").headers["content-type"].startswith("application/json")


@pytest.mark.parametrize("cursor", ["abc", "1.5", "1e3", "0x1", "", " ", "1,2", "١", "null"])
def test_a4_a_cursor_that_is_no_integer_is_refused(api: Api, cursor: str) -> None:
    with api.stream(api.closed(), cursor) as stream:
        assert stream.status == 400
        error = json.loads(stream.body())["error"]

    assert error["message"] == "starting_after must be an integer"
    assert error["param"] == "starting_after"


@pytest.mark.parametrize(
    "body", [{"background": True}, {"background": False}, {"background": False, "stream": True}]
)
def test_a5_every_stored_response_can_be_replayed(api: Api, body: dict[str, bool]) -> None:
    with api.connect("POST", "/v1/responses", request("one two", **body)) as answer:
        if body.get("stream"):
            id = next(answer.frames()).event["response"]["id"]
            list(answer.frames())
        else:
            id = json.loads(answer.body())["id"]

    frames = api.events(id)
    assert frames[-1].type == "response.completed"
    assert numbers(frames) == list(range(len(frames)))


def test_a5_two_readers_at_different_cursors(api: Api) -> None:
    id = api.create("one two three four five", interval_ms=20, tokens=60)
    with ThreadPoolExecutor() as pool:
        early = pool.submit(api.events, id)
        late = pool.submit(api.events, id, 40)

    assert numbers(early.result()) == list(range(69))
    assert late.result() == early.result()[41:]


def test_a5_a_hundred_readers_of_one_response(api: Api) -> None:
    id = api.create("one two three four five", interval_ms=10, tokens=100)
    with ThreadPoolExecutor(100) as pool:
        read = list(pool.map(lambda index: api.events(id, index % 50 - 1), range(100)))

    whole = read[0]
    assert numbers(whole) == list(range(109))
    for index, frames in enumerate(read):
        assert frames == whole[index % 50 :]


@pytest.mark.slow
def test_a6_a_stalled_reader_is_cut_holds_nobody_up_and_rejoins(api: Api, stall_s: float) -> None:
    id = api.create("stall " * 40, tokens=60_000)
    with ExitStack() as stack:
        # A few KB of socket buffer here: what the server holds for this reader is its own.
        stalled = stack.enter_context(api.stream(id, timeout=stall_s * 4, receive_buffer=4096))
        whole = api.events(id)
        assert numbers(whole) == list(range(60_009))

        got = _after_a_stall(stalled, stall_s)

    assert len(got) < len(whole)
    assert got == whole[: len(got)]
    assert api.events(id, len(got) - 1) == whole[len(got) :]


def test_a7_disconnecting_does_not_stop_a_background_response(api: Api) -> None:
    with api.connect(
        "POST", "/v1/responses", request("a b", tokens=40, interval_ms=10, stream=True)
    ) as stream:
        id = next(stream.frames()).event["response"]["id"]

    assert api.eventually(id, lambda response: response["status"] in CLOSED)["status"] == "completed"


def test_a7_disconnecting_cancels_a_response_outside_the_background(api: Api) -> None:
    body = request("a b", tokens=1000, interval_ms=1000, background=False, stream=True)
    with api.connect("POST", "/v1/responses", body) as stream:
        id = next(stream.frames()).event["response"]["id"]

    assert api.eventually(id, lambda response: response["status"] in CLOSED)["status"] == "cancelled"
    assert api.events(id)[-1].event["response"]["status"] == "cancelled"


def test_a7_hanging_up_on_a_keyed_post_cancels_nothing_and_the_repetition_meets_it(api: Api) -> None:
    body = request("a b", tokens=60, interval_ms=50, background=False)
    headers = {"idempotency-key": f"hung up {api.create()}"}
    with pytest.raises(TimeoutError), api.connect("POST", "/v1/responses", body, headers, timeout=1):
        pass

    again = api.post(body, headers)

    assert (again.status, again.json["status"]) == (200, "completed")


def test_a7_a_rejoined_reader_that_hangs_up_cancels_nothing(api: Api) -> None:
    body = request("a b", tokens=20, interval_ms=50, background=False, stream=True)
    with api.connect("POST", "/v1/responses", body) as stream:
        frames = stream.frames()
        id = next(frames).event["response"]["id"]
        api.take(id, 3)
        assert list(frames)[-1].type == "response.completed"


def _after_a_stall(stalled: Connection, stall_s: float) -> list[Frame]:
    """What a reader gets that wakes up after it was dropped; fails unless its body was cut."""
    time.sleep(stall_s * 1.5)
    got: list[Frame] = []
    with pytest.raises(ConnectionError):
        deque(map(got.append, stalled.frames()), maxlen=0)
    return got
