"""Reading a record: there is a shorter way for common events, and it says what the long one says."""

import re
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from schemas import records
from schemas.ids import ClaimId, ResponseId, Tenant
from schemas.records import (
    Deleted,
    Entry,
    EventHeaders,
    EventRecord,
    Unreadable,
    parse,
    upstream_headers,
    upstream_position,
)

ID, CLAIM = ResponseId("resp_0000" + "a" * 32), ClaimId("c1")
DELTA = EventHeaders(ID, CLAIM, 1, Tenant("acme")).event(7, "response.output_text.delta", b"{}")

Header = tuple[str, bytes | None]


class Stored(Struct):
    """A `LogRecord` of anything."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]
    offset: int = 0
    timestamp: int = 0


ENDS = ["", "/c1", "/c1/x", "/c1/-7", "/c1/07", "/c1/7_0", "/c1/ 7", "/c1/٧", "//7", "/claim/1/c1"]
keys = st.sampled_from([DELTA.key, b"resp/c1/7", b"\xff", b"", None, *((ID + end).encode() for end in ENDS)])
names = st.sampled_from([*(name for name, _ in DELTA.headers), "terminal", "upstream_id"])
values = st.sampled_from([b"event", b"extension", b"claimed", b"completed", b"1", b"\xff", None])


@st.composite
def headers(draw: st.DrawFn) -> list[Header]:
    """Those of a delta, some of them changed, left out, said twice or in another order."""
    found: list[Header] = list(DELTA.headers)
    for place in draw(st.lists(st.integers(0, len(found) - 1), max_size=2)):
        found[place] = (draw(names), draw(values))
    found += draw(st.lists(st.tuples(names, values), max_size=1))
    return draw(st.permutations(found)) if draw(st.booleans()) else found[draw(st.integers(0, 1)) :]


def the_long_way(record: Stored) -> Entry:
    with patch.object(records, "_common_event", lambda *_: None):
        return parse(record)  # type: ignore[arg-type]


@given(keys, st.sampled_from([b"{}", None]), headers())
@example(DELTA.key, b"{}", list(DELTA.headers))
def test_both_ways_say_the_same(key: bytes | None, value: bytes | None, headers: list[Header]) -> None:
    record = Stored(key, value, headers)
    assert parse(record) == the_long_way(record)  # type: ignore[arg-type]


def test_a_delta_goes_the_shorter_way() -> None:
    record = Stored(DELTA.key, DELTA.value, list(DELTA.headers))
    with patch.object(records, "_parse", None):
        assert parse(record) == EventRecord(ID, CLAIM, 7, "response.output_text.delta")  # type: ignore[arg-type]


def test_a_long_key_that_is_no_key_of_ours_is_not_remembered() -> None:
    """Thousands of keys are, and the log takes one of a megabyte from everybody who may append to it."""
    records._claim_of.cache_clear()
    foreign = Stored(b"k" * 1000 + DELTA.key, b"{}", list(DELTA.headers))
    parse(foreign)  # type: ignore[arg-type]
    assert records._claim_of.cache_info().currsize == 0


def test_ids_of_a_partition_more_cost_nothing_more() -> None:
    """No expression for each: a service may follow more partitions than anybody keeps expressions."""
    ends = EventHeaders(ResponseId("resp_fedc" + "a" * 32), CLAIM, 1, Tenant("acme"))
    key, value, written = ends.event(7, "response.completed", b"{}", "completed")
    record = Stored(key, value, list(written))
    with patch.object(re, "compile", None):
        assert isinstance(parse(record, 0xFEDC), EventRecord)  # type: ignore[arg-type]
        assert isinstance(parse(record, 0xFEDD), Unreadable)  # type: ignore[arg-type]


def test_a_delete_counts_wherever_it_says_that_its_response_began() -> None:
    for said, believed in ((-1, -1), (0, 0), (8, 8), (9, -1), (10**15, -1)):
        deleted = Deleted(ID, "n", Tenant("acme"), said)
        key, value, written = deleted.new()
        entry = parse(Stored(key, value, list(written), offset=9))  # type: ignore[arg-type]
        assert entry == replace(deleted, accepted_offset=believed)


@given(st.none() | st.integers(1 - 10**19, 10**19 - 1))
def test_where_an_upstream_stands_is_read_as_it_was_written(cursor: int | None) -> None:
    """However it numbers: by nanoseconds, say."""
    stored = Stored(DELTA.key, b"{}", [*DELTA.headers, *upstream_headers("resp_theirs", cursor)])
    assert upstream_position(stored) == ("resp_theirs", cursor)  # type: ignore[arg-type]


def test_a_cursor_that_is_no_number_is_nothing_to_go_on_at() -> None:
    for said in (b"", b"1" * 20, b"0x1", b"1_0", "٧".encode(), None):
        headers = [("upstream_id", b"resp_theirs"), ("upstream_cursor", said)]
        known = upstream_position(Stored(DELTA.key, b"{}", headers))  # type: ignore[arg-type]
        assert known == (("resp_theirs", None) if said is None else None)
