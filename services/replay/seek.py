"""Reads the frames of an evicted page from the log again, by seek at its offset.

A page knows where its records begin and end in the partition. The seeker fetches all records between, and
checks each one (P-82): it skips other responses' records, events of a fenced claim, and holes. A number that
is missing in the end is an error, never a silent gap. The frames go back into the window, so a hundred
readers that are behind at the same place cost one read.
"""

import asyncio
from weakref import WeakValueDictionary

from schemas.errors import LogError, LogUnavailable
from schemas.ids import partition_of
from schemas.records import LogRecord
from services.eventlog.port import Batch, Log, TopicPartition
from services.replay.frames import frames_in
from services.replay.window import Page, Window

SMALLEST_FETCH = 16 << 10
LARGEST_FETCH = 1 << 20
"""Bytes of a fetch. A MiB too much costs 8 ms, a fetch that is too small another round trip."""
RECORD_OVERHEAD = 250
"""About how many bytes key and headers add to an event's frame in the log."""


class Gap(LogError):
    """The log does not have all frames of a page any more: the response is being erased, or it expired."""


class Seeker:
    """Brings pages back, each once, however many readers ask for it."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._locks: WeakValueDictionary[Page, asyncio.Lock] = WeakValueDictionary()
        self.seeks = 0
        """How many pages were brought back so far."""

    async def read(self, window: Window, page: Page, number: int) -> bytes:
        """The frames of `page` from `number` on, from memory or the log. Raises Gap or LogUnavailable."""
        async with self._locks.setdefault(page, asyncio.Lock()):
            if (data := page.read(number)) is not None:
                return data
            frames = await self._frames(window, page)
            window.refill(page, b"".join(frames))
            self.seeks += 1
            return b"".join(frames[number - page.first :])

    async def record(self, partition: int, offset: int) -> LogRecord:
        """The record at exactly `offset`. Raises Gap or LogUnavailable."""
        source = TopicPartition(self._topic, partition)
        for batch in await self._log.fetch({source: offset}, partition_bytes=SMALLEST_FETCH):
            for record in batch.records[:1]:
                if record.offset == offset:
                    return record
        raise Gap(f"nothing is at offset {offset} of partition {partition} any more")

    async def _frames(self, window: Window, page: Page) -> list[bytes]:
        source = TopicPartition(self._topic, partition_of(window.state.id))
        frames: dict[int, bytes] = {}
        position, size = page.offset, fetch_bytes(page)
        while position <= page.end:
            batch = await self._fetch(source, position, size)
            for number, frame in frames_in(batch.records, page):
                frames.setdefault(number, frame)
            position = batch.next_offset
        if len(frames) != page.last - page.first + 1:
            raise Gap(f"{page} of {window.state.id}: only {len(frames)} frames are left in the log")
        return list(frames.values())

    async def _fetch(self, source: TopicPartition, position: int, size: int) -> Batch:
        """The next records from `position`, which the tail has read before. Raises Gap or LogUnavailable."""
        batches = await self._log.fetch({source: position}, partition_bytes=size)
        if not batches:
            raise LogUnavailable(f"nothing came from offset {position} of partition {source.partition}")
        if batches[0].out_of_range:
            raise Gap(f"offset {position} of partition {source.partition} is out of range")
        return batches[0]


def fetch_bytes(page: Page) -> int:
    """About the bytes between the page's first and last record, as if all records had its size; bounded."""
    record = page.size // (page.last - page.first + 1) + RECORD_OVERHEAD
    return min(max(record * (page.end - page.offset + 1), SMALLEST_FETCH), LARGEST_FETCH)
