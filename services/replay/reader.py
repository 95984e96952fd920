"""One reader of one response: every event after its cursor, once, in order, without a gap (P-81).

A reader is only the number of the next event that it wants: it has no buffer that could overflow. It takes
the frames from that number on, and waits if there are none:

    in memory                             from the window
    evicted, or its window is gone        from the transcript, if it has one
    evicted, and there is no transcript   from the log, by seek

It counts as the window's reader before it looks, so no event is lost between history and live (P-84). It asks
by number, so no event comes twice.

All frames since its last look are one chunk, which readers at the same place share. So a slow reader holds
one chunk, and goes on where it stood. A reader at the end is pushed what comes, in one pass over all of them;
its task goes on when its client takes no more.

A stream ends after the terminal event, or at once for a cursor past it. Every other end raises `Cut`. Then
the connection must be aborted, because clients take a clean early end for success (A-2).
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import TypeVar

from schemas.errors import LogUnavailable, RejoinderError
from schemas.ids import ResponseId
from services.eventlog.transcript import TranscriptBroken, frames_after
from services.replay.library import Library, TranscriptLost
from services.replay.seek import Gap, Seeker
from services.replay.window import Page, Push, Window

PAUSE = 0.5
"""Seconds between two tries while the log is away. The stream stays open meanwhile (A-20)."""

T = TypeVar("T")


class Cut(RejoinderError):
    """A stream ends before its terminal event: the response was deleted or expired, or its fold was lost."""

    def __init__(self, id: ResponseId, why: str) -> None:
        super().__init__(f"the stream of {id} ends before its terminal event: {why}")


def never(_: bytes) -> bool:
    """Push nothing: the reader's task writes everything."""
    return False


async def live_chunks(
    window: Window, cursor: int, seeker: Seeker, library: Library, push: Push = never
) -> AsyncGenerator[bytes, None]:
    """The frames after `cursor` of a response that has a window, open or closed, but for those that `push`
    takes as they come. Raises Cut.
    """
    id = window.state.id
    number = cursor + 1
    window.readers += 1
    try:
        while not window.dropped:
            if number <= window.last:
                page = window.page(number)
                data, last = page.read(number), page.last
                if data is None:
                    if id in library:
                        break
                    data = await _sought(window, page, number, seeker)
                yield data
                number = last + 1
            elif window.state.closed:
                return
            else:
                number = await window.pushed(number, push)
    finally:
        window.readers -= 1
    if window.state.deleted:
        raise Cut(id, "it was deleted")
    async for data in packed_chunks(id, number - 1, library):
        yield data


async def chunks_so_far(window: Window, seeker: Seeker) -> AsyncGenerator[bytes, None]:
    """The frames that an open response has now, without a wait for more. Raises Cut."""
    number, last = 0, window.last
    while number <= last:
        page = window.page(number)
        data, number_after = page.read(number), page.last + 1
        yield data if data is not None else await _sought(window, page, number, seeker)
        number = number_after


async def packed_chunks(id: ResponseId, cursor: int, library: Library) -> AsyncGenerator[bytes, None]:
    """The frames after `cursor` of a closed response, from its transcript. Raises Cut."""
    end = False
    while not end:
        try:
            opened = await _patiently(partial(library.chunk, id, cursor + 1))
            chunk, data = opened.chunk, frames_after(opened.chunk, opened.frames, cursor)
        except (TranscriptLost, TranscriptBroken) as error:
            raise Cut(id, str(error)) from error
        end = max(cursor, chunk.last) >= chunk.summary.events - 1
        if data:
            yield data
        elif not end:
            raise Cut(id, f"event {cursor + 1} is in no chunk of its transcript")
        cursor = max(cursor, chunk.last)


async def _sought(window: Window, page: Page, number: int, seeker: Seeker) -> bytes:
    try:
        return await _patiently(partial(seeker.read, window, page, number))
    except Gap as error:
        raise Cut(window.state.id, str(error)) from error


async def _patiently(read: Callable[[], Awaitable[T]]) -> T:
    """The result of `read`, repeated while the log is away. Cancelled when the client leaves."""
    while True:
        try:
            return await read()
        except LogUnavailable:
            await asyncio.sleep(PAUSE)
