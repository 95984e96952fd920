"""The transcript codec: chunks depend on frames alone, and what is packed unpacks byte for byte."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import frame
from schemas.ids import ResponseId, Tenant, response_id
from schemas.records import Headers, NewRecord, Unreadable
from services.eventlog import transcript
from services.eventlog.transcript import (
    CHUNK_BYTES,
    Chunk,
    Gone,
    Packer,
    Request,
    Summary,
    Tombstone,
    TranscriptBroken,
    transcript_records,
)

ID = response_id(3, bytes(16))
MAX_RECORD = 1 << 20


class Stored(NamedTuple):
    """A record as the log would hand it out."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    offset: int = 0
    timestamp: int = 0


def stored(record: NewRecord) -> Stored:
    return Stored(record.key, record.value, record.headers)


def summary(events: int = 1, chunks: int = 1) -> Summary:
    return Summary(
        tenant=Tenant("acme"),
        status="completed",
        background=True,
        body_sha256="ab" * 32,
        accepted_offset=7,
        closed_offset=2**40,
        created_at=1_700_000_000_000,
        events=events,
        chunks=chunks,
    )


def frames_sized(sizes: list[int]) -> list[bytes]:
    delta = "response.output_text.delta"
    return [frame(delta, number, b'{"x":"%b"}' % (b"a" * size)) for number, size in enumerate(sizes)]


def packed(frames: list[bytes]) -> Packer:
    packer = Packer()
    for each in frames:
        packer.add(each)
    return packer


def records_of(frames: list[bytes], request: bytes = b"{}") -> list[NewRecord]:
    packer = packed(frames)
    chunks = packer.seal()
    return transcript_records(ID, summary(len(frames), len(chunks)), request, chunks)


sizes = st.lists(st.integers(0, 2000) | st.integers(0, 2 * CHUNK_BYTES), min_size=1, max_size=40)


@given(sizes)
def test_chunks_unpack_to_the_frames_in_order(sizes: list[int]) -> None:
    frames = frames_sized(sizes)
    chunks = packed(frames).seal()
    assert b"".join(transcript.unpack(chunk.value) for chunk in chunks) == b"".join(frames)
    for chunk in chunks:
        assert transcript.frames_of(transcript.unpack(chunk.value)) == frames[chunk.first : chunk.last + 1]


@given(sizes)
def test_chunks_are_contiguous_and_only_a_single_frame_outgrows_the_bound(sizes: list[int]) -> None:
    frames = frames_sized(sizes)
    chunks = packed(frames).seal()
    assert chunks[0].first == 0
    assert chunks[-1].last == len(frames) - 1
    assert [chunk.first for chunk in chunks[1:]] == [chunk.last + 1 for chunk in chunks[:-1]]
    for chunk in chunks:
        raw = sum(map(len, frames[chunk.first : chunk.last + 1]))
        assert raw <= CHUNK_BYTES or chunk.first == chunk.last


@given(sizes, st.data())
def test_boundaries_of_a_longer_run_begin_with_those_of_its_prefix(
    sizes: list[int], data: st.DataObject
) -> None:
    frames = frames_sized(sizes)
    cut = data.draw(st.integers(1, len(frames)))
    prefix = [(chunk.first, chunk.last, chunk.value) for chunk in packed(frames[:cut]).seal()]
    whole = [(chunk.first, chunk.last, chunk.value) for chunk in packed(frames).seal()]
    assert whole[: len(prefix) - 1] == prefix[:-1]


@given(sizes, st.data())
def test_frames_after_a_cursor_are_exactly_the_later_ones(sizes: list[int], data: st.DataObject) -> None:
    frames = frames_sized(sizes)
    cursor = data.draw(st.integers(-1, len(frames)))
    found = b""
    for record in records_of(frames)[1:]:
        chunk = transcript.parse(stored(record))
        assert isinstance(chunk, Chunk)
        assert record.value is not None
        found += transcript.frames_after(chunk, transcript.unpack(record.value), cursor)
    assert found == b"".join(frames[cursor + 1 :])


def test_the_packer_holds_no_more_than_a_chunk_unpacked() -> None:
    packer = Packer()
    for each in frames_sized([1000] * 2000):
        packer.add(each)
    assert packer.events == 2000
    assert packer.held_bytes < 2 * CHUNK_BYTES


def test_a_frame_as_large_as_a_record_packs_into_a_record() -> None:
    text = "".join(chr(32 + (i * 7919 + i // 89) % 94) for i in range(MAX_RECORD - 600)).replace('"', "'")
    frame_bytes = frame("response.output_text.delta", 0, f'{{"delta":"{text}"}}'.encode())
    _, record = records_of([frame_bytes])
    assert record.value is not None
    assert len(record.key) + len(record.value) + sum(len(k) + len(v) for k, v in record.headers) < MAX_RECORD


def test_records_say_what_they_were_written_with() -> None:
    frames = frames_sized([CHUNK_BYTES // 2] * 5)
    request, *chunks = [transcript.parse(stored(record)) for record in records_of(frames)]
    expected = summary(5, len(chunks))
    assert request == Request(ID, expected)
    assert chunks == [Chunk(ID, expected, i, i, i) for i in range(5)]


def test_the_request_unpacks_to_the_accepted_value() -> None:
    accepted = b'{"request":{"input":"hi"},"response":{}}'
    record = records_of(frames_sized([1]), accepted)[0]
    assert record.key == f"{ID}/request".encode()
    assert record.value is not None
    assert transcript.unpack(record.value) == accepted


def test_gone_and_tombstones_parse() -> None:
    assert transcript.parse(stored(transcript.gone_record(ID, Tenant("acme")))) == Gone(ID, Tenant("acme"))
    parsed = [transcript.parse(stored(record)) for record in transcript.erasing_records(ID, 2)]
    assert parsed == [Tombstone(ID, "request"), Tombstone(ID, "0"), Tombstone(ID, "1")]


def test_erasing_names_every_key_that_was_written() -> None:
    written = {record.key for record in records_of(frames_sized([CHUNK_BYTES] * 3))}
    assert {record.key for record in transcript.erasing_records(ID, 3)} == written


@pytest.mark.parametrize(
    "record",
    [
        Stored(None, b"x"),
        Stored(b"no-part", b"x"),
        Stored(b"a/b/c", b"x"),
        Stored(b"\xff/0", b"x"),
        Stored(b"resp_1/0", b"x"),
        Stored(b"resp_1/0", b"x", [("kind", b"chunk")]),
        Stored(b"resp_1/0", b"x", [("kind", b"later")]),
    ],
)
def test_what_cannot_be_read_is_unreadable(record: Stored) -> None:
    assert isinstance(transcript.parse(record), Unreadable)


def test_a_value_that_does_not_unpack_is_told() -> None:
    with pytest.raises(TranscriptBroken, match="does not unpack"):
        transcript.unpack(b"not zstd")


def test_a_chunk_without_the_cursors_event_is_told() -> None:
    chunk = Chunk(ResponseId(ID), summary(9), 0, 0, 8)
    with pytest.raises(TranscriptBroken, match="has no event 4"):
        transcript.frames_after(chunk, b"", 4)
