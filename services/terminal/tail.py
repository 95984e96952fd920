"""`rejoinder tail`: follows the topic `closings` in the terminal, one line for each end.

    find the start → show what stands between it and the end, in the order of log time → show what comes

A repeated closing is shown once (P-108). What retention removed before it was read is told (P-110). The
reader joins no group and commits nothing, so it disturbs no other consumer.
"""

import asyncio
import os
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from datetime import timedelta

import structlog

from schemas.closings import ClosingRecord, Marks, lost, parse
from schemas.errors import LogError, LogUnavailable, SettingsError
from schemas.records import LogRecord, Unreadable
from services.connect import connect, topic_names
from services.eventlog.port import Batch, Log
from services.eventlog.tail import Tail
from services.process import until_stopped, while_wanted
from services.settings import Settings
from services.terminal.closing_line import line_of
from services.terminal.printing import say, say_json, until_enough

LOOK_S = 10.0
"""Seconds after which the reader looks again for partitions that were added."""

Show = Callable[[ClosingRecord, bytes], None]
"""Takes a closing, and its value as it stands in the topic."""

log = structlog.get_logger(__name__)


def tail(settings: Settings, *, last: timedelta | None, tenant: str, as_json: bool, now_ms: int) -> int:
    """Show the ends from now on, or those of the `last` time too, until a signal comes. Returns 0.

    `tenant`: only of this one; "" for all. `as_json`: the records' values. Raises SettingsError, LogError.
    """
    if last is not None and last <= timedelta():
        raise SettingsError("--last takes a time above 0, such as 90s, 30m, 1h or 2d")
    since = None if last is None else max(0, now_ms - last // timedelta(milliseconds=1))
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def show(closing: ClosingRecord, value: bytes) -> None:
        if tenant in ("", closing.tenant):
            if as_json:
                say_json(value)
            else:
                say(f"{line_of(closing, coloured=coloured)}\n")

    until_enough(lambda: until_stopped(lambda stop: _tail(settings, show, since, stop)))
    return 0


async def _tail(settings: Settings, show: Show, since: int | None, stop: asyncio.Event) -> None:
    log_ = connect(settings, "tail")
    try:
        await while_wanted(ClosingsReader(log_, topic_names(settings).closings, show).run(since), stop)
    finally:
        await log_.close()


class ClosingsReader:
    """Reads all partitions of `topic`, and has each closing shown once. `look_s`: as LOOK_S."""

    def __init__(self, log_: Log, topic: str, show: Show, *, look_s: float = LOOK_S) -> None:
        self._log = log_
        self._topic = topic
        self._show = show
        self._look_s = look_s
        self._tail = Tail(log_, topic)
        self._marks: defaultdict[int, Marks] = defaultdict(Marks)
        self._next: dict[int, int] = {}
        """By partition, the offset that is read next."""
        self._shown_from: dict[int, int] = {}
        """By partition, the first offset that is shown. The record before it only sets the mark."""
        self._behind: dict[int, int] = {}
        """By partition, the end as of the start: up to there the partitions are read in the order of time."""

    def __repr__(self) -> str:
        return f"<ClosingsReader of {self._topic} at {self._next}>"

    async def run(self, since: int | None) -> None:
        """Read for ever: from log time `since` (ms) on, or from now. Raises TopicMissing, LogUnavailable."""
        partitions = range(await self._log.partitions(self._topic))
        bounds = await self._log.bounds(self._topic, partitions)
        self._shown_from = {partition: found.end for partition, found in bounds.items()}
        self._behind = dict(self._shown_from)
        if since is not None:
            self._shown_from = await self._log.offsets_at(self._topic, dict.fromkeys(partitions, since))
        for partition, offset in self._shown_from.items():
            self._next[partition] = max(bounds[partition].start, offset - 1)
        await self._catch_up()
        await self._go_on()

    async def _catch_up(self) -> None:
        """Show what stood there at the start, by log time. At most one batch of each partition is held."""
        held: dict[int, deque[LogRecord]] = {partition: deque() for partition in self._behind}
        while True:
            lacking = [p for p, end in self._behind.items() if not held[p] and self._next[p] < end]
            waiting = [p for p, records in held.items() if records]
            if lacking:
                for batch in await self._read(lacking):
                    held[batch.source.partition].extend(batch.records)
            elif waiting:
                first = min(waiting, key=lambda p: held[p][0].timestamp)
                self._take(first, held[first].popleft())
            else:
                return

    async def _go_on(self) -> None:
        """Show what comes, in partitions that are added too."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while True:
            for batch in await self._read(self._next):
                for record in batch.records:
                    self._take(batch.source.partition, record)
            if loop.time() - looked >= self._look_s:
                await self._look_for_partitions()
                looked = loop.time()

    async def _look_for_partitions(self) -> None:
        try:
            count = await self._log.partitions(self._topic)
        except LogError as error:
            log.warning("cannot look for new partitions, trying again", topic=self._topic, error=str(error))
            return
        self._next = dict.fromkeys(range(count), 0) | self._next

    async def _read(self, partitions: Collection[int]) -> list[Batch]:
        """The next batches of these partitions, and of no others."""
        for partition in self._tail.followed.difference(partitions):
            self._tail.drop(partition)
        for partition in set(partitions) - self._tail.followed:
            self._tail.follow(partition, self._next[partition])
        found = []
        for batch in await self._tail.read(self._look_s):
            if batch.out_of_range:
                await self._begin_anew(batch.source.partition)
            else:
                self._next[batch.source.partition] = batch.next_offset
                found.append(batch)
        return found

    async def _begin_anew(self, partition: int) -> None:
        """Tell what was removed unread, and go on at the partition's start with its mark (P-110)."""
        try:
            start, end = (await self._log.bounds(self._topic, [partition]))[partition]
        except LogUnavailable:
            return  # the next read is out of range again
        wanted = max(self._next[partition], self._shown_from.get(partition, 0))
        if gone := lost(partition, wanted, start, end):
            log.warning(str(gone))
        self._next[partition], self._shown_from[partition] = start, start
        self._behind[partition] = min(end, self._behind.get(partition, end))

    def _take(self, partition: int, record: LogRecord) -> None:
        closing = parse(record, partition)
        if isinstance(closing, Unreadable):
            where = {"topic": self._topic, "partition": partition, "offset": record.offset}
            log.warning("passed over an unreadable record", **where, why=closing.why)
        elif self._marks[partition].fresh(closing) and record.offset >= self._shown_from.get(partition, 0):
            self._show(closing, record.value or b"")
