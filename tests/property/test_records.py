"""Reading and writing records: what an event is known by (P-12 to P-15), and that the shorter way for common
events says what the long one says."""

import re
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from schemas import records
from schemas.ids import TOKEN_BYTES, ExecutorId, ResponseId, Tenant, claim_id
from schemas.records import (
    ONE_HEADER,
    SEVEN_HEADERS,
    UPSTREAM_CURSOR,
    UPSTREAM_INDEX,
    Accepted,
    Cancelled,
    Claimed,
    Deleted,
    Entry,
    EventHeaders,
    EventRecord,
    Unreadable,
    parse,
)
from schemas.upstream_headers import upstream_headers, upstream_index, upstream_position
from tests.written import claim_of

ID, CLAIM = ResponseId("resp_0000" + "a" * 32), claim_of("1")
TYPE, TENANT = "response.output_text.delta", Tenant("acme")
ONE, SEVEN = (EventHeaders(ID, CLAIM, 1, TENANT, form) for form in (ONE_HEADER, SEVEN_HEADERS))
DELTA, OLD_DELTA = (events.event(7, TYPE, b"{}") for events in (ONE, SEVEN))

Header = tuple[str, bytes | None]


class Stored(Struct):
    """A `LogRecord` of anything."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]
    offset: int = 0
    timestamp: int = 0


ENDS = [
    "",
    f"/{CLAIM}",
    *(f"/{CLAIM}/{n}" for n in ("x", "-7", "0", "07", "7_0", " 7", "٧", "7" * 17, "7/7")),
]
ENDS += ["//7", "/c1/7", "/claim/1/c1", f"/{CLAIM}x/7", f"/{CLAIM.upper()}/7", f"/x{CLAIM[1:]}/7"]
ENDS += ["/accepted/1234567890123456", "/cancelled/1234567890123456", f"/{CLAIM}/x/7", "/" + "ü" * 30]
OTHERS = [b"resp/c1/7", b"\xff", b"", None, DELTA.key[:40] + b"/" + DELTA.key[42:], DELTA.key[:59] + b"77"]
keys = st.sampled_from([DELTA.key, *OTHERS, *((ID + end).encode() for end in ENDS)])
names = st.sampled_from(
    [*(name for name, _ in OLD_DELTA.headers), "terminal", "upstream_id", UPSTREAM_CURSOR]
)
values = st.sampled_from([b"event", b"extension", b"claimed", b"completed", b"1", b"\xff", None])


@st.composite
def headers(draw: st.DrawFn) -> list[Header]:
    """The headers of a delta in either form, some changed, left out, repeated or in another order."""
    found: list[Header] = list(draw(st.sampled_from([DELTA, OLD_DELTA])).headers)
    for place in draw(st.lists(st.integers(0, len(found) - 1), max_size=2)):
        found[place] = (draw(names), draw(values))
    found += draw(st.lists(st.tuples(names, values), max_size=2))
    return draw(st.permutations(found)) if draw(st.booleans()) else found[draw(st.integers(0, 1)) :]


def read(key: bytes | None, headers: Sequence[Header], value: bytes | None = b"{}") -> Entry:
    return parse(Stored(key, value, list(headers)))  # type: ignore[arg-type]


def the_long_way(record: Stored) -> Entry:
    try:
        return records.parse_whole(record, None)  # type: ignore[arg-type]
    except records.MALFORMED as error:
        return Unreadable(f"{type(error).__name__}: {error}")


@given(keys, st.sampled_from([b"{}", None]), headers())
@example(DELTA.key, b"{}", list(DELTA.headers))
def test_both_ways_say_the_same(key: bytes | None, value: bytes | None, headers: list[Header]) -> None:
    assert read(key, headers, value) == the_long_way(Stored(key, value, headers))


@given(keys, headers())
def test_p12_an_event_is_known_by_its_key_and_its_type(key: bytes | None, headers: list[Header]) -> None:
    """What lacks `kind` is an event, if its key is one's and it has a type, or else it is unreadable."""
    entry, shape = read(key, headers), re.fullmatch(EVENT_KEY, key or b"")
    said = dict(headers)
    if "kind" not in said:
        terminal = said.get("terminal")
        readable = shape is not None and said.get("type") not in (None, b"\xff") and terminal != b"\xff"
        assert isinstance(entry, EventRecord if readable else Unreadable), (key, headers)
    if isinstance(entry, EventRecord):
        assert shape is not None
        assert (entry.id, entry.claim, entry.sequence_number) == (ID, CLAIM, int(shape[1]))


EVENT_KEY = rb"resp_[0-9a-f]{36}/c[0-9a-f]{16}/(0|[1-9][0-9]{0,15})"


@given(st.binary(max_size=8).filter(lambda kind: kind != b"event"), st.permutations(range(3)))
def test_p13_a_kind_other_than_event_is_never_an_event(kind: bytes, order: list[int]) -> None:
    """A kind of tomorrow may have an event's key and a type."""
    said = [("kind", kind), ("type", TYPE.encode()), ("terminal", b"completed")]
    entry = read(DELTA.key, [said[place] for place in order])
    assert isinstance(entry, Unreadable)


tokens = st.binary(min_size=TOKEN_BYTES, max_size=TOKEN_BYTES)


@given(tokens, tokens, st.integers(0, 10**16 - 1))
@example(bytes.fromhex("1234567890123456"), bytes.fromhex("1234567890123456"), 7)
def test_p14_a_key_can_only_be_one_kinds(nonce: bytes, claim: bytes, n: int) -> None:
    """Whatever the nonces are: without the header `kind` no key of another kind is taken for an event."""
    id, text = claim_id(claim), nonce.hex()
    of = EventHeaders(ID, id, 1, TENANT)
    written = [
        Accepted(ID, text, TENANT, "sha", 1, 1, background=True, store=True).new(b"{}"),
        Claimed(ID, n, id, ExecutorId("exec_1"), TENANT).new(),
        Cancelled(ID, text, TENANT).new(b"{}"),
        Deleted(ID, text, TENANT).new(),
        of.extension(n, TYPE, b"{}"),
    ]
    assert isinstance(read(of.event(n, TYPE, b"{}").key, DELTA.headers), EventRecord)
    for record in written:
        assert isinstance(read(record.key, DELTA.headers), Unreadable), record.key
        assert isinstance(read(record.key, OLD_DELTA.headers), Unreadable), record.key
        as_it_is = read(record.key, [*record.headers, *DELTA.headers])
        assert not isinstance(as_it_is, EventRecord | Unreadable), record.key


@given(st.integers(0, 10**16 - 1), st.sampled_from([None, "completed", "expired"]), st.booleans())
def test_p15_both_forms_are_read_alike(n: int, terminal: str | None, resumable: bool) -> None:
    upstream = upstream_headers("resp_theirs", n) if resumable else ()
    entries = []
    for form in (SEVEN_HEADERS, ONE_HEADER):
        record = EventHeaders(ID, CLAIM, 1, TENANT, form).event(n, TYPE, b"{}", terminal, upstream)
        assert upstream_position(Stored(*record)) == (("resp_theirs", n) if resumable else (None, None))  # type: ignore[arg-type]
        entries.append(read(record.key, record.headers))
    assert entries == [EventRecord(ID, CLAIM, n, TYPE, terminal)] * 2


def test_what_each_form_says() -> None:
    assert list(DELTA.headers) == [("type", TYPE.encode())]
    ends = ONE.event(8, "response.completed", b"{}", "completed")
    assert list(ends.headers) == [("type", b"response.completed"), ("terminal", b"completed")]
    assert list(OLD_DELTA.headers) == [
        ("kind", b"event"), ("v", b"1"), ("tenant", b"acme"), ("attempt", b"1"), ("claim", CLAIM.encode()),
        ("type", TYPE.encode()), ("sequence_number", b"7"),
    ]  # fmt: skip


@given(st.lists(st.sampled_from(["resp_one", "resp_two", None]), min_size=1), st.sampled_from([1, 2]))
def test_p34_an_upstreams_id_is_said_once_per_claim(told: list[str | None], form: int) -> None:
    """A reader of a claim's events from the first on knows at each where the upstream stands."""
    events = EventHeaders(ID, CLAIM, 1, TENANT, form)
    known: tuple[str | None, int | None] = (None, None)
    ids = 0
    for n, upstream_id in enumerate(told):
        upstream = upstream_headers(upstream_id, n) if upstream_id else ()
        stored = Stored(*events.event(n, TYPE, b"{}", None, upstream))  # type: ignore[arg-type]
        id, cursor = upstream_position(stored)  # type: ignore[arg-type]
        known = known[0] if id is None else id, known[1] if cursor is None else cursor
        ids += id is not None
        if upstream_id:
            assert known == (upstream_id, n)
    said = [each for each in told if each]
    changes = sum(one != other for one, other in zip([None, *said], said, strict=False))
    assert ids == (changes if form == ONE_HEADER else len(said))


def test_a_delta_goes_the_shorter_way_also_at_a_resumable_upstream() -> None:
    upstream = upstream_headers("resp_theirs", 7)
    events = EventHeaders(ID, CLAIM, 1, TENANT)
    events.event(6, TYPE, b"{}", None, upstream)
    for record in (DELTA, events.event(7, TYPE, b"{}", None, upstream)):
        with patch.object(records, "parse_whole", None):
            assert read(record.key, record.headers) == EventRecord(ID, CLAIM, 7, TYPE)


def test_what_is_remembered_of_claims_is_bounded() -> None:
    """The log takes any key from any process that may append to it."""
    records.claims_read.clear()
    for n in range(records.REMEMBERED + 2):
        assert isinstance(read(b"%060d7" % n, DELTA.headers), Unreadable)
    assert len(records.claims_read) == 2
    assert {len(stem) for stem in records.claims_read} == {records.STEM}


def test_ids_of_a_partition_more_cost_nothing_more() -> None:
    """No expression is compiled for each: a service may follow more partitions than `re` caches."""
    ends = EventHeaders(ResponseId("resp_fedc" + "a" * 32), CLAIM, 1, TENANT)
    key, value, written = ends.event(7, "response.completed", b"{}", "completed")
    record = Stored(key, value, list(written))
    with patch.object(re, "compile", None):
        assert isinstance(parse(record, 0xFEDC), EventRecord)  # type: ignore[arg-type]
        assert isinstance(parse(record, 0xFEDD), Unreadable)  # type: ignore[arg-type]


def test_a_delete_counts_wherever_it_says_that_its_response_began() -> None:
    for said, believed in ((-1, -1), (0, 0), (8, 8), (9, -1), (10**15, -1)):
        deleted = Deleted(ID, "n", TENANT, said)
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
        headers = [("upstream_id", b"resp_theirs"), (UPSTREAM_CURSOR, said)]
        known = upstream_position(Stored(DELTA.key, b"{}", headers))  # type: ignore[arg-type]
        assert known == ("resp_theirs" if said is None else None, None)


@given(st.sampled_from([ONE_HEADER, SEVEN_HEADERS]), st.none() | st.integers(-1, (1 << 31) - 1))
def test_p113_where_an_upstream_counts_an_item_changes_nothing_that_counts(
    form: int, index: int | None
) -> None:
    events = EventHeaders(ID, CLAIM, 1, TENANT, form)
    said = events.event(7, TYPE, b"{}", upstream=upstream_headers("resp_theirs", 3), index=index)
    record: Any = Stored(said.key, said.value, list(said.headers))
    delta: Any = Stored(DELTA.key, DELTA.value, list(DELTA.headers))
    assert (parse(record), upstream_index(record)) == (parse(delta), index)
    assert upstream_position(record) == ("resp_theirs", 3)


def test_an_index_that_is_no_number_is_ours() -> None:
    for said in (b"", b"-2", b"07", b"1.0", "٧".encode(), b"\xff", None):
        assert upstream_index(Stored(DELTA.key, b"{}", [(UPSTREAM_INDEX, said)])) is None  # type: ignore[arg-type]
