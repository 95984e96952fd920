"""The records of `transcripts`: a closed response as one packed run of SSE frames (P-70 to P-73).

The projector writes them when a response closes, replay reads them. They lie in the response's partition:

    {id}/request   zstd of the value of the `accepted` that won
    {id}/{i}       zstd of the SSE frames of chunk i, exactly as clients get them
    {id}/gone      {"id": …}: the response was deleted; hide it, whatever lies before or after

Chunk boundaries depend on the frames alone (P-71): a chunk ends before the frame that would take it over
`CHUNK_BYTES`, so only a frame that is larger by itself makes a larger chunk. Any process that packs the same
frames makes the same chunks, and a late writer changes nothing (P-70).

All but `gone` carry the whole `Summary` in their headers, so a reader that meets any of them knows the
response without unpacking a byte. One that cannot be true makes its record unreadable (P-11).
"""

from collections.abc import Iterable
from typing import NamedTuple

import msgspec
import zstandard
from msgspec import Struct

from schemas.errors import LogError
from schemas.ids import ResponseId, Tenant, parse_response_id
from schemas.records import MALFORMED, SHOWN, LogRecord, NewRecord, OnlyId, Unreadable, plain_number

CHUNK_BYTES = 256 << 10
"""Raw bytes of a chunk. 256 KiB bounds what the projector holds unpacked per open response and what a
rejoining reader unpacks for nothing, and stays far below `max.message.bytes` however badly it packs (P-9)."""

MAX_CHUNKS = 1 << 16
"""Chunks of one response: 16 GiB of events. A reader makes a place for each when it meets the first, so no
record may claim more (P-11)."""
MAX_UNPACKED_BYTES = 256 << 20
"""More than any record holds. A value that claims to unpack to more is broken, and is not unpacked."""

LARGE_BYTES = 1 << 20
"""Raw bytes from which on a value is packed fast rather than small. In one call 8 MiB of any text take up to
27 ms at level 1, and 63 ms at level 3, which makes base64 no smaller (zstandard 0.25, CPU time)."""

_compress = zstandard.ZstdCompressor(level=3).compress
_compress_fast = zstandard.ZstdCompressor(level=1).compress
_decompress = zstandard.ZstdDecompressor().decompress


class TranscriptBroken(LogError):
    """A transcript's value does not unpack."""


class Summary(Struct, frozen=True):
    """What the headers of a request or chunk record say of the closed response.

    `created_at` is the log time of its `accepted` (ms), `closed_offset` where it closed, `events` how many
    stream events it has (0 to events - 1), `chunks` how many chunk records hold them.
    """

    tenant: Tenant
    status: str
    background: bool
    body_sha256: str
    accepted_offset: int
    closed_offset: int
    created_at: int
    events: int
    chunks: int


class Request(Struct, frozen=True):
    """`{id}/request`: unpacks to the value of the `accepted` record."""

    id: ResponseId
    summary: Summary


class Chunk(Struct, frozen=True):
    """`{id}/{index}`: unpacks to the frames numbered `first` to `last`."""

    id: ResponseId
    summary: Summary
    index: int
    first: int
    last: int


class Gone(Struct, frozen=True):
    """`{id}/gone`: the response was deleted."""

    id: ResponseId
    tenant: Tenant


class Tombstone(Struct, frozen=True):
    """Erases the record `{id}/{part}`."""

    id: ResponseId
    part: str


Entry = Request | Chunk | Gone | Tombstone | Unreadable


class PackedChunk(NamedTuple):
    """Frames `first` to `last`, packed."""

    first: int
    last: int
    value: bytes


class Packer:
    """Gathers the frames of one response, from event 0 on, and packs each chunk as soon as it is full."""

    __slots__ = ("_first", "_frames", "_packed", "_packed_bytes", "_raw_bytes")

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._raw_bytes = 0
        self._first = 0
        self._packed: list[PackedChunk] = []
        self._packed_bytes = 0

    @property
    def events(self) -> int:
        """How many frames were added: the next one's number."""
        return self._first + len(self._frames)

    @property
    def held_bytes(self) -> int:
        """Raw and packed bytes held now."""
        return self._raw_bytes + self._packed_bytes

    def add(self, frame: bytes) -> None:
        """Append the next event's frame: O(1), but for the frame that fills a chunk."""
        size = self._raw_bytes + len(frame)
        if size > CHUNK_BYTES and self._frames:
            self._pack()
            size = len(frame)
        self._frames.append(frame)
        self._raw_bytes = size

    def seal(self) -> list[PackedChunk]:
        """Pack what is left and return all chunks; adding frames afterwards is an error of the caller."""
        if self._frames:
            self._pack()
        return self._packed

    def _pack(self) -> None:
        value = pack(b"".join(self._frames))
        self._packed.append(PackedChunk(self._first, self.events - 1, value))
        self._packed_bytes += len(value)
        self._first = self.events
        self._frames, self._raw_bytes = [], 0


def pack(raw: bytes) -> bytes:
    """`raw` as it is stored."""
    return _compress(raw) if len(raw) < LARGE_BYTES else _compress_fast(raw)


def unpack(value: bytes) -> bytes:
    """What `pack` packed: a chunk's frames, or the value of an `accepted`. Raises TranscriptBroken."""
    try:
        size = zstandard.frame_content_size(value)
        raw = _decompress(value) if size <= MAX_UNPACKED_BYTES else None
    except zstandard.ZstdError as error:
        raise TranscriptBroken(f"a value of {len(value)} bytes does not unpack: {error}") from error
    if raw is None:
        raise TranscriptBroken(f"a value of {len(value)} bytes would unpack to {size}")
    return raw


def frames_of(raw: bytes) -> list[bytes]:
    """The frames of an unpacked chunk, one by one. A value is one line, so a blank line ends a frame."""
    return [frame + b"\n\n" for frame in raw.split(b"\n\n")[:-1]]


def frames_after(chunk: Chunk, raw: bytes, cursor: int) -> bytes:
    """The frames with numbers > `cursor` of an unpacked chunk, as one piece."""
    if cursor < chunk.first:
        return raw
    if cursor >= chunk.last:
        return b""
    start = raw.find(b"\nid: %d\n" % cursor)
    end = raw.find(b"\n\n", start) if start >= 0 else -1
    if end < 0:
        raise TranscriptBroken(f"chunk {chunk.index} of {chunk.id} has no event {cursor}")
    return raw[end + 2 :]


def request_key(id: ResponseId) -> bytes:
    """The key of the request's record."""
    return f"{id}/request".encode()


def chunk_key(id: ResponseId, index: int) -> bytes:
    """The key of a chunk's record."""
    return f"{id}/{index}".encode()


def gone_key(id: ResponseId) -> bytes:
    """The key of the record that hides the response."""
    return f"{id}/gone".encode()


def transcript_records(
    id: ResponseId, summary: Summary, request: bytes, chunks: Iterable[PackedChunk]
) -> list[NewRecord]:
    """The records of a closed response in the order of writing; `request` is the value of its `accepted`."""
    shared = _summary_headers(summary)
    records = [NewRecord(request_key(id), pack(request), [("kind", b"request"), *shared])]
    for index, chunk in enumerate(chunks):
        headers = [
            ("kind", b"chunk"),
            *shared,
            ("index", b"%d" % index),
            ("first", b"%d" % chunk.first),
            ("last", b"%d" % chunk.last),
        ]
        records.append(NewRecord(chunk_key(id, index), chunk.value, headers))
    return records


def gone_record(id: ResponseId, tenant: Tenant) -> NewRecord:
    """The record that hides a deleted response for good (P-72)."""
    headers = [("kind", b"gone"), ("tenant", tenant.encode())]
    return NewRecord(gone_key(id), msgspec.json.encode(OnlyId(id)), headers)


def erasing_records(id: ResponseId, chunks: int) -> list[NewRecord]:
    """The tombstones of a response's request and its `chunks` chunks."""
    keys = [request_key(id), *(chunk_key(id, index) for index in range(chunks))]
    return [NewRecord(key, None) for key in keys]


def parse(record: LogRecord, partition: int | None = None) -> Entry:
    """What a record of `transcripts` says. Never raises: what cannot be read is `Unreadable`.

    A reader that follows a `partition` names it: an id of another one is `Unreadable` there (P-11).
    """
    try:
        return _parse(record, partition)
    except MALFORMED as error:
        return Unreadable(f"{type(error).__name__}: {error}")


def _parse(record: LogRecord, partition: int | None) -> Entry:
    if record.key is None:
        return Unreadable("no key")
    key_id, part = record.key.decode().split("/")
    id = parse_response_id(key_id, partition)
    if id is None:
        return Unreadable(f"no response id of this partition: {key_id[:SHOWN]!r}")
    if record.value is None:
        return Tombstone(id, part)
    headers = dict(record.headers)
    match headers["kind"], part:
        case b"request", "request":
            return Request(id, _summary(headers))
        case b"chunk", index:
            return _chunk(id, plain_number(index.encode()), headers)
        case b"gone", "gone":
            return Gone(id, Tenant(headers["tenant"].decode()))
        case unknown:
            return Unreadable(f"unknown kind, or not the key of one: {str(unknown)[:SHOWN]}")


def _chunk(id: ResponseId, index: int, headers: dict[str, bytes]) -> Chunk:
    summary = _summary(headers)
    first, last = plain_number(headers["first"]), plain_number(headers["last"])
    begins, ends = (index == 0) == (first == 0), (index == summary.chunks - 1) == (last == summary.events - 1)
    if index >= summary.chunks or not first <= last < summary.events or not begins or not ends:
        raise ValueError(f"events {first} to {last} are no chunk {index} of {summary}")
    return Chunk(id, summary, index, first, last)


def _summary_headers(summary: Summary) -> list[tuple[str, bytes]]:
    return [
        ("tenant", summary.tenant.encode()),
        ("status", summary.status.encode()),
        ("background", b"%d" % summary.background),
        ("body_sha256", summary.body_sha256.encode()),
        ("accepted_offset", b"%d" % summary.accepted_offset),
        ("closed_offset", b"%d" % summary.closed_offset),
        ("created_at", b"%d" % summary.created_at),
        ("events", b"%d" % summary.events),
        ("chunks", b"%d" % summary.chunks),
    ]


def _summary(headers: dict[str, bytes]) -> Summary:
    summary = Summary(
        tenant=Tenant(headers["tenant"].decode()),
        status=headers["status"].decode(),
        background=headers["background"] == b"1",
        body_sha256=headers["body_sha256"].decode(),
        accepted_offset=plain_number(headers["accepted_offset"]),
        closed_offset=plain_number(headers["closed_offset"]),
        created_at=plain_number(headers["created_at"]),
        events=plain_number(headers["events"]),
        chunks=plain_number(headers["chunks"]),
    )
    if not 1 <= summary.chunks <= min(summary.events, MAX_CHUNKS):
        raise ValueError(f"{summary.events} events cannot be in {summary.chunks} chunks")
    return summary
