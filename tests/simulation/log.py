"""The simulated cluster: the log in memory, which tells the world of all that is written, and can hang.

Its own work runs in a context of its own, so it also answers processes that are frozen.
"""

import asyncio
from asyncio import Future
from collections.abc import Callable, Iterable, Mapping
from contextvars import copy_context
from typing import Any

from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import Ack, Batch, TopicPartition

OnAppend = Callable[[TopicPartition, MemoryRecord], None]
OnCommit = Callable[[str, int, int], None]
"""Group, partition, offset."""


class SimLog(MemoryLog):
    """`MemoryLog` for many readers that wait long: an append wakes only the readers of its partition."""

    def __init__(
        self, topics: Mapping[str, int], clock: Callable[[], int], on_append: OnAppend, on_commit: OnCommit
    ) -> None:
        super().__init__(topics, clock=clock)
        self._on_append = on_append
        self._on_commit = on_commit
        self._loop, self._context = asyncio.get_running_loop(), copy_context()
        self._polls: dict[TopicPartition, dict[Callable[[], None], None]] = {}
        """The callbacks that answer the waiting long polls."""
        self.gate = asyncio.Event()
        """Closed while the broker is paused: nothing gets through."""
        self.gate.set()

    def append_now(self, source: TopicPartition, record: NewRecord) -> Ack:
        """Append, and tell of it."""
        ack = super().append(source, record)
        self._on_append(source, self.stored[source.topic][source.partition].records[-1])
        for answer in self._polls.pop(source, ()):
            self._loop.call_soon(answer, context=self._context)
        return ack

    def append_later(self, seconds: float, source: TopicPartition, records: Iterable[NewRecord]) -> None:
        """Append what is on its way and arrives in so many seconds, whatever becomes of its sender."""

        def arrive() -> None:
            for record in records:
                self.append_now(source, record)

        self._loop.call_later(seconds, arrive, context=self._context)

    async def fetch(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait: float = 0.5,
        max_bytes: int = 4 << 20,
        partition_bytes: int = 1 << 20,
    ) -> list[Batch]:
        """As promised by the port; woken by its own partitions only."""
        found = self.read(positions, max_bytes, partition_bytes)
        if found or max_wait <= 0:
            return found
        found_later: Future[list[Batch]] = self._loop.create_future()

        def answer() -> None:
            if not found_later.done():
                found_later.set_result(self.read(positions, max_bytes, partition_bytes))

        for source in positions:
            self._polls.setdefault(source, {})[answer] = None
        late = self._loop.call_later(max_wait, answer, context=self._context)
        try:
            return await found_later
        finally:
            late.cancel()
            for source in positions:
                self._polls.get(source, {}).pop(answer, None)

    def compact_below(self, source: TopicPartition, before: int, *, tombstones: bool) -> None:
        """Compact what has an offset below `before`; `tombstones` says whether those stay."""
        partition = self.stored[source.topic][source.partition]
        last = {r.key: r.offset for r in partition.records if r.offset < before}
        partition.records = [
            r
            for r in partition.records
            if r.offset >= before or (last[r.key] == r.offset and (r.value is not None or tombstones))
        ]

    def watch_checkpoints(self, group: str) -> None:
        """Tell of every commit of `group`."""
        on_commit = self._on_commit

        class Watched(dict[tuple[str, int], int]):
            def update(self, marks: Any = (), /, **_: int) -> None:
                for (_topic, partition), mark in dict(marks).items():
                    on_commit(group, partition, mark)
                super().update(marks)

        self.groups[group].checkpoints = Watched()

    def marks(self, group: str) -> dict[tuple[str, int], int]:
        """What `group` committed."""
        return self.groups[group].checkpoints

    def start(self, source: TopicPartition) -> int:
        """Where a partition begins."""
        return self.stored[source.topic][source.partition].start

    def end(self, source: TopicPartition) -> int:
        """Where a partition ends."""
        return self.stored[source.topic][source.partition].end
