"""Takes the protocol's rules away one by one, to show that the simulation would notice.

    python -m tests.simulation.planted                 every rule: the first seed that finds its absence
    python -m tests.simulation.planted forgotten-gone  one of them

Each plant patches the real code so that one MUST does not hold, and names the promises by which its absence
shows. One that no seed finds means that the simulation is too weak, or the rule superfluous.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle
from typing import Any
from unittest.mock import patch

from msgspec import Struct, field

from schemas import events, fold, records
from schemas.fold import Fold, State, Verdict
from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant
from schemas.records import Accepted, Claimed, EventRecord, NewRecord
from services.eventlog import transcript
from services.eventlog.port import Log
from services.eventlog.start import Start, starting_points
from services.executor import decide, engine, executor, liveness, steward, work
from services.executor.backend import Resume
from services.executor.beats import Beats
from services.executor.decide import Continuation, Step, View
from services.executor.engine import Engine
from services.executor.partition import Partition, Sent
from services.executor.run import Run
from services.executor.steward import Steward
from services.projector import projection, projector
from services.projector.projection import Projection, Work, Write, response_record
from services.projector.projector import Projector
from services.projector.views import Views
from services.replay import app
from services.replay.barrier import Barrier
from services.replay.feed import Feed
from services.replay.folding import Folding
from services.replay.library import Library
from tests.simulation.plan import Plan, only
from tests.simulation.world import simulate

PATIENCE = 12.0
"""Seconds of this machine's time for one rule."""
Plant = Callable[[], AbstractContextManager[Any]]
TROUBLED = Plan(trouble=0.2, targets="x")
DYING = Plan(faults=only(kill=3, pause=4, expel=2), targets="x", rate=0.8, cancels=0.1, deletes=0)
STALLING = Plan(
    faults=only(pause=6, kill=1), targets="x", rate=1.5, responses=16, chained=0.6, deletes=0, cancels=0
)
LATE = Plan(
    faults=only(pause=6),
    targets="x",
    rate=1,
    responses=16,
    trouble=0.25,
    words=60,
    deletes=0,
    cancels=0,
    kinds={"resumable": 1},
)
CROWDED = Plan(
    faults=only(storm=3, expel=4, pause=3, kill=1), targets="x", rate=1.5, responses=14, trouble=0.1, words=20
)
REPEATED = Plan(
    repeats=1, cancels=0.8, deletes=0.1, faults=only(kill=6, restart=1, expel=2, compact=3), targets="xp"
)
DELETING = Plan(deletes=0.9, repeats=0.6, targets="xp")
READING = Plan(faults=only(follow=12, kill=3, pause=3, expel=3, slow=3, reader=3), rate=2)


class Rule(Struct, frozen=True):
    """A rule, what takes it away, and how its absence shows."""

    name: str
    number: str
    plant: Plant
    shows: tuple[str, ...]
    """Beginnings of the promises that may be found broken; each of them alone is enough."""
    plan: Plan = field(default_factory=Plan)
    seeds: int = 60


RULES: dict[str, Rule] = {}


def rule(
    number: str, *shows: str, plan: Plan | None = None, seeds: int = 60
) -> Callable[[Callable[[], Iterator[None]]], Plant]:
    """Register a plant under its function's name."""

    def register(function: Callable[[], Iterator[None]]) -> Plant:
        plant = contextmanager(function)
        name = function.__name__.replace("_", "-")
        RULES[name] = Rule(name, number, plant, shows or (number,), plan or Plan(), seeds)
        return plant

    return register


def found(rule: Rule) -> tuple[int, Counter[str]] | None:
    """The first seed that notices, and what it noticed; None when none does."""
    with rule.plant():
        for seed in range(rule.seeds):
            broken = simulate(seed, rule.plan)
            seen = {what: n for what, n in broken.items() if what.startswith(rule.shows)}
            if seen:
                return seed, Counter(seen)
    return None


# Records and the fold.


@rule("P-5", plan=Plan(faults=only(storm=3, expel=3, pause=2), targets="x", rate=1))
def shared_key() -> Iterator[None]:
    """A claim's id says only which attempt it is for."""

    def claim(self: Engine, partition: Partition, id: ResponseId, attempt: int) -> None:
        claim = ClaimId(f"c{attempt:016x}")
        partition.send(claim, Sent(id, attempt, asyncio.get_running_loop().time()))
        self.post(partition, Claimed(id, attempt, claim, self.me, Tenant("sim")).new())

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


@rule("P-20", "P-28", "P-42", "P-62", plan=REPEATED)
def not_after_ignored() -> Iterator[None]:
    """An `accepted` counts however late it is."""
    original = Fold._accepted

    def accepted(self: Fold, offset: int, time: int, entry: Accepted) -> Verdict:
        return original(self, offset, min(time, entry.not_after), entry)

    with patch.object(Fold, "_accepted", accepted):
        yield


@rule("P-20", "P-28", "P-42", "P-81", "P-70", plan=REPEATED)
def later_accepted_counts() -> Iterator[None]:
    """The last `accepted` counts, not the first."""
    original = Fold._accepted

    def accepted(self: Fold, offset: int, time: int, entry: Accepted) -> Verdict:
        if time <= entry.not_after:
            self.responses.pop(entry.id, None)
        return original(self, offset, time, entry)

    with patch.object(Fold, "_accepted", accepted):
        yield


@rule("P-21", "P-42", "P-28", "P-81", plan=CROWDED)
def any_claim_wins() -> Iterator[None]:
    """A claim of the current attempt takes it over."""
    original = Fold._claimed

    def claimed(self: Fold, offset: int, time: int, entry: Claimed) -> Verdict:
        state = self.responses.get(entry.id)
        if state is not None and entry.attempt == state.attempt:
            state.attempt -= 1
        return original(self, offset, time, entry)

    with patch.object(Fold, "_claimed", claimed):
        yield


@rule("P-22", "P-28", "P-70", "P-81", plan=LATE)
def fenced_events_count() -> Iterator[None]:
    """An event counts whoever tells it."""
    original = Fold._event

    def event(self: Fold, time: int, entry: EventRecord) -> Verdict:
        state = self.responses.get(entry.id)
        if state is not None and state.claim is not None:
            claim, state.claim = state.claim, entry.claim
            try:
                return original(self, time, entry)
            finally:
                state.claim = claim
        return original(self, time, entry)

    with patch.object(Fold, "_event", event):
        yield


@rule("P-22", "P-28", "P-70", "P-81", "A-19", "P-43", plan=TROUBLED)
def numbers_ignored() -> Iterator[None]:
    """An event of the winning claim counts whatever its number."""
    original = Fold._event

    def event(self: Fold, time: int, entry: EventRecord) -> Verdict:
        state = self.responses.get(entry.id)
        if state is not None and not state.closed:
            state.last = entry.sequence_number - 1
        return original(self, time, entry)

    with patch.object(Fold, "_event", event):
        yield


@rule("P-24", "A-19", "P-28", "P-61", "P-70", plan=Plan(cancels=0.8))
def cancel_closes_nothing() -> Iterator[None]:
    """A `cancelled` does not count."""
    with patch.object(Fold, "_cancelled", lambda *_: Verdict.IGNORED):
        yield


@rule("P-25", "P-28", "P-62", "P-42", "P-72", plan=DELETING)
def delete_of_an_unknown_id_forgotten() -> Iterator[None]:
    """A `deleted` counts only for a response that the fold knows."""
    original = Fold._deleted

    def deleted(self: Fold, offset: int, time: int, entry: records.Deleted) -> Verdict:
        return original(self, offset, time, entry) if entry.id in self.responses else Verdict.UNKNOWN

    with patch.object(Fold, "_deleted", deleted):
        yield


@rule("P-26", "P-28", "P-70", "P-81", plan=Plan(cancels=0.9))
def events_after_the_close_count() -> Iterator[None]:
    """A cancelled response goes on."""
    original = Fold._event

    def event(self: Fold, time: int, entry: EventRecord) -> Verdict:
        state = self.responses.get(entry.id)
        if state is not None and state.status == fold.CANCELLED:
            state.status = fold.IN_PROGRESS
        return original(self, time, entry)

    with patch.object(Fold, "_event", event):
        yield


# Appending and running.


@rule("P-30", "A-19", "P-43", "P-45", "P-48", plan=TROUBLED)
def ack_taken_for_acceptance() -> Iterator[None]:
    """A run keeps nothing of what it has sent."""
    original = Run._post

    def post(self: Run, drafts: Any) -> None:
        original(self, drafts)
        self._unread.clear()

    with patch.object(Run, "_post", post):
        yield


@rule("P-32", "A-19", "P-43", "P-48", plan=TROUBLED)
def lost_append_ignored() -> Iterator[None]:
    """A run does not hear that an append of it failed, nor that an event of it does not count."""
    with patch.object(Run, "rejected", lambda _: True):
        yield


@rule("P-34", "A-3", plan=DYING)
def upstream_resumed_at_its_start() -> Iterator[None]:
    """A takeover does not say how far the upstream was."""
    with patch.object(work.Worker, "_resume", lambda *_: Resume(None, None, 0)):
        yield


@rule("P-40", "A-19", "P-43", "P-42", plan=DYING)
def reused_executor_id() -> Iterator[None]:
    """A fresh process has the id of an older one."""
    ids = cycle([ExecutorId("exec_a"), ExecutorId("exec_b"), ExecutorId("exec_c")])
    with patch.object(executor, "executor_id", lambda _: next(ids)):
        yield


@rule("P-42", plan=STALLING)
def late_upstream_call() -> Iterator[None]:
    """There is no lease: a claim is good however long ago it was sent."""
    original = Engine._won

    def won(self: Engine, partition: Partition, state: State, sent: Sent) -> None:
        now = asyncio.get_running_loop().time()
        original(self, partition, state, Sent(sent.id, sent.attempt, now))

    with patch.object(Engine, "_won", won), patch.object(Run, "lapsed", lambda _: False):
        yield


@rule("P-42", plan=CROWDED)
def claim_not_read_back() -> Iterator[None]:
    """A claim that was sent is taken for won."""
    original = Engine._claimed

    def claimed(self: Engine, partition: Partition, entry: Claimed, counts: bool) -> None:
        state = partition.fold.get(entry.id)
        sent = partition.sent.get(entry.claim)
        if not counts and state is not None and not state.closed and sent and entry.id not in self.runs:
            self._won(partition, state, sent)
        original(self, partition, entry, counts)

    with patch.object(Engine, "_claimed", claimed):
        yield


@rule("P-43", "A-19", "P-43", plan=TROUBLED, seeds=150)
def winning_claim_without_a_run() -> Iterator[None]:
    """A claimant waits for itself."""
    original = decide.decide

    def mine(state: State, view: View) -> Step:
        return Step.WAIT if state.executor == view.me else original(state, view)

    with (
        patch.object(steward, "decide", mine),
        patch.object(Run, "lapsed", lambda self: asyncio.get_running_loop().time() - self._sent_at > 0.2),
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
    """Nobody is ever gone."""
    with patch.object(liveness.Liveness, "gone", lambda *_: False):
        yield


@rule("P-46", plan=Plan(cancels=0.7, deletes=0.5, words=40, faults=only(pause=1)))
def upstream_not_stopped() -> Iterator[None]:
    """A run goes on after its end."""
    with patch.object(Engine, "stop", lambda _self, run: run.closed()):
        yield


@rule("P-47", "A-19", plan=Plan(kinds={"silent": 1}, cancels=0, deletes=0))
def deadline_ignored() -> Iterator[None]:
    """Nobody looks at the deadline."""
    with (
        patch.object(decide, "overdue", lambda *_: False),
        patch.object(steward, "overdue", lambda *_: False),
        patch.object(work.Worker, "_time_left", lambda *_: 1e6),
    ):
        yield


@rule("P-48", "A-19", "P-43", "P-48", plan=Plan(faults=only(expel=4, storm=2), targets="x", rate=1))
def unowned_partition_not_folded() -> Iterator[None]:
    """A partition that is lost is dropped, whatever runs in it."""

    def drop(self: executor.Executor) -> None:
        for number in list(self._engine.partitions):
            if number not in self._assigned:
                self._tail.drop(number)
                self._engine.drop(number)

    with patch.object(executor.Executor, "_drop_unneeded", drop):
        yield


# Who is alive.

HANGING = Plan(faults=only(broker=1), trouble=0, rate=0.05, lossless=True, seconds=60, grace=20)


@rule("P-50", "P-51", plan=HANGING)
def beats_that_queue_up() -> Iterator[None]:
    """The next beat is sent whether or not the last was read back."""

    async def write(self: Beats) -> None:
        while True:
            self._writer.post(self._topic, 0, self._record())
            await asyncio.sleep(liveness.BEAT_INTERVAL)

    with patch.object(Beats, "write", write):
        yield


@rule("P-51", plan=Plan(faults=only(slow=1, expel=2), targets="x", seconds=60))
def one_missed_beat_is_death() -> Iterator[None]:
    """Who has missed one beat is gone."""
    with patch.object(liveness, "BEATS_TO_GONE", 1):
        yield


# Folds and watermarks.


@rule(
    "P-60",
    "P-42",
    "P-43",
    "P-45",
    "P-48",
    plan=Plan(repeats=1, faults=only(expel=4, storm=2), rate=1, targets="x"),
)
def rewound_fold() -> Iterator[None]:
    """Who gets a partition back reads it again, into the same fold."""
    original = executor.Executor._follow

    async def follow(self: executor.Executor) -> None:
        for number in self._assigned & self._engine.partitions.keys():
            if not self._engine.partitions[number].owned:
                self._tail.follow(number, max(0, self._tail.position(number) - 20))
        await original(self)

    with patch.object(executor.Executor, "_follow", follow):
        yield


@rule("P-61")
def early_watermark_of_executors() -> Iterator[None]:
    """An executor commits its position."""
    with patch.object(Partition, "watermark", lambda _, position: position):
        yield


@rule("P-62", "P-42", "P-62", "P-28", plan=REPEATED)
def started_at_the_watermark() -> Iterator[None]:
    """A reader that starts reads nothing before the watermark."""

    async def starts(
        log: Log, group: str, topic: str, partitions: Any, *, memory_ms: int
    ) -> dict[int, Start]:
        found = await starting_points(log, group, topic, partitions, memory_ms=memory_ms)
        return {number: start._replace(offset=start.floor) for number, start in found.items()}

    with patch.object(executor, "starting_points", starts):
        yield


@rule("P-62", "P-42", "P-70", "P-72", "P-74", "P-80", plan=REPEATED)
def acted_below_the_watermark() -> Iterator[None]:
    """A reader that starts takes everything for its own."""

    async def starts(
        log: Log, group: str, topic: str, partitions: Any, *, memory_ms: int
    ) -> dict[int, Start]:
        found = await starting_points(log, group, topic, partitions, memory_ms=memory_ms)
        return {number: start._replace(floor=start.offset) for number, start in found.items()}

    with (
        patch.object(executor, "starting_points", starts),
        patch.object(projector, "starting_points", starts),
    ):
        yield


@rule("P-62", "P-72", "P-80", plan=REPEATED)
def replay_without_a_floor() -> Iterator[None]:
    """A replay takes a repeated `accepted` for a new one."""

    class Grounded(Folding):
        floor = property(lambda _: 0, lambda *_: None)

    with patch.object(app, "Folding", Grounded):
        yield


@rule("P-63", "P-42", "P-62", plan=REPEATED)
def forgotten_too_early() -> Iterator[None]:
    """A closed response is forgotten at once."""
    original = Fold.forget
    with patch.object(Fold, "forget", lambda self, before: original(self, before + 20_000)):
        yield


@rule("P-63", "P-42", "P-62", plan=Plan(repeats=1, cancels=0.8, faults=only(broker=1, slow=4), targets="x"))
def forgotten_by_another_clock() -> Iterator[None]:
    """What is remembered is measured by the beats, while the partition's tail may be behind."""
    original = Steward.look_at_all

    def look(self: Steward) -> None:
        for partition in self._engine.partitions.values():
            partition.time = self.now
        original(self)

    with patch.object(Steward, "look_at_all", look):
        yield


@rule(
    "P-64",
    "P-80",
    "P-81",
    "P-72",
    plan=Plan(faults=only(pause=6, retain=6), targets="r", seconds=90, responses=14),
)
def skipped_what_expired() -> Iterator[None]:
    """A reader that was away too long goes on behind the gap."""

    async def skip(self: Feed, partition: int) -> None:
        start = (await self._bounds(self._sources.events))[partition].start
        self.folded[partition].set(start)
        self._events.follow(partition, start)

    with patch.object(Feed, "_fold_again", skip):
        yield


# Views.


@rule("P-70")
def snapshot_of_an_open_response() -> Iterator[None]:
    """The projector writes a response down when it is accepted."""
    original = Projection.apply

    def apply(self: Projection, found: Iterable[records.LogRecord], next_offset: int) -> list[Work]:
        work = original(self, found, next_offset)
        for id, opened in list(self._open.items()):
            work.append(Write(id, opened.at, [], response_record(self.fold.responses[id], b"{}")))
        return work

    with patch.object(Projection, "apply", apply):
        yield


@rule("P-71", "P-70", "P-74", "P-80", "P-81", plan=Plan(targets="p", words=40), seeds=100)
def chunks_cut_anywhere() -> Iterator[None]:
    """Where a chunk ends depends on who writes it."""
    sizes = cycle((400, 900, 2_000))

    class Cutter(transcript.Packer):
        def add(self, frame: bytes) -> None:
            with patch.object(transcript, "CHUNK_BYTES", next(sizes)):
                super().add(frame)

    with patch.object(projection, "Packer", Cutter):
        yield


@rule("P-72", "P-72", "P-74", "P-70", plan=DELETING)
def forgotten_gone() -> Iterator[None]:
    """A delete leaves no `gone`."""
    original = Views.append

    async def append(self: Views, topic: str, partition: int, record: NewRecord) -> None:
        if not record.key.endswith(b"/gone"):
            await original(self, topic, partition, record)

    with patch.object(Views, "append", append):
        yield


@rule("P-72", plan=Plan(deletes=0.9, targets="p", faults=only(pause=6, expel=3), rate=1))
def gone_not_heeded() -> Iterator[None]:
    """A reader shows what a late writer brought back, as long as nobody erases it again."""
    with (
        patch.object(Library, "hide", lambda self, id, _=-1: self._entries.pop(id, None)),
        patch.object(Projector, "_erase_late", lambda *_: None),
    ):
        yield


@rule("P-73", plan=Plan(deletes=0.9, targets="p", faults=only(pause=6, expel=3), rate=1), seeds=200)
def zombie_write_not_read_back() -> Iterator[None]:
    """The projector does not look at what it and others wrote."""
    with patch.object(Projector, "_erase_late", lambda *_: None):
        yield


@rule("P-74", plan=Plan(targets="p"))
def early_watermark_of_projectors() -> Iterator[None]:
    """The projector commits before its writes are acknowledged."""
    original = Projection.apply

    def apply(self: Projection, found: Iterable[records.LogRecord], next_offset: int) -> list[Work]:
        work = original(self, found, next_offset)
        for item in work:
            self.done(item)
        return work

    with patch.object(Projection, "apply", apply):
        yield


@rule("P-75", "P-80", plan=READING)
def started_in_the_wrong_order() -> Iterator[None]:
    """A replay asks for the watermark after it read `transcripts`, and does not look there again."""

    async def start(self: Feed) -> None:
        shelves = await self._bounds(self._sources.transcripts)
        for partition, bounds in shelves.items():
            self.shelved[partition].set(bounds.start)
            self._transcripts.follow(partition, bounds.start)
        while any(self.shelved[partition].value < bounds.end for partition, bounds in shelves.items()):
            await self._shelve(await self._transcripts.read())
        await asyncio.sleep(2)
        for partition, at in (await self._sources.starts(await self._sources.watermarks())).items():
            self._foldings[partition].floor = at.floor
            self.folded[partition].set(at.offset)
            self._events.follow(partition, at.offset)
        for partition in shelves:
            self._transcripts.drop(partition)
            self.shelved[partition].set(1 << 60)

    with patch.object(Feed, "_start", start):
        yield


@rule("P-76", "P-70", plan=Plan(unstored=0.7))
def unstored_projected() -> Iterator[None]:
    """A response that is not stored is written to the views."""
    original = Projection._accept

    def accept(self: Projection, record: records.LogRecord, entry: Accepted) -> None:
        stored = {name: getattr(entry, name) for name in entry.__struct_fields__} | {"store": True}
        self.fold.responses[entry.id].accepted = Accepted(**stored)
        original(self, record, Accepted(**stored))

    with patch.object(projection.Projection, "_accept", accept):
        yield


# Reading.


@rule("P-80", plan=READING)
def no_barrier() -> Iterator[None]:
    """A read is answered from whatever was folded."""

    async def reach(*_: object) -> None:
        return

    with patch.object(Barrier, "reach", reach):
        yield


# Erasure.


@rule("P-90", plan=DELETING)
def late_records_not_erased() -> Iterator[None]:
    """What lands after a delete stays."""
    with patch.object(engine, "_erase_late", lambda *_: None):
        yield


@rule("P-90", plan=DELETING)
def erasure_not_waited_for() -> Iterator[None]:
    """The watermark does not wait for erasures."""
    with patch.object(Partition, "watermark", lambda self, at: self.fold.low_watermark(at, self.floor)):
        yield


@rule(
    "P-92",
    "P-28",
    "P-42",
    "P-62",
    plan=Plan(
        repeats=1,
        unstored=0.7,
        cancels=0.7,
        hasty=True,
        targets="x",
        faults=only(compact=4, kill=4, retain=1),
        rate=1,
    ),
)
def compacted_too_early() -> Iterator[None]:
    """Compaction and retention take what a reader that starts still needs."""
    yield


def main() -> int:
    """Plant what the command line names, or everything; say what was found."""
    names = sys.argv[1:] or list(RULES)
    missed = 0
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 4)) as pool:
        for name, what in zip(names, pool.map(look, names), strict=True):
            print(f"{RULES[name].number} {name}: {'not found' if what is None else what}", flush=True)
            missed += what is None
    return bool(missed)


def look(name: str) -> str | None:
    """Where the absence of a rule shows first, in words."""
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, PATIENCE)
    try:
        seen = found(RULES[name])
    except TooLong:
        return None
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return seen and f"seed {seen[0]}: {dict(seen[1])}"


class TooLong(BaseException):
    """A world without a rule may go on for ever."""


def _too_long(*_: object) -> None:
    raise TooLong


if __name__ == "__main__":
    sys.exit(main())
