"""Helpers for the records that tests write and read."""

import hashlib

from schemas.ids import TOKEN_BYTES, ClaimId, claim_id
from schemas.records import LogRecord, NewRecord


def claim_of(name: str) -> ClaimId:
    """The claim id that stands for `name`: of the shape that every claim id has (P-14)."""
    return claim_id(hashlib.sha256(name.encode()).digest()[:TOKEN_BYTES])


def kind_of(record: NewRecord | LogRecord) -> str:
    """The kind of a record. An event may lack the header (P-12)."""
    if record.value is None:
        return "tombstone"
    return dict(record.headers).get("kind", b"event").decode()
