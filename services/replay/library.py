"""Finds the transcripts of closed responses, and reads their chunks on demand.

    each batch of `transcripts.index` → the store: where each transcript lies
    read → unpacked for another reader, or being unpacked for one → share that
         → came beside what was read before → unpack it
         → one stateless fetch at the offset, checked against id and part (P-82)
         → not there: bring the tail of the index to its end, and look once more → TranscriptLost (P-136)

An offset fails if a late writer wrote the same record again and compaction took the older copy. The second
look keeps that from becoming a false 404.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from msgspec import Struct

from schemas.errors import LogError
from schemas.ids import ResponseId, partition_of
from schemas.records import LogRecord
from schemas.steps import Steps
from services.eventlog.port import Bounds, Log, TopicPartition
from services.eventlog.shelf import Shelved
from services.eventlog.transcript import Chunk, Request, parse, unpack
from services.kept import Kept
from services.loops import Joint
from services.replay.disk import StoreFailed
from services.replay.store import Store

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
    """Finds transcripts by response id, in `store`. `catch_up` waits for the tail of a partition of the index
    to reach its end as of now. What looks into the store may raise StoreFailed.
    """

    def __init__(
        self, log: Log, topic: str, store: Store, catch_up: Callable[[int], Awaitable[None]]
    ) -> None:
        self._log = log
        self._topic = topic
        self._catch_up = catch_up
        self.store = store
        self._hidden: set[ResponseId] = set()
        """What the fold says is deleted, until the index says it too."""
        self._transcripts: Mapping[int, int] = {}
        self._index: Mapping[int, int] = {}
        self._shelf: Kept[tuple[ResponseId, int], Opened] = Kept(SHELF_BYTES)
        self._beside: Kept[tuple[ResponseId, int | None], _Part] = Kept(BESIDE_BYTES)
        self._opening: Joint[tuple[ResponseId, int], Opened] = Joint(self._unpack)

    def __contains__(self, id: ResponseId) -> bool:
        return self.entry(id) is not None

    def entry(self, id: ResponseId) -> Shelved | None:
        """The entry of a response; None if it has none, is gone or has expired: an entry lives while what it
        names does (P-135).
        """
        if id in self._hidden:
            return None
        found = self.store.entry(id)
        if found is None or self.store.gone(id) is not None:
            return None
        entry, offset = found
        return entry if self._is_kept(partition_of(id), offset, entry.where.oldest) else None

    def gone(self, id: ResponseId) -> bool:
        """Whether the response was deleted, or not stored."""
        if id in self._hidden:
            return True
        offset = self.store.gone(id)
        return offset is not None and self._is_kept(partition_of(id), offset, -1)

    def knows(self, id: ResponseId) -> bool:
        """Whether the transcript is here, or the response is gone."""
        return id in self or self.gone(id)

    def hide(self, id: ResponseId) -> None:
        """Hide `id` for good: the fold says that it was deleted (P-72)."""
        with suppress(StoreFailed):
            self._take_off(id)
            if self.store.gone(id) is not None:
                return
        self._hidden.add(id)

    def take(
        self, partition: int, records: Sequence[LogRecord], next_offset: int
    ) -> list[tuple[LogRecord, str]]:
        """Take the next records of a partition of the index. Returns those that cannot be read, and why."""
        return self.store.take(partition, records, next_offset, self._gone)

    def begin_at(self, transcripts: Mapping[int, int], index: Mapping[int, int]) -> None:
        """Retention has taken what is before these offsets, by partition."""
        self._transcripts, self._index = transcripts, index

    def expire(self) -> Steps[int]:
        """Erase from the store what retention took. Returns how many rows."""
        return self.store.expire(self._is_kept)

    def resume(self, partition: int, bounds: Bounds, now_ms: int) -> int:
        """Where to read a partition of the index on; see `Store.resume`."""
        return self.store.resume(partition, bounds, now_ms)

    async def last(self, id: ResponseId) -> Opened:
        """The chunk with the terminal event. Raises TranscriptLost or LogUnavailable."""
        return await self._open(id, len(self._there(id).where.chunks) - 1)

    async def chunk(self, id: ResponseId, number: int) -> Opened:
        """The chunk that holds event `number`, or the last one. Raises TranscriptLost or LogUnavailable."""
        return await self._open(id, self._there(id).where.chunk_of(number))

    async def request(self, id: ResponseId) -> bytes:
        """The value of the `accepted` that won. Raises TranscriptLost or LogUnavailable."""
        return unpack((await self._part(id, None)).value)

    def _gone(self, id: ResponseId) -> None:
        self._hidden.discard(id)
        self._take_off(id)

    def _take_off(self, id: ResponseId) -> None:
        """Keep nothing of a response in memory. An unpacked chunk of it that is not kept is not missed."""
        if not (len(self._shelf) or len(self._beside)):
            return
        found = self.store.entry(id)
        for index in range(len(found[0].where.chunks) if found else 0):
            self._shelf.pop((id, index))
            self._beside.pop((id, index))
        self._beside.pop((id, None))

    def _is_kept(self, partition: int, offset: int, oldest: int) -> bool:
        """Whether a row is of what is still in the log: `offset` in the index, `oldest` in `transcripts`."""
        if offset < self._index.get(partition, 0):
            return False
        return oldest < 0 or oldest >= self._transcripts.get(partition, 0)

    async def _open(self, id: ResponseId, index: int) -> Opened:
        key = (id, index)
        opened = self._shelf.get(key)
        return opened if opened is not None else await self._opening.get(key)

    async def _unpack(self, key: tuple[ResponseId, int]) -> Opened:
        id, index = key
        part = await self._part(id, index)
        assert isinstance(part.entry, Chunk)
        opened = Opened(part.entry, unpack(part.value))
        if id in self:
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
        where = self._there(id).where
        source = TopicPartition(self._topic, partition_of(id))
        found = None
        for batch in await self._log.fetch({source: where.place(index)}, partition_bytes=FETCH_BYTES):
            parts = [(at, part) for at, part in _parts_of(id, batch.records) if at == where.place(part.index)]
            still_there = id in self
            for _, part in parts:
                if part.index == index:
                    found = part
                elif still_there:
                    self._beside.put((id, part.index), part, len(part.value) + PART_OVERHEAD)
        return found

    def _there(self, id: ResponseId) -> Shelved:
        entry = self.entry(id)
        if entry is None:
            raise TranscriptLost(f"the transcript of {id} is gone")
        return entry


def _parts_of(id: ResponseId, records: Iterable[LogRecord]) -> Iterator[tuple[int, _Part]]:
    """The parts of one transcript in `records`, with their offsets. Other records are skipped unread."""
    prefix = f"{id}/".encode()
    for record in records:
        if record.key is not None and record.key.startswith(prefix):
            entry = parse(record)
            if isinstance(entry, Request | Chunk):
                yield record.offset, _Part(entry, record.value or b"")
