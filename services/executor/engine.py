"""The executor's core: it folds its partitions and returns what is to be done about each record.

    accepted         → waits for a claim, which the steward decides on
    claim, mine      → Start a run, or Post what it said under the new claim
    claim, other's   → my run is fenced: Stop it
    event, mine      → read back; if it does not count: Claim the next attempt
    close, delete    → the run is over; Stop its upstream; note what is to be erased

Pure: it reads no clock, starts no task and touches no log. It believes what was sent only when that is read
back (P-30). Only this module folds partitions, makes runs and takes them out. Others note what they alone
know: the steward, which claims are lost for good and what is long closed; a run's own task (`work`,
`narrator`), what it told, whether it called, and that its claim has lapsed; the eraser, what is erased; the
conversation, the turns that it read.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from schemas.fold import State, Verdict
from schemas.ids import ClaimId, ExecutorId, ResponseId, partition_of
from schemas.records import (
    ONE_HEADER,
    Accepted,
    Cancelled,
    Claimed,
    Deleted,
    Entry,
    EventRecord,
    Extension,
    LogRecord,
    NewRecord,
    Unreadable,
    parse,
)
from services import points
from services.config import Route, label_of
from services.eventlog.port import Batch, TopicPartition
from services.eventlog.start import StartingPoint
from services.executor import metrics
from services.executor.acts import Act, Claim, Post, Start, Stop
from services.executor.claims import Sent
from services.executor.decide import Meaning, meaning, too_old
from services.executor.erasures import erased_after, stored
from services.executor.liveness import Liveness
from services.executor.partition import Partition
from services.executor.run import MAX_FRUITLESS, End, Job, Run

log = structlog.get_logger()

FindRoute = Callable[[bytes], Route | None]
"""The route of a response, from the value of its `accepted`; None when the value names none."""
NOTHING: Sequence[Act] = ()
_COUNTS = Verdict.COUNTS
"""Asked for with each event: on Python 3.11 the attribute of an Enum takes 60 ns (`python -m timeit`)."""


class Engine:
    """One process's partitions and runs. `lease` is in seconds, as are all times `now`: those of the loop.

    `ephemeral_ms`: how long (log time) an ephemeral response is kept after its end. `mint` makes the id of a
    claim. `form`: of the event records that runs write (P-15).
    """

    def __init__(
        self,
        liveness: Liveness,
        route: FindRoute,
        mint: Callable[[], ClaimId],
        *,
        lease: float,
        ephemeral_ms: int,
        form: int = ONE_HEADER,
    ) -> None:
        self.me: ExecutorId = liveness.me
        self.liveness = liveness
        self.partitions: dict[int, Partition] = {}
        self.runs: dict[ResponseId, Run] = {}
        self.stirred = asyncio.Event()
        """Set when there may be something for the steward to claim."""
        self.leaving = False
        """Set when runs are handed over: a claim that wins from then on starts no run here."""
        self.mint = mint
        self._route = route
        self._lease = lease
        self._ephemeral_ms = ephemeral_ms
        self._form = form

    def __repr__(self) -> str:
        return f"<Engine {self.me} partitions={sorted(self.partitions)} runs={len(self.runs)}>"

    @property
    def waits(self) -> bool:
        """Whether something waits for what is read next: a claim, an end, or a run without room."""
        claiming = any(partition.claims.latest for partition in self.partitions.values())
        return claiming or any(run.waits for run in self.runs.values())

    # What is read.

    def read(self, batch: Batch, now: float) -> list[Act]:
        """Fold a batch of one followed partition: what is to be done about its records, in their order."""
        acts: list[Act] = []
        partition = self.partitions.get(batch.source.partition)
        if partition is None:
            return acts
        fold, runs = partition.fold, self.runs
        for record in batch.records:
            entry = parse(record, partition.number)
            verdict = fold.apply(record.offset, record.timestamp, entry)
            if verdict is _COUNTS and type(entry) is EventRecord and entry.terminal is None:
                # Nearly every record is one of these, and asks for nothing: the short way.
                run = runs.get(entry.id)
                if run is not None and run.claim == entry.claim:
                    run.read_back(entry.sequence_number)
            else:
                acts += self._react(batch.source, partition, record, entry, verdict, now)
        time = batch.records[-1].timestamp if batch.records else None
        partition.read(batch.next_offset, batch.end, time)
        return acts

    def _react(
        self,
        source: TopicPartition,
        partition: Partition,
        record: LogRecord,
        entry: Entry,
        verdict: Verdict,
        now: float,
    ) -> Sequence[Act]:
        counts = verdict is _COUNTS
        acts = NOTHING
        match entry:
            case EventRecord():
                acts = self._event(partition, entry, record, now, counts)
            case Extension():
                run = self.runs.get(entry.id)
                if run is not None and entry.claim == run.claim:
                    run.extension_read_back(entry.n)
            case Accepted() if counts:
                self._accepted(partition, entry.id, record)
            case Claimed():
                acts = self._claimed(partition, entry, now, counts=counts)
            case Cancelled() if counts:
                acts = self._closed(partition, entry.id, record, from_outside=True)
            case Deleted():
                acts = self._closed(partition, entry.id, record, from_outside=True)
                partition.turns.forget(entry.id)
                partition.erasures.erase(entry.id, entry.accepted_offset, record)
            case Unreadable():
                metrics.UNREADABLE.inc()
                at = f"{source.topic}/{source.partition}@{record.offset}"
                log.warning("unreadable record passed over", at=at, why=entry.why)
        if not counts:
            partition.erasures.late(record, entry, verdict, partition.fold, self._ephemeral_ms)
        return acts

    def _accepted(self, partition: Partition, id: ResponseId, record: LogRecord) -> None:
        state = partition.fold.responses[id]
        if state.offset >= partition.floor:
            partition.waiting.accept(state, record.value, self._route(record.value or b""))
        points.at("accepted read", partition, state, record.value)
        self.stirred.set()

    def _event(
        self, partition: Partition, entry: EventRecord, record: LogRecord, now: float, counts: bool
    ) -> Sequence[Act]:
        acts = NOTHING
        run = self.runs.get(entry.id)
        if run is not None and entry.claim == run.claim:
            if counts:
                run.read_back(entry.sequence_number)
            else:
                acts = self._rejected(partition, run, now)
        if counts and entry.terminal:
            acts = self._closed(partition, entry.id, record, from_outside=False)
        return acts

    def _claimed(self, partition: Partition, entry: Claimed, now: float, *, counts: bool) -> Sequence[Act]:
        claims, run = partition.claims, self.runs.get(entry.id)
        kept = entry.id in claims.latest
        sent = claims.read_back(entry.claim)
        state = partition.fold.get(entry.id)
        if state is None:
            return NOTHING
        if counts:
            self._measure_queue(partition, state, entry)
            self.liveness.met(entry.executor)
            partition.claimed(state)
            if partition.owned:
                self.stirred.set()
        running = run is not None
        match meaning(state, self.me, counts=counts, running=running, sent=sent is not None, kept=kept):
            case Meaning.RECLAIMED if run is not None:
                return [Post(partition.number, run.reclaimed(state, now))]
            case Meaning.FENCED if run is not None:
                metrics.FENCED.inc()
                log.warning("run fenced by another executor", id=entry.id, by=entry.executor)
                return self._end(run, End.FENCED)
            case Meaning.WON if sent is not None:
                return self._won(partition, state, sent, now)
            case Meaning.UNKEPT:
                self._not_called(partition, state)
        return NOTHING

    def _measure_queue(self, partition: Partition, state: State, entry: Claimed) -> None:
        if entry.attempt == 1 and entry.executor == self.me:
            route = partition.waiting.route(entry.id)
            waited_ms = max(0, state.touched - state.accepted_at)
            metrics.QUEUE_SECONDS.labels(label_of(route)).observe(waited_ms / 1000)

    def _won(self, partition: Partition, state: State, sent: Sent, now: float) -> Sequence[Act]:
        points.at("claim won", state.id, state.attempt)
        if state.offset < partition.floor or self.leaving:
            return NOTHING
        if too_old(sent.at, now, self._lease):
            self._not_called(partition, state)
            return self.claim(partition, state.id, state.attempt + 1, now)
        queue = partition.waiting.queue(state)
        run = Run(state, queue, lease=self._lease, sent_at=sent.at, form=self._form)
        self.runs[state.id] = run
        return [Start(Job(partition, state, run))]

    def _not_called(self, partition: Partition, state: State) -> None:
        """A claim of this executor won, and nothing will be called under it."""
        if partition.claims.first_call(state.id, state.attempt):
            partition.claims.not_called(state)

    def _closed(
        self, partition: Partition, id: ResponseId, record: LogRecord, *, from_outside: bool
    ) -> Sequence[Act]:
        points.at("response closed", id)
        state, run = partition.fold.responses[id], self.runs.get(id)
        partition.closed(state)
        if not stored(state):  # held from its `accepted` on: the close alone does not say why it is erased
            after = erased_after(state, self._ephemeral_ms)
            partition.erasures.erase(id, state.offset, record, at=state.offset, after=after)
        if from_outside and (run is None or (run.attempt > 1 and not run.called)):
            partition.orphans.add(state, record.offset, self.liveness.beats)
        self.stirred.set()
        if run is None:
            return NOTHING
        return self._end(run, End.STOPPED if from_outside else End.CLOSED)  # P-100: the upstream must stop

    # What is sent.

    def claim(self, partition: Partition, id: ResponseId, attempt: int, now: float) -> Sequence[Act]:
        """Send a claim of `attempt`."""
        state = partition.fold.responses.get(id)
        if state is None:
            return NOTHING
        points.at("claim made", id, attempt)
        claim = self.mint()
        partition.claims.send(claim, Sent(id, attempt, now))
        record = Claimed(id, attempt, claim, self.me, state.tenant).new()
        return [Claim(id, attempt, partition.number, record)]

    def append_failed(self, number: int, records: Sequence[NewRecord], now: float) -> list[Act]:
        """Posted records were not acknowledged: their runs claim anew (P-32). For a lost claim the steward
        looks again with the next beat.
        """
        acts: list[Act] = []
        partition = self.partitions.get(number)
        if partition is None:
            return acts
        for headers in (dict(record.headers) for record in records):
            if headers.get("kind") == Claimed.kind.encode():
                partition.claims.lost(ClaimId(headers["claim"].decode()))
        said = (record.key.decode() for record in records if record.value is not None)  # not the eraser's
        for id in dict.fromkeys(ResponseId(key.partition("/")[0]) for key in said):
            if (run := self.runs.get(id)) is not None:
                acts += self._rejected(partition, run, now)
        return acts

    def _rejected(self, partition: Partition, run: Run, now: float) -> Sequence[Act]:
        if not run.rejected():
            return NOTHING
        if run.fruitless > MAX_FRUITLESS:
            log.error("run given up: nothing that it says counts", id=run.id, attempt=run.attempt)
            return self._end(run, End.USELESS)
        return self.claim(partition, run.id, run.attempt + 1, now)

    # The ends of runs.

    def _end(self, run: Run, why: End) -> Sequence[Act]:
        before = run.ended
        run.end(why)
        if before is not None and (before.stops or why is End.STOPPED):
            return NOTHING  # a second cancellation would interrupt the task while it stops its upstream
        return [Stop(run)] if why.stops else NOTHING

    def give_up(self, run: Run) -> Sequence[Act]:
        """Stop a run and wait for nothing: its response is ended without it."""
        self._forget(run)
        return self._end(run, End.OVERDUE)

    def has(self, run: Run) -> bool:
        """Whether `run` is one of its runs, and was not given up."""
        return self.runs.get(run.id) is run

    def hand_over(self) -> list[Act]:
        """Stop all runs, and start no more: another executor goes on with them."""
        self.leaving = True
        return [act for run in self.runs.values() for act in self._end(run, End.LEAVING)]

    def over(self, run: Run, now: float) -> Sequence[Act]:
        """The task of a run has ended."""
        self._forget(run)
        points.at("run over", run)
        partition = self.partitions.get(partition_of(run.id))
        state = partition.fold.get(run.id) if partition is not None else None
        if run.ended is not End.LAPSED or partition is None or state is None or state.closed or self.leaving:
            return NOTHING
        return self.claim(partition, run.id, run.attempt + 1, now)

    def _forget(self, run: Run) -> None:
        if self.has(run):
            del self.runs[run.id]
        self.stirred.set()

    # Partitions.

    def assigned(self, owned: frozenset[int]) -> None:
        """Ownership ends at once; it begins when the partition is followed and its end is known."""
        for partition in self.partitions.values():
            partition.owned = partition.owned and partition.number in owned

    def begin(self, number: int, place: StartingPoint, end: int) -> None:
        """Fold a partition from `place` on; it ends at offset `end` now."""
        partition = Partition(number, floor=place.floor, floor_read=place.read, position=place.offset)
        partition.begin(acts_from=end, committed=place.floor)
        self.partitions[number] = partition

    def own(self, number: int, place: StartingPoint, end: int) -> None:
        """Own a followed partition from now on, with its committed watermark and its end as of now."""
        partition = self.partitions[number]
        partition.begin(acts_from=end, committed=place.floor)
        partition.owned = True
        self.stirred.set()

    def unneeded(self, assigned: frozenset[int]) -> list[int]:
        """The partitions that are neither owned nor run in: they need not be folded any more (P-48). One that
        is not caught up may have something of this executor's further on.
        """
        return [
            partition.number
            for partition in self.partitions.values()
            if partition.number not in assigned
            and partition.caught_up()
            and not partition.claims.latest
            and not any(state.executor == self.me for state in partition.fold.open())
            and not any(id in partition.fold for id in self.runs)
        ]

    def drop(self, number: int) -> list[Act]:
        """Stop following a partition: its fold goes, and so do its runs."""
        partition = self.partitions.pop(number, None)
        runs = [run for run in self.runs.values() if partition is not None and run.id in partition.fold]
        return [act for run in runs for act in self._end(run, End.UNFOLLOWED)]
