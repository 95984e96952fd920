"""The executor: the engine and the steward say what is to be done, this module does it.

    fold          follower → engine.read → do
    look          steward.look → do, whenever something stirred
    every beat    steward.beat → do: takeovers, deadlines; then watermarks are committed
    erase         tombstones for what was deleted, or is not stored
    stop          upstreams of what was cancelled or deleted when its executor was gone
    follow        what is newly owned begins at its watermark (P-62); each beat drops what is not needed

Each loop is a task, and so is each run. On SIGTERM the executor claims nothing more, leaves the group, lets
its runs finish within the grace period, stops the rest and says with a last beat that they are up for
takeover. Shutdown is never a cancellation (A-21).
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import assert_never

import structlog

from schemas.errors import LogError
from schemas.ids import TOKEN_BYTES, ClaimId, ExecutorId, Tenant, claim_id, executor_id
from schemas.records import NewRecord
from services import points
from services.config import Quota, unbounded
from services.connect import RECORD_OVERHEAD, executors_group
from services.eventlog.follower import Follower, Member
from services.eventlog.pace import Pace
from services.eventlog.port import Batch, Log, TopicPartition
from services.eventlog.start import StartingPoint, starting_points
from services.eventlog.topics import Topics
from services.executor import metrics
from services.executor.acts import Act, Claim, Post, Start, Stop
from services.executor.backends import Registry
from services.executor.beats import Beats
from services.executor.conversation import Conversation
from services.executor.engine import Engine
from services.executor.eraser import erase, erased_by_others
from services.executor.fairness import most
from services.executor.history import History
from services.executor.liveness import Liveness
from services.executor.narrator import Outlet
from services.executor.predecessors import Predecessors
from services.executor.run import Job, Run
from services.executor.scribe import Limits
from services.executor.steward import Steward
from services.executor.stopper import AT_ONCE, stop_upstream
from services.executor.work import Worker
from services.loops import while_all_run
from services.settings import Settings
from services.traces.port import OFF, Tracer

log = structlog.get_logger()

RETRY_SECONDS = 1.0
LEAST_PACE_S, LONGEST_PACE_S, BUSY = 0.005, 0.02, 2_000
"""Seconds between two reads of the log; the longest from `BUSY` records a second on, unless something waits
for what is read. Runs wait for their own events by the half thousand only."""
CLAIM_SECONDS = 0.05
"""A claim is read back within milliseconds; so often a drain looks for those that were not yet."""
LEAVING_SECONDS = 2.0
"""What leaving may take beyond the grace period, for each of its two steps."""


Loop = Callable[[], Coroutine[object, object, None]]
"""What runs until it is cancelled."""


class Executor:
    """One executor over a log. `run` serves until it is told to stop."""

    def __init__(
        self,
        settings: Settings,
        log_: Log,
        names: Topics,
        registry: Registry,
        conversation: Conversation,
        *,
        quota: Callable[[Tenant], Quota] = unbounded,
        beside: Sequence[Loop] = (),
        tracer: Tracer = OFF,
    ) -> None:
        """`beside` are loops of others that run for as long as it does. `tracer` makes spans of runs."""
        self.me: ExecutorId = executor_id(secrets.token_bytes(TOKEN_BYTES))
        self._settings = settings
        self._log = log_
        self._topic = names.events
        self._group = executors_group(settings)
        self._registry = registry
        self._beside = beside
        pace = Pace(LEAST_PACE_S, LONGEST_PACE_S, BUSY, lambda: self.engine.waits)
        self._follower = Follower(log_, self._group, names.events, self, pace=pace)
        self._unsaid = set[int]()
        """The partitions whose checkpoint does not say how far the log was read (P-68), or that have none. An
        added one has none until its first owner commits it: then it takes new responses (P-145).
        """
        self._memory_ms = settings.acceptance_ms + settings.skew_ms
        ephemeral_ms, lease = int(settings.ephemeral_s * 1000), settings.lease_s
        self.liveness = Liveness(self.me)
        form = settings.records
        self.engine = Engine(
            self.liveness, registry.route, _fresh_claim, lease=lease, ephemeral_ms=ephemeral_ms, form=form
        )
        self._writer = log_.writer(on_failure=self.append_failed)
        self._predecessors = Predecessors(conversation.settle, self.engine.partitions, self.engine.stirred)
        self._history = History(log_, names.events)
        limits, attempts = _limits(settings), settings.max_attempts
        self._worker = Worker(
            self._history, registry, conversation, self._outlet(), self.liveness, limits, attempts, tracer
        )
        self.steward = Steward(
            self.engine,
            self._predecessors,
            calls=self._worker.calls,
            slots=settings.slots,
            most=lambda tenant: most(settings.slots, quota(tenant)),
            lease=lease,
            memory_ms=self._memory_ms,
            ephemeral_ms=ephemeral_ms,
        )
        self.beats = Beats(
            self.me, log_, names.executors, self._writer, self.liveness, self._on_beat, lease=lease
        )
        self._beaten = asyncio.Event()
        self._erasable = asyncio.Event()
        self._orphaned = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._running: dict[Run, asyncio.Task[None]] = {}

    def _outlet(self) -> Outlet:
        """What a run says, and knows of its executor."""
        return Outlet(
            partial(self._writer.post, self._topic, patient=True),
            partial(self._writer.post, self._topic),
            self._follower.stir,
            time.time,
            lambda since: self.liveness.unbroken(since, self._now(), self._settings.lease_s),
        )

    def __repr__(self) -> str:
        return f"<Executor {self.me} owns {sorted(self._follower.owned)}>"

    def not_ready(self) -> list[str]:
        """Why this executor cannot serve; empty when it can. What Kafka does is no reason (docs/api.md)."""
        reasons = {
            "no beat of mine was read back yet": not self.liveness.beats,
            "draining": not self.steward.accepting,
        }
        return [reason for reason, holds in reasons.items() if holds]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain within the grace period."""
        await self.beats.start()
        member = await self._follower.join()

        async def every_beat() -> None:
            await self._every_beat(member)

        async with self._tasks:
            loops = (
                self._follower.begin,
                self._follower.read,
                self._look,
                every_beat,
                self._erase,
                self._stop_orphans,
                self.beats.write,
                self.beats.read,
                *self._beside,
            )
            tasks = [self._tasks.create_task(loop(), name=loop.__qualname__) for loop in loops]
            await while_all_run(tasks, stop)
            await self._drain(member)
            for task in (*tasks, *self._running.values()):
                task.cancel()
        await self._writer.close(timeout=2)

    # What is to be done.

    def do(self, acts: Iterable[Act]) -> None:
        """Do what the engine or the steward has decided, in that order."""
        for act in acts:
            match act:
                case Claim():
                    self._writer.post(self._topic, act.partition, act.record)
                    points.at("claim queued", act.id, act.attempt)
                    self._follower.stir()
                case Post():
                    for record in act.records:
                        self._writer.post(self._topic, act.partition, record)
                case Start():
                    self._start(act.job)
                case Stop():
                    if (task := self._running.get(act.run)) is not None:
                        task.cancel()
                case _:
                    assert_never(act)

    def _start(self, job: Job) -> None:
        task = self._tasks.create_task(self._worker.work(job), name=f"run {job.run.id}")
        self._running[job.run] = task
        task.add_done_callback(lambda _: self._ended(job.run))
        points.at("run begun", job.run)

    def _ended(self, run: Run) -> None:
        del self._running[run]
        self.do(self.engine.over(run, self._now()))

    def append_failed(self, source: TopicPartition, records: Sequence[NewRecord], error: LogError) -> None:
        """Handle posted records that were not acknowledged: they may be in the log or not."""
        metrics.APPENDS_FAILED.inc(len(records))
        log.warning("append failed", partition=source.partition, records=len(records), error=str(error))
        self.do(self.engine.append_failed(source.partition, records, self._now()))

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # The loops.

    async def _look(self) -> None:
        while True:
            await self.engine.stirred.wait()
            self.engine.stirred.clear()
            self.do(self.steward.look(self._now()))
            await asyncio.sleep(0)

    async def _every_beat(self, member: Member) -> None:
        while True:
            await self._beaten.wait()
            self._beaten.clear()
            self.do(self.steward.beat(self._now()))
            self.steward.show()
            for number in self.engine.unneeded(self._follower.owned):
                self._follower.drop(number)
                self.do(self.engine.drop(number))
            self._unsaid -= await member.commit(self.steward.checkpoints(), anyway=self._unsaid)
            self._erasable.set()
            self._orphaned.set()

    async def _erase(self) -> None:
        """A task of its own for each partition, one at a time: a long scan must not hold up takeovers, and a
        partition whose leader is away must not hold up the others.
        """
        erasing = dict[int, asyncio.Task[None]]()
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._erasable.wait()
                self._erasable.clear()
                for partition, erasures in self.steward.erasures():
                    before = erasing.get(partition.number)
                    if before is None or before.done():
                        work = erase(self._log, self._writer, self._topic, partition, erasures)
                        erasing[partition.number] = tasks.create_task(work)
                partitions = list(self.engine.partitions.values())
                await erased_by_others(self._log, self._group, self._topic, partitions)

    async def _stop_orphans(self) -> None:
        """A task of its own for each orphan: a long scan must not hold up takeovers, and neither a partition
        whose leader is away nor an upstream that is away must hold up the others.
        """
        places = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._orphaned.wait()
                self._orphaned.clear()
                for partition, orphan in self.steward.orphans():  # History reads the log once for all of them
                    stop = stop_upstream(self._history, self._registry, places, partition, orphan)
                    tasks.create_task(stop)

    def _on_beat(self) -> None:
        self._beaten.set()
        self.engine.stirred.set()

    # What is followed.

    def assigned(self, owned: frozenset[int]) -> None:
        """The group has assigned these partitions to this executor, and no others."""
        self.engine.assigned(owned)
        self._tell_owned()

    async def places(self, partitions: Collection[int]) -> Mapping[int, StartingPoint]:
        """Where to begin partitions: at their watermarks (P-62). Raises LogUnavailable."""
        memory_ms = self._memory_ms
        return await starting_points(self._log, self._group, self._topic, partitions, memory_ms=memory_ms)

    def begin(self, partition: int, place: StartingPoint, end: int) -> None:
        """Fold a partition from `place` on; it ends at offset `end` now."""
        self.engine.begin(partition, place, end)

    def own(self, partition: int, place: StartingPoint, end: int) -> None:
        """Own a followed partition from now on."""
        self.engine.own(partition, place, end)
        if place.read is None:
            self._unsaid.add(partition)
        self._tell_owned()

    async def read(self, batch: Batch) -> None:
        """Fold the next batch of a followed partition, and do what is to be done about it."""
        self.do(self.engine.read(batch, self._now()))

    def out_of_range(self, partition: int) -> None:
        """Drop the fold of a partition, to start again (P-64); its runs go on in those that follow (P-43)."""
        self.do(self.engine.drop(partition))
        self._tell_owned()

    def _tell_owned(self) -> None:
        metrics.OWNED.set(sum(partition.owned for partition in self.engine.partitions.values()))

    # The end.

    async def _drain(self, member: Member) -> None:
        self.steward.accepting = False
        self._predecessors.close()
        points.at("draining", self)
        log.info("draining", runs=len(self.engine.runs), grace_s=self._settings.grace_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace_s):
                await member.leave()
                await self._runs_end()
        await self._hand_over()
        with suppress(TimeoutError):  # with the log away, the missing beats will say it
            async with asyncio.timeout(LEAVING_SECONDS):
                await self._writer.flush()
                await self.beats.leave()

    async def _runs_end(self) -> None:
        """Wait for the runs, and for those to which a claim under way still leads: it may have won, and the
        next owner could not know that its upstream was never called.
        """
        while True:
            if runs := [task for run, task in self._running.items() if self.engine.has(run)]:
                await asyncio.wait(runs, timeout=RETRY_SECONDS)  # one may be given up meanwhile
            elif self.steward.claiming(self._now()):
                await asyncio.sleep(CLAIM_SECONDS)
            else:
                return

    async def _hand_over(self) -> None:
        """Stop what did not finish, and start nothing: another executor goes on with it."""
        points.at("handing over", self)
        self.do(self.engine.hand_over())
        if self._running:
            await asyncio.wait(self._running.values(), timeout=LEAVING_SECONDS)


def _fresh_claim() -> ClaimId:
    return claim_id(secrets.token_bytes(TOKEN_BYTES))


def _limits(settings: Settings) -> Limits:
    return Limits(
        record_bytes=settings.max_record_bytes - RECORD_OVERHEAD,
        output_bytes=settings.max_output_bytes,
        events=settings.max_events,
    )
