"""The transcripts of closed responses: where each one lies, and its chunks on demand.

The tail of `transcripts` tells `apply` every record; kept are offsets only, a few dozen bytes a response. A
read is one stateless fetch at the offset, checked against id and part (P-82). When the hint fails (a late
writer wrote the same again and the older copy was compacted), the tail is brought to its end and asked once
more: never a false 404.
"""

from collections.abc import Awaitable, Callable, Mapping

from msgspec import Struct

from schemas.errors import LogError
from schemas.ids import ResponseId, partition_of
from schemas.records import LogRecord, Unreadable
from services.eventlog.port import Log, TopicPartition
from services.eventlog.transcript import Chunk, Gone, Request, Summary, Tombstone, parse, unpack
from services.kept import Kept

FETCH_BYTES = 64 << 10
"""The log hands out one whole record in any case, so this only bounds what comes with it for nothing."""
SHELF_BYTES = 32 << 20
"""Unpacked chunks that are kept for the next reader."""


class TranscriptLost(LogError):
    """A transcript's record is not where it was, also after looking again: it expired, or is being erased."""


class Entry(Struct, gc=False):
    """Where the records of one transcript lie. Offsets are -1 for what has not been seen."""

    request: int
    offsets: tuple[int, ...]
    firsts: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Every record has been seen."""
        return self.request >= 0 and min(self.offsets) >= 0

    @property
    def oldest(self) -> int:
        """The lowest offset that has been seen: what is half read is not taken for what expired."""
        return min((at for at in (self.request, *self.offsets) if at >= 0), default=-1)

    def chunk_of(self, number: int) -> int:
        """The index of the chunk that holds event `number`, if there is one."""
        return max(index for index, first in enumerate(self.firsts) if first <= number)


class Opened(Struct, frozen=True):
    """A chunk unpacked: its frames as one piece."""

    chunk: Chunk
    frames: bytes


class Library:
    """Finds transcripts by response id. `catch_up` brings the tail of a partition to its end as of now."""

    def __init__(self, log: Log, topic: str, catch_up: Callable[[int], Awaitable[None]]) -> None:
        self._log = log
        self._topic = topic
        self._catch_up = catch_up
        self._entries: dict[ResponseId, Entry] = {}
        self._gone: dict[ResponseId, int] = {}
        self._shelf: Kept[tuple[ResponseId, int], Opened] = Kept(SHELF_BYTES)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: ResponseId) -> bool:
        entry = self._entries.get(id)
        return entry is not None and entry.complete

    def gone(self, id: ResponseId) -> bool:
        """It was deleted, or was never stored."""
        return id in self._gone

    def knows(self, id: ResponseId) -> bool:
        """Whether it is here, or gone."""
        return id in self or id in self._gone

    def hide(self, id: ResponseId, offset: int = -1) -> None:
        """`id` was deleted: hide it for good (P-72). `offset` is that of its `gone`, if that says so."""
        self._gone[id] = max(offset, self._gone.get(id, -1))
        entry = self._entries.pop(id, None)
        for index in range(len(entry.offsets) if entry else 0):
            self._shelf.pop((id, index))

    def apply(self, record: LogRecord, partition: int) -> str | None:
        """The next record of a partition. Returns why, when it cannot be read and is passed over."""
        match parse(record, partition):
            case Request(id=id, summary=summary):
                entry = self._entry(id, summary)
                entry.request = record.offset
            case Chunk(id=id, summary=summary, index=index, first=first):
                entry = self._entry(id, summary)
                entry.offsets = (*entry.offsets[:index], record.offset, *entry.offsets[index + 1 :])
                entry.firsts = (*entry.firsts[:index], first, *entry.firsts[index + 1 :])
            case Gone(id=id):
                self.hide(id, record.offset)
            case Tombstone(id=id):
                self._entries.pop(id, None)
            case Unreadable(why=why):
                return why
        return None

    def prune(self, starts: Mapping[int, int]) -> None:
        """Forget what retention took: what lies before the new `starts` of partitions. O(transcripts)."""
        for id in [
            id for id, entry in self._entries.items() if 0 <= entry.oldest < starts.get(partition_of(id), 0)
        ]:
            del self._entries[id]
        for id in [id for id, offset in self._gone.items() if 0 <= offset < starts.get(partition_of(id), 0)]:
            del self._gone[id]

    def clear(self, partition: int) -> None:
        """Forget a partition, to read it again from its start."""
        self.prune({partition: 1 << 62})

    async def summary(self, id: ResponseId) -> Summary:
        """What the transcript's headers say. Raises TranscriptLost or LogUnavailable."""
        return (await self.last(id)).chunk.summary

    async def last(self, id: ResponseId) -> Opened:
        """The chunk with the terminal event. Raises TranscriptLost or LogUnavailable."""
        return await self._open(id, len(self._there(id).offsets) - 1)

    async def chunk(self, id: ResponseId, number: int) -> Opened:
        """The chunk that holds event `number`, or the last one. Raises TranscriptLost or LogUnavailable."""
        return await self._open(id, self._there(id).chunk_of(number))

    async def request(self, id: ResponseId) -> bytes:
        """The value of the `accepted` that won. Raises TranscriptLost or LogUnavailable."""
        record, _ = await self._record(id, None)
        return unpack(record.value or b"")

    async def _open(self, id: ResponseId, index: int) -> Opened:
        key = (id, index)
        if (opened := self._shelf.get(key)) is not None:
            return opened
        record, entry = await self._record(id, index)
        assert isinstance(entry, Chunk)
        opened = Opened(entry, unpack(record.value or b""))
        if id in self._entries and key not in self._shelf:
            self._shelf.put(key, opened, len(opened.frames))
        return opened

    async def _record(self, id: ResponseId, index: int | None) -> tuple[LogRecord, Request | Chunk]:
        """The record of a part (None: the request): at the hint, or where the caught-up tail says."""
        found = await self._at_hint(id, index)
        if found is None:
            await self._catch_up(partition_of(id))
            found = await self._at_hint(id, index)
        if found is None:
            raise TranscriptLost(f"{id}/{'request' if index is None else index} is not where it was")
        return found

    async def _at_hint(self, id: ResponseId, index: int | None) -> tuple[LogRecord, Request | Chunk] | None:
        entry = self._there(id)
        offset = entry.request if index is None else entry.offsets[index]
        source = TopicPartition(self._topic, partition_of(id))
        for batch in await self._log.fetch({source: offset}, partition_bytes=FETCH_BYTES):
            for record in batch.records[:1]:
                match parse(record):
                    case Request(id=found) as part if found == id and index is None:
                        return record, part
                    case Chunk(id=found, index=at) as part if found == id and at == index:
                        return record, part
        return None

    def _there(self, id: ResponseId) -> Entry:
        entry = self._entries.get(id)
        if entry is None or not entry.complete:
            raise TranscriptLost(f"the transcript of {id} is gone")
        return entry

    def _entry(self, id: ResponseId, summary: Summary) -> Entry:
        """The entry of `id`; of a deleted one a throw-away, for a late writer brings nothing back (P-72)."""
        entry = self._entries.get(id)
        if entry is None or len(entry.offsets) != summary.chunks:
            unseen = (-1,) * summary.chunks
            entry = Entry(-1, unseen, (0,) * summary.chunks)
            if id not in self._gone:
                self._entries[id] = entry
        return entry
