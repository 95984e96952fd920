"""Makes the index of what is in `transcripts` already: once for each partition, after an upgrade (P-138).

    transcripts, from their start to their end as of now
        all records of one were read   → its entry
        gone                           → gone
    what is not whole                  → read again, for these alone: their last copies (P-131)

Projectors of earlier versions wrote no entries. What they closed is in `transcripts`, perhaps longer than in
the log, and its last chunk ends with the final object. When all entries are acknowledged, the projector says
so beside its watermark, and a replay that starts may rely on the index. Whatever is written meanwhile has an
entry of its own, or is mended (P-133).
"""

import asyncio
from collections.abc import AsyncIterator, Container, Mapping
from typing import Any

import msgspec
import structlog
from msgspec import Struct, field

from schemas.events import UNDECODABLE, response_in
from schemas.ids import ResponseId
from schemas.records import LogRecord, NewRecord
from services.backoff import Backoff
from services.eventlog.patience import patiently
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.eventlog.shelf import Shelved, Whereabouts
from services.eventlog.topics import Topics
from services.eventlog.transcript import (
    Chunk,
    Gone,
    Request,
    Summary,
    Tombstone,
    TranscriptBroken,
    parse,
    unpack,
)
from services.projector.copies import Copies
from services.projector.ownership import OWNED_S
from services.projector.views import Views

log = structlog.get_logger()

LOOK_S = 0.2
"""Seconds between two looks whether what was written lately has its entries."""
TOGETHER = 500
"""Entries that are appended together."""
WAIT_S = OWNED_S
"""Seconds within which what an earlier builder has sent arrives, or never (P-132)."""


class _Final(Struct):
    model: object = None
    metadata: object = None


_final = msgspec.json.Decoder(_Final).decode


class _Found(Struct):
    """What was read of one transcript."""

    summary: Summary
    request: int = -1
    chunks: dict[int, tuple[int, int]] = field(default_factory=dict)
    final: _Final = field(default_factory=_Final)

    @property
    def whole(self) -> bool:
        """Whether each of its records was read."""
        return self.request >= 0 and len(self.chunks) == self.summary.chunks

    def take(self, part: Request | Chunk, record: LogRecord) -> None:
        """Take a record of it."""
        self.summary = part.summary
        match part:
            case Request():
                self.request = record.offset
            case Chunk(index=index, first=first):
                self.chunks[index] = (record.offset, first)
                if index == part.summary.chunks - 1:
                    self.final = _final_in(record.value or b"")

    def entry(self) -> Shelved:
        """Its entry. When it closed, and by which agent, is not known any more."""
        said, places = self.summary, [self.chunks[index] for index in sorted(self.chunks)]
        model, metadata = self.final.model, self.final.metadata
        attached: Mapping[Any, Any] = metadata if isinstance(metadata, dict) else {}
        return Shelved(
            tenant=said.tenant,
            status=said.status,
            background=said.background,
            body_sha256=said.body_sha256,
            accepted_offset=said.accepted_offset,
            created_at=said.created_at,
            closed_offset=said.closed_offset,
            events=said.events,
            model=model if isinstance(model, str) else None,
            metadata={name: value for name, value in attached.items() if isinstance(value, str)},
            where=Whereabouts(
                self.request, tuple(at for at, _ in places), tuple(first for _, first in places)
            ),
        )


class Builder:
    """Makes the index of one partition. `copies` are what its projector has read back."""

    def __init__(self, log_: Log, names: Topics, views: Views, partition: int, copies: Copies) -> None:
        self._log = log_
        self._names = names
        self._views = views
        self._partition = partition
        self._copies = copies
        self._due: list[NewRecord] = []
        self._gone: set[ResponseId] = set()
        self.made = 0
        """How many entries it has made."""

    async def build(self) -> None:
        """Make all entries; returns when they are acknowledged."""
        self._copies.build()
        bounds = await patiently(lambda: self._log.bounds(self._names.transcripts, [self._partition]))
        before = await patiently(lambda: self._log.bounds(self._names.index, [self._partition]))
        start, end = bounds[self._partition]
        if start < end:
            if before[self._partition].start < before[self._partition].end:
                await asyncio.sleep(WAIT_S)
            log.info("making the index", partition=self._partition, records=end - start)
            found = await self._pass(start, end)
            if found:
                self._write(await self._last(start, end, found))
            await self._append(least=1)
            for id in self._gone:  # behind its entry, if it was made before its `gone` was read
                self._due.append(NewRecord(id.encode(), None))
                await self._append(least=TOGETHER)
            await self._append(least=1)
            log.info("the index is made", partition=self._partition, entries=self.made)
        looks = Backoff(LOOK_S, LOOK_S)
        while not self._copies.built():  # what was written lately is placed, or mended
            await looks.wait()

    async def _pass(self, start: int, end: int) -> dict[ResponseId, _Found]:
        """Make the entry of each transcript as soon as it is whole; returns what is left."""
        found: dict[ResponseId, _Found] = {}
        async for part, record in self._parts(start, end, None):
            if isinstance(part, Gone):
                found.pop(part.id, None)
                if part.id not in self._gone:
                    self._gone.add(part.id)
                    self._due.append(NewRecord(record.key or b"", record.value, record.headers))
            elif isinstance(part, Tombstone):
                found.pop(part.id, None)
            else:
                one = found.setdefault(part.id, _Found(part.summary))
                one.take(part, record)
                if one.whole:
                    self._write({part.id: found.pop(part.id)})
            await self._append(least=TOGETHER)
        return found

    async def _last(self, start: int, end: int, of: Container[ResponseId]) -> dict[ResponseId, _Found]:
        """The last copies of some transcripts, of which a part was written again."""
        found: dict[ResponseId, _Found] = {}
        async for part, record in self._parts(start, end, of):
            if isinstance(part, Request | Chunk):
                found.setdefault(part.id, _Found(part.summary)).take(part, record)
            else:
                found.pop(part.id, None)
        return found

    async def _parts(
        self, start: int, end: int, of: Container[ResponseId] | None
    ) -> AsyncIterator[tuple[Request | Chunk | Gone | Tombstone, LogRecord]]:
        """What can be read of `transcripts`; only of some responses, unless `of` is None."""
        source = TopicPartition(self._names.transcripts, self._partition)
        async for record in scan(self._log, source, start, end):
            part = parse(record, self._partition)
            if isinstance(part, Request | Chunk | Gone | Tombstone) and (of is None or part.id in of):
                yield part, record

    def _write(self, found: Mapping[ResponseId, _Found]) -> None:
        for id, one in found.items():
            if one.whole and id not in self._gone and not self._copies.is_fresh(id):
                self._due.append(one.entry().new(id))
                self.made += 1

    async def _append(self, least: int) -> None:
        """Append what is due, if that is so much."""
        if len(self._due) < least:
            return
        due, self._due = self._due, []
        appends = (self._views.append(self._names.index, self._partition, record) for record in due)
        await asyncio.gather(*appends)
        await asyncio.sleep(0)


def _final_in(value: bytes) -> _Final:
    """What the entry has of the final object, which ends the last chunk; nothing if that cannot be read."""
    try:
        frames = unpack(value)
        return _final(response_in(frames[frames.rindex(b"\ndata: ") + 7 :]))
    except (TranscriptBroken, *UNDECODABLE):
        return _Final()
