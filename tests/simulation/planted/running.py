"""Appending, attempts and claims, and who is alive (P-30 to P-51)."""

import asyncio
import secrets
from collections.abc import Iterator
from itertools import cycle
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from schemas.fold import State
from schemas.ids import ExecutorId, ResponseId, partition_of
from schemas.records import Cancelled, EventHeaders, NewRecord
from services.eventlog.follower import Follower
from services.executor import decide, engine, executor, fairness, liveness, run, steward, work
from services.executor.acts import Post
from services.executor.backend import Resume
from services.executor.beats import Beats
from services.executor.decide import Continuation, Meaning, Step, View
from services.executor.engine import Engine
from services.executor.executor import Executor
from services.executor.mending.whole import Whole
from services.executor.partition import Partition
from services.executor.past import Past
from services.executor.predecessors import Predecessors
from services.executor.run import End, Run
from services.executor.scribe import Scribe
from services.executor.steward import Steward
from tests.points import when
from tests.simulation.plan import Plan, only
from tests.simulation.planted.registry import DYING, MIXED, NARROW, OUTRUN, TROUBLED, ZOMBIES, rule

STALLING = Plan(
    faults=only(pause=6, kill=1), targets="x", rate=1.5, responses=16, chained=0.6, deletes=0, cancels=0
)
HANGING = Plan(
    faults=only(broker=1), trouble=0, rate=0.1, lossless=True, grace=20, words=80, responses=14, max_queue=20
)
FULL = Plan(slots=1, responses=16, max_queue=30, words=20, faults=only(expel=1), rate=0.2, targets="x")
DRAINING = Plan(faults=only(restart=3, roll=1), targets="x", rate=0.4, grace=2, words=60, responses=12)
ROLLING = Plan(
    faults=only(restart=2, roll=1),
    targets="x",
    rate=0.15,
    grace=20,
    seconds=60,
    trouble=0,
    lossless=True,
    chained=0,
    kinds={"resumable": 1, "repeatable": 1, "fragile": 1},
)


@rule("P-30", "A-19", "P-43", "P-45", "P-48", plan=TROUBLED)
def ack_taken_for_acceptance() -> Iterator[None]:
    """A run keeps nothing of what it has sent."""
    with when("events queued", lambda run, _: run.unread.clear()):
        yield


@rule("P-32", "A-19", "P-43", "P-48", plan=TROUBLED)
def lost_append_ignored() -> Iterator[None]:
    """A run does not hear that an append of it failed, nor that an event of it does not count."""
    with patch.object(Run, "rejected", lambda _: False):
        yield


@rule("P-34", "A-3", plan=DYING)
def upstream_resumed_at_its_start() -> Iterator[None]:
    """A takeover does not say how far the upstream was."""
    with patch.object(work, "resume_at", lambda *_: Resume(None, None, 0)):
        yield


@rule("P-34", "A-3", plan=replace(DYING, trouble=0.3, kinds={"resumable": 1}, words=20, seven=0))
def upstreams_id_said_once_per_response() -> Iterator[None]:
    """A run that told the upstream's id does not tell it again under its next claim."""
    said: dict[ResponseId, tuple[str, bytes]] = {}

    class Forgetful(EventHeaders):
        def __init__(self, id: ResponseId, *claim: Any) -> None:
            super().__init__(id, *claim)
            self._id = id

        def event(self, *event: Any) -> NewRecord:
            self.said = said.get(self._id, self.said)
            record = super().event(*event)
            if self.said is not None:
                said[self._id] = self.said
            return record

    with patch("services.executor.run.EventHeaders", Forgetful):
        yield


@rule(
    "U-11",
    "A-3",
    plan=replace(
        DYING,
        kinds={"terse": 1},
        words=4,
        rate=2,
        trouble=0.3,
        responses=20,
        max_queue=30,
        faults=only(stun=6, kill=3),
        acts={"x": ("event",)},
    ),
)
def heard_before_all_is_told() -> Iterator[None]:
    """Each draft of an upstream's event says that the event was heard."""
    with patch.object(Scribe, "placed", lambda _, drafts, __: drafts):
        yield


@rule("P-38", "A-3", plan=MIXED)
def told_while_it_waits() -> Iterator[None]:
    """Waiting words count as told: a takeover goes on behind them."""
    with patch.object(Whole, "holds_back", False):
        yield


@rule("P-39", "A-3", plan=MIXED)
def gone_on_with_all_that_counts() -> Iterator[None]:
    """A takeover at the last point of rest takes what is behind it for told by then."""

    def at_once(self: Past, *told: Any, partial: bool) -> None:
        add(self, *told, partial=partial)
        self.settle()

    add = Past.add
    with patch.object(Past, "add", at_once):
        yield


@rule("P-113", "A-3", plan=MIXED)
def counted_as_we_count() -> Iterator[None]:
    """The log does not say how the upstream counts its items."""
    with patch.object(Whole, "other_index", lambda *_: None):
        yield


@rule("P-40", "A-19", "P-43", "P-42", "P-54", plan=DYING)
def reused_executor_id() -> Iterator[None]:
    """A fresh process has the id of an older one."""
    ids = cycle([ExecutorId("exec_a"), ExecutorId("exec_b"), ExecutorId("exec_c")])
    with patch.object(executor, "executor_id", lambda _: next(ids)):
        yield


@rule("P-52", plan=STALLING)
def late_upstream_call() -> Iterator[None]:
    """There is no lease: a claim is good however long ago it was sent."""
    with patch.object(engine, "too_old", lambda *_: False), patch.object(run, "too_old", lambda *_: False):
        yield


@rule("P-42", plan=OUTRUN)
def claim_not_read_back() -> Iterator[None]:
    """A claim that was sent is taken for won."""
    original = decide.meaning

    def hasty(state: State, me: ExecutorId, *, sent: bool, running: bool, **of: Any) -> Meaning:
        if sent and not running and not state.closed:
            return Meaning.WON
        return original(state, me, sent=sent, running=running, **of)

    with patch.object(engine, "meaning", hasty):
        yield


@rule("P-43", "A-19", "P-43", plan=TROUBLED, seeds=150)
def winning_claim_without_a_run() -> Iterator[None]:
    """A claimant waits for itself."""
    original = decide.decide

    def mine(state: State, view: View) -> Step:
        return Step.WAIT if state.executor == view.me else original(state, view)

    with (
        patch.object(steward, "decide", mine),
        patch.object(Run, "lapsed", lambda self, now, _: now - self.sent_at > 0.2),
    ):
        yield


@rule("P-44", plan=DYING)
def fragile_upstream_run_again() -> Iterator[None]:
    """A takeover runs again what is not declared repeatable."""
    original = decide.continuation

    def again(state: State, **can: Any) -> Continuation:
        how = original(state, **can)
        return Continuation.RUN if how is Continuation.END_LOST else how

    with patch.object(work, "continuation", again):
        yield


@rule("P-44", "A-3", plan=DYING)
def repeated_after_output() -> Iterator[None]:
    """A repeatable upstream is run again although output counted."""
    with patch.object(State, "output_counted", False):
        yield


@rule("P-44", "A-19", "P-43", plan=DYING)
def no_takeover() -> Iterator[None]:
    """No executor is ever gone."""
    with patch.object(liveness.Liveness, "gone", lambda *_: False):
        yield


@rule("P-46", plan=Plan(cancels=0.7, deletes=0.5, words=1_000, faults=only(pause=1), seconds=20))
def upstream_not_stopped() -> Iterator[None]:
    """A run goes on after its end."""
    with patch.object(End, "stops", False):
        yield


@rule("P-47", "A-19", plan=Plan(kinds={"silent": 1}, cancels=0, deletes=0))
def deadline_ignored() -> Iterator[None]:
    """No executor looks at the deadline."""
    with (
        patch.object(decide, "overdue", lambda *_: False),
        patch.object(steward, "overdue", lambda *_: False),
        patch.object(work, "time_left", lambda *_: 1e6),
    ):
        yield


@rule("P-48", "A-19", "P-43", "P-48", plan=Plan(faults=only(expel=4, storm=2), targets="x", rate=1))
def unowned_partition_not_folded() -> Iterator[None]:
    """A partition that is lost is dropped, whatever runs in it."""

    def unneeded(self: Engine, assigned: frozenset[int]) -> list[int]:
        return [number for number in self.partitions if number not in assigned]

    with patch.object(Engine, "unneeded", unneeded):
        yield


# Who is alive.


@rule("P-50", "P-51", plan=HANGING)
def beats_that_queue_up() -> Iterator[None]:
    """The next beat is sent whether or not the last was read back."""
    original, under_way = Beats.beat, set[asyncio.Task[None]]()

    async def beat(self: Beats) -> None:
        under_way.add(asyncio.create_task(original(self)))

    with patch.object(Beats, "beat", beat):
        yield


@rule("P-51", plan=Plan(faults=only(slow=1, expel=2), targets="x", seconds=60))
def one_missed_beat_is_death() -> Iterator[None]:
    """An executor that has missed one beat is gone."""
    with patch.object(liveness, "BEATS_TO_GONE", 1):
        yield


@rule("P-33", plan=Plan(faults=only(broker=1), rate=0.05, words=60, deletes=0, cancels=0, seconds=60))
def taken_from_while_nothing_is_read_back() -> Iterator[None]:
    """Only the number and the bytes of what is unread stop a run, not how long it is."""
    original = Run.too_much
    with patch.object(Run, "too_much", lambda self, _: original(self, self.unread[0].at)):
        yield


@rule("P-41")
def claimed_by_anybody() -> Iterator[None]:
    """An executor that follows a partition claims there, whether or not it is the owner."""

    class Everywhere(Follower[Any]):
        def assigned(self, owned: frozenset[int]) -> None:
            super().assigned(owned | {0, 1})

    with patch.object(executor, "Follower", Everywhere):
        yield


@rule("P-56", plan=Plan(faults=only(kill=3, expel=2, slow=4), targets="x", rate=1, responses=14))
def claimed_before_caught_up() -> Iterator[None]:
    """An owner acts on whatever it has folded yet."""
    with patch.object(Partition, "acting", lambda self: self.owned):
        yield


@rule("P-57", plan=FULL)
def claimed_without_a_free_slot() -> Iterator[None]:
    """Slots are not counted."""
    with patch.object(Steward, "free", lambda _: 100), patch.object(executor, "most", lambda *_: 100):
        yield


@rule("P-49", plan=NARROW)
def called_without_a_free_place() -> Iterator[None]:
    """Places are not counted."""
    with patch.object(fairness.Occupancy, "full", lambda *_: False):
        yield


@rule("P-58", plan=Plan(chained=0.8, responses=14, words=30, faults=only(expel=1), rate=0.2))
def claimed_before_its_predecessor_closed() -> Iterator[None]:
    """A run waits for the one that it follows."""
    with patch.object(Predecessors, "open", lambda *_: False):
        yield


@rule("P-45", plan=replace(ZOMBIES, faults=only(stun=1), rate=1, kinds={"resumable": 1}, max_attempts=1))
def attempts_without_a_cap() -> Iterator[None]:
    """A response is attempted for ever."""
    original = decide.continuation

    def uncapped(state: State, **can: Any) -> Continuation:
        return original(state, **{**can, "max_attempts": 1_000})

    with patch.object(work, "continuation", uncapped):
        yield


# Shutdown is never a cancellation.


@rule("A-21", plan=DRAINING)
def drain_that_cancels() -> Iterator[None]:
    """An executor that stops cancels what it runs."""

    def cancel_all(executor: Executor) -> None:
        for one in executor.engine.runs.values():
            final = b'{"id":"%s","status":"cancelled","output":[]}' % one.id.encode()
            record = Cancelled(one.id, secrets.token_hex(4), one.tenant).new(final)
            executor.do([Post(partition_of(one.id), [record])])

    with when("handing over", cancel_all):
        yield


@rule("A-21", "P-51", "P-48", plan=ROLLING)
def drain_without_grace() -> Iterator[None]:
    """An executor that stops stops its runs at once."""
    with when("draining", lambda executor: executor.do(executor.engine.hand_over())):
        yield


@rule("A-21", plan=DRAINING)
def left_while_running() -> Iterator[None]:
    """An executor says that its runs are up for takeover, and then waits for them."""
    leaving = set[asyncio.Task[None]]()
    with when("draining", lambda executor: leaving.add(asyncio.create_task(executor.beats.leave()))):
        yield
