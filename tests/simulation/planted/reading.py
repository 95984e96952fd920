"""Reading (P-80 to P-84)."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from unittest.mock import patch

from schemas.events import frame
from schemas.records import EventRecord, LogRecord, parse
from services.replay import frames, replay, seek
from services.replay.frames import found_frames
from services.replay.library import Library
from services.replay.reader import live_chunks
from services.replay.seek import Seeker
from services.replay.window import Page, Push, Window
from services.web.barrier import Barrier
from tests.simulation.plan import Plan, only
from tests.simulation.planted.registry import READING, ZOMBIES, rule

SHORT_OF_MEMORY = Plan(
    faults=only(follow=12, pause=6, kill=2, reader=4, expel=2),
    targets="xr",
    rate=2,
    trouble=0.25,
    words=40,
    responses=12,
    kinds={"resumable": 1},
    cancels=0,
    deletes=0,
)


@rule("P-80", plan=READING)
def no_barrier() -> Iterator[None]:
    """A read is answered from whatever was folded."""

    async def reach(*_: object) -> None:
        return

    with patch.object(Barrier, "reach", reach):
        yield


@rule("P-81", plan=READING)
def cursor_shown_again() -> Iterator[None]:
    """A reader gets the event at its cursor once more."""
    original = live_chunks

    def again(
        window: Window, cursor: int, seeker: Seeker, library: Library, push: Push
    ) -> AsyncGenerator[bytes, None]:
        return original(window, max(cursor - 1, -1), seeker, library, push)

    with patch.object(replay, "live_chunks", again):
        yield


def _unchecked(record: LogRecord, page: Page) -> list[tuple[int, bytes]]:
    """The records at the offsets, of any response and claim."""
    entry = parse(record)
    if not isinstance(entry, EventRecord) or not page.first <= entry.sequence_number <= page.last:
        return found_frames(record, page)
    return [(entry.sequence_number, frame(entry.type, entry.sequence_number, record.value or b""))]


@rule("P-82", "P-81", "P-80", plan=SHORT_OF_MEMORY)
def seek_that_believes_the_offset() -> Iterator[None]:
    """What is between the first and the last offset of a page is taken for the page's."""

    def all_of(records: Sequence[LogRecord], page: Page) -> Iterator[tuple[int, bytes]]:
        for record in records:
            if record.offset <= page.end:
                yield from _unchecked(record, page)

    with patch.object(seek, "frames_in", all_of):
        yield


@rule("P-83", "P-81", "P-70", "P-80", plan=ZOMBIES)
def index_without_claims() -> Iterator[None]:
    """The index knows a response's numbers and offsets, and not their claims."""
    with patch.object(frames, "found_frames", _unchecked):
        yield


@rule("P-84", "P-81", "A-2", plan=READING)
def registered_after_history() -> Iterator[None]:
    """A reader reads what is there, and only then listens for what comes."""

    async def deaf(
        window: Window, cursor: int, seeker: Seeker, library: Library, push: Push
    ) -> AsyncGenerator[bytes, None]:
        if not window.state.closed and window.last > cursor:
            last = window.last
            async for data in original(window, cursor, seeker, library, push):
                yield data
                break
            await asyncio.sleep(1)
            cursor = max(last, window.last)
        async for data in original(window, cursor, seeker, library, push):
            yield data

    original = live_chunks
    with patch.object(replay, "live_chunks", deaf):
        yield
