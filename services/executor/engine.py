"""The executor's core: it folds its partitions and reacts to what it reads back.

    tail → parse → fold → react:  accepted      → waits for a claim (steward.py sends it)
                                  claim, mine   → a run starts, or goes on under the new claim
                                  claim, other  → my run is fenced: stop it
                                  event, mine   → read back; not counted: the run claims anew
                                  close, delete → the run is over, its upstream stops; erase what is to be
                                  erased

Only this module changes partitions and runs, all in one task; runs are tasks of their own and talk back
through `Outlet`. What is sent is believed only when it is read back (P-30). Nothing here awaits but the tail.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence

import structlog

from schemas.errors import LogError
from schemas.fold import State, Verdict
from schemas.ids import TOKEN_BYTES, ClaimId, ExecutorId, ResponseId, claim_id
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
    Tombstone,
    Unreadable,
    parse,
)
from services import points
from services.config import Route
from services.eventlog.port import Batch, TopicPartition, Writer
from services.executor import metrics
from services.executor.liveness import Liveness
from services.executor.partition import Partition, Sent
from services.executor.run import Outlet, Run

log = structlog.get_logger()

Start = Callable[[Partition, State, Run], asyncio.Task[None]]
"""Starts the task that works a run off."""
FindRoute = Callable[[bytes], Route | None]
"""Where a response goes, by the value of its `accepted`; None when nobody can say."""


class Engine:
    """One process's partitions and runs. `lease` is in seconds; `clock` gives wall-clock seconds.

    `ephemeral_ms`: how long (log time) an ephemeral response is kept after its end. `form`: of the event
    records that runs write (P-15).
    """

    def __init__(
        self,
        me: ExecutorId,
        topic: str,
        liveness: Liveness,
        route: FindRoute,
        start: Start,
        *,
        lease: float,
        ephemeral_ms: int,
        clock: Callable[[], float],
        form: int = ONE_HEADER,
    ) -> None:
        self.me = me
        self.topic = topic
        self.liveness = liveness
        self.partitions: dict[int, Partition] = {}
        self.runs: dict[ResponseId, Run] = {}
        self.stirred = asyncio.Event()
        """Set when there may be something for the steward to do."""
        self.leaving = False
        """Set when runs are handed over: what is won from then on is for those who take over."""
        self.writer: Writer
        """Set once by the app: the writer in turn tells `append_failed`."""
        self._route = route
        self._start = start
        self._lease = lease
        self._ephemeral_ms = ephemeral_ms
        self._clock = clock
        self._form = form

    def __repr__(self) -> str:
        return f"<Engine {self.me} partitions={sorted(self.partitions)} runs={len(self.runs)}>"

    # What is read.

    def read(self, batch: Batch) -> None:
        """Fold a batch of one followed partition and react to each record."""
        partition = self.partitions.get(batch.source.partition)
        if partition is None:
            return
        fold, react = partition.fold, self._react
        for record in batch.records:
            entry = parse(record, partition.number)
            verdict = fold.apply(record.offset, record.timestamp, entry)
            react(partition, record, entry, verdict)
        if batch.records:
            partition.time = batch.records[-1].timestamp
        if batch.next_offset >= partition.acts_from:
            partition.caught_up()

    def _react(self, partition: Partition, record: LogRecord, entry: Entry, verdict: Verdict) -> None:
        counts = verdict is Verdict.COUNTS
        match entry:
            case EventRecord():
                self._event(partition, entry, record, counts)
            case Extension():
                run = self.runs.get(entry.id)
                if run is not None and entry.claim == run.claim:
                    run.extension_read_back(entry.n)
            case Accepted() if counts:
                route = self._route(record.value or b"")
                partition.accept(partition.fold.responses[entry.id], record.value, route)
                points.at("accepted read", partition, partition.fold.responses[entry.id], record.value)
                self.stirred.set()
            case Claimed():
                self._claimed(partition, entry, counts)
            case Cancelled() if counts:
                self._closed(partition, entry.id, record, from_outside=True)
            case Deleted():
                self._closed(partition, entry.id, record, from_outside=True)
                partition.turns.forget(entry.id)
                partition.erase(entry.id, entry.accepted_offset, record)
            case Unreadable():
                metrics.UNREADABLE.inc()
                at = f"{self.topic}/{partition.number}@{record.offset}"
                log.warning("unreadable record passed over", at=at, why=entry.why)
        if not counts:
            self._erase_late(partition, record, entry, verdict)

    def _event(self, partition: Partition, entry: EventRecord, record: LogRecord, counts: bool) -> None:
        run = self.runs.get(entry.id)
        if run is not None and entry.claim == run.claim:
            if counts:
                run.read_back(entry.sequence_number)
            elif not run.rejected():
                self._useless(run)
        if counts and entry.terminal:
            self._closed(partition, entry.id, record, from_outside=False)

    def _claimed(self, partition: Partition, entry: Claimed, counts: bool) -> None:
        kept_free = entry.id in partition.latest
        sent = partition.read_back(entry.claim)
        if not counts:
            return
        self.liveness.met(entry.executor)
        partition.claimed(entry.id)
        state, run = partition.fold.responses[entry.id], self.runs.get(entry.id)
        if run is not None and entry.executor == self.me:  # also one sent too long ago to be remembered
            run.reclaimed(state)
        elif run is not None:
            metrics.FENCED.inc()
            log.warning("run fenced by another executor", id=entry.id, by=entry.executor)
            self.abandon(run)
        elif sent is not None and kept_free:
            self._won(partition, state, sent)
        elif sent is not None and partition.first_call(state.id, state.attempt):
            # Its append had failed, as it seemed: what was kept free for it may be another's by now (P-49).
            # The steward finds the claim without a run, and claims anew when there is room (P-43).
            partition.not_called(state)
        if partition.owned:
            self.stirred.set()

    def _won(self, partition: Partition, state: State, sent: Sent) -> None:
        points.at("claim won", state.id, state.attempt)
        if state.offset < partition.floor or self.leaving:
            return
        if asyncio.get_running_loop().time() - sent.at >= self._lease:
            if partition.first_call(state.id, state.attempt):
                partition.not_called(state)
            self.claim(partition, state.id, state.attempt + 1)  # P-42: too old to act on
            return
        outlet = self._outlet(partition, state.id)
        run = Run(state, outlet, partition.queue(state), lease=self._lease, sent_at=sent.at)
        self.runs[state.id] = run
        run.task = self._start(partition, state, run)
        run.task.add_done_callback(lambda _: self._done(run))
        points.at("run begun", run)

    def _closed(self, partition: Partition, id: ResponseId, record: LogRecord, *, from_outside: bool) -> None:
        points.at("response closed", id)
        partition.closed(id)
        state = partition.fold.responses[id]
        if not _stored(state):  # held from its `accepted` on: the close alone does not say why it is erased
            partition.erase(id, state.offset, record, at=state.offset, after=self._kept_until(state))
        run = self.runs.get(id)
        if from_outside and (run is None or (run.attempt > 1 and not run.called)):
            partition.orphaned(state, record.offset, self.liveness.beats)
        if run is not None:
            run.closed()
            if from_outside:
                self.stop(run)  # P-46: the upstream must stop
        self.stirred.set()

    # What is erased.

    def _kept_until(self, state: State) -> int:
        """The log time (ms) before which nothing of a closed, unstored response is erased; 0: none."""
        return state.kept_until(self._ephemeral_ms) if state.ephemeral and not state.deleted else 0

    def _erase_late(self, partition: Partition, record: LogRecord, entry: Entry, verdict: Verdict) -> None:
        """Erase a record that never counts where no later delete would find it (P-90).

        Void ones, those of a response that is erased already or will be, and those that come late for one
        that was accepted, and dealt with, before the floor.
        """
        id: ResponseId | None = getattr(entry, "id", None)
        if id is None or isinstance(entry, Deleted):
            return
        state = partition.fold.get(id)
        if isinstance(entry, Tombstone):
            if state is None and b"/accepted/" not in (record.key or b""):
                partition.unknown_erased(id)
        elif verdict is Verdict.VOID or (state is not None and state.offset < partition.floor):
            partition.erase_stray(id, record.offset)
        elif state is None:
            partition.unknown_read(id, record.offset, closes=_closes(entry))
        elif state.deleted or (state.closed and not _stored(state)):
            partition.erase(id, record.offset, record, after=self._kept_until(state), late=True)

    # What is sent.

    def claim(self, partition: Partition, id: ResponseId, attempt: int) -> None:
        """Send a claim of `attempt`."""
        state = partition.fold.responses.get(id)
        if state is None:
            return
        points.at("claim made", id, attempt)
        claim: ClaimId = claim_id(secrets.token_bytes(TOKEN_BYTES))
        partition.send(claim, Sent(id, attempt, asyncio.get_running_loop().time()))
        self.post(partition, Claimed(id, attempt, claim, self.me, state.tenant).new())
        points.at("claim queued", id, attempt)

    def post(self, partition: Partition, record: NewRecord) -> None:
        """Queue a record for a partition."""
        self.writer.post(self.topic, partition.number, record)

    def append_failed(self, source: TopicPartition, records: Sequence[NewRecord], error: LogError) -> None:
        """Posted records were not acknowledged: their runs claim anew (P-32); who claims looks again with the
        next beat.
        """
        said = (record.key.decode() for record in records if record.value is not None)  # not the eraser's
        ids = dict.fromkeys(ResponseId(key.partition("/")[0]) for key in said)
        if partition := self.partitions.get(source.partition):
            for headers in (dict(record.headers) for record in records):
                if headers.get("kind") == Claimed.kind.encode():
                    partition.lost(ClaimId(headers["claim"].decode()))
        metrics.APPENDS_FAILED.inc(len(records))
        log.warning("append failed", partition=source.partition, records=len(records), error=str(error))
        for id in ids:
            run = self.runs.get(id)
            if run is not None and not run.rejected():
                self._useless(run)

    def _outlet(self, partition: Partition, id: ResponseId) -> Outlet:
        return Outlet(
            post=lambda record: self.post(partition, record),
            claim=lambda attempt: self.claim(partition, id, attempt),
            clock=self._clock,
            unbroken=self._unbroken,
            form=self._form,
        )

    def _unbroken(self, since: float) -> bool:
        return self.liveness.unbroken(since, asyncio.get_running_loop().time(), self._lease)

    # The ends of runs.

    def abandon(self, run: Run) -> None:
        """Stop a run that may go on elsewhere: it is fenced, or its partition is lost."""
        run.abandoned = True
        self.stop(run)

    def _useless(self, run: Run) -> None:
        """Nothing that the run says counts, whatever it claims: it is told anew from what the log has."""
        log.error("run given up: nothing that it says counts", id=run.id, attempt=run.attempt)
        self.abandon(run)

    def give_up(self, run: Run) -> None:
        """Stop a run and wait for nothing: its response is ended without it."""
        self.abandon(run)
        self._done(run)

    def stop(self, run: Run) -> None:
        """Stop a run without an end of its own."""
        run.closed()
        if run.task is not None:
            run.task.cancel()

    def _done(self, run: Run) -> None:
        if self.runs.get(run.id) is run:
            del self.runs[run.id]
        self.stirred.set()
        points.at("run over", run)

    def drop(self, number: int) -> None:
        """Stop following a partition: its fold goes, and so do its runs."""
        partition = self.partitions.pop(number, None)
        if partition is None:
            return
        for id in [id for id in self.runs if id in partition.fold]:
            self.abandon(self.runs[id])


def _closes(entry: Entry) -> bool:
    return isinstance(entry, Cancelled) or (isinstance(entry, EventRecord) and entry.terminal is not None)


def _stored(state: State) -> bool:
    return state.accepted is None or state.accepted.store
