"""Finds the transcripts of closed responses, and reads their chunks on demand.

    each record of `transcripts` → note its offset: a few dozen bytes a response
    read → unpacked for another reader, or being unpacked for one → share that
         → came beside what was read before → unpack it
         → one stateless fetch at the offset, checked against id and part (P-82)
         → not there: bring the tail to its end, and look once more → TranscriptLost

An offset fails if a late writer wrote the same record again and compaction took the older copy. The second
look keeps that from becoming a false 404.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from copy import copy

from msgspec import Struct

from schemas.errors import LogError
from schemas.ids import ResponseId, partition_of
from schemas.records import LogRecord, Unreadable
from services.eventlog.port import Log, TopicPartition
from services.eventlog.transcript import Chunk, Gone, Request, Summary, Tombstone, parse, unpack
from services.kept import Kept
from services.loops import Joint

FETCH_BYTES = 64 << 10
"""Bytes of a fetch that needs one record: the log returns a whole record in any case, and few bytes more."""
SHELF_BYTES = 32 << 20
"""Bytes of unpacked chunks that are kept for the next reader."""
BESIDE_BYTES = 4 << 20
"""Bytes of packed parts that are kept because a fetch brought them beside what it was for. A fetch brings the
next chunks of the same transcript as well: its reader asks for these next."""
PART_OVERHEAD = 2_000
"""About how many bytes a part takes beside its value."""


class TranscriptLost(LogError):
    """A transcript's record is not found after a second look: it expired, or is being erased."""


class Offsets(Struct, gc=False):
    """Where the records of one transcript lie. The offset of a record that was not read yet is -1."""

    request: int
    offsets: tuple[int, ...]
    firsts: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether every record was read."""
        return self.request >= 0 and min(self.offsets) >= 0

    @property
    def oldest(self) -> int:
        """The lowest known offset. -1 does not count: a record not read yet is not one that expired."""
        return min((at for at in (self.request, *self.offsets) if at >= 0), default=-1)

    def place(self, index: int | None) -> int:
        """The offset of a chunk (None: of the request). There is no chunk of a number that is too large."""
        if index is None:
            return self.request
        return self.offsets[index] if index < len(self.offsets) else -1

    def chunk_of(self, number: int) -> int:
        """The index of the chunk that holds event `number`, if there is one."""
        return bisect_right(self.firsts, number) - 1


class Opened(Struct, frozen=True):
    """A chunk unpacked: its frames as one piece."""

    chunk: Chunk
    frames: bytes


class _Part(Struct, frozen=True):
    """A part as it is in the log: what its record says, and its value."""

    entry: Request | Chunk
    value: bytes

    @property
    def index(self) -> int | None:
        """The index of a chunk; None of the request."""
        return self.entry.index if isinstance(self.entry, Chunk) else None


class Library:
    """Finds transcripts by response id. `catch_up` waits for the tail of a partition to reach its end as of
    now.
    """

    def __init__(self, log: Log, topic: str, catch_up: Callable[[int], Awaitable[None]]) -> None:
        self._log = log
        self._topic = topic
        self._catch_up = catch_up
        self._entries: dict[ResponseId, Offsets] = {}
        self._gone: dict[ResponseId, int] = {}
        self._shelf: Kept[tuple[ResponseId, int], Opened] = Kept(SHELF_BYTES)
        self._beside: Kept[tuple[ResponseId, int | None], _Part] = Kept(BESIDE_BYTES)
        self._opening: Joint[tuple[ResponseId, int], Opened] = Joint(self._unpack)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, id: ResponseId) -> bool:
        entry = self._entries.get(id)
        return entry is not None and entry.complete

    def gone(self, id: ResponseId) -> bool:
        """Whether `transcripts` says that the response was deleted, or not stored."""
        return id in self._gone

    def knows(self, id: ResponseId) -> bool:
        """Whether the transcript is here, or the response is gone."""
        return id in self or id in self._gone

    def hide(self, id: ResponseId, offset: int = -1) -> None:
        """Hide `id` for good: it was deleted (P-72). `offset` is that of its `gone`, -1 without one."""
        self._gone[id] = max(offset, self._gone.get(id, -1))
        entry = self._entries.pop(id, None)
        for index in range(len(entry.offsets) if entry else 0):
            self._shelf.pop((id, index))
            self._beside.pop((id, index))
        self._beside.pop((id, None))

    def apply(self, record: LogRecord, partition: int) -> str | None:
        """Take the next record of a partition. Returns why it is passed over unread, None if it is read."""
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
        """Forget transcripts that retention took: before the new `starts` of partitions. O(transcripts)."""
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
        """The summary in the transcript's headers. Raises TranscriptLost or LogUnavailable."""
        return (await self.last(id)).chunk.summary

    async def last(self, id: ResponseId) -> Opened:
        """The chunk with the terminal event. Raises TranscriptLost or LogUnavailable."""
        return await self._open(id, len(self._there(id).offsets) - 1)

    async def chunk(self, id: ResponseId, number: int) -> Opened:
        """The chunk that holds event `number`, or the last one. Raises TranscriptLost or LogUnavailable."""
        return await self._open(id, self._there(id).chunk_of(number))

    async def request(self, id: ResponseId) -> bytes:
        """The value of the `accepted` that won. Raises TranscriptLost or LogUnavailable."""
        return unpack((await self._part(id, None)).value)

    async def _open(self, id: ResponseId, index: int) -> Opened:
        key = (id, index)
        opened = self._shelf.get(key)
        return opened if opened is not None else await self._opening.get(key)

    async def _unpack(self, key: tuple[ResponseId, int]) -> Opened:
        id, index = key
        part = await self._part(id, index)
        assert isinstance(part.entry, Chunk)
        opened = Opened(part.entry, unpack(part.value))
        if id in self._entries:
            self._shelf.put(key, opened, len(opened.frames))
        return opened

    async def _part(self, id: ResponseId, index: int | None) -> _Part:
        """A chunk (None: the request) at the known offset, or at the one after a catch-up."""
        self._there(id)
        found = self._beside.pop((id, index)) or await self._at_hint(id, index)
        if found is None:
            await self._catch_up(partition_of(id))
            found = await self._at_hint(id, index)
        if found is None:
            raise TranscriptLost(f"{id}/{'request' if index is None else index} is not where it was")
        return found

    async def _at_hint(self, id: ResponseId, index: int | None) -> _Part | None:
        """The part at its known offset. What else comes of the transcript is kept in `_beside`."""
        places = copy(self._there(id))
        source = TopicPartition(self._topic, partition_of(id))
        found = None
        for batch in await self._log.fetch({source: places.place(index)}, partition_bytes=FETCH_BYTES):
            for offset, part in _parts_of(id, batch.records):
                if offset != places.place(part.index):
                    continue
                if part.index == index:
                    found = part
                elif id in self._entries:
                    self._beside.put((id, part.index), part, len(part.value) + PART_OVERHEAD)
        return found

    def _there(self, id: ResponseId) -> Offsets:
        entry = self._entries.get(id)
        if entry is None or not entry.complete:
            raise TranscriptLost(f"the transcript of {id} is gone")
        return entry

    def _entry(self, id: ResponseId, summary: Summary) -> Offsets:
        """The entry of `id`. That of a deleted response is not kept: no late writer brings it back (P-72)."""
        entry = self._entries.get(id)
        if entry is None or len(entry.offsets) != summary.chunks:
            unseen = (-1,) * summary.chunks
            entry = Offsets(-1, unseen, (0,) * summary.chunks)
            if id not in self._gone:
                self._entries[id] = entry
        return entry


def _parts_of(id: ResponseId, records: Iterable[LogRecord]) -> Iterator[tuple[int, _Part]]:
    """The parts of one transcript in `records`, with their offsets. Other records are skipped unread."""
    prefix = f"{id}/".encode()
    for record in records:
        if record.key is not None and record.key.startswith(prefix):
            entry = parse(record)
            if isinstance(entry, Request | Chunk):
                yield record.offset, _Part(entry, record.value or b"")
