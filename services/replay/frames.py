"""The frames that a record stands for: encoded once, at the tail or after a seek, for all readers.

An `accepted` and a `cancelled` stand for derived events (P-7), an event's record for itself.
"""

from collections.abc import Iterable, Iterator

from schemas.events import cancelled_frame, frame, opening_frames
from schemas.records import Accepted, Cancelled, EventRecord, LogRecord, parse
from services.replay.window import Page


def frames_of(records: Iterable[LogRecord], page: Page) -> Iterator[tuple[int, bytes]]:
    """The frames of `page` that are among `records`, with their numbers. What has another response's key is
    passed over unread: most of what lies between a page's records.
    """
    prefix = page.window.state.id.encode()
    for record in records:
        if record.offset <= page.end and (record.key or b"").startswith(prefix):
            yield from found_frames(record, page)


def found_frames(record: LogRecord, page: Page) -> list[tuple[int, bytes]]:
    """Which frames of `page` the record stands for, with their numbers, after a seek.

    The offset brought us here, but only id, claim and number say that it is ours (P-82); what has no claim
    is known by the very offset at which it counted.
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
