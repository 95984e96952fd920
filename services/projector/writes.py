"""The work for the views when a response ends."""

from typing import ClassVar

from msgspec import Struct

from schemas.ids import ResponseId, Tenant
from schemas.records import NewRecord
from services.eventlog.shelf import Shelved


class Write(Struct, frozen=True):
    """A response closed: its records for `transcripts`, for `responses` if its object can be read, and
    its entry, but for where they lie.
    """

    id: ResponseId
    at: int
    """The offset that the watermark must not pass before this is acknowledged."""
    transcript: list[NewRecord]
    response: NewRecord | None
    entry: Shelved


class Regather(Struct, frozen=True):
    """A response closed whose frames were dropped: read the log again from `at` to `closed_offset`."""

    id: ResponseId
    at: int
    closed_offset: int


class Erase(Struct, frozen=True):
    """A response was deleted, or closed unstored: hide it and erase its records in the views.

    `chunks` is None if it closed before this projection began. Its transcript was then written after its
    `accepted`, whose offset is `accepted_offset` (-1: unknown, and nothing was ever written).
    """

    id: ResponseId
    at: int
    tenant: Tenant
    chunks: int | None
    accepted_offset: int


class Mend(Struct, frozen=True):
    """An entry does not name the last copies of its transcript: write everything again, from the records of
    the log from `accepted_offset` on, or erase it if they say that it was deleted (P-133).
    """

    id: ResponseId
    accepted_offset: int
    at: ClassVar[int] = -1
    """It holds the watermark by its log time (P-134), not by its place."""


Work = Write | Regather | Erase | Mend


def size(work: Work) -> int:
    """Bytes that `work` holds in memory."""
    if not isinstance(work, Write):
        return 0
    records = [*work.transcript, *([work.response] if work.response else [])]
    return sum(len(record.value or b"") for record in records)
