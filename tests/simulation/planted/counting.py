"""Records, and what counts of them (P-1 to P-28)."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from schemas import events, records
from schemas.fold import CANCELLED, Fold, Verdict
from schemas.ids import ClaimId, ResponseId, Tenant, partition_of
from schemas.records import Accepted, Claimed, EventRecord
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.scan import scan
from services.executor import engine, eraser, executor, run
from services.executor.acts import Act
from services.executor.engine import Engine
from services.executor.partition import Partition
from services.ingest import appends
from services.projector import projection
from services.replay import folding, frames
from tests.simulation.plan import Plan, only
from tests.simulation.planted.registry import (
    DELETING,
    OUTRUN,
    REPEATED,
    TARDY,
    TROUBLED,
    UPGRADING,
    ZOMBIES,
    rule,
)

GAPS = replace(TROUBLED, words=60, kinds={"resumable": 1})
Apply = Callable[[Fold, int, int, Any], Verdict]
"""Folds one record: as `Fold.apply`."""


def folded(
    kind: type[Any], changed: Callable[[Fold, int, int, Any, Apply], Verdict]
) -> AbstractContextManager[object]:
    """Folds take records of one kind as `changed` does; it gets the fold's own way as well."""
    original = Fold.apply

    def apply(self: Fold, offset: int, time: int, entry: records.Entry) -> Verdict:
        if isinstance(entry, kind):
            return changed(self, offset, time, entry, original)
        return original(self, offset, time, entry)

    return patch.object(Fold, "apply", apply)


@rule("P-1")
def partition_not_of_the_id() -> Iterator[None]:
    """Ingest appends to whatever partition a hash says."""
    original = partition_of
    with patch.object(appends, "partition_of", lambda id: 1 - original(id)):
        yield


@rule("P-4", "P-70", "P-74")
def reader_decides_by_its_version() -> Iterator[None]:
    """The projector passes over the events of a type that it does not know."""

    def old(record: records.LogRecord, partition: int) -> records.Entry:
        entry = records.parse(record, partition)
        if isinstance(entry, EventRecord) and entry.type == "response.content_part.done":
            return records.Unreadable("a type of a later version")
        return entry

    with patch.object(projection, "parse", old):
        yield


@rule("P-6", "P-81")
def event_encoded_anew() -> Iterator[None]:
    """Replay writes events in a style of its own."""

    def spaced(type: str, number: int, data: bytes) -> bytes:
        return original(type, number, data.replace(b'","', b'", "'))

    original = events.frame
    with patch.object(folding, "frame", spaced), patch.object(frames, "frame", spaced):
        yield


@rule("P-8", "a process died by itself", "A-19", plan=Plan(faults=only(poison=1), targets="x"))
def unreadable_record_stops_the_fold() -> Iterator[None]:
    """An executor raises on what it cannot read."""

    def strict(record: records.LogRecord, partition: int) -> records.Entry:
        entry = records.parse(record, partition)
        if isinstance(entry, records.Unreadable):
            raise ValueError(entry.why)  # noqa: TRY004 - as a parser would
        return entry

    with patch.object(engine, "parse", strict):
        yield


@rule("P-5", plan=Plan(faults=only(storm=3, expel=3, pause=2), targets="x", rate=1))
def shared_key() -> Iterator[None]:
    """A claim's id says only which attempt it is for."""

    original = Engine.claim

    def claim(self: Engine, partition: Partition, id: ResponseId, attempt: int, now: float) -> Sequence[Act]:
        with patch.object(self, "mint", lambda: ClaimId(f"c{attempt:016x}")):
            return original(self, partition, id, attempt, now)

    with patch.object(Engine, "claim", claim):
        yield


@rule("P-7", "P-70")
def derived_event_encoded_anew() -> Iterator[None]:
    """The projector writes its own version of events 0 and 1."""

    def spaced(id: str, accepted: bytes, background: bool) -> list[bytes]:
        return [frame.replace(b'","', b'", "') for frame in original(id, accepted, background)]

    original = events.opening_frames
    with patch.object(projection, "opening_frames", spaced):
        yield


@rule("P-12", "P-70")
def event_without_its_kind_unreadable() -> Iterator[None]:
    """The projector passes over the events that do not say that they are."""

    def strict(record: records.LogRecord, partition: int) -> records.Entry:
        said = record.value is None or "kind" in dict(record.headers)
        return records.parse(record, partition) if said else records.Unreadable("no kind")

    with patch.object(projection, "parse", strict):
        yield


@rule("P-13", "P-81", plan=Plan(faults=only(poison=1), rate=2, words=30))
def kind_of_tomorrow_taken_for_an_event() -> Iterator[None]:
    """Replay takes for an event what has the key of one and a type."""

    def lenient(record: records.LogRecord, partition: int) -> records.Entry:
        entry = records.parse(record, partition)
        named = [header for header in record.headers if header[0] == "type"]
        if isinstance(entry, records.Unreadable) and record.key and record.value and named:
            event = MemoryRecord(record.offset, record.timestamp, record.key, record.value, named, 0)
            return records.parse(event, partition)
        return entry

    with patch.object(folding, "parse", lenient):
        yield


@rule("P-14", "A-19", "P-43")
def claim_id_of_another_shape() -> Iterator[None]:
    """A claim's id looks like a nonce."""
    with patch.object(executor, "claim_id", lambda entropy: ClaimId(entropy.hex())):
        yield


@rule("P-15", "A-3", "A-19", "P-28", "P-70", "P-80", "P-81", plan=UPGRADING)
def one_header_before_all_can_read_it() -> Iterator[None]:
    """A process of today's version writes today's form at once."""

    original = records.EventHeaders

    def event_headers(
        id: ResponseId, claim: ClaimId, attempt: int, tenant: Tenant, _: int
    ) -> records.EventHeaders:
        return original(id, claim, attempt, tenant, records.ONE_HEADER)

    with patch.object(run, "EventHeaders", event_headers):
        yield


@rule("P-20", "P-28", "P-42", "P-54", "P-62", plan=TARDY)
def not_after_ignored() -> Iterator[None]:
    """An `accepted` counts however late it is."""

    def accepted(fold: Fold, offset: int, time: int, entry: Accepted, apply: Apply) -> Verdict:
        return apply(fold, offset, min(time, entry.not_after), entry)

    with folded(Accepted, accepted):
        yield


@rule("P-20", "P-28", "P-42", "P-54", "P-81", "P-70", plan=REPEATED)
def later_accepted_counts() -> Iterator[None]:
    """The last `accepted` counts, not the first."""

    def accepted(fold: Fold, offset: int, time: int, entry: Accepted, apply: Apply) -> Verdict:
        if time <= entry.not_after:
            fold.responses.pop(entry.id, None)
        return apply(fold, offset, time, entry)

    with folded(Accepted, accepted):
        yield


@rule("P-21", "P-42", "P-54", "P-28", "P-81", plan=OUTRUN)
def any_claim_wins() -> Iterator[None]:
    """A claim of the current attempt takes it over."""

    def claimed(fold: Fold, offset: int, time: int, entry: Claimed, apply: Apply) -> Verdict:
        state = fold.get(entry.id)
        if state is not None and entry.attempt == state.attempt:
            state.attempt -= 1
        return apply(fold, offset, time, entry)

    with folded(Claimed, claimed):
        yield


@rule("P-22", "P-28", "P-70", "P-81", plan=ZOMBIES)
def fenced_events_count() -> Iterator[None]:
    """An event counts under any claim."""

    def event(fold: Fold, offset: int, time: int, entry: EventRecord, apply: Apply) -> Verdict:
        state = fold.get(entry.id)
        if state is not None and state.claim is not None:
            claim, state.claim = state.claim, entry.claim
            try:
                return apply(fold, offset, time, entry)
            finally:
                state.claim = claim
        return apply(fold, offset, time, entry)

    with folded(EventRecord, event):
        yield


@rule("P-22", "P-28", "P-70", "P-81", "A-19", "P-43", plan=GAPS)
def numbers_ignored() -> Iterator[None]:
    """An event of the winning claim counts whatever its number."""

    def event(fold: Fold, offset: int, time: int, entry: EventRecord, apply: Apply) -> Verdict:
        state = fold.get(entry.id)
        if state is not None and not state.closed:
            state.last = entry.sequence_number - 1
        return apply(fold, offset, time, entry)

    with folded(EventRecord, event):
        yield


@rule("P-24", "A-19", "P-28", "P-61", "P-70", plan=Plan(cancels=0.8))
def cancel_closes_nothing() -> Iterator[None]:
    """A `cancelled` does not count."""
    with folded(records.Cancelled, lambda *_: Verdict.IGNORED):
        yield


@rule("P-25", "P-28", "P-62", "P-42", "P-54", "P-72", plan=DELETING)
def delete_of_an_unknown_id_forgotten() -> Iterator[None]:
    """A `deleted` counts only for a response that the fold knows."""

    def deleted(fold: Fold, offset: int, time: int, entry: records.Deleted, apply: Apply) -> Verdict:
        return apply(fold, offset, time, entry) if entry.id in fold else Verdict.UNKNOWN

    with folded(records.Deleted, deleted):
        yield


@rule("P-26", "P-28", "P-70", "P-81", plan=replace(ZOMBIES, faults=only(stun=1), rate=1, cancels=1))
def events_after_the_close_count() -> Iterator[None]:
    """A cancelled response goes on."""

    def event(fold: Fold, offset: int, time: int, entry: EventRecord, apply: Apply) -> Verdict:
        state = fold.get(entry.id)
        if state is not None and state.status == CANCELLED:
            state.status = records.IN_PROGRESS
        return apply(fold, offset, time, entry)

    with folded(EventRecord, event):
        yield


@rule("P-23", "A-19", "P-28", "P-61", "P-70")
def terminal_event_closes_nothing() -> Iterator[None]:
    """A response goes on after its terminal event."""

    def event(fold: Fold, offset: int, time: int, entry: EventRecord, apply: Apply) -> Verdict:
        verdict = apply(fold, offset, time, entry)
        state = fold.get(entry.id)
        if verdict is Verdict.COUNTS and entry.terminal and state is not None:
            state.status = records.IN_PROGRESS
        return verdict

    with folded(EventRecord, event):
        yield


@rule("P-27", "P-28", "P-72", "P-62", "P-42", "P-54", plan=replace(DELETING, repeats=1, unsure=0.8))
def tombstone_counts() -> Iterator[None]:
    """A tombstone makes the fold forget its response."""

    def tombstone(fold: Fold, offset: int, time: int, entry: records.Tombstone, apply: Apply) -> Verdict:
        fold.responses.pop(entry.id, None)
        return apply(fold, offset, time, entry)

    with folded(records.Tombstone, tombstone):
        yield


@rule("P-28", plan=DELETING)
def neighbours_erased() -> Iterator[None]:
    """An owner that erases a response tombstones all that lies between its records."""

    async def keys(log: Any, source: Any, wanted: dict[bytes, list[tuple[int, int]]]) -> AsyncIterator[bytes]:
        stretches = [stretch for of_one in wanted.values() for stretch in of_one]
        start, end = min(first for first, _ in stretches), max(end for _, end in stretches)
        async for record in scan(log, source, start, end):
            if record.value is not None and b"/deleted/" not in (record.key or b""):
                yield record.key or b""

    with patch.object(eraser, "keys_of", keys):
        yield
