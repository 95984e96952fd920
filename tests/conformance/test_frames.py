"""A-1, A-3, A-6: what a stream looks like on the wire."""

import time
from itertools import pairwise

from tests.api import TERMINAL, Api, numbers, request
from tests.steady import steady
from tests.wire import KEEP_ALIVE, Frame


def test_a1_numbers_start_at_0_and_grow_by_1(api: Api) -> None:
    frames = api.events(api.create("a b c", tokens=50))

    assert numbers(frames) == list(range(59))


def test_a1_the_frame_repeats_type_and_number_of_its_event(api: Api) -> None:
    for frame in api.events(api.create()):
        assert frame.event["type"] == frame.type
        assert frame.event["sequence_number"] == frame.number


def test_a1_there_is_no_done_marker(api: Api) -> None:
    frames = api.events(api.create())

    assert frames[-1].type in TERMINAL
    assert b"[DONE]" not in b"".join(frame.raw for frame in frames)


def test_a1_a_keep_alive_is_one_line_between_frames(api: Api, keepalive_s: float) -> None:
    id = api.create("one", interval_ms=int(keepalive_s * 4000))

    with api.stream(id, timeout=keepalive_s * 10) as stream:
        parts = list(stream.parts())

    # `parts` fails on anything but whole frames and exact keep-alive lines.
    assert parts.count(KEEP_ALIVE) >= 2
    assert numbers([part for part in parts if isinstance(part, Frame)]) == list(range(10))


def test_a1_keep_alives_are_not_sent_while_events_flow(api: Api, keepalive_s: float) -> None:
    id = api.create("word", interval_ms=int(keepalive_s * 100), tokens=50)

    with api.stream(id) as stream:
        at = [(part, time.monotonic()) for part in stream.parts()]

    # One without a silence before it is for a machine that stood still. A clock that ticks whatever comes
    # would send five.
    silences = [now - before for (_, before), (part, now) in pairwise(at) if part == KEEP_ALIVE]
    assert len([silence for silence in silences if silence < keepalive_s * 0.8]) <= 1


def test_a1_line_breaks_in_a_request_do_not_break_frames(api: Api) -> None:
    nasty = "a\r\nb\rc\nd\n\ne\u2028f\u2029g\u0085h\x0bi"

    frames = api.events(api.create(instructions=nasty, metadata={"note": nasty}))

    assert numbers(frames) == list(range(12))
    assert {frame.event["response"]["instructions"] for frame in frames if "response" in frame.event} == {
        nasty
    }


def test_a3_replays_have_the_same_bytes_as_the_live_stream(api: Api) -> None:
    with api.connect("POST", "/v1/responses", request("a b c d", interval_ms=5, stream=True)) as stream:
        live = list(stream.frames())
    id = live[0].event["response"]["id"]

    for after in (None, -1, 0, 5, len(live) - 2):
        expected = live[(-1 if after is None else int(after)) + 1 :]
        assert api.events(id, after) == expected
        assert api.events(id, after) == expected


def test_a3_a_get_shows_what_the_stream_said(api: Api) -> None:
    id = api.create("a b c")
    last = api.events(id)[-1]

    assert api.response(id) == last.event["response"]


def test_a6_headers_that_keep_proxies_from_buffering(api: Api) -> None:
    posted = api.connect("POST", "/v1/responses", request(stream=True))
    rejoined = api.stream(api.create())

    for stream in (posted, rejoined):
        with stream:
            assert stream.status == 200
            assert stream.headers["content-type"].split(";")[0] == "text/event-stream"
            assert "no-cache" in stream.headers["cache-control"]
            assert stream.headers["x-accel-buffering"] == "no"
            assert "content-encoding" not in stream.headers


def test_a4_stored_events_come_at_once(api: Api) -> None:
    id = api.open("one two three")

    begin = steady()
    frames = api.take(id, 5)

    assert numbers(frames) == [0, 1, 2, 3, 4]
    assert steady() - begin < 5
