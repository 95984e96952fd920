"""The records of `transcripts.index`: where the transcript of each stored response lies (P-130 to P-134).

The projector writes them behind the transcript, replay keeps them in its store. They lie in the response's
partition:

    {id}        what a reader needs to know of the closed response, and the offsets of its request and chunks
    {id}/gone   as in `transcripts`: the response was deleted, or not stored; hide it, whatever lies before or
                after

The offsets name the last copy of each record: compaction keeps that one. Chunks of 256 KiB and a record of
1 MiB let an entry name more than ten GiB of events.
"""

from bisect import bisect_right
from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from schemas.errors import LogError
from schemas.events import UNDECODABLE
from schemas.ids import ResponseId, Tenant, parse_response_id
from schemas.records import MALFORMED, SHOWN, LogRecord, NewRecord, Unreadable
from services.eventlog.transcript import Gone, Tombstone

Number = Annotated[int, Meta(ge=0, lt=10**16)]
"""A number of at most 16 digits (P-11)."""


class Whereabouts(Struct, frozen=True):
    """Where the records of one transcript lie in `transcripts`."""

    request: Number
    """The offset of the request."""
    chunks: tuple[Number, ...]
    """The offset of each chunk."""
    firsts: tuple[Number, ...]
    """The number of each chunk's first event."""

    @property
    def oldest(self) -> int:
        """The lowest of the offsets."""
        return min(self.request, *self.chunks)

    def chunk_of(self, number: int) -> int:
        """The index of the chunk that holds event `number`, or of the last one."""
        return bisect_right(self.firsts, number) - 1

    def place(self, index: int | None) -> int:
        """The offset of a chunk (None: of the request). There is no chunk of a number that is too large."""
        if index is None:
            return self.request
        return self.chunks[index] if index < len(self.chunks) else -1


NOWHERE = Whereabouts(-1, (), ())
"""The place of what is not read back yet."""


class Shelved(Struct, frozen=True, kw_only=True):
    """A closed response that is stored, as its entry says. Times are log time, ms."""

    tenant: Tenant
    status: str
    """The status in the record that closed it."""
    background: bool
    body_sha256: str
    accepted_offset: Number
    created_at: Number
    """When its `accepted` was in the log."""
    closed_offset: Number
    closed_at: Number | None = None
    """When it closed; null where the entry was made of a transcript of an earlier version."""
    events: Number
    """How many stream events it has: 0 to events - 1."""
    model: str | None = None
    """The model that served, as the final object has it."""
    agent: str | None = None
    """The agent to which its route leads; null: to a model, or that is not known."""
    metadata: Mapping[str, str] = {}
    """What the client attached to it."""
    where: Whereabouts

    def new(self, id: ResponseId) -> NewRecord:
        """The record that says so."""
        headers = [("kind", b"shelved"), ("tenant", self.tenant.encode())]
        return NewRecord(id.encode(), _encode(self), headers)


Entry = Shelved | Gone | Tombstone | Unreadable

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Shelved).decode


class EntryBroken(LogError):
    """An entry cannot be what the projector wrote."""


def entry_of(value: bytes) -> Shelved:
    """The entry in the value of a record. Raises EntryBroken."""
    try:
        entry = _decode(value)
    except UNDECODABLE as error:
        raise EntryBroken(str(error)) from error
    where = entry.where
    if not 1 <= len(where.chunks) == len(where.firsts) <= entry.events:
        raise EntryBroken(f"{entry.events} events cannot be in {len(where.chunks)} chunks")
    if where.firsts[0] != 0 or where.firsts[-1] >= entry.events:
        raise EntryBroken(f"its chunks begin with {where.firsts[0]} and {where.firsts[-1]}")
    return entry


def parse(record: LogRecord, partition: int | None = None) -> tuple[ResponseId, Entry]:
    """What a record of `transcripts.index` says, and of which response ("": that cannot be read).

    Never raises: what cannot be read is `Unreadable`. A reader that follows a `partition` names it: an id of
    another one is `Unreadable` there (P-11).
    """
    try:
        return _parse(record, partition)
    except (*MALFORMED, EntryBroken) as error:
        return ResponseId(""), Unreadable(f"{type(error).__name__}: {error}")


def _parse(record: LogRecord, partition: int | None) -> tuple[ResponseId, Entry]:
    if record.key is None:
        return ResponseId(""), Unreadable("no key")
    key_id, _, part = record.key.decode().partition("/")
    id = parse_response_id(key_id, partition)
    if id is None:
        return ResponseId(""), Unreadable(f"no response id of this partition: {key_id[:SHOWN]!r}")
    if record.value is None:
        return id, Tombstone(id, part)
    headers = dict(record.headers)
    match headers["kind"], part:
        case b"shelved", "":
            return id, entry_of(record.value)
        case b"gone", "gone":
            return id, Gone(id, Tenant(headers["tenant"].decode()))
        case unknown:
            return id, Unreadable(f"unknown kind, or not the key of one: {str(unknown)[:SHOWN]}")
