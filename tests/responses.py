"""Writes responses into a log, record by record, as ingest, executors and the projector would."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from schemas import response
from schemas.events import accepted_value, cancelled_event, frame, opening_events
from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant, response_id
from schemas.records import Accepted, Cancelled, Claimed, Deleted, EventHeaders, NewRecord
from services.eventlog.port import Ack, Writer
from services.eventlog.shelf import Shelved, Whereabouts
from services.eventlog.topics import Topics, topics
from services.eventlog.transcript import Packer, Summary, gone_record, transcript_records

TENANT = Tenant("default")
FAR = 1 << 50
"""A log time (ms) that no test reaches."""


class Author:
    """Writes one response. `frames` are those that its readers must get, byte for byte."""

    def __init__(self, writer: Writer, number: int, partition: int = 0, names: Topics | None = None) -> None:
        self.names = names or topics()
        self.id: ResponseId = response_id(partition, number.to_bytes(16))
        self.frames: list[bytes] = []
        self.claim = ClaimId("")
        self.attempt = 0
        self.tenant = TENANT
        self.ack = Ack(-1, -1)
        self.initial: dict[str, Any] = {}
        self.accepted: Ack = self.ack
        self.request: bytes = b""
        self._partition = partition
        self.writer = writer

    @property
    def last(self) -> int:
        """The number of the last event written."""
        return len(self.frames) - 1

    async def put(self, record: NewRecord) -> Ack:
        """Append any record to the response's partition."""
        self.ack = await self.writer.append(self.names.events, self._partition, record)
        return self.ack

    async def accept(
        self, *, background: bool = True, tenant: str = TENANT, keyed: bool = False, **body: Any
    ) -> "Author":
        """The `accepted`: the opening events."""
        self.tenant = Tenant(tenant)
        body = {"model": "echo", "background": background, "input": "hello", **body}
        self.initial = response.initial(body, self.id, 1_700_000_000, "echo")
        self.request = json.dumps({"request": body, "response": self.initial}).encode()
        store = body.get("store", True)
        entry = Accepted(
            self.id,
            "n",
            self.tenant,
            "sha",
            FAR,
            FAR,
            background=background,
            store=store,
            keyed=keyed,
            model=str(body["model"]),
            route="e*",
        )
        self.accepted = await self.put(entry.new(self.request))
        opening = opening_events(bytes(accepted_value(self.request).response), background)
        self.frames = [frame(type, number, value) for number, (type, value) in enumerate(opening)]
        return self

    async def take(self) -> "Author":
        """A new claim that wins: a new attempt."""
        self.attempt += 1
        self.claim = ClaimId(f"c{self.attempt:016x}")
        entry = Claimed(self.id, self.attempt, self.claim, ExecutorId("exec_1"), self.tenant)
        await self.put(entry.new())
        return self

    async def say(self, *texts: str) -> "Author":
        """A delta each."""
        for text in texts:
            type = "response.output_text.delta"
            await self.event(type, {"item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": text})
        return self

    async def event(self, type: str, fields: Mapping[str, Any], terminal: str | None = None) -> "Author":
        """The next event of the winning claim."""
        number = len(self.frames)
        value = _value(type, number, fields)
        await self.put(self.headers().event(number, type, value, terminal))
        self.frames.append(frame(type, number, value))
        return self

    async def zombie(self, claim: ClaimId, numbers: Iterable[int]) -> "Author":
        """Events of a claim that does not win, with numbers that look right."""
        headers = EventHeaders(self.id, claim, 1, self.tenant)
        for number in numbers:
            type = "response.output_text.delta"
            await self.put(headers.event(number, type, _value(type, number, {"delta": "zombie"})))
        return self

    async def complete(self) -> "Author":
        """The terminal event."""
        final = response.final_response(
            self.initial, status="completed", output=[], completed_at=1_700_000_001
        )
        return await self.event("response.completed", {"response": final}, "completed")

    async def cancel(self) -> "Author":
        """The `cancelled`, which is the terminal event."""
        final = json.dumps(response.cancelled(self.initial)).encode()
        await self.put(Cancelled(self.id, "n", self.tenant).new(final))
        type, value = cancelled_event(len(self.frames), final)
        self.frames.append(frame(type, len(self.frames), value))
        return self

    async def delete(self) -> "Author":
        """The `deleted`."""
        await self.put(Deleted(self.id, "n", self.tenant, self.accepted.offset).new())
        return self

    async def pack(self, status: str = "completed") -> "Author":
        """The transcript, as the projector writes it once the response has closed."""
        packer = Packer()
        for each in self.frames:
            packer.add(each)
        chunks = packer.seal()
        summary = Summary(
            tenant=self.tenant,
            status=status,
            background=True,
            body_sha256="sha",
            accepted_offset=self.accepted.offset,
            closed_offset=self.ack.offset,
            created_at=self.accepted.timestamp,
            events=len(self.frames),
            chunks=len(chunks),
        )
        records = transcript_records(self.id, summary, self.request, chunks)
        acks = [await self.writer.append(self.names.transcripts, self._partition, one) for one in records]
        places = (tuple(ack.offset for ack in acks[1:]), tuple(chunk.first for chunk in chunks))
        entry = Shelved(
            tenant=self.tenant,
            status=status,
            background=True,
            body_sha256="sha",
            accepted_offset=self.accepted.offset,
            created_at=self.accepted.timestamp,
            closed_offset=self.ack.offset,
            events=len(self.frames),
            where=Whereabouts(acks[0].offset, *places),
        )
        await self.writer.append(self.names.index, self._partition, entry.new(self.id))
        return self

    async def hide(self) -> "Author":
        """The `gone`, as the projector writes it after a delete."""
        for topic in (self.names.transcripts, self.names.index):
            await self.writer.append(topic, self._partition, gone_record(self.id, self.tenant))
        return self

    @staticmethod
    def erasing(key: bytes) -> NewRecord:
        """A tombstone."""
        return NewRecord(key, None)

    @staticmethod
    def broken(key: bytes, value: bytes) -> NewRecord:
        """A record that no reader understands."""
        return NewRecord(key, value, [("kind", b"unheard-of")])

    def after(self, cursor: int) -> bytes:
        """The frames that a reader with this cursor must get."""
        return b"".join(self.frames[cursor + 1 :])

    def headers(self) -> EventHeaders:
        return EventHeaders(self.id, self.claim, self.attempt, self.tenant)


def _value(type: str, number: int, fields: Mapping[str, Any]) -> bytes:
    return json.dumps({"type": type, "sequence_number": number, **fields}).encode()
