"""Entries of `transcripts.index`: what is written is read, and what cannot be is told (P-11, P-130)."""

from typing import NamedTuple

import msgspec
import pytest

from schemas.ids import Tenant, response_id
from schemas.records import Headers, NewRecord, Unreadable
from services.eventlog.shelf import Shelved, Whereabouts, entry_of, parse
from services.eventlog.transcript import Gone, Tombstone, gone_record

ID = response_id(3, bytes(16))
ENTRY = Shelved(
    tenant=Tenant("t"),
    status="completed",
    background=True,
    body_sha256="sha",
    accepted_offset=4,
    created_at=1_000,
    closed_offset=90,
    closed_at=2_000,
    events=10,
    model="echo",
    agent="helper",
    metadata={"order": "7"},
    where=Whereabouts(7, (8, 6), (0, 5)),
)


class Stored(NamedTuple):
    """A record as the log would hand it out."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    offset: int = 0
    timestamp: int = 0


def stored(record: NewRecord) -> Stored:
    return Stored(record.key, record.value, record.headers)


def test_an_entry_is_read_as_it_was_written() -> None:
    assert parse(stored(ENTRY.new(ID)), 3) == (ID, ENTRY)


def test_gone_and_tombstones_are_those_of_transcripts() -> None:
    assert parse(stored(gone_record(ID, Tenant("t")))) == (ID, Gone(ID, Tenant("t")))
    assert parse(Stored(ID.encode(), None)) == (ID, Tombstone(ID, ""))
    assert parse(Stored(f"{ID}/gone".encode(), None)) == (ID, Tombstone(ID, "gone"))


def test_fields_of_a_later_version_are_passed_over_and_those_that_an_earlier_one_lacks_are_null() -> None:
    said = msgspec.json.decode(ENTRY.new(ID).value or b"")
    for name in ("closed_at", "model", "agent", "metadata"):
        del said[name]
    found = entry_of(msgspec.json.encode(said | {"later": 1}))
    assert (found.closed_at, found.model, found.agent, found.metadata) == (None, None, None, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"where": {"request": 7, "chunks": [8], "firsts": [0, 5]}},
        {"where": {"request": 7, "chunks": [], "firsts": []}},
        {"where": {"request": -1, "chunks": [8, 6], "firsts": [0, 5]}},
        {"where": {"request": 7, "chunks": [8, -1], "firsts": [0, 5]}},
        {"where": {"request": 7, "chunks": [8, 6], "firsts": [1, 5]}},
        {"where": {"request": 7, "chunks": [8, 6], "firsts": [0, 10]}},
        {"events": 1},
        {"events": "ten"},
    ],
)
def test_an_entry_that_cannot_be_true_is_unreadable(wrong: dict[str, object]) -> None:
    said = msgspec.json.decode(ENTRY.new(ID).value or b"") | wrong
    _, found = parse(Stored(ID.encode(), msgspec.json.encode(said), [("kind", b"shelved")]))
    assert isinstance(found, Unreadable)


@pytest.mark.parametrize(
    "key, headers",
    [
        (None, [("kind", b"shelved")]),
        (b"resp_unknown", [("kind", b"shelved")]),
        (f"{ID}/gone".encode(), [("kind", b"shelved")]),
        (ID.encode(), [("kind", b"gone"), ("tenant", b"t")]),
        (ID.encode(), []),
        (b"\xff", [("kind", b"shelved")]),
    ],
)
def test_a_record_that_is_no_entry_is_unreadable(key: bytes | None, headers: Headers) -> None:
    _, found = parse(Stored(key, ENTRY.new(ID).value, headers), 3)
    assert isinstance(found, Unreadable)


def test_an_entry_of_another_partition_is_unreadable() -> None:
    _, found = parse(stored(ENTRY.new(ID)), 4)
    assert isinstance(found, Unreadable)


def test_an_event_is_in_the_last_chunk_that_begins_before_it() -> None:
    assert [ENTRY.where.chunk_of(number) for number in (0, 4, 5, 9, 100)] == [0, 0, 1, 1, 1]
    assert ENTRY.where.oldest == 6
