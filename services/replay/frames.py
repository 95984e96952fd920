"""Makes the frames of records that a seek brought.

The record of an event makes one frame. `accepted` and `cancelled` make the frames of derived events (P-7).
"""

from collections.abc import Iterable, Iterator

from schemas.events import cancelled_frame, frame, opening_frames
from schemas.records import Accepted, Cancelled, EventRecord, LogRecord, parse
from services.replay.window import Page


def frames_in(records: Iterable[LogRecord], page: Page) -> Iterator[tuple[int, bytes]]:
    """The frames of `page` in `records`, with their numbers. Records with another response's key, which are
    most of those between a page's records, are skipped unread.
    """
    prefix = page.window.state.id.encode()
    for record in records:
        if record.offset <= page.end and (record.key or b"").startswith(prefix):
            yield from found_frames(record, page)


def found_frames(record: LogRecord, page: Page) -> list[tuple[int, bytes]]:
    """The frames of `page` that the record makes, with their numbers.

    The offset is only a hint: id, claim and number say that a record is ours (P-82). A record without a claim
    is ours if it lies at the very offset at which it counted.
    """
    match parse(record):
        case EventRecord(id=id, claim=by, sequence_number=number, type=type) if by == page.claim:
            found = [(number, frame(type, number, record.value or b""))]
        case Accepted(id=id) as entry if record.offset == page.window.state.offset:
            found = list(enumerate(opening_frames(id, record.value or b"", entry.background)))
        case Cancelled(id=id) if record.offset == page.end:
            found = [(page.last, cancelled_frame(page.last, record.value or b""))]
        case _:
            return []
    return [(n, f) for n, f in found if page.first <= n <= page.last] if id == page.window.state.id else []
