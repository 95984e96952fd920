"""What holds for an installation for good: the records of the topic `installation`.

    kind             key                        value
    key_partitions   key_partitions/{nonce}     {"partitions": …}

Of several records of a kind the first in log order holds (P-140). No two share a key, and nothing in the
topic expires, so compaction never changes which one is the first. Pure.
"""

from collections.abc import Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from schemas.ids import MAX_PARTITIONS
from schemas.records import MALFORMED, LogRecord, NewRecord

KIND = b"key_partitions"


class KeyPartitions(Struct, frozen=True):
    """Over how many partitions Idempotency-Keys are spread, whatever partitions were added since."""

    partitions: Annotated[int, Meta(ge=1, le=MAX_PARTITIONS)]

    def record(self, nonce: str) -> NewRecord:
        """The record that says so, under a key of its own."""
        return NewRecord(f"key_partitions/{nonce}".encode(), msgspec.json.encode(self), [("kind", KIND)])


_key_partitions = msgspec.json.Decoder(KeyPartitions).decode


def key_partitions_in(records: Iterable[LogRecord]) -> int | None:
    """The first count in `records`, which are in log order; None if none of them can be read as one (P-8)."""
    for record in records:
        if dict(record.headers).get("kind") != KIND:
            continue
        try:
            return _key_partitions(record.value or b"").partitions
        except (*MALFORMED, RecursionError):
            continue
    return None
