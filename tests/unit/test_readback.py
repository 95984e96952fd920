"""A deleted response stays erased, whichever of the two views is read first (P-73)."""

from collections.abc import Iterable
from typing import NamedTuple

import pytest

from schemas.ids import ResponseId, Tenant, response_id
from schemas.records import Headers, NewRecord
from services.eventlog.transcript import Summary, gone_record, transcript_records
from services.projector.readback import Readback

ID = response_id(3, bytes(16))
OTHER = response_id(3, b"other" + bytes(11))
SKEW = 100


class Stored(NamedTuple):
    """A record as the log would hand it out."""

    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    offset: int = 0


def gone(time: int, id: ResponseId = ID) -> Stored:
    record = gone_record(id, Tenant("t"))
    return Stored(time, record.key, record.value, record.headers)


def request(time: int, id: ResponseId = ID) -> Stored:
    summary = Summary(Tenant("t"), "completed", True, "sha", 0, 1, 0, 1, 1)
    (record,) = transcript_records(id, summary, b"{}", [])
    return Stored(time, record.key, record.value, record.headers)


def shown(time: int, id: ResponseId = ID) -> Stored:
    return Stored(time, id.encode(), b"{}")


def erased(time: int, id: ResponseId = ID) -> Stored:
    return Stored(time, id.encode(), None)


def transcripts(readback: Readback, *records: Stored) -> list[bytes]:
    """The keys that reading `transcripts` erases in `responses`."""
    for record in records:
        readback.transcript(record, 0)
    return keys(readback.overtaken())


def responses(readback: Readback, *records: Stored) -> list[bytes]:
    """The keys that reading `responses` erases there."""
    return keys(filter(None, [readback.response(record) for record in records]))


def keys(tombstones: Iterable[NewRecord]) -> list[bytes]:
    found = list(tombstones)
    assert all(tombstone.value is None for tombstone in found)
    return [tombstone.key for tombstone in found]


@pytest.mark.parametrize("first", ["transcripts", "responses"])
def test_the_object_is_erased_once_whichever_view_is_read_first(first: str) -> None:
    readback = Readback()
    found: list[list[bytes]] = []
    for view in ("transcripts", "responses") if first == "transcripts" else ("responses", "transcripts"):
        if view == "transcripts":
            found.append(transcripts(readback, gone(10), request(11)))
        else:
            found.append(responses(readback, shown(12)))
    assert found == [[], [ID.encode()]]
    assert readback.overtaken() == []


def test_what_a_late_writer_brings_back_to_the_transcripts_is_erased() -> None:
    readback = Readback()
    assert readback.transcript(gone(10), 0) is None
    tombstone = readback.transcript(request(11), 0)
    assert tombstone is not None
    assert (tombstone.key, tombstone.value) == (request(11).key, None)


def test_an_object_that_is_erased_already_needs_no_second_tombstone() -> None:
    readback = Readback()
    assert responses(readback, shown(12), erased(13)) == []
    assert transcripts(readback, gone(10)) == []


def test_an_object_that_came_back_once_more_is_erased_once_more() -> None:
    readback = Readback()
    assert responses(readback, shown(8), erased(13), shown(14)) == []
    assert transcripts(readback, gone(10)) == [ID.encode()]
    assert responses(readback, shown(20)) == [ID.encode()]


def test_the_delete_of_one_leaves_the_object_of_another() -> None:
    readback = Readback()
    assert responses(readback, shown(12, OTHER)) == []
    assert transcripts(readback, gone(10)) == []


def test_an_object_is_remembered_until_the_transcripts_are_read_past_it() -> None:
    readback = Readback()
    assert responses(readback, shown(1_000)) == []
    readback.forget(10_000, SKEW)
    assert transcripts(readback, request(1_000 + SKEW, OTHER)) == []
    readback.forget(10_000, SKEW)
    assert transcripts(readback, gone(1_000 + SKEW)) == [ID.encode()]


def test_an_object_is_forgotten_once_the_transcripts_are_read_past_it() -> None:
    readback = Readback()
    assert responses(readback, shown(1_000)) == []
    assert transcripts(readback, request(1_001 + SKEW, OTHER)) == []
    readback.forget(10_000, SKEW)
    assert transcripts(readback, gone(2_000)) == []
