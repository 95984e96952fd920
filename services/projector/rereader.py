"""Reads the views back: what was deleted stays erased (P-73), and entries name what is there (P-131, P-133).

    each view      its own tail, from the log time of the watermark's stretch on
    a record       → readback: what a late writer brought back, where the last copies lie
    every look     where does each view end? A view that is read to its end is read up to now

The watermark waits for it: the next owner reads the views back from a stretch before the watermark on, and
must find there whatever this one has not dealt with (P-134).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from math import inf
from typing import NamedTuple

import structlog
from msgspec import Struct, field

from schemas.errors import LogUnavailable
from schemas.ids import ResponseId
from schemas.records import LogRecord, NewRecord
from services.eventlog.port import Batch, Log
from services.eventlog.shelf import Whereabouts
from services.eventlog.tail import Tail
from services.eventlog.topics import Topics
from services.projector.readback import Readback
from services.web.barrier import Position

log = structlog.get_logger()

LOOK_S = 1.0
"""Seconds between two looks where the views end."""

OnLate = Callable[[str, int, NewRecord], None]
"""Called with topic, partition and tombstone for what came back of a deleted response."""
OnLost = Callable[[int], None]
"""Called when the position in a view of a partition is not in the log any more, and all of it is dropped."""


class _Look(NamedTuple):
    """Where a view ended at a loop time, and how far (ms) the log was folded then."""

    end: int
    at: float
    time: int


class _Progress(Struct):
    """How far one view of a partition is read."""

    position: int
    """The offset that is taken next."""
    read_to: int
    """The log time (ms) up to which it is read."""
    current_at: float = -inf
    """A loop time: all is read that was there by then."""
    look: _Look | None = None
    """A look at its end, up to which it may not be read yet."""

    def looked(self, look: _Look, skew_ms: int) -> None:
        """Note where it ended, unless it is not read yet up to where it ended before. What comes behind the
        end of a look is stamped later than what was folded then, but for the skew.
        """
        self.look = self.look or look
        if self.position >= self.look.end:
            self.current_at = self.look.at
            self.read_to = max(self.read_to, self.look.time - skew_ms)
            self.look = None


class _Back(Struct, eq=False):
    """What is read back of one partition; `views` by topic."""

    views: dict[str, _Progress]
    transcripts: Position = field(default_factory=Position)
    readback: Readback = field(default_factory=Readback)


class Rereader:
    """Reads the views of the followed partitions back. `log_time` says how far (ms) a partition is folded;
    `skew_ms` bounds how far the clocks of two leaders may differ.
    """

    def __init__(
        self,
        log_: Log,
        names: Topics,
        *,
        log_time: Callable[[int], int],
        on_late: OnLate,
        on_lost: OnLost,
        skew_ms: int,
    ) -> None:
        self._log = log_
        self._names = names
        self._log_time = log_time
        self._on_late = on_late
        self._on_lost = on_lost
        self._skew_ms = skew_ms
        self.views = (names.transcripts, names.responses, names.index)
        self._tails = {topic: Tail(log_, topic) for topic in self.views}
        self._backs: dict[int, _Back] = {}

    def follow(self, partition: int, since: int, offsets: Mapping[str, int]) -> None:
        """Read a partition back from `offsets`, by topic, on: where log time `since` (ms) begins."""
        self._backs[partition] = _Back({topic: _Progress(offsets[topic], since) for topic in self.views})
        for topic in self.views:
            self._tails[topic].follow(partition, offsets[topic])

    def drop(self, partition: int) -> None:
        """Read a partition back no longer."""
        self._backs.pop(partition, None)
        for tail in self._tails.values():
            tail.drop(partition)

    def readback(self, partition: int) -> Readback:
        """What is read back of a followed partition."""
        return self._backs[partition].readback

    def read_to(self, partition: int) -> int:
        """The log time (ms) up to which all views are read, and nothing in flux is older."""
        back = self._backs[partition]
        oldest = back.readback.copies.oldest
        read_to = [progress.read_to for progress in back.views.values()]
        return min([*read_to, *([] if oldest is None else [oldest])])

    def overdue(self, partition: int) -> list[tuple[ResponseId, int]]:
        """The transcripts that are to be mended, with the offsets of their `accepted` (P-133).

        Time goes by for them as the views are read: behind a view that is not, all may be well.
        """
        back = self._backs[partition]
        current_at = min(progress.current_at for progress in back.views.values())
        return back.readback.copies.overdue(current_at)

    async def placed(self, partition: int, id: ResponseId, offset: int) -> Whereabouts | None:
        """Where the last copies of a transcript lie, once `transcripts` is read past `offset` (P-131).

        None if they are not all there any more: the response was deleted meanwhile.
        """
        back = self._backs[partition]
        await back.transcripts.reach(offset + 1)
        return back.readback.copies.where(id)

    async def run(self) -> None:
        """Read back for ever."""
        async with asyncio.TaskGroup() as tasks:
            for topic in self.views:
                tasks.create_task(self._follow(topic), name=f"Rereader of {topic}")
            tasks.create_task(self._look(), name="Rereader._look")

    def forget(self, partition: int, before: int, keep_ms: int) -> None:
        """Forget what was deleted before log time `before` (ms); see `Readback.forget`."""
        self._backs[partition].readback.forget(before, keep_ms)

    async def _follow(self, topic: str) -> None:
        take = self._taking(topic)
        while True:
            async for partition, back, batch in self._read(self._tails[topic]):
                now = asyncio.get_running_loop().time()
                late = [take(back.readback, record, now) for record in batch.records]
                self._tell(topic, partition, late)
                progress = back.views[topic]
                progress.position = batch.next_offset
                if batch.records:
                    progress.read_to = max(progress.read_to, batch.records[-1].timestamp)
                if topic == self._names.transcripts:
                    self._tell(self._names.responses, partition, back.readback.overtaken())
                    back.transcripts.set(batch.next_offset)

    def _taking(self, topic: str) -> Callable[[Readback, LogRecord, float], NewRecord | None]:
        if topic == self._names.transcripts:
            return Readback.transcript
        if topic == self._names.index:
            return Readback.entry
        return lambda readback, record, _: readback.response(record)

    async def _read(self, tail: Tail) -> AsyncIterator[tuple[int, _Back, Batch]]:
        """The next batches of a view, of partitions that are still followed. Other tasks get a turn after
        each.
        """
        batches = await tail.read()
        backs = [self._backs.get(batch.source.partition) for batch in batches]
        for back, batch in zip(backs, batches, strict=True):
            partition = batch.source.partition
            if back is None or self._backs.get(partition) is not back:
                continue
            if batch.out_of_range:
                at = {"at": batch.source, "offset": batch.next_offset}
                log.warning("a view's offset is out of range, beginning its partition anew", **at)
                self._on_lost(partition)  # P-64
            else:
                yield partition, back, batch
            await asyncio.sleep(0)

    def _tell(self, topic: str, partition: int, late: Sequence[NewRecord | None]) -> None:
        for tombstone in filter(None, late):
            self._on_late(topic, partition, tombstone)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for topic in self.views:
                with suppress(LogUnavailable):  # the views are not read then either
                    await self._look_at(topic)

    async def _look_at(self, topic: str) -> None:
        """Note where a view ends, and whether it is read up to where it ended before."""
        asked, now = dict(self._backs), asyncio.get_running_loop().time()
        times = {partition: self._log_time(partition) for partition in asked}
        bounds = await self._log.bounds(topic, list(asked)) if asked else {}
        for partition, back in asked.items():
            if self._backs.get(partition) is back:
                look = _Look(bounds[partition].end, now, times[partition])
                back.views[topic].looked(look, self._skew_ms)
