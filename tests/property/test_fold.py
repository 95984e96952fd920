"""What counts (P-20 to P-28): whatever is appended in whatever order, every reader agrees.

`histories` writes partitions as they may come to be: accepted, claimed, told and closed responses, among them
everything that a zombie, a retry, a racing cancel or delete may add. No two appends share a key (P-5), and a
repeated `accepted` is due within a window of the first (P-65).
"""

import copy
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.fold import CANCELLED, Fold, State, Verdict
from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant, response_id
from schemas.records import (
    IN_PROGRESS,
    QUEUED,
    Accepted,
    Cancelled,
    Claimed,
    Deleted,
    EventHeaders,
    Headers,
    NewRecord,
    Unreadable,
    parse,
)
from tests.long import examples
from tests.written import claim_of

T = Tenant("acme")
IDS = [response_id(0, bytes([n]) * 16) for n in range(3)]
WINDOW = 60
EPHEMERAL = 40
"""ms, short: histories are as well."""
STATUSES = ["completed", "failed", "incomplete"]


class Stored(NamedTuple):
    """A record as the log hands it out."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class History:
    """Writes a partition. Knows its fold, so that it can tell a record that counts from one that does not."""

    def __init__(self) -> None:
        self.records: list[Stored] = []
        self.fold = Fold()
        self.time = 1_000
        self.met: dict[ResponseId, int] = {}
        self.claims: dict[ResponseId, list[tuple[ClaimId, int]]] = {}

    def put(self, record: NewRecord) -> Verdict:
        stored = Stored(len(self.records), self.time, *record)
        assert stored.value is None or all(stored.key != other.key for other in self.records), "P-5"
        self.records.append(stored)
        return self.fold.apply(stored.offset, stored.timestamp, parse(stored))

    def accept(self, id: ResponseId, due_in: int = WINDOW, store: bool = True) -> Verdict:
        due = min(self.time + due_in, self.met.get(id, self.time) + WINDOW)
        accepted = Accepted(
            id, self.fresh(), T, "sha", due, self.time + 999, len(self.records) % 2 == 0, store
        )
        verdict = self.put(accepted.new(b"{}"))
        if verdict is Verdict.COUNTS:
            self.met.setdefault(id, self.time)
        return verdict

    def claim(self, id: ResponseId, attempt: int) -> Verdict:
        claim = ClaimId(f"c{self.fresh()}")
        self.claims.setdefault(id, []).append((claim, attempt))
        return self.put(Claimed(id, attempt, claim, ExecutorId("exec_1"), T).new())

    def event(
        self, id: ResponseId, claim: ClaimId, number: int, terminal: str | None = None
    ) -> Verdict | None:
        record = EventHeaders(id, claim, 1, T).event(number, "response.x", b"{}", terminal)
        return None if self.has(record.key) else self.put(record)

    def extend(self, id: ResponseId, claim: ClaimId) -> Verdict:
        return self.put(EventHeaders(id, claim, 1, T).extension(len(self.records), "odd", b"{}"))

    def cancel(self, id: ResponseId) -> Verdict:
        return self.put(Cancelled(id, self.fresh(), T).new(b"{}"))

    def delete(self, id: ResponseId) -> Verdict:
        self.met.setdefault(id, self.time)
        return self.put(Deleted(id, self.fresh(), T).new())

    def garbage(self, id: ResponseId, kind: bytes = b"unheard-of") -> Verdict:
        return self.put(NewRecord(f"{id}/odd/{self.fresh()}".encode(), b"{}", [("kind", kind)]))

    def erase(self, id: ResponseId) -> None:
        """Tombstones in log order, so the `accepted` goes first; the `deleted` stays (P-90)."""
        for record in list(self.records):
            mine = record.key is not None and record.key.startswith(f"{id}/".encode())
            if mine and record.value is not None and b"/deleted/" not in (record.key or b""):
                self.put(NewRecord(record.key or b"", None))

    def has(self, key: bytes) -> bool:
        return any(record.key == key for record in self.records)

    def fresh(self) -> str:
        return f"{len(self.records):016x}"


def step(history: History, what: str, id: ResponseId, n: int) -> None:
    """One append. `n` picks among what is possible."""
    state = history.fold.get(id)
    claims = history.claims.get(id, [])
    claim, _ = claims[n % len(claims)] if claims else (claim_of("nobody"), 0)
    match what:
        case "stray":
            history.event(id, claim, n % 7, STATUSES[n % 3] if n % 5 == 0 else None)
        case "bid":
            history.claim(id, n % 4)
        case "extend":
            history.extend(id, claim)
        case "garbage":
            history.garbage(id)
        case "erase" if state and (state.deleted or _unstored_and_closed(state)):
            history.erase(id)
        case _:
            _usual_step(history, what, id, n, state)


def _usual_step(history: History, what: str, id: ResponseId, n: int, state: State | None) -> None:
    match what:
        case "accept":
            history.accept(id, due_in=(n % 5 - 1) * 20, store=n % 4 > 0)
        case "claim":
            history.claim(id, (state.attempt if state else 0) + 1)
        case "tell" if state and state.claim:
            history.event(id, state.claim, state.last + 1)
        case "close" if state and state.claim:
            history.event(id, state.claim, state.last + 1, STATUSES[n % 3])
        case "cancel":
            history.cancel(id)
        case "delete":
            history.delete(id)
        case "wait":
            history.time += n * 10
        case _:
            pass


def _unstored_and_closed(state: State) -> bool:
    return state.closed and state.accepted is not None and not state.accepted.store


USUAL = ["accept", "claim", "tell", "tell", "tell", "close", "cancel", "wait"]
TROUBLE = ["accept", "claim", "bid", "stray", "stray", "extend", "cancel", "delete", "erase", "garbage"]
steps = st.tuples(st.sampled_from(USUAL) | st.sampled_from(TROUBLE), st.sampled_from(IDS), st.integers(0, 20))


def written(script: Iterable[tuple[str, ResponseId, int]]) -> History:
    history = History()
    for what, id, n in script:
        step(history, what, id, n)
    return history


histories = st.lists(steps, min_size=5, max_size=60).map(written)

short_lived = st.lists(
    st.tuples(
        st.sampled_from(["accept", "accept", "cancel", "delete", "wait"]),
        st.sampled_from(IDS[:2]),
        st.integers(0, 5),
    ),
    max_size=12,
).map(written)
"""Responses that close, are forgotten and asked for again."""

CLOSED_AND_ACCEPTED_AGAIN = written(
    [
        ("accept", IDS[0], 3),
        ("cancel", IDS[0], 0),
        ("wait", IDS[0], 3),
        ("accept", IDS[0], 4),
        ("accept", IDS[1], 4),
    ]
)
"""What a retry with the same Idempotency-Key leaves when the first response closed at once."""

Facts = tuple[object, ...]


def facts(state: State) -> Facts:
    """Everything that a state says."""
    return tuple(getattr(state, name) for name in State.__slots__)


def standing(state: State) -> Facts:
    """What a client could see of a state."""
    return (state.status, state.deleted, state.attempt, state.claim, state.last, state.accepted)


def states(fold: Fold) -> dict[ResponseId, Facts]:
    return {id: facts(state) for id, state in fold.responses.items()}


def read(records: Iterable[Stored], fold: Fold | None = None) -> tuple[Fold, dict[int, Verdict]]:
    """What a reader makes of the records: its fold, and per offset whether the record counted."""
    fold = fold or Fold()
    return fold, {r.offset: fold.apply(r.offset, r.timestamp, parse(r)) for r in records}


def counting(verdicts: dict[int, Verdict]) -> set[int]:
    return {offset for offset, verdict in verdicts.items() if verdict is Verdict.COUNTS}


# -- every reader agrees -----------------------------------------------------------------------------


@given(histories, st.data())
def test_p28_the_fold_of_a_prefix_and_the_rest_is_the_fold_of_all(
    history: History, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(history.records)))
    prefix, before = read(history.records[:cut])
    kept = copy.deepcopy(prefix)
    fold, after = read(history.records[cut:], kept)
    whole, verdicts = read(history.records)
    assert states(fold) == states(whole)
    assert before | after == verdicts


@given(histories)
def test_a_response_folds_alike_alone_and_among_others(history: History) -> None:
    whole, verdicts = read(history.records)
    for id in IDS:
        mine = [record for record in history.records if (record.key or b"").startswith(id.encode())]
        alone, alone_verdicts = read(mine)
        assert states(alone) == {each: facts_ for each, facts_ in states(whole).items() if each == id}
        assert alone_verdicts == {record.offset: verdicts[record.offset] for record in mine}


@given(histories)
def test_p4_values_and_headers_of_a_later_version_decide_nothing(history: History) -> None:
    changed = [
        record._replace(
            value=None if record.value is None else b"\xff not json",
            headers=[*record.headers, ("v", b"7"), ("of-tomorrow", b"\xff")],
        )
        for record in history.records
    ]
    assert read(changed)[1] == read(history.records)[1]


@given(histories)
def test_the_numbers_that_count_have_no_gap_and_closed_is_closed(history: History) -> None:
    """The protocol once more, written as what a reader of the log could check afterwards."""
    _, verdicts = read(history.records)
    for id in IDS:
        numbers: list[int] = []
        closed_at: int | None = None
        for record in history.records:
            entry = parse(record)
            if verdicts[record.offset] is not Verdict.COUNTS or getattr(entry, "id", None) != id:
                continue
            assert closed_at is None or isinstance(entry, Deleted), "P-26"
            match entry:
                case Accepted(background=background):
                    numbers = list(range(1 + background))
                case Cancelled():
                    numbers.append(len(numbers))
                    closed_at = record.offset
                case Deleted():
                    closed_at = record.offset
                case Claimed():
                    pass
                case event:
                    numbers.append(event.sequence_number)  # type: ignore[union-attr]
                    closed_at = record.offset if event.terminal else None  # type: ignore[union-attr]
        assert numbers == list(range(len(numbers))), "P-22"


# -- what is added changes nothing ---------------------------------------------------------------------


def _with(history: History, extra: Sequence[NewRecord], at: int) -> list[Stored]:
    """The history with records slipped in; offsets of the others are kept, as after compaction."""
    spread = [record._replace(offset=record.offset * 1000) for record in history.records]
    time = history.records[at - 1].timestamp if at else 0
    base = spread[at - 1].offset + 1 if at else -len(extra) - 1
    return [*spread[:at], *(Stored(base + i, time, *record) for i, record in enumerate(extra)), *spread[at:]]


@given(histories, st.data())
def test_p22_events_of_a_claim_that_never_won_change_nothing(history: History, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(history.records)))
    numbers = data.draw(st.lists(st.integers(0, 9), max_size=5, unique=True))
    headers = EventHeaders(data.draw(st.sampled_from(IDS)), claim_of("zombie"), 1, T)
    zombies = [headers.event(n, "response.completed", b"{}", "completed" if n % 2 else None) for n in numbers]
    _same_but_for_offsets(history, _with(history, zombies, at))


@given(histories, st.data())
def test_p8_what_cannot_be_read_changes_nothing(history: History, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(history.records)))
    id = data.draw(st.sampled_from(IDS))
    key = data.draw(st.sampled_from([b"", b"\xff", f"{id}/accepted".encode(), f"{id}/a/b/c/d".encode()]))
    kind = data.draw(st.sampled_from([b"event", b"accepted", b"claimed", b"deleted", b"from-the-future"]))
    _same_but_for_offsets(history, _with(history, [NewRecord(key, b"{}", [("kind", kind)])], at))


@given(histories, st.data())
def test_p27_extensions_and_tombstones_change_nothing(history: History, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(history.records)))
    id = data.draw(st.sampled_from(IDS))
    state = history.fold.get(id)
    claim = state.claim if state and state.claim else claim_of("0")
    extra = [EventHeaders(id, claim, 1, T).extension(0, "odd", b"{}")]
    extra += [NewRecord(record.key or b"", None) for record in history.records[:3]]
    _same_but_for_offsets(history, _with(history, extra, at))


def _same_but_for_offsets(history: History, records: list[Stored]) -> None:
    fold, _ = read(records)
    assert {id: standing(state) for id, state in fold.responses.items()} == {
        id: standing(state) for id, state in history.fold.responses.items()
    }


@given(
    st.binary(max_size=20)
    | st.sampled_from([IDS[0] + end for end in ("", "/x", "/x/1", "/a/b/c")]).map(str.encode),
    st.none() | st.binary(max_size=5),
    st.lists(
        st.tuples(
            st.sampled_from(["kind", "type", "terminal", "tenant", "not_after", "deadline", "background"]),
            st.sampled_from([b"event", b"accepted", b"claimed", b"cancelled", b"deleted", b"extension"])
            | st.binary(max_size=4),
        )
    ),
)
@example(f"{IDS[0]}".encode(), b"{}", [("kind", b"cancelled"), ("tenant", b"t")])
def test_p8_parsing_never_raises(key: bytes, value: bytes | None, headers: Headers) -> None:
    entry = parse(Stored(0, 0, key, value, headers))
    Fold().apply(0, 0, entry)


def test_p8_a_header_without_a_value_is_unreadable() -> None:
    nulls = [("kind", b"deleted"), ("tenant", b"t"), ("accepted_offset", None)]
    assert isinstance(parse(Stored(0, 0, IDS[0].encode() + b"/deleted/n", b"{}", nulls)), Unreadable)  # type: ignore[arg-type]


# -- compaction and retention ----------------------------------------------------------------------------


def compacted(records: Sequence[Stored], upto: int, without_tombstones: bool) -> list[Stored]:
    """As the cleaner leaves it: of what is older than the lag, the last record of each key."""
    last = {record.key: record.offset for record in records[:upto]}
    return [
        record
        for record in records
        if record.offset >= upto
        or (last[record.key] == record.offset and not (without_tombstones and record.value is None))
    ]


@given(histories, st.data())
def test_p28_compaction_changes_nothing_but_what_was_erased(history: History, data: st.DataObject) -> None:
    upto = data.draw(st.integers(0, len(history.records)))
    left = compacted(history.records, upto, data.draw(st.booleans()))
    whole, verdicts = read(history.records)
    fold, found = read(left)
    erased = {id for id, state in whole.responses.items() if state.deleted or _unstored_and_closed(state)}
    for id, state in whole.responses.items():
        if id not in erased:
            assert facts(fold.responses[id]) == facts(state)
        elif state.deleted:
            assert fold.responses[id].deleted
        else:
            assert id not in fold or fold.responses[id].closed
    for record in left:
        if not any((record.key or b"").startswith(id.encode()) for id in erased):
            assert found[record.offset] is verdicts[record.offset]


@given(histories)
def test_p5_compaction_removes_only_what_a_tombstone_names(history: History) -> None:
    tombstones = {record.key for record in history.records if record.value is None}
    kept = {record.offset for record in compacted(history.records, len(history.records), False)}
    gone = {record.key for record in history.records if record.offset not in kept}
    assert gone <= tombstones


@settings(max_examples=examples(500))
@given(short_lived | histories, st.integers(0, 60))
@example(CLOSED_AND_ACCEPTED_AGAIN, 2)
def test_p62_a_reader_that_starts_at_a_watermark_agrees_on_everything_accepted_since(
    history: History, n: int
) -> None:
    seen = n % (len(history.records) + 1)
    floor = read(history.records[:seen])[0].low_watermark(seen)
    start = _start(history.records, floor)
    whole, verdicts = read(history.records)
    fold, found = read(history.records[start:])
    mine = {id: facts(s) for id, s in whole.responses.items() if s.offset >= floor}
    assert {id: facts(s) for id, s in fold.responses.items() if id in mine} == mine
    for id, state in fold.responses.items():
        assert id in mine or state.offset < floor or state.accepted is None, "a second life"
    own = counting(found) & {o for o in found if _accepted_since(history, whole, o, floor)}
    assert own == {o for o in counting(verdicts) if _accepted_since(history, whole, o, floor)}


def _start(records: Sequence[Stored], floor: int) -> int:
    """The first record with log time >= time(watermark) - window."""
    if not records:
        return 0
    since = records[min(floor, len(records) - 1)].timestamp - WINDOW
    return next(record.offset for record in records if record.timestamp >= since)


def _accepted_since(history: History, whole: Fold, offset: int, floor: int) -> bool:
    id = getattr(parse(history.records[offset]), "id", None)
    state = whole.get(id) if id else None
    return state is not None and state.offset >= floor


@given(short_lived | histories)
@example(CLOSED_AND_ACCEPTED_AGAIN)
def test_p63_forgetting_after_the_window_changes_nothing(history: History) -> None:
    whole, verdicts = read(history.records)
    fold = Fold()
    for record in history.records:
        fold.forget(record.timestamp - WINDOW, EPHEMERAL)
        verdict = fold.apply(record.offset, record.timestamp, parse(record))
        if verdict is not verdicts[record.offset]:
            assert {verdict, verdicts[record.offset]} <= {
                Verdict.UNKNOWN,
                Verdict.CLOSED,
                Verdict.LATE,
                Verdict.VOID,
            }
    for id, state in fold.responses.items():
        assert standing(state) == standing(whole.responses[id]) or (state.accepted is None and state.deleted)


# -- one by one ------------------------------------------------------------------------------------------

ID = IDS[0]


def running() -> tuple[History, ClaimId]:
    """A response whose first attempt told one event. It is in the background: 0 and 1 are derived."""
    history = History()
    history.accept(ID)
    history.claim(ID, 1)
    claim = history.claims[ID][0][0]
    assert history.event(ID, claim, 2) is Verdict.COUNTS
    return history, claim


def state_of(history: History) -> State:
    return history.fold.responses[ID]


def test_p20_the_first_accepted_counts_and_later_ones_never() -> None:
    history = History()
    assert history.accept(ID) is Verdict.COUNTS
    first = state_of(history).accepted
    assert history.accept(ID) is Verdict.LATE
    assert state_of(history).accepted == first


def test_p20_an_accepted_after_its_not_after_is_void_and_the_next_one_counts() -> None:
    history = History()
    assert history.accept(ID, due_in=-1) is Verdict.VOID
    assert ID not in history.fold
    assert history.accept(ID, due_in=0) is Verdict.COUNTS


def test_p20_an_accepted_of_a_deleted_id_never_counts() -> None:
    history = History()
    history.delete(ID)
    assert history.accept(ID) is Verdict.LATE
    assert state_of(history).accepted is None


def test_p21_the_first_claim_of_the_next_attempt_wins_and_fences_the_older() -> None:
    history, old = running()
    assert history.claim(ID, 2) is Verdict.COUNTS
    winner = state_of(history).claim
    assert history.claim(ID, 2) is Verdict.OUTBID
    assert state_of(history).claim == winner != old
    assert history.event(ID, old, 3) is Verdict.FENCED
    assert winner is not None
    assert history.event(ID, winner, 3) is Verdict.COUNTS


def test_p21_a_claim_of_another_attempt_does_not_count() -> None:
    history, _ = running()
    assert [history.claim(ID, attempt) for attempt in (0, 1, 3)] == [Verdict.OUTBID] * 3


def test_p22_an_event_counts_only_with_the_number_after_the_last() -> None:
    history, claim = running()
    assert history.event(ID, claim, 4) is Verdict.GAP
    assert history.event(ID, claim, 1) is Verdict.GAP
    assert history.event(ID, claim, 3) is Verdict.COUNTS


def test_p22_an_event_of_an_unknown_response_does_not_count() -> None:
    assert History().event(ID, claim_of("1"), 0) is Verdict.UNKNOWN


def test_p23_a_terminal_event_closes_with_its_status() -> None:
    for status in STATUSES:
        history, claim = running()
        assert state_of(history).status == IN_PROGRESS
        assert history.event(ID, claim, 3, status) is Verdict.COUNTS
        assert (state_of(history).status, state_of(history).closed) == (status, True)


def test_p23_a_terminal_status_of_a_later_version_closes_as_well() -> None:
    history, claim = running()
    assert history.event(ID, claim, 3, "abandoned") is Verdict.COUNTS
    assert state_of(history).closed
    assert history.event(ID, claim, 4) is Verdict.CLOSED


def test_p24_a_cancel_is_the_terminal_event_numbered_after_the_last() -> None:
    history, claim = running()
    assert history.cancel(ID) is Verdict.COUNTS
    assert (state_of(history).status, state_of(history).last) == (CANCELLED, 3)
    assert history.event(ID, claim, 3) is Verdict.CLOSED
    assert history.cancel(ID) is Verdict.CLOSED


def test_p24_a_cancel_of_a_queued_or_unknown_response() -> None:
    history = History()
    assert history.cancel(ID) is Verdict.UNKNOWN
    history.accept(ID)
    assert state_of(history).status == QUEUED
    assert history.cancel(ID) is Verdict.COUNTS


def test_p25_a_delete_counts_open_closed_and_for_an_id_never_seen() -> None:
    never, (open_, _), (closed, _) = History(), running(), running()
    closed.cancel(ID)
    for history in (never, open_, closed):
        assert history.delete(ID) is Verdict.COUNTS
        assert state_of(history).deleted
        assert state_of(history).closed
        assert history.delete(ID) is Verdict.COUNTS


def test_p26_nothing_counts_after_the_close_but_a_delete() -> None:
    history, claim = running()
    history.event(ID, claim, 3, "completed")
    assert history.event(ID, claim, 4) is Verdict.CLOSED
    assert history.claim(ID, 2) is Verdict.CLOSED
    assert history.cancel(ID) is Verdict.CLOSED
    assert history.accept(ID) is Verdict.LATE
    assert state_of(history).status == "completed"
    assert history.delete(ID) is Verdict.COUNTS


def test_p27_extensions_tombstones_and_unreadable_records_never_count() -> None:
    history, claim = running()
    before = facts(state_of(history))
    assert history.extend(ID, claim) is Verdict.IGNORED
    assert history.put(NewRecord(history.records[0].key or b"", None)) is Verdict.IGNORED
    assert history.garbage(ID) is Verdict.IGNORED
    assert facts(state_of(history)) == before


def test_p61_the_low_watermark_is_the_oldest_open_response_or_the_position() -> None:
    history = History()
    assert history.fold.low_watermark(0) == 0
    for id in IDS:
        history.accept(id)
    assert history.fold.low_watermark(3) == 0
    history.cancel(IDS[0])
    assert history.fold.low_watermark(4) == 1
    assert history.fold.low_watermark(4, floor=2) == 2
    history.cancel(IDS[1])
    history.delete(IDS[2])
    assert history.fold.low_watermark(6) == 6


def test_p63_closed_responses_are_forgotten_and_open_ones_never() -> None:
    history = History()
    for id in IDS[:2]:
        history.accept(id)
    history.cancel(ID)
    assert [state.id for state in history.fold.forget(history.time, EPHEMERAL)] == []
    assert [state.id for state in history.fold.forget(history.time + 1, EPHEMERAL)] == [ID]
    assert list(history.fold.responses) == [IDS[1]]


def test_p63_an_ephemeral_response_is_remembered_for_as_long_as_it_is_kept() -> None:
    history = History()
    history.accept(ID, store=False)
    history.cancel(ID)
    kept_until = history.fold.responses[ID].kept_until(EPHEMERAL)
    assert kept_until == history.time + EPHEMERAL
    assert [state.id for state in history.fold.forget(kept_until, EPHEMERAL)] == []
    assert [state.id for state in history.fold.forget(kept_until + 1, EPHEMERAL)] == [ID]
