"""A body is what it begins with, whatever it is called, and however it is cut into chunks (U-10)."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.backends.bodies import DONE, BodyReader
from services.executor.backends.sse_parser import EventTooLarge, ServerSentEvent

SSE = b'event: x\ndata: {"a":1}\n\n: alive\n\ndata: {"b":2}\n\n'
LINES = b'{"a":1}\n\n{"b":2}\r\n{"c":3}'
WHOLE = b'\xef\xbb\xbf\n{\n "a": 1,\n "b": 2\n}\n'
ONE = b'{"a":1}\n'
READ = {
    SSE: [ServerSentEvent("x", b'{"a":1}'), ServerSentEvent("", b'{"b":2}')],
    LINES: [*(ServerSentEvent("", line) for line in (b'{"a":1}', b'{"b":2}', b'{"c":3}')), DONE],
    WHOLE: [ServerSentEvent("", WHOLE.strip(b"\xef\xbb\xbf\n")), DONE],
    ONE: [ServerSentEvent("", b'{"a":1}'), DONE],
}


def read(chunks: list[bytes], *, streams: bool) -> tuple[list[ServerSentEvent], bytes | None]:
    body = BodyReader(1000, streams=streams)
    events = [event for chunk in chunks for event in body.feed(chunk)]
    unread = body.unread
    return events + list(body.end()), unread


@given(st.sampled_from(list(READ)), st.lists(st.integers(0, 60), max_size=6), st.booleans())
def test_a_body_is_read_as_what_it_is(body: bytes, cuts: list[int], streams: bool) -> None:
    at = sorted({0, len(body), *(cut % len(body) for cut in cuts)})
    chunks = [body[start:stop] for start, stop in pairwise(at)]
    assert read(chunks, streams=streams) == (READ[body], None)


@pytest.mark.parametrize("body", [b"<html>gone</html>", b"upstream timed out", b"", b"  ", b"dat"])
def test_what_is_neither_is_kept_for_its_words(body: bytes) -> None:
    assert read([body[:3], body[3:]], streams=False) == ([], body)


def test_an_event_stream_may_begin_with_anything() -> None:
    assert read([b"retry 5\n\n", SSE], streams=True) == (READ[SSE], None)
    assert read([b""], streams=True) == ([], None)


@pytest.mark.parametrize("begin", [b'{"a": "', b'{"a":1}\n{"b": "', b'{\n"a": "'])
def test_a_value_without_an_end_is_too_large(begin: bytes) -> None:
    with pytest.raises(EventTooLarge):
        read([begin, *[b"x" * 100] * 11], streams=False)
