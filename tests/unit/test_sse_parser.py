"""services/executor/backends/sse_parser.py: bytes in, events out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.backends.sse_parser import HEAD_BYTES, EventTooLarge, ServerSentEvent, SseParser


def parse(*chunks: bytes, max_bytes: int = 1000) -> list[tuple[str, bytes]]:
    parser = SseParser(max_bytes)
    return [(event.event, event.data) for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_end_in_lf_cr_or_crlf(end: bytes) -> None:
    stream = end.join([b"event: a", b"data: 1", b"", b"data: 2", b"", b""])
    assert parse(stream) == [("a", b"1"), ("", b"2")]


def test_an_event_ended_by_cr_is_handed_out_without_waiting_for_an_lf() -> None:
    parser = SseParser(100)
    assert list(parser.feed(b"data: 1\r\r")) == [ServerSentEvent("", b"1")]
    assert list(parser.feed(b"\ndata: 2\r\n\r\n")) == [ServerSentEvent("", b"2")]


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\ndata: b\n\n", [("", b"a\nb")]),
        (b"data:a\n\n", [("", b"a")]),
        (b"data:  a\n\n", [("", b" a")]),
        (b"data\n\n", [("", b"")]),
        (b"data:\ndata:\n\n", [("", b"\n")]),
        (b": comment\n\ndata: a\n: comment\n\n", [("", b"a")]),
        (b":\n", []),
        (b"event: a\n\ndata: b\n\n", [("", b"b")]),
        (b"id: 7\nretry: 9\nunknown: x\ndata: a\n\n", [("", b"a")]),
        (b"event: x\nevent: a\ndata: b\n\n", [("a", b"b")]),
        (b"\n\n\ndata: a\n\n\n\n", [("", b"a")]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [("", b"a")]),
        (b"data: a\n\ndata: cut short\n", [("", b"a")]),
        (b"data: a:b\n\n", [("", b"a:b")]),
        ("data: \u00fc\U0001f642\n\n".encode(), [("", "\u00fc\U0001f642".encode())]),
        (b"data: \x00\xff\n\n", [("", b"\x00\xff")]),
    ],
)
def test_fields_are_read_as_the_standard_says(stream: bytes, events: list[tuple[str, bytes]]) -> None:
    assert parse(stream) == events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b'data: {"a":1}', [("", b'{"a":1}')]),
        (b'event: x\ndata: {"a":1}\n', [("x", b'{"a":1}')]),
        (b'\xef\xbb\xbfdata: {"a":1}', [("", b'{"a":1}')]),
        (b'data: {"a":1}\n\ndata: [DONE]', [("", b'{"a":1}'), ("", b"[DONE]")]),
        (
            b'data: {"a":1}\ndata: {"b":2}\ndata: [DONE]\n',
            [("", b'{"a":1}'), ("", b'{"b":2}'), ("", b"[DONE]")],
        ),
        (b'event: x\ndata: {"a":1}\nevent: y\ndata: {"b":2}\n', [("x", b'{"a":1}'), ("y", b'{"b":2}')]),
        (b'data: {"a":1}\ndata: {"b":2}', [("", b'{"a":1}'), ("", b'{"b":2}')]),
        (b'data: {"a":\ndata: 1}\n\n', [("", b'{"a":\n1}')]),
        (b'data: {"a":1}\ndata: {"b":', [("", b'{"a":1}')]),
        (b'data: {"a":', []),
        (b'data: {"a":{"b":1}', []),
        (b"data: words", []),
        (b'event: x\nid: {"a":1}', []),
        (b'error: {"message":"no"}\n\n', [("error", b'{"message":"no"}')]),
        (b"error: no\n\n", [("error", b"no")]),
        (b'data: {"a":1}\n\n{"error":"no"}\n', [("", b'{"a":1}'), ("", b'{"error":"no"}')]),
        (b'data: {"a":1}\n\n{"error":"no"}', [("", b'{"a":1}'), ("", b'{"error":"no"}')]),
    ],
)
def test_what_lax_servers_send_is_read(stream: bytes, events: list[tuple[str, bytes]]) -> None:
    for chunks in ([stream], [bytes([byte]) for byte in stream]):
        parser = SseParser(1000)
        read = [event for chunk in chunks for event in parser.feed(chunk)] + list(parser.end())
        assert [(event.event, event.data) for event in read] == events


def test_what_is_left_out_at_the_end_of_a_stream_stays_left_out() -> None:
    parser = SseParser(20, lambda _: True)
    assert list(parser.feed(b'data: {"a":"' + b"x" * 30 + b'"}')) == []
    assert list(parser.end()) == []


pieces = st.sampled_from(
    [
        b"data",
        b"event",
        b":",
        b" ",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"x",
        b"{}",
        b"error: ",
        b"event: ",
        b"data: ",
        b"\ndata: x\n\n",
        b"\xef\xbb\xbf",
        "ü🙂".encode(),
        b"id: 1",
    ]
)


@given(st.lists(pieces, max_size=30).map(b"".join), st.data())
def test_any_split_gives_the_same_events(stream: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert parse(*chunks) == parse(stream)
    assert parse(*(bytes([byte]) for byte in stream)) == parse(stream)


@given(st.lists(st.tuples(st.sampled_from(["", "a", "response.created"]), st.text(max_size=20)), max_size=5))
def test_what_was_framed_comes_out_again(events: list[tuple[str, str]]) -> None:
    def framed(event: str, data: str) -> str:
        lines = "".join(f"data: {line}\n" for line in data.replace("\r", "").split("\n"))
        return (f"event: {event}\n" if event else "") + lines + "\n"

    stream = "".join(framed(*event) for event in events).encode()
    assert parse(stream) == [(event, data.replace("\r", "").encode()) for event, data in events]


@pytest.mark.parametrize(
    "large",
    [b"data: " + b"x" * 101, b"data: " + b"x" * 60 + b"\ndata: " + b"x" * 60, b"x" * 101, b"data: x\n" * 101],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_over_the_bound_is_refused_after_those_before_it(large: bytes, size: int) -> None:
    parser = SseParser(100)
    stream = b"data: a\n\n" + large + b"\n\n"
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    got: list[ServerSentEvent] = []
    with pytest.raises(EventTooLarge, match="100 bytes"):
        got.extend(event for chunk in chunks for event in parser.feed(chunk))
    assert got == [ServerSentEvent("", b"a")]


def test_comments_do_not_count_towards_the_bound() -> None:
    assert parse(b": keep-alive\n" * 1000, b"data: a\n\n", max_bytes=100) == [("", b"a")]


@pytest.mark.parametrize("size", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("lines", [1, 3])
def test_an_event_that_may_be_left_out_is_told_by_its_beginning(size: int, lines: int) -> None:
    asked: list[ServerSentEvent] = []

    def may(one: ServerSentEvent) -> bool:
        asked.append(one)
        return True

    parser = SseParser(20_000, may)
    large = b"event: big\n" + b"data: {" + b"x" * 30_000 + b"\n" + b"data: y\n" * (lines - 1) + b"\n"
    stream = b"data: a\n\n" + large + b"event: b\ndata: b\n\n"
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    first, left, last = (event for chunk in chunks for event in parser.feed(chunk))
    assert (first, last) == (ServerSentEvent("", b"a"), ServerSentEvent("b", b"b"))
    assert (left.event, left.left_out, left.data[:3], len(asked)) == ("big", True, b"{xx", 1)
    assert len(left.data) <= HEAD_BYTES
    assert asked[0].data.startswith(b"{xx")


def test_an_event_without_end_is_refused_even_if_it_may_be_left_out() -> None:
    parser = SseParser(1000, lambda _: True)
    endless = (event for _ in range(100) for event in parser.feed(b"data: " + b"x" * 1000))
    with pytest.raises(EventTooLarge):
        list(endless)
