"""What the headers of an event say of the upstream that it came from: where a resumable one stands (P-34,
P-38), and how it counts (P-113). Pure.
"""

from schemas.records import (
    CURSOR,
    MALFORMED,
    UPSTREAM_CURSOR,
    UPSTREAM_INDEX,
    Headers,
    LogRecord,
    plain_number,
)

UPSTREAM_PARTIAL = ("upstream_partial", b"1")
"""Beside a cursor: what counts up to here is not just what the upstream said up to the cursor (P-38)."""


def upstream_headers(response_id: str, cursor: int | None) -> Headers:
    """Where a resumable upstream stands: its own response id, and the last event read from it."""
    id_header = ("upstream_id", response_id.encode())
    return [id_header] if cursor is None else [id_header, (UPSTREAM_CURSOR, b"%d" % cursor)]


def upstream_position(record: LogRecord) -> tuple[str | None, int | None]:
    """Where an event says that a resumable upstream stands: the upstream's id, and the cursor there.

    Either is None where the event does not say it: then what an event before it said holds (P-34).
    """
    try:
        headers = dict(record.headers)
        id, cursor = headers.get("upstream_id"), headers.get(UPSTREAM_CURSOR)
        if cursor is not None and not CURSOR.fullmatch(cursor):
            return None, None
        return None if id is None else id.decode(), None if cursor is None else int(cursor)
    except MALFORMED:
        return None, None


def upstream_index(record: LogRecord) -> int | None:
    """The upstream's index of the item or the part that an event begins, -1 if the upstream gave none; None
    if the event does not say it: then it is ours (P-113).
    """
    try:
        index = dict(record.headers).get(UPSTREAM_INDEX)
        return None if index is None else (-1 if index == b"-1" else plain_number(index))
    except MALFORMED:
        return None


def is_partial(record: LogRecord) -> bool:
    """Whether an event says that no executor can go on at its cursor with what counts up to it (P-38)."""
    return UPSTREAM_PARTIAL in record.headers
