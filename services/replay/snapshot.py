"""Makes the object of an open response: its initial object, the fold's status, the output so far.

Output is folded only when a client asks. Then the frames from where the last GET stopped are folded, so a
poll costs what is new, not the whole output. The snapshots that were asked for last are kept, up to
`KEPT_BYTES`, while their response is open.
"""

import asyncio
from collections.abc import Iterator

import msgspec
import structlog

from schemas.errors import LogError, unreachable
from schemas.events import CREATED, UNDECODABLE, Event, encoded_in
from schemas.events import IN_PROGRESS as STARTED
from schemas.ids import ResponseId
from schemas.output import Output
from schemas.records import IN_PROGRESS, QUEUED
from schemas.response import Object, running
from schemas.steps import encoding
from services.kept import Kept
from services.loops import in_turns
from services.replay.seek import Seeker
from services.replay.window import Window

KEPT_BYTES = 64 << 20
"""Bytes of folded frames that are kept for the next GET, of all open responses together."""

log = structlog.get_logger()

_event = msgspec.json.Decoder(Event).decode


class _Snapshot:
    """How far the output of one response is folded."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.number = 0
        self.size = 0
        """Bytes of the folded frames."""
        self.initial: Object = {"id": window.state.id, "object": "response"}
        self.output = Output()
        self.lock = asyncio.Lock()

    def fold(self, frames: bytes) -> None:
        """Fold the next frames. An event that an executor let through and cannot be folded is not shown."""
        for event in events_in(frames):
            try:
                self._apply(event)
            except Exception as error:
                log.warning("event not shown", id=self.window.id, error=repr(error))

    async def object(self) -> bytes:
        """The response object as JSON; without its output if that cannot be encoded."""
        status = status_of(self.window)
        try:
            return await in_turns(encoding(running(self.initial, status, self.output.items())))
        except Exception as error:
            log.warning("output not shown", id=self.window.id, error=repr(error))
            return await in_turns(encoding(running(self.initial, status)))

    def _apply(self, event: Event) -> None:
        if event.get("type") not in (CREATED, STARTED):
            self.output.apply(event)
        elif isinstance(shown := event.get("response"), dict):
            self.initial = shown  # the later one has the fields of the upstream's object (U-15)


class Snapshots:
    """The snapshots of open responses for which clients have asked."""

    def __init__(self, seeker: Seeker, bound: int = KEPT_BYTES) -> None:
        self._seeker = seeker
        self._kept: Kept[ResponseId, _Snapshot] = Kept(bound, spares_last=True)

    @property
    def size(self) -> int:
        """Bytes of all folded frames."""
        return self._kept.bytes

    async def object(self, window: Window) -> bytes:
        """The response object as JSON. Raises ApiError 503 if the log is away."""
        snapshot = self._of(window)
        async with snapshot.lock:
            try:
                await self._catch_up(snapshot)
            except LogError as error:
                raise unreachable() from error
            return await snapshot.object()

    def forget(self, id: ResponseId) -> None:
        """Drop the snapshot of a response that has closed."""
        self._kept.pop(id)

    async def _catch_up(self, snapshot: _Snapshot) -> None:
        window = snapshot.window
        while snapshot.number <= window.last:
            page = window.page(snapshot.number)
            data, last = page.read(snapshot.number), page.last
            frames = data if data is not None else await self._seeker.read(window, page, snapshot.number)
            snapshot.fold(frames)
            snapshot.number = last + 1
            self._grow(snapshot, len(frames))
            await asyncio.sleep(0)

    def _of(self, window: Window) -> _Snapshot:
        id = window.state.id
        snapshot = self._kept.get(id)
        if snapshot is None or snapshot.window is not window:
            snapshot = _Snapshot(window)
            self._kept.put(id, snapshot, 0)
        return snapshot

    def _grow(self, snapshot: _Snapshot, size: int) -> None:
        """Count the folded bytes; snapshots asked for longest ago are dropped for them, but not this one."""
        snapshot.size += size
        if self._kept.get(snapshot.window.id) is snapshot:
            self._kept.put(snapshot.window.id, snapshot, snapshot.size)


def events_in(frames: bytes) -> Iterator[Event]:
    """The events in `frames`, decoded. One that cannot be decoded is passed over."""
    for _, value in encoded_in(frames):
        try:
            yield _event(value)
        except UNDECODABLE:
            continue


def status_of(window: Window) -> str:
    """The status that clients see of an open response. One that is not in the background is in progress from
    the start, and never queued (A-8).
    """
    state = window.state
    waits = state.status == QUEUED and state.accepted is not None and state.accepted.background
    return QUEUED if waits else IN_PROGRESS
