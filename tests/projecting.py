"""A running projector, and its views as a reader of their topics finds them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from schemas.ids import ResponseId, partition_of
from schemas.records import LogRecord
from services.connect import projector_group
from services.eventlog import shelf
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.eventlog.shelf import Shelved
from services.eventlog.topics import Topics, topics
from services.eventlog.transcript import Chunk, Gone, chunk_key, parse, request_key, unpack
from services.projector.closing import Listener
from services.projector.projector import Projector
from services.settings import Settings
from tests.conftest import eventually

VIEWS = (topics().transcripts, topics().responses, topics().index)
"""What the projector writes of closed responses."""


@asynccontextmanager
async def projecting(
    log: Log,
    names: Topics,
    settings: Settings,
    memory_bytes: int = 1 << 30,
    listeners: Sequence[Listener] = (),
) -> AsyncIterator[Projector]:
    """A projector from its start to its orderly end."""
    projector = Projector(settings, log, names, listeners=listeners, memory_bytes=memory_bytes)
    stop = asyncio.Event()
    serving = asyncio.create_task(projector.run(stop))
    try:
        yield projector
    finally:
        stop.set()
        await serving


class Views:
    """Reads the views and the checkpoints."""

    def __init__(self, log: Log, names: Topics, settings: Settings) -> None:
        self._log = log
        self._names = names
        self._group = projector_group(settings)

    async def records(self, topic: str, partition: int) -> list[LogRecord]:
        """Everything in a partition."""
        bounds = (await self._log.bounds(topic, [partition]))[partition]
        source = TopicPartition(topic, partition)
        return [record async for record in scan(self._log, source, bounds.start, bounds.end)]

    async def latest(self, topic: str, partition: int) -> dict[bytes, LogRecord]:
        """The records that compaction would leave, without tombstones."""
        found = {record.key or b"": record for record in await self.records(topic, partition)}
        return {key: record for key, record in found.items() if record.value is not None}

    async def frames(self, id: ResponseId) -> bytes:
        """The frames of a transcript that is whole, else nothing."""
        latest = await self.latest(self._names.transcripts, partition_of(id))
        chunks = [(entry, record) for record in latest.values() if isinstance(entry := parse(record), Chunk)]
        mine = sorted(
            (entry.index, unpack(record.value or b"")) for entry, record in chunks if entry.id == id
        )
        whole = all(entry.summary.chunks == len(mine) for entry, _ in chunks if entry.id == id)
        return b"".join(raw for _, raw in mine) if whole else b""

    async def object(self, id: ResponseId) -> bytes | None:
        """The final object."""
        record = (await self.latest(self._names.responses, partition_of(id))).get(id.encode())
        return record.value if record else None

    async def gone(self, id: ResponseId) -> bool:
        """Whether the response is hidden, and nothing of it is left."""
        mine = {
            topic: [parse(record) for key, record in latest.items() if key.startswith(id.encode())]
            for topic in (self._names.transcripts, self._names.index, self._names.responses)
            if (latest := await self.latest(topic, partition_of(id)))
        }
        gone = [isinstance(left, Gone) for found in mine.values() for left in found]
        return gone == [True, True] and not mine.get(self._names.responses)

    async def entry(self, id: ResponseId) -> Shelved | None:
        """The entry in `transcripts.index`, with what it names held against `transcripts`."""
        record = (await self.latest(self._names.index, partition_of(id))).get(id.encode())
        if record is None:
            return None
        _, entry = shelf.parse(record)
        assert isinstance(entry, Shelved)
        records = await self.records(self._names.transcripts, partition_of(id))
        last = {record.key: record.offset for record in records}
        named = [last[request_key(id)], *(last[chunk_key(id, n)] for n in range(len(entry.where.chunks)))]
        assert [entry.where.request, *entry.where.chunks] == named
        return entry

    async def watermark(self, partition: int) -> int | None:
        """The committed one."""
        return (await self._log.committed(self._group, self._names.events, [partition]))[partition]

    async def committed(self, partition: int, offset: int) -> None:
        """Wait until the watermark is `offset`."""

        async def there() -> bool:
            assert await self.watermark(partition) == offset
            return True

        await eventually(there, timeout=20)
