"""The records of `closings`: what is written is read, whatever stands there, and each is counted once."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct
from msgspec.structs import replace

from schemas.closings import (
    MAX_CHARACTERS,
    MOST_LOGS,
    ClosingRecord,
    FinalFacts,
    Lost,
    Marks,
    TokenCounts,
    final_facts,
    lost,
    parse,
)
from schemas.ids import Tenant, response_id
from schemas.records import NewRecord, Unreadable
from tests.closings import CLOSING, ID

DEEP = b"[" * 2_000 + b"]" * 2_000


class Stored(Struct):
    key: Any
    value: Any
    headers: Any
    offset: int = 0
    timestamp: int = 0


def stored(record: NewRecord, **changes: Any) -> Stored:
    return replace(Stored(record.key, record.value, list(record.headers)), **changes)


def test_what_is_written_is_read() -> None:
    record = CLOSING.new()
    assert record.key == ID.encode()
    assert dict(record.headers) == {
        "kind": b"closing", "tenant": b"acme", "log": b"topic-1", "closed_offset": b"11"
    }  # fmt: skip
    assert parse(stored(record)) == parse(stored(record), 3) == CLOSING


def test_a_consumer_without_this_code_finds_plain_json_with_every_field() -> None:
    value = json.loads(CLOSING.new().value or b"")
    assert value.keys() == set(ClosingRecord.__struct_fields__)
    assert value["executors"] == ["exec_1", "exec_2"]
    assert value["usage"]["cached_tokens"] == 0


def test_a_later_version_may_say_more() -> None:
    record = CLOSING.new()
    more = msgspec.json.encode(json.loads(record.value or b"") | {"colour": "blue"})
    assert parse(stored(record, value=more, headers=[*record.headers, ("colour", b"blue")])) == CLOSING


@pytest.mark.parametrize(
    "changes",
    [
        {"key": None},
        {"key": b"\xff"},
        {"key": response_id(3, bytes(16)).encode()},
        {"key": response_id(2, b"\x01" * 16).encode()},
        {"value": None},
        {"value": b"{"},
        {"value": b"{}"},
        {"value": DEEP},
        {"value": replace(CLOSING, closed_offset=12).new().value},
        {"value": replace(CLOSING, log="topic-2").new().value},
        {"headers": []},
        {"headers": replace(CLOSING, tenant=Tenant("other")).new().headers},
        {"headers": [("kind", b"opening"), *CLOSING.new().headers[1:]]},
        {"headers": [*CLOSING.new().headers, ("closed_offset", b"011")]},
        {"headers": [*CLOSING.new().headers, ("closed_offset", None)]},
        {"headers": [*CLOSING.new().headers, ("tenant", b"\xff")]},
    ],
)
def test_what_cannot_be_one_is_unreadable(changes: dict[str, Any]) -> None:
    assert isinstance(parse(stored(CLOSING.new(), **changes), 3), Unreadable)


def test_one_that_closed_before_it_began_is_unreadable() -> None:
    assert isinstance(parse(stored(replace(CLOSING, accepted_offset=11).new())), Unreadable)


@given(
    st.binary(max_size=40), st.none() | st.binary(max_size=40), st.lists(st.tuples(st.text(), st.binary()))
)
def test_nothing_makes_a_reader_fall_over(
    key: bytes, value: bytes | None, headers: list[tuple[str, bytes]]
) -> None:
    assert isinstance(parse(Stored(key, value, headers)), Unreadable)
    parse(Stored(CLOSING.new().key, value, [*CLOSING.new().headers, *headers]))


def test_the_facts_of_a_final_object() -> None:
    usage = {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 15,
    }
    final = {
        "model": "gpt-5-2026",
        "usage": usage,
        "error": {"type": "executor_lost", "code": "server_error", "message": "secret"},
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{"content": "secret"}],
    }
    facts = final_facts(json.dumps({"type": "response.failed", "response": final}).encode())
    counts = TokenCounts(10, 4, 1, 5, 3, 15)
    assert facts == FinalFacts("gpt-5-2026", "executor_lost", "max_output_tokens", counts)


@pytest.mark.parametrize(
    "terminal",
    [
        b"",
        b"{",
        b"null",
        b"{}",
        b'{"response":null}',
        b'{"response":{"model":%b}}' % DEEP,
        b'{"response":{"model":7,"error":"x","incomplete_details":[],"usage":{"input_tokens":"many"}}}',
    ],
)
def test_a_value_that_says_nothing_gives_no_facts(terminal: bytes) -> None:
    assert final_facts(terminal) == FinalFacts()


def test_whatever_stands_in_a_final_object_the_record_stays_small() -> None:
    long = "x" * 100_000
    final = {
        "model": long,
        "error": {"type": long},
        "incomplete_details": {"reason": long},
        "usage": {long: 1},
    }
    facts = final_facts(json.dumps({"response": final}).encode())
    assert facts.served == facts.error_type == facts.incomplete_reason == long[:MAX_CHARACTERS]
    assert facts.usage == TokenCounts()


def at(offset: int, log: str = "topic-1") -> ClosingRecord:
    return replace(CLOSING, accepted_offset=0, closed_offset=offset, log=log)


def test_p108_each_closing_is_counted_once() -> None:
    marks = Marks()
    told = [3, 5, 5, 3, 6, 3, 5, 6, 9]
    assert [offset for offset in told if marks.fresh(at(offset))] == [3, 5, 6, 9]
    assert marks.kept == {"topic-1": 9}
    assert not Marks(marks.kept).fresh(at(9))


def test_p109_a_mark_belongs_to_its_log() -> None:
    """The topic of the events was made anew; a projector that slept meanwhile tells of the old one again."""
    marks = Marks({"topic-1": 1_000})
    told = [at(4, "topic-2"), at(1_000), at(7, "topic-2"), at(1_001), at(7, "topic-2")]
    assert [marks.fresh(closing) for closing in told] == [True, False, True, True, False]


def test_what_is_kept_is_bounded_and_the_latest_logs_stay() -> None:
    marks = Marks()
    for n in range(100):
        marks.fresh(at(5, f"foreign-{n}"))
        marks.fresh(at(n + 1))
    assert len(marks.kept) == MOST_LOGS
    assert marks.kept["topic-1"] == 100


@pytest.mark.parametrize(
    ("position", "found"),
    [(10, None), (15, None), (20, None), (3, Lost(1, 3, 9)), (21, Lost(1, 21, None))],
)
def test_p110_what_was_removed_unread_is_known(position: int, found: Lost | None) -> None:
    assert lost(1, position, start=10, end=20) == found
    if found is not None:
        assert str(found).startswith(f"closings, partition 1: offsets {position} to ")
