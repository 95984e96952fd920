"""The first listener: writes transcripts, final objects and entries to the views, and erases them.

    Write      request and chunks → acknowledged → final object → acknowledged → read back to where the chunks
               lie → the entry, which names that place → acknowledged (P-130, P-131)
    Regather   the response's records read again from the log, then as Write
    Erase      `gone` → acknowledged → tombstones of the transcript, of the object and of the entry
    Mend       the response's records read again, up to the log's end, then as Write, or as Erase if it was
               deleted meanwhile (P-133)

A failed append is tried again for as long as it takes, by the owner (P-132): content and key are the same at
every projector and every time (P-70), and the watermark waits (P-74). A record that no topic accepts is
passed over: it must not hold the partition up (A-22).
"""

import asyncio
from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from schemas.errors import LogError, RecordTooLarge
from schemas.ids import ResponseId
from schemas.records import NewRecord
from services.backoff import Backoff
from services.eventlog.patience import patiently
from services.eventlog.port import Ack, Log, TopicPartition
from services.eventlog.scan import scan
from services.eventlog.topics import Topics
from services.eventlog.transcript import Chunk, Request, erasing_records, gone_record, parse
from services.projector import metrics
from services.projector.closing import Closing
from services.projector.ownership import OWNED_S, SEND_S, Ownership
from services.projector.projection import End, Poison, Projection
from services.projector.rereader import Rereader
from services.projector.writes import Erase, Mend, Regather, Work, Write

log = structlog.get_logger()

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries of an append."""
SCANS = 2
"""Stretches of the log that are read again at the same time, at most."""


class Views:
    """The projector's writer. `skew_ms` bounds how far the clocks of two partitions' leaders may differ."""

    def __init__(
        self, log_: Log, names: Topics, ownership: Ownership, rereader: Rereader, *, skew_ms: int
    ) -> None:
        self._log = log_
        self._names = names
        self._ownership = ownership
        self._rereader = rereader
        self._skew_ms = skew_ms
        self._writer = log_.writer(delivery_timeout=OWNED_S - SEND_S)
        self._scans = asyncio.Semaphore(SCANS)

    async def close(self) -> None:
        """Close the writer. The partition's next owner writes what it still holds."""
        await self._writer.close(timeout=2)

    async def closed(self, partition: int, closing: Closing) -> None:
        """Write what is to be read of a response that has closed; returns when it is acknowledged."""
        if closing.work is not None:
            await self.do(partition, closing.work)

    async def do(self, partition: int, work: Work) -> None:
        """Do `work` to the end; returns when everything is acknowledged."""
        match work:
            case Write():
                await self._write(partition, work)
            case Regather():
                async with self._scans:
                    await self._regather(partition, work)
            case Erase():
                await self._erase(partition, work)
            case Mend():
                async with self._scans:
                    await self._mend(partition, work)

    async def append(self, topic: str, partition: int, record: NewRecord) -> Ack | None:
        """Append one record, however often that takes. None: no topic takes it, and it is passed over."""
        backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            await self._ownership.wait(partition)
            try:
                return await self._writer.append(topic, partition, record)
            except RecordTooLarge as error:
                poisoned(topic, partition, Poison(-1, f"{record.key.decode()}: {error}"))
                return None
            except LogError as error:
                metrics.RETRIES.inc()
                log.warning("append failed, trying again", topic=topic, partition=partition, error=str(error))
                await backoff.wait()

    async def _append_all(self, topic: str, partition: int, records: Sequence[NewRecord]) -> list[Ack | None]:
        return await asyncio.gather(*(self.append(topic, partition, record) for record in records))

    async def _write(self, partition: int, work: Write) -> None:
        acks = await self._append_all(self._names.transcripts, partition, work.transcript)
        if work.response is not None:
            await self.append(self._names.responses, partition, work.response)
        offsets = [ack.offset for ack in acks if ack is not None]
        if len(offsets) == len(acks):
            await self._shelve(partition, work, max(offsets))
        else:  # it has no whole transcript
            self._rereader.readback(partition).copies.drop(work.id)
        metrics.CLOSED.inc()

    async def _shelve(self, partition: int, work: Write, offset: int) -> None:
        """Write the entry, when its transcript is read back, past `offset` at least."""
        where = await self._rereader.placed(partition, work.id, offset)
        if where is not None:
            await self.append(self._names.index, partition, replace(work.entry, where=where).new(work.id))

    async def _regather(self, partition: int, work: Regather) -> None:
        """Fold the one response again. Nothing comes of it when it was erased meanwhile."""
        for end in await self._ends(partition, work.id, work.at, work.closed_offset + 1):
            await self._do_end(partition, end)

    async def _mend(self, partition: int, work: Mend) -> None:
        """Write a response again, or erase it, as the log says now. It says nothing of what has expired: then
        what is there stays as it is.
        """
        bounds = await patiently(lambda: self._log.bounds(self._names.events, [partition]))
        ends = await self._ends(partition, work.id, work.accepted_offset, bounds[partition].end)
        if not ends:
            log.warning("an entry cannot be mended, the log has nothing of it", response=work.id)
            self._rereader.readback(partition).copies.drop(work.id)
            return
        metrics.MENDED.inc()
        await self._do_end(partition, ends[-1])

    async def _do_end(self, partition: int, end: End) -> None:
        if isinstance(end, Closing):
            await self.closed(partition, end)
        else:
            await self.do(partition, end)

    async def _ends(self, partition: int, id: ResponseId, start: int, stop: int) -> list[End]:
        """The ends of one response, by the records of the log in [start, stop)."""
        source = TopicPartition(self._names.events, partition)
        again, prefix, ends = Projection(partition, start, start), id.encode(), list[End]()
        async for record in scan(self._log, source, start, stop):
            if record.key is not None and record.key.startswith(prefix):
                ends.extend(again.apply([record], record.offset + 1))
        for poison in again.poison:
            poisoned(source.topic, partition, poison)
        return ends

    async def _erase(self, partition: int, work: Erase) -> None:
        transcripts, responses, index = self._names.transcripts, self._names.responses, self._names.index
        gone = gone_record(work.id, work.tenant)
        await asyncio.gather(*(self.append(topic, partition, gone) for topic in (transcripts, index)))
        chunks = work.chunks
        if chunks is None:
            async with self._scans:
                chunks = await self._chunks(partition, work)
        if chunks:
            await self._append_all(transcripts, partition, erasing_records(work.id, chunks))
            erasing = NewRecord(work.id.encode(), None)
            await asyncio.gather(*(self.append(topic, partition, erasing) for topic in (responses, index)))
        metrics.ERASED.inc()

    async def _chunks(self, partition: int, work: Erase) -> int:
        """How many chunks the transcript has, 0 if there is none. Looks from the time of its `accepted`."""
        topic = self._names.transcripts
        if work.accepted_offset < 0:
            return 0
        accepted = TopicPartition(self._names.events, partition)
        since = 0
        async for record in scan(self._log, accepted, work.accepted_offset, work.accepted_offset + 1):
            since = max(0, record.timestamp - self._skew_ms)
        starts = await patiently(lambda: self._log.offsets_at(topic, {partition: since}))
        bounds = await patiently(lambda: self._log.bounds(topic, [partition]))
        written = TopicPartition(topic, partition)
        async for record in scan(self._log, written, starts[partition], bounds[partition].end):
            match parse(record):
                case (Request(id=id) | Chunk(id=id)) as found if id == work.id:
                    return found.summary.chunks
        return 0


def poisoned(topic: str, partition: int, poison: Poison) -> None:
    """Count and log what was passed over, with its coordinates (A-22)."""
    metrics.POISON.labels(topic).inc()
    log.warning("passed over", topic=topic, partition=partition, offset=poison.offset, why=poison.why)
