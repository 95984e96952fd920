"""What counts: the fold over one partition (P-20 to P-28).

Every reader folds the same records in the same order, so all readers agree without asking each other.
`Fold.apply` takes one entry and says whether it counts, or why not. It looks at key, headers, offset and log
time only (P-4) and costs O(1) a record. What the values hold is folded elsewhere (`schemas.output`).
"""

from collections.abc import Iterator
from enum import Enum

from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant
from schemas.records import (
    IN_PROGRESS,
    OPEN_STATUSES,
    QUEUED,
    Accepted,
    Cancelled,
    Claimed,
    Deleted,
    Entry,
    EventRecord,
)

COMPLETED = "completed"
CANCELLED = "cancelled"
DELETED = "deleted"
TERMINAL_STATUSES = frozenset({COMPLETED, "failed", "incomplete", CANCELLED})


class Verdict(Enum):
    """Whether a record counts, or why it does not."""

    COUNTS = "counts"
    VOID = "void"
    """An `accepted` appended after its `not_after`."""
    LATE = "late"
    """A second `accepted`, or one of a deleted id."""
    UNKNOWN = "unknown"
    """The record is of a response that the fold does not know."""
    CLOSED = "closed"
    """After the close."""
    FENCED = "fenced"
    """An event of a claim that did not win or is fenced."""
    GAP = "gap"
    """An event of the winning claim whose number is not the last + 1."""
    OUTBID = "outbid"
    """A claim whose attempt is not the current one + 1."""
    IGNORED = "ignored"
    """The record is of a kind that never counts."""


class State:
    """What the fold knows of one response. Read it anywhere, change it only in `Fold`."""

    __slots__ = (
        "accepted",
        "accepted_at",
        "attempt",
        "claim",
        "claimed_offset",
        "deleted",
        "executor",
        "id",
        "last",
        "offset",
        "origin",
        "status",
        "tenant",
        "touched",
    )

    def __init__(self, id: ResponseId, tenant: Tenant, offset: int, time: int) -> None:
        self.id = id
        self.tenant = tenant
        self.offset = offset
        """Offset of the record by which the fold knows it: its `accepted`, or an early `deleted`."""
        self.accepted: Accepted | None = None
        self.accepted_at = time
        """Log time of that record, ms."""
        self.touched = time
        """Log time of the last record that counted, ms."""
        self.attempt = 0
        self.claim: ClaimId | None = None
        self.executor: ExecutorId | None = None
        self.claimed_offset = -1
        self.last = -1
        """The last sequence_number that counts."""
        self.origin = -1
        """The last derived number at the start: events up to it come from `accepted` (P-7)."""
        self.status = QUEUED
        self.deleted = False

    @property
    def closed(self) -> bool:
        """Whether nothing but a delete can count any more."""
        return self.status not in OPEN_STATUSES or self.deleted

    @property
    def ephemeral(self) -> bool:
        """Whether it is kept for some time after its end, and erased then (P-93)."""
        return self.accepted is not None and self.accepted.ephemeral

    def kept_until(self, ephemeral_ms: int) -> int:
        """The log time (ms) of a closed response's end; an ephemeral one is kept for `ephemeral_ms` more."""
        return self.touched + (ephemeral_ms if self.ephemeral else 0)

    @property
    def output_counted(self) -> bool:
        """Whether an event beyond the first states counted, so that running again would say things twice."""
        return self.last > self.origin + 1

    def __repr__(self) -> str:
        flag = " deleted" if self.deleted else ""
        return f"<{self.id} {self.status}{flag} attempt={self.attempt} last={self.last} offset={self.offset}>"


class Fold:
    """The states of one partition's responses, folded in log order."""

    def __init__(self) -> None:
        self.responses: dict[ResponseId, State] = {}

    def __contains__(self, id: ResponseId) -> bool:
        return id in self.responses

    def get(self, id: ResponseId) -> State | None:
        """The state of `id`, or None when the fold does not know it (never seen, or forgotten)."""
        return self.responses.get(id)

    def open(self) -> Iterator[State]:
        """The responses that have not closed, oldest first."""
        return (state for state in self.responses.values() if not state.closed)

    def apply(self, offset: int, time: int, entry: Entry) -> Verdict:
        """Fold one record, at `offset` with log time `time` (ms). Says whether it counts."""
        match entry:
            case EventRecord():
                return self._event(time, entry)
            case Accepted():
                return self._accepted(offset, time, entry)
            case Claimed():
                return self._claimed(offset, time, entry)
            case Cancelled():
                return self._cancelled(time, entry)
            case Deleted():
                return self._deleted(offset, time, entry)
            case _:
                return Verdict.IGNORED

    def forget(self, before: int, ephemeral_ms: int) -> list[State]:
        """Drop closed responses untouched since log time `before` (ms) and return them (P-63).

        Ephemeral ones stay `ephemeral_ms` longer: until then they are seen, and not erased.
        """
        gone = [s for s in self.responses.values() if s.closed and s.kept_until(ephemeral_ms) < before]
        for state in gone:
            del self.responses[state.id]
        return gone

    def low_watermark(self, position: int, floor: int = 0) -> int:
        """The offset of the oldest response that is open and accepted at or after `floor`, else `position`
        (P-61).
        """
        return min((s.offset for s in self.open() if s.offset >= floor), default=position)

    def _accepted(self, offset: int, time: int, entry: Accepted) -> Verdict:
        if time > entry.not_after:
            return Verdict.VOID
        if entry.id in self.responses:
            return Verdict.LATE
        state = State(entry.id, entry.tenant, offset, time)
        state.accepted = entry
        state.origin = state.last = 1 if entry.background else 0
        self.responses[entry.id] = state
        return Verdict.COUNTS

    def _claimed(self, offset: int, time: int, entry: Claimed) -> Verdict:
        state = self.responses.get(entry.id)
        if state is None:
            return Verdict.UNKNOWN
        if state.closed:
            return Verdict.CLOSED
        if entry.attempt != state.attempt + 1:
            return Verdict.OUTBID
        state.attempt, state.claim, state.executor = entry.attempt, entry.claim, entry.executor
        state.claimed_offset, state.touched = offset, time
        return Verdict.COUNTS

    def _event(self, time: int, entry: EventRecord) -> Verdict:
        state = self.responses.get(entry.id)
        if state is None:
            return Verdict.UNKNOWN
        if state.status not in OPEN_STATUSES or state.deleted:
            return Verdict.CLOSED
        if entry.claim != state.claim:
            return Verdict.FENCED
        if entry.sequence_number != state.last + 1:
            return Verdict.GAP
        state.last, state.touched = entry.sequence_number, time
        state.status = entry.terminal or IN_PROGRESS
        return Verdict.COUNTS

    def _cancelled(self, time: int, entry: Cancelled) -> Verdict:
        state = self.responses.get(entry.id)
        if state is None:
            return Verdict.UNKNOWN
        if state.closed:
            return Verdict.CLOSED
        state.last, state.touched, state.status = state.last + 1, time, CANCELLED
        return Verdict.COUNTS

    def _deleted(self, offset: int, time: int, entry: Deleted) -> Verdict:
        state = self.responses.get(entry.id)
        if state is None:
            state = self.responses[entry.id] = State(entry.id, entry.tenant, offset, time)
        state.deleted, state.touched = True, time
        return Verdict.COUNTS
