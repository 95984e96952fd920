"""The simulated cluster: the log in memory, which tells the world of all that is written, and can hang."""

import asyncio
from asyncio import Future
from collections.abc import Callable, Mapping
from typing import Any

from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import Ack, Batch, TopicPartition

OnAppend = Callable[[TopicPartition, MemoryRecord], None]
OnCommit = Callable[[str, int, int], None]
"""Group, partition, offset."""


class SimLog(MemoryLog):
    """`MemoryLog` for many readers that wait long: an append wakes only who waits for its partition."""

    def __init__(
        self, topics: Mapping[str, int], clock: Callable[[], int], on_append: OnAppend, on_commit: OnCommit
    ) -> None:
        super().__init__(topics, clock=clock)
        self._on_append = on_append
        self._on_commit = on_commit
        self._waiting: dict[TopicPartition, dict[Future[None], None]] = {}
        self.gate = asyncio.Event()
        """Closed while the broker is paused: nothing gets through."""
        self.gate.set()

    def append_now(self, source: TopicPartition, record: NewRecord) -> Ack:
        """Append, and tell of it."""
        ack = super()._append(source, record)
        self._on_append(source, self._topics[source.topic][source.partition].records[-1])
        for future in self._waiting.pop(source, ()):
            _wake(future)
        return ack

    async def fetch(
        self,
        positions: Mapping[TopicPartition, int],
        *,
        max_wait: float = 0.5,
        max_bytes: int = 4 << 20,
        partition_bytes: int = 1 << 20,
    ) -> list[Batch]:
        """As promised by the port; woken by its own partitions only."""
        found = self._read(positions, max_bytes, partition_bytes)
        if found or max_wait <= 0:
            return found
        loop = asyncio.get_running_loop()
        future: Future[None] = loop.create_future()
        for source in positions:
            self._waiting.setdefault(source, {})[future] = None
        late = loop.call_later(max_wait, _wake, future)
        try:
            await future
        finally:
            late.cancel()
            for source in positions:
                self._waiting.get(source, {}).pop(future, None)
        return self._read(positions, max_bytes, partition_bytes)

    def compact_below(self, source: TopicPartition, before: int, *, tombstones: bool) -> None:
        """Compact what has an offset below `before`; `tombstones` says whether those stay."""
        partition = self._topics[source.topic][source.partition]
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

        self._groups[group].checkpoints = Watched()

    def checkpoints(self, group: str) -> dict[tuple[str, int], int]:
        """What `group` committed."""
        return self._groups[group].checkpoints

    def start(self, source: TopicPartition) -> int:
        """Where a partition begins."""
        return self._topics[source.topic][source.partition].start

    def end(self, source: TopicPartition) -> int:
        """Where a partition ends."""
        return self._topics[source.topic][source.partition].end


def _wake(future: "Future[None]") -> None:
    if not future.done():
        future.set_result(None)
