"""The projection of one partition: folds the log and says what is to be written to the views.

    accepted            → gather its frames, from the derived ones on (P-7)
    event that counts   → one more frame: O(1), nothing is decoded, full chunks are packed at once
    close               → Closing, with a Write: transcript and final object, from the frames as they stand
    delete              → Erase: `gone`, and tombstones for what was written (P-72)
    delete while open   → Closing, with an Erase

Pure: the projector tells every listener, and reports it done. Until then an end holds the low watermark, as
every open response does (P-61, P-74). Responses accepted before the floor were dealt with before (P-62). A
response that is not stored asks nothing of the views, but leaves `gone` if a key leads to it (P-79). An
ephemeral one holds the watermark after its end as well, so that a replay that starts finds it in the log
(P-67). It lets go when log time says that it is not seen any more, or when the owner has erased it.

Memory: an open response holds at most one chunk unpacked. When all of them together hold more than
the bound, the largest let go of their frames and are read from the log again when they close.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec
from msgspec import Struct

from schemas.events import UNDECODABLE, cancelled_frame, derived_event, frame, opening_frames, response_in
from schemas.fold import Fold, State, Verdict
from schemas.ids import ResponseId
from schemas.records import (
    Accepted,
    Cancelled,
    Claimed,
    Deleted,
    EventRecord,
    LogRecord,
    NewRecord,
    Tombstone,
    Unreadable,
    parse,
)
from services.eventlog.shelf import NOWHERE, Shelved
from services.eventlog.transcript import Packer, Summary, transcript_records
from services.projector.closing import Closing, Counts
from services.projector.writes import Erase, Regather, Work, Write

FOREVER = 1 << 62
"""A log time (ms) that never comes."""
MODEL_CHARACTERS = 256
"""Characters of the upstream's `model` that the header has (P-9). The object in the value has it whole."""


class Poison(Struct, frozen=True):
    """A record that was passed over, or whose value could not be used: for the log and the count."""

    offset: int
    why: str


End = Closing | Work
"""The end of a response: it has closed, or must be erased and had closed before, or was never seen."""


class _Open:
    """An open response: where its `accepted` lies and, while held, its value and the frames so far."""

    __slots__ = ("accepted", "at", "packer", "tally")

    def __init__(self, at: int, accepted: bytes, packer: Packer | None) -> None:
        self.at = at
        self.accepted = accepted
        self.packer = packer
        self.tally = Counts()

    @property
    def held_bytes(self) -> int:
        return len(self.accepted) + self.packer.held_bytes if self.packer else 0

    def let_go(self) -> None:
        self.accepted, self.packer = b"", None


class _Kept(Struct, frozen=True):
    """A closed ephemeral response: offset and key of its `accepted`, and the last log time (ms) at which
    clients see it.
    """

    at: int
    key: bytes
    until: int


class _Stretch(NamedTuple):
    """A batch: the offset of its first record, and the log time (ms) of its last."""

    start: int
    time: int


class Projection:
    """One partition, from `start` on. It writes responses accepted at `floor` or later.

    `ephemeral_ms`: how long (log time) an ephemeral response is kept after its end. `log` is the topic id of
    `responses.events`.
    """

    def __init__(
        self, partition: int, start: int, floor: int, *, ephemeral_ms: int = 0, log: str = ""
    ) -> None:
        self.partition = partition
        self.log = log
        self.fold = Fold()
        self.position = start
        """The offset folded next."""
        self.time = 0
        """Log time of the last record, ms."""
        self.floor = floor
        self.poison: list[Poison] = []
        """What could not be read since the caller last emptied this list."""
        self._ephemeral_ms = ephemeral_ms
        self._open: dict[ResponseId, _Open] = {}
        self._kept: dict[ResponseId, _Kept] = {}
        self._chunks: dict[ResponseId, int] = {}
        self._pending: dict[int, End] = {}
        self._stretches: deque[_Stretch] = deque()
        """What is folded and may be later than what the views are read back to."""

    def __repr__(self) -> str:
        return f"<Projection at {self.position}, {len(self._open)} open, {len(self._pending)} pending>"

    @property
    def open_responses(self) -> int:
        """How many responses hold the watermark because they are open."""
        return len(self._open)

    @property
    def held_bytes(self) -> int:
        """Bytes held for open responses. O(open responses)."""
        return sum(entry.held_bytes for entry in self._open.values())

    def apply(self, records: Iterable[LogRecord], next_offset: int) -> list[End]:
        """Fold the next records of the partition, read on at `next_offset`. Returns the ends, in order."""
        ends: list[End] = []
        fold, is_open = self.fold.apply, self._open.get
        record: LogRecord | None = None
        for record in records:
            entry = parse(record, self.partition)
            verdict = fold(record.offset, record.timestamp, entry)
            if type(entry) is EventRecord:
                if verdict is Verdict.COUNTS and (opened := is_open(entry.id)) is not None:
                    opened.tally.event(entry.type, record.timestamp)
                    if opened.packer is not None:
                        opened.packer.add(frame(entry.type, entry.sequence_number, record.value or b""))
                    if entry.terminal is not None:
                        ends.append(self._close(record, entry.id, record.value or b""))
            else:
                ends.extend(self._rare(record, entry, verdict))
        if record is not None:
            self.time = record.timestamp
            self._stretches.append(_Stretch(self.position, self.time))
        self.position = next_offset
        self._pending.update((end.at, end) for end in ends)
        return ends

    def done(self, end: End) -> None:
        """Note that `end` is acknowledged: it no longer holds the watermark (P-74)."""
        self._pending.pop(end.at, None)

    def watermark(self, until: int = FOREVER) -> int:
        """The offset that may be committed now: nothing before it is open, still seen or not yet written, and
        its log time is not later than `until` (ms), which never goes back (P-134).
        """
        self.release()
        while self._stretches and self._stretches[0].time <= until:
            self._stretches.popleft()
        oldest = next(iter(self._open.values()), None)
        held = min([*self._pending, *(kept.at for kept in self._kept.values())], default=self.position)
        read_back = self._stretches[0].start if self._stretches else self.position
        return min(held, read_back, self.position if oldest is None else oldest.at)

    def forget(self, before: int) -> None:
        """Forget closed responses untouched since log time `before` (ms) (P-63). O(responses)."""
        for state in self.fold.forget(before, self._ephemeral_ms):
            self._chunks.pop(state.id, None)

    def shed(self, excess: int) -> int:
        """Let go of the largest responses' frames until `excess` bytes are free; returns how many went."""
        largest = sorted(self._open.values(), key=lambda entry: entry.held_bytes, reverse=True)
        count = 0
        for entry in largest:
            if excess <= 0:
                break
            excess -= entry.held_bytes
            entry.let_go()
            count += 1
        return count

    def release(self) -> None:
        """Let go of ephemeral responses whose log time is over.

        The partition's own log time suffices: in an idle partition the owner's tombstone lets them go.
        """
        self._kept = {id: kept for id, kept in self._kept.items() if kept.until >= self.time}

    def _rare(self, record: LogRecord, entry: object, verdict: Verdict) -> Iterator[End]:
        """Everything but an event."""
        match entry:
            case Accepted() if verdict is Verdict.COUNTS and record.offset >= self.floor:
                self._accept(record, entry)
            case Claimed() if verdict is Verdict.COUNTS and (opened := self._open.get(entry.id)) is not None:
                opened.tally.claimed(entry.executor, record.timestamp)
            case Cancelled() if verdict is Verdict.COUNTS:
                yield from self._cancel(record, entry)
            case Deleted() if record.offset >= self.floor:
                yield self._erase(record, entry)
            case Tombstone(id=id) if (kept := self._kept.get(id)) is not None and record.key == kept.key:
                del self._kept[id]
            case Unreadable(why=why):
                self.poison.append(Poison(record.offset, why))
            case _:
                pass

    def _accept(self, record: LogRecord, entry: Accepted) -> None:
        value = record.value or b""
        if not entry.store:
            self._open[entry.id] = _Open(record.offset, b"", None)
            return
        packer = Packer()
        for opening in opening_frames(entry.id, value, entry.background):
            packer.add(opening)
        self._open[entry.id] = _Open(record.offset, value, packer)

    def _cancel(self, record: LogRecord, entry: Cancelled) -> Iterator[Closing]:
        opened = self._open.get(entry.id)
        if opened is None:
            return
        number, value = self.fold.responses[entry.id].last, record.value or b""
        if opened.packer is not None:
            opened.packer.add(cancelled_frame(number, value))
        yield self._close(record, entry.id, derived_event("response.failed", number, value))

    def _close(self, record: LogRecord, id: ResponseId, terminal: bytes) -> Closing:
        """`terminal` is the value of the terminal event, written or derived."""
        opened, state = self._open.pop(id), self.fold.responses[id]
        assert state.accepted is not None
        work: Work | None = None
        if state.accepted.store:
            work = self._write(record, opened, state, terminal)
        elif state.accepted.keyed:
            work = Erase(id, opened.at, state.tenant, 0, state.offset)
        if state.ephemeral:
            self._kept[id] = _Kept(opened.at, state.accepted.key, state.kept_until(self._ephemeral_ms))
        return opened.tally.closing(state, self.log, record.offset, terminal, work)

    def _write(self, record: LogRecord, opened: _Open, state: State, terminal: bytes) -> Write | Regather:
        if opened.packer is None:
            return Regather(state.id, opened.at, record.offset)
        assert state.accepted is not None
        chunks = opened.packer.seal()
        self._chunks[state.id] = len(chunks)
        summary = Summary(
            tenant=state.tenant,
            status=state.status,
            background=state.accepted.background,
            body_sha256=state.accepted.body_sha256,
            accepted_offset=state.offset,
            closed_offset=record.offset,
            created_at=state.accepted_at,
            events=opened.packer.events,
            chunks=len(chunks),
        )
        transcript = transcript_records(state.id, summary, opened.accepted, chunks)
        response, final = self._response(record, state, terminal)
        return Write(state.id, opened.at, transcript, response, _entry(summary, state, final))

    def _response(
        self, record: LogRecord, state: State, terminal: bytes
    ) -> tuple[NewRecord | None, "_Final"]:
        """The record of `responses`, and what the entry has of it. None: the object cannot be read."""
        try:
            value = response_in(terminal)
            final = _final(value)
            return _object_record(state, value, final), final
        except UNDECODABLE as error:
            self.poison.append(Poison(record.offset, f"final object of {state.id}: {error}"))
            return None, _Final()

    def _erase(self, record: LogRecord, entry: Deleted) -> End:
        state = self.fold.responses[entry.id]
        opened = self._open.pop(entry.id, None)
        self._kept.pop(entry.id, None)
        if opened is not None:
            work = Erase(entry.id, opened.at, entry.tenant, 0, state.offset)
            return opened.tally.closing(state, self.log, record.offset, b"", work)
        known = state.accepted is not None and state.offset >= self.floor  # else it may be a repetition
        never_written = known and state.accepted is not None and not state.accepted.store
        chunks = 0 if never_written else self._chunks.get(entry.id)
        offset = state.offset if known else entry.accepted_offset
        return Erase(entry.id, record.offset, entry.tenant, chunks, offset)


class _Final(Struct):
    model: object = None
    metadata: object = None


_final = msgspec.json.Decoder(_Final).decode


def _entry(summary: Summary, state: State, final: _Final) -> Shelved:
    """The entry of a response that closes, but for where its transcript will lie."""
    assert state.accepted is not None
    attached = final.metadata if isinstance(final.metadata, dict) else {}
    return Shelved(
        tenant=summary.tenant,
        status=summary.status,
        background=summary.background,
        body_sha256=summary.body_sha256,
        accepted_offset=summary.accepted_offset,
        created_at=summary.created_at,
        closed_offset=summary.closed_offset,
        closed_at=state.touched,
        events=summary.events,
        model=_model(final),
        agent=state.accepted.route if state.accepted.to_agent else None,
        metadata={name: value for name, value in attached.items() if isinstance(value, str)},
        where=NOWHERE,
    )


def response_record(state: State, final: bytes) -> NewRecord:
    """The record of `responses`: the final object of a closed response. Raises what is UNDECODABLE."""
    return _object_record(state, final, _final(final))


def _object_record(state: State, value: bytes, final: _Final) -> NewRecord:
    headers = [
        ("kind", b"response"),
        ("tenant", state.tenant.encode()),
        ("status", state.status.encode()),
        ("model", (_model(final) or "").encode()),
        ("accepted_offset", b"%d" % state.offset),
        ("background", b"%d" % (state.accepted is not None and state.accepted.background)),
    ]
    return NewRecord(state.id.encode(), value, headers)


def _model(final: _Final) -> str | None:
    return final.model[:MODEL_CHARACTERS] if isinstance(final.model, str) else None
