"""Re-reads what the log holds of a response: for a takeover, and for erasing it.

The fold keeps no values. An executor that goes on where another stood reads the response's records again,
from its `accepted` to the claim that won, by stateless reads of its partition. When an executor dies, all of
its runs are taken over at once, so one scan serves all requests for the same partition.
"""

import asyncio
from collections.abc import Mapping

from msgspec import Struct

from schemas.fold import Fold, Verdict
from schemas.ids import ResponseId
from schemas.records import Accepted, EventRecord, Extension, LogRecord, parse
from schemas.upstream_headers import is_partial, upstream_index, upstream_position
from services import points
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.executor.past import Ahead, Past
from services.loops import in_turns

_ID_BYTES = 41


class _Wanted(Struct):
    start: int
    stop: int
    future: "asyncio.Future[Past]"


class History:
    """Reads pasts of one topic; one scan per partition serves all that wait for it."""

    def __init__(self, log: Log, topic: str) -> None:
        self._log = log
        self._topic = topic
        self._wanted: dict[int, dict[ResponseId, _Wanted]] = {}
        self._scanning: dict[int, asyncio.Task[None]] = {}

    async def past(self, partition: int, id: ResponseId, start: int, stop: int) -> Past:
        """What counted of `id` among the records with offsets in [start, stop)."""
        points.at("past wanted", id)
        future: asyncio.Future[Past] = asyncio.get_running_loop().create_future()
        self._wanted.setdefault(partition, {})[id] = _Wanted(start, stop, future)
        if partition not in self._scanning:
            self._scanning[partition] = asyncio.create_task(self._scan(partition))
        past = await future
        points.at("past read", id)
        return past

    async def accepted(self, partition: int, offset: int) -> bytes:
        """The value of the `accepted` record at `offset`. Raises LookupError when it is no longer there."""
        source = TopicPartition(self._topic, partition)
        async for record in scan(self._log, source, offset, offset + 1):
            if record.value is not None:
                return record.value
        raise LookupError(f"no accepted record at {source.topic}/{partition}@{offset}")

    async def _scan(self, partition: int) -> None:
        try:
            while wanted := self._wanted.pop(partition, None):
                await self._collect(TopicPartition(self._topic, partition), wanted)
        finally:
            del self._scanning[partition]

    async def _collect(self, source: TopicPartition, wanted: Mapping[ResponseId, _Wanted]) -> None:
        start = min(want.start for want in wanted.values())
        stop = max(want.stop for want in wanted.values())
        readers = {id.encode(): _Reader(want.stop) for id, want in wanted.items()}
        try:
            async for record in scan(self._log, source, start, stop):
                reader = readers.get((record.key or b"")[:_ID_BYTES])
                if reader is not None and record.offset < reader.stop:
                    reader.read(record)
                    if reader.past.is_due:
                        await in_turns(reader.past.folding())
            for reader in readers.values():
                await in_turns(reader.past.folding())
        except Exception as error:
            for want in wanted.values():
                if not want.future.done():
                    want.future.set_exception(error)
            return
        for id, want in wanted.items():
            if not want.future.done():
                want.future.set_result(readers[id.encode()].past)


class _Reader:
    """Folds one response's records with their values."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.past = Past()
        self._fold = Fold()

    def read(self, record: LogRecord) -> None:
        entry = parse(record)
        counts = self._fold.apply(record.offset, record.timestamp, entry) is Verdict.COUNTS
        if isinstance(entry, Accepted) and counts:
            self.past.accepted = record.value
        elif isinstance(entry, EventRecord) and counts and record.value is not None:
            upstream_id, cursor = upstream_position(record)
            told = Ahead(record.value, index=upstream_index(record))
            self.past.add(told, upstream_id, cursor, partial=is_partial(record))
        elif isinstance(entry, Extension) and record.value is not None and self._is_current(entry):
            self.past.add(Ahead(record.value, extension=True), None, None, partial=False)

    def _is_current(self, entry: Extension) -> bool:
        """Whether the claim of an extension, which never counts itself, is the one that counts."""
        state = self._fold.get(entry.id)
        return state is not None and state.claim == entry.claim
