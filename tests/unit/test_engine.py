"""The executor's pure part: given these records, when this one is read, then these acts."""

from itertools import count
from typing import Any

from schemas.ids import ClaimId, ExecutorId, ResponseId, response_id
from schemas.records import Accepted, Cancelled, Claimed, Deleted, EventHeaders, NewRecord
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import Batch, TopicPartition
from services.eventlog.start import StartingPoint
from services.executor.acts import Act, Claim, Post, Start, Stop
from services.executor.engine import Engine
from services.executor.liveness import Liveness
from services.executor.run import End, Run
from tests.executing import DEAD, FAR, NAMES, TENANT

ID, ME = response_id(0, bytes(16)), ExecutorId("exec_me")
LEASE = 5


class Rig:
    """An engine that owns one partition, and the log that it is told."""

    def __init__(self) -> None:
        claims = (ClaimId(f"c{n:016}") for n in count(1))
        liveness = Liveness(ME)
        self.engine = Engine(liveness, lambda _: None, lambda: next(claims), lease=LEASE, ephemeral_ms=9)
        self.engine.begin(0, StartingPoint(0, 0), end=0)
        self.engine.own(0, StartingPoint(0, 0), end=0)
        self.partition = self.engine.partitions[0]
        self.end = 0

    def read(self, *records: NewRecord, now: float = 0) -> list[Act]:
        at = range(self.end, self.end + len(records))
        self.end = at.stop
        told: Any = [
            MemoryRecord(n, n, r.key, r.value, r.headers, 1) for n, r in zip(at, records, strict=True)
        ]
        return self.engine.read(Batch(TopicPartition(NAMES.events, 0), told, self.end, self.end), now)

    def accept(self) -> None:
        entry = Accepted(ID, "n", TENANT, "sha", FAR, FAR, background=True, store=True)
        assert self.read(entry.new(b"{}")) == []

    def claim(self, attempt: int = 1, now: float = 0) -> NewRecord:
        (act,) = self.engine.claim(self.partition, ID, attempt, now)
        assert isinstance(act, Claim)
        return act.record

    def start(self) -> Run:
        """A response that is accepted, claimed, and runs."""
        self.accept()
        (act,) = self.read(self.claim())
        assert isinstance(act, Start)
        return act.job.run

    def event(self, run: Run, number: int, terminal: str | None = None) -> NewRecord:
        return EventHeaders(ID, run.claim, run.attempt, TENANT).event(number, "t", b"{}", terminal)


def cancelled() -> NewRecord:
    return Cancelled(ID, "n", TENANT).new(b"{}")


def theirs(attempt: int) -> NewRecord:
    return Claimed(ID, attempt, ClaimId("c" + "f" * 16), DEAD, TENANT).new()


def test_a_claim_of_mine_that_counts_starts_a_run() -> None:
    rig = Rig()
    run = rig.start()
    assert rig.engine.runs == {ID: run}
    assert not rig.partition.waiting
    assert not rig.partition.claims.latest


def test_a_claim_that_comes_second_starts_nothing() -> None:
    rig = Rig()
    rig.accept()
    mine = rig.claim()
    assert rig.read(theirs(1), mine) == []
    assert rig.engine.runs == {}


def test_a_claim_that_is_read_too_late_is_claimed_anew() -> None:
    rig = Rig()
    rig.accept()
    (act,) = rig.read(rig.claim(now=0), now=LEASE)
    assert isinstance(act, Claim)
    assert act.attempt == 2
    assert rig.partition.claims.first_call(ID, 2)


def test_a_claim_that_had_seemed_lost_starts_nothing() -> None:
    rig = Rig()
    rig.accept()
    record = rig.claim()
    assert rig.engine.append_failed(0, [record], now=0) == []
    assert rig.read(record) == []
    assert rig.engine.runs == {}


def test_a_claim_of_another_stops_the_run_and_leaves_it_the_upstream() -> None:
    rig = Rig()
    run = rig.start()
    assert rig.read(theirs(2)) == [Stop(run)]
    assert (run.ended, run.handed_over) == (End.FENCED, True)


def test_an_event_that_does_not_count_claims_the_next_attempt_and_says_the_rest_under_it() -> None:
    rig = Rig()
    run = rig.start()
    run.say([], 0)
    (act,) = rig.read(rig.event(run, 7))
    assert isinstance(act, Claim)
    reclaiming = run.reclaiming
    assert rig.read(act.record) == [Post(0, [])]
    assert (reclaiming, run.reclaiming, run.attempt) == (True, False, 2)


def test_a_terminal_event_ends_the_run_and_stops_nothing() -> None:
    rig = Rig()
    run = rig.start()
    assert rig.read(rig.event(run, 2, "completed")) == []
    assert run.ended is End.CLOSED


def test_a_cancel_stops_the_run_and_its_upstream() -> None:
    rig = Rig()
    run = rig.start()
    assert rig.read(cancelled()) == [Stop(run)]
    assert (run.ended, run.handed_over) == (End.STOPPED, False)


def test_a_run_that_tells_its_upstream_to_stop_is_not_interrupted() -> None:
    rig = Rig()
    run = rig.start()
    assert rig.read(cancelled()) == [Stop(run)]
    assert rig.read(Deleted(ID, "n", TENANT, 0).new()) == []
    assert rig.engine.hand_over() == []


def test_a_run_that_ends_by_itself_is_stopped_only_by_a_drain() -> None:
    rig = Rig()
    run = rig.start()
    rig.read(rig.event(run, 2, "completed"))
    assert rig.read(Deleted(ID, "n", TENANT, 0).new()) == []
    assert rig.engine.hand_over() == [Stop(run)]
    assert run.ended is End.CLOSED


def test_a_delete_is_remembered_as_an_erasure() -> None:
    rig = Rig()
    rig.accept()
    assert rig.read(Deleted(ID, "n", TENANT, 0).new()) == []
    ((id, _),) = rig.partition.erasures.wanted
    assert id == ID
    assert rig.partition.watermark(rig.end) == 1


def test_an_append_that_failed_claims_anew_once() -> None:
    rig = Rig()
    run = rig.start()
    records = [rig.event(run, 2), rig.event(run, 3)]
    (act,) = rig.engine.append_failed(0, records, now=0)
    assert isinstance(act, Claim)
    assert rig.engine.append_failed(0, records, now=0) == []


def test_a_run_whose_claim_lapsed_is_claimed_anew_when_its_task_has_ended() -> None:
    rig = Rig()
    run = rig.start()
    run.end(End.LAPSED)
    (act,) = rig.engine.over(run, now=9)
    assert isinstance(act, Claim)
    assert (act.attempt, rig.engine.runs) == (2, {})


def test_what_is_won_while_leaving_is_left_to_others() -> None:
    rig = Rig()
    run = rig.start()
    assert rig.engine.hand_over() == [Stop(run)]
    assert run.ended is End.LEAVING
    other = ResponseId(ID[:-1] + "1")
    rig.read(Accepted(other, "n", TENANT, "sha", FAR, FAR, background=True, store=True).new(b"{}"))
    (act,) = rig.engine.claim(rig.partition, other, 1, 0)
    assert isinstance(act, Claim)
    assert rig.read(act.record) == []


def test_a_partition_in_which_something_runs_is_needed_whoever_owns_it() -> None:
    rig = Rig()
    run = rig.start()
    rig.engine.assigned(frozenset())
    assert rig.engine.unneeded(frozenset()) == []
    rig.read(rig.event(run, 2, "completed"))
    rig.engine.over(run, 0)
    assert rig.engine.unneeded(frozenset()) == [0]
    assert rig.engine.unneeded(frozenset({0})) == []
