"""What is to be erased from a partition (P-90, P-95): a record asks for it, the watermark waits (P-96). Pure.

    delete, or the end of what is not stored → all of the response
    a record that never counts               → that record, where no later delete would find it

The partition's owner works them off (`eraser.py`). The watermark waits, because a new owner must read again
the records that asked for them.
"""

from msgspec import Struct

from schemas.fold import Fold, State, Verdict
from schemas.ids import ResponseId
from schemas.records import Cancelled, Deleted, Entry, EventRecord, LogRecord, Tombstone


class Erasure(Struct, frozen=True):
    """Records to be erased: those with offsets in [`start`, `end`); `start` is -1 when there are none.

    `at` is the offset of the record that justifies the erasure: a new owner must read it again, so the
    watermark stays at or before it. A `stray` is one record: the others of its response may have
    to stay. Nothing is erased while log time has not passed `after` (ms): an ephemeral response is seen until
    then (P-93). `late`: no record at or behind `at` says why; it came when all of its response was erased.
    """

    id: ResponseId
    start: int
    end: int
    at: int
    stray: bool = False
    after: int = 0
    late: bool = False

    @property
    def key(self) -> tuple[ResponseId, int]:
        """One for all that is asked for of a response, and one for each stray."""
        return (self.id, self.start if self.stray else -1)


def stored(state: State) -> bool:
    """Whether a response stays when it has ended; true if the fold does not know its `accepted`."""
    return state.accepted is None or state.accepted.store


def erased_after(state: State, ephemeral_ms: int) -> int:
    """The log time (ms) before which nothing of a closed, unstored response is erased; 0: none."""
    return state.kept_until(ephemeral_ms) if state.ephemeral and not state.deleted else 0


class Erasures:
    """The erasures of one partition. The records before offset `floor` were erased by an owner before.

    `floor_read`: how far the log was read when the floor was committed; None: unknown. Responses accepted
    before the floor had closed before that offset (P-68).
    """

    def __init__(self, floor: int, floor_read: int | None = None) -> None:
        self.wanted: dict[tuple[ResponseId, int], Erasure] = {}
        """Asked for and not acknowledged."""
        self._floor = floor
        self._floor_read = floor_read
        self._acts_from = 0
        """The partition's end as of its last assignment."""
        self._unknown: dict[ResponseId, list[int] | None] = {}
        """Offsets, up to `acts_from`, of records of responses that were accepted before anything was folded
        here; None when a record that closes is among them.
        """
        self._past: set[ResponseId] = set()
        """The `unknown` responses that had closed, as a tombstone up to `acts_from` says."""

    def __repr__(self) -> str:
        return f"<Erasures {len(self.wanted)} wanted>"

    def own(self, acts_from: int, committed: int) -> None:
        """The partition is assigned to this executor: its end and its committed watermark as of now.

        What the watermark has passed was erased by the owner before.
        """
        self._acts_from = acts_from
        self.erased(before=committed)

    @property
    def is_rid(self) -> bool:
        """Whether all late records are erased. A checkpoint says how far the log was read, and an owner that
        starts from it takes an unknown record before that for one that may have counted (P-94).
        """
        return not any(erasure.late for erasure in self.wanted.values())

    def erase(
        self,
        id: ResponseId,
        start: int,
        record: LogRecord,
        *,
        at: int | None = None,
        after: int = 0,
        late: bool = False,
    ) -> None:
        """`record` asks to erase all of `id` from offset `start` (-1: unknown) up to itself.

        `at`: the offset that the watermark must not pass before, where that is not the record's own. `after`:
        the log time (ms) to wait for. What lies before the floor was erased before the watermark passed it.
        """
        if record.offset < self._floor:
            return
        at = record.offset if at is None else at
        asked = self.wanted.get((id, -1))
        if asked is not None:
            start = min(start, asked.start) if min(start, asked.start) >= 0 else max(start, asked.start)
            at, after, late = min(at, asked.at), min(after, asked.after), late and asked.late
        erasure = Erasure(id, start, record.offset + 1, at, after=after, late=late)
        self.wanted[erasure.key] = erasure

    def late(self, record: LogRecord, entry: Entry, verdict: Verdict, fold: Fold, ephemeral_ms: int) -> None:
        """Have a record that never counts erased, where no later delete would find it (P-95).

        Those are void ones, those of a response that is erased already or will be, and late ones of a
        response that was accepted, and dealt with, before the floor.
        """
        id: ResponseId | None = getattr(entry, "id", None)
        if id is None or isinstance(entry, Deleted):
            return
        state = fold.get(id)
        if isinstance(entry, Tombstone):
            if state is None and b"/accepted/" not in (record.key or b""):
                self.unknown_erased(id)
        elif verdict is Verdict.VOID or (state is not None and state.offset < self._floor):
            self.erase_stray(id, record.offset)
        elif state is None:
            self.unknown_read(id, record.offset, closes=_closes(entry))
        elif state.deleted or (state.closed and not stored(state)):
            self.erase(id, record.offset, record, after=erased_after(state, ephemeral_ms), late=True)

    def erase_stray(self, id: ResponseId, offset: int) -> None:
        """Have the record at `offset` erased alone: it never counts, while other records of `id` may."""
        if offset >= self._floor:
            erasure = Erasure(id, offset, offset + 1, offset, stray=True, late=True)
            self.wanted[erasure.key] = erasure

    def unknown_read(self, id: ResponseId, offset: int, *, closes: bool) -> None:
        """The record at `offset` is of a response of which the fold knows nothing.

        The response had closed when the watermark was committed (P-68). A record behind what was read by then
        is late (P-98), and so is one past the end as of the assignment. A record before that is late if its
        response closed before the floor. If it closed behind the floor, what led there counted and must stay
        (P-97).
        """
        acts_from, floor_read = self._acts_from, self._floor_read
        late_from = acts_from if floor_read is None else min(acts_from, floor_read)
        if offset >= late_from or id in self._past:
            self.erase_stray(id, offset)
        elif offset >= self._floor and closes:
            self._unknown[id] = None
        elif offset >= self._floor and (offsets := self._unknown.setdefault(id, [])) is not None:
            offsets.append(offset)

    def unknown_erased(self, id: ResponseId) -> None:
        """A record that is no `accepted` was erased, of a response of which the fold knows nothing.

        No owner does that to an open response: whatever comes behind the tombstone is late.
        """
        self._past.add(id)

    def caught_up(self) -> None:
        """All is read up to `acts_from`: a response that did not close in there had closed before, and its
        records are late.
        """
        for id, offsets in self._unknown.items():
            for offset in offsets or ():
                self.erase_stray(id, offset)
        self._unknown.clear()
        self._past.clear()

    def due(self, now: int) -> list[Erasure]:
        """What is to be erased at log time `now` (ms)."""
        return [erasure for erasure in self.wanted.values() if erasure.after < now]

    def done(self, erasure: Erasure) -> None:
        """An erasure is acknowledged. More may have been asked for of the same response meanwhile."""
        if self.wanted.get(erasure.key) == erasure:
            del self.wanted[erasure.key]

    def erased(self, before: int) -> None:
        """The owner's watermark is at offset `before`: what was asked for before it is erased."""
        self.wanted = {key: erasure for key, erasure in self.wanted.items() if erasure.end > before}

    def held(self, position: int) -> int:
        """The offset that a watermark must not pass, `position` if nothing is wanted."""
        return min((erasure.at for erasure in self.wanted.values()), default=position)


def _closes(entry: Entry) -> bool:
    return isinstance(entry, Cancelled) or (isinstance(entry, EventRecord) and entry.terminal is not None)
