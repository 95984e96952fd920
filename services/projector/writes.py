"""The work for the views when a response ends."""

from msgspec import Struct

from schemas.ids import ResponseId, Tenant
from schemas.records import NewRecord


class Write(Struct, frozen=True):
    """A response closed: its records for `transcripts` and, unless its object cannot be read, `responses`."""

    id: ResponseId
    at: int
    """The offset that the watermark must not pass before this is acknowledged."""
    transcript: list[NewRecord]
    response: NewRecord | None


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


Work = Write | Regather | Erase


def size(work: Work) -> int:
    """Bytes that `work` holds in memory."""
    if not isinstance(work, Write):
        return 0
    records = [*work.transcript, *([work.response] if work.response else [])]
    return sum(len(record.value or b"") for record in records)
