"""The executor: one task per loop, one per run.

    fold          tail → engine.read
    look          claims what waits, whenever something stirred
    every beat    takeovers, deadlines, watermarks
    erase         tombstones for what was deleted, or is not stored
    stop          upstreams of what was cancelled or deleted when its executor was gone
    assignments   follows what is newly owned from its watermark (P-62), drops what is not needed any more

On SIGTERM it claims nothing more, leaves the group, lets its runs finish within the grace period, stops the
rest and says with a last beat that they are up for takeover. Shutdown is never a cancellation (A-21).
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress

import structlog

from schemas.errors import LogUnavailable
from schemas.fold import State
from schemas.ids import TOKEN_BYTES, ExecutorId, Tenant, executor_id
from services import points
from services.config import Quota, unbounded
from services.connect import RECORD_OVERHEAD, executors_group
from services.eventlog.port import Log, Membership
from services.eventlog.start import starting_points
from services.eventlog.tail import Tail
from services.eventlog.topics import Topics
from services.executor import metrics
from services.executor.backends import Registry
from services.executor.beats import Beats
from services.executor.conversation import Conversation
from services.executor.engine import Engine
from services.executor.erasure import erase, erased_by_others
from services.executor.fairness import most
from services.executor.history import History
from services.executor.liveness import Liveness
from services.executor.orphans import stop_upstreams
from services.executor.partition import Partition
from services.executor.predecessors import Predecessors
from services.executor.run import Run
from services.executor.scribe import Limits
from services.executor.steward import Steward, commit
from services.executor.work import Worker
from services.loops import while_all_run
from services.settings import Settings

log = structlog.get_logger()

RETRY_SECONDS = 1.0
PACE_S = 0.005
"""Seconds between two reads of the log: a run waits for its own events by the half thousand."""
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
    ) -> None:
        """`beside` are loops of others that run for as long as it does."""
        self.me: ExecutorId = executor_id(secrets.token_bytes(TOKEN_BYTES))
        self._settings = settings
        self._log = log_
        self._topic = names.events
        self._tail = Tail(log_, names.events, pace=PACE_S)
        self._liveness = Liveness(self.me)
        self._memory_ms = settings.window_ms + settings.skew_ms
        ephemeral_ms = int(settings.ephemeral_s * 1000)
        lease = settings.lease_s
        self._engine = Engine(
            self.me,
            names.events,
            self._liveness,
            registry.route,
            self._launch,
            lease=lease,
            ephemeral_ms=ephemeral_ms,
            clock=time.time,
            form=settings.records,
        )
        self._writer = self._engine.writer = log_.writer(on_failure=self._engine.append_failed)
        self._predecessors = Predecessors(conversation.settle, self._engine.partitions, self._engine.stirred)
        self._registry = registry
        self._beside = beside
        self._history = History(log_, names.events)
        limits = _limits(settings)
        self._worker = Worker(
            self._history, registry, conversation, limits, settings.max_attempts, lambda: self._steward.now
        )
        self._steward = Steward(
            self._engine,
            self._tail,
            self._predecessors,
            calls=self._worker.calls,
            slots=settings.slots,
            most=lambda tenant: most(settings.slots, quota(tenant)),
            lease=lease,
            memory_ms=self._memory_ms,
            ephemeral_ms=ephemeral_ms,
        )
        self._beats = Beats(
            self.me, log_, names.executors, self._writer, self._liveness, self._on_beat, lease=lease
        )
        self._beaten = asyncio.Event()
        self._erasable = asyncio.Event()
        self._orphaned = asyncio.Event()
        self._assigned: frozenset[int] = frozenset()
        self._reassigned = asyncio.Event()
        self._membership: Membership
        self._tasks: asyncio.TaskGroup

    def __repr__(self) -> str:
        return f"<Executor {self.me} owns {sorted(self._assigned)}>"

    def not_ready(self) -> list[str]:
        """Why this executor cannot serve; empty when it can. What Kafka does is no reason (docs/api.md)."""
        reasons = {
            "no beat of mine was read back yet": not self._liveness.beats,
            "draining": not self._steward.accepting,
        }
        return [reason for reason, holds in reasons.items() if holds]

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain within the grace period."""
        await self._beats.start()
        group = executors_group(self._settings)
        self._membership = await self._log.join(group, self._topic, self._on_assignment)
        async with asyncio.TaskGroup() as self._tasks:
            loops = (
                self._fold,
                self._look,
                self._every_beat,
                self._erase,
                self._stop_orphans,
                self._assignments,
                self._beats.write,
                self._beats.read,
                *self._beside,
            )
            tasks = [self._tasks.create_task(loop(), name=loop.__qualname__) for loop in loops]
            await while_all_run(tasks, stop)
            await self._drain()
            for task in tasks:
                task.cancel()
        await self._writer.close(timeout=2)

    # The loops.

    async def _fold(self) -> None:
        while True:
            for batch in await self._tail.read():
                if batch.out_of_range:
                    log.warning("position out of range, starting again", partition=batch.source.partition)
                    self._engine.drop(batch.source.partition)  # P-64
                    self._reassigned.set()
                else:
                    self._engine.read(batch)

    async def _look(self) -> None:
        while True:
            await self._engine.stirred.wait()
            self._engine.stirred.clear()
            self._steward.look()
            await asyncio.sleep(0)

    async def _every_beat(self) -> None:
        while True:
            await self._beaten.wait()
            self._beaten.clear()
            self._steward.look_at_all()
            self._steward.show()
            self._drop_unneeded()
            await commit(self._steward, self._engine, self._membership)
            self._erasable.set()
            self._orphaned.set()

    async def _erase(self) -> None:
        """A task of its own: a long scan must not hold up takeovers."""
        while True:
            await self._erasable.wait()
            self._erasable.clear()
            for partition, erasures in self._steward.erasures():
                await erase(self._log, self._writer, self._topic, partition, erasures)
            group, partitions = executors_group(self._settings), list(self._engine.partitions.values())
            await erased_by_others(self._log, group, self._topic, partitions)

    async def _stop_orphans(self) -> None:
        """A task of its own: a long scan and an upstream that is away must not hold up takeovers."""
        while True:
            await self._orphaned.wait()
            self._orphaned.clear()
            await stop_upstreams(self._history, self._registry, self._steward.orphans())

    async def _assignments(self) -> None:
        while True:
            await self._reassigned.wait()
            self._reassigned.clear()
            try:
                await self._follow()
            except LogUnavailable:
                self._reassigned.set()
                await asyncio.sleep(RETRY_SECONDS)

    def _on_beat(self, log_time: int) -> None:
        self._steward.now = log_time
        self._beaten.set()
        self._engine.stirred.set()

    # Partitions.

    def _on_assignment(self, owned: frozenset[int]) -> None:
        """Ownership ends at once; it begins when the partition is followed and its end is known."""
        for partition in self._engine.partitions.values():
            partition.owned = partition.owned and partition.number in owned
        self._tell_owned()
        self._assigned = owned
        self._reassigned.set()

    async def _follow(self) -> None:
        held = self._engine.partitions
        new = [n for n in self._assigned if n not in held or not held[n].owned]
        points.at("following", self._assigned, held, self._tail)
        if not new:
            return
        group = executors_group(self._settings)
        starts = await starting_points(self._log, group, self._topic, new, memory_ms=self._memory_ms)
        bounds = await self._log.bounds(self._topic, new)
        for number in new:
            start = starts[number]
            if number not in held:
                held[number] = Partition(number, floor=start.floor, floor_read=start.read)
                self._tail.follow(number, start.offset)
            partition = held[number]
            partition.own(acts_from=bounds[number].end, committed=start.floor)
            partition.owned = number in self._assigned
        self._tell_owned()
        self._engine.stirred.set()

    def _tell_owned(self) -> None:
        metrics.OWNED.set(sum(partition.owned for partition in self._engine.partitions.values()))

    def _drop_unneeded(self) -> None:
        """Partitions that are neither owned nor run in are no longer folded (P-48)."""
        for partition in list(self._engine.partitions.values()):
            needed = partition.number in self._assigned or partition.latest
            mine = any(state.executor == self.me for state in partition.fold.open())
            if not needed and not mine and not any(id in partition.fold for id in self._engine.runs):
                self._tail.drop(partition.number)
                self._engine.drop(partition.number)

    # Runs.

    def _launch(self, partition: Partition, state: State, run: Run) -> asyncio.Task[None]:
        return self._tasks.create_task(self._worker.work(partition, state, run), name=f"run {run.id}")

    async def _drain(self) -> None:
        points.at("draining", self)
        self._steward.accepting = False
        self._predecessors.close()
        log.info("draining", runs=len(self._engine.runs), grace_s=self._settings.grace_s)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace_s):
                await self._membership.close()
                await self._runs_end()
        await self._hand_over()
        with suppress(TimeoutError):  # with the log away, the missing beats will say it
            async with asyncio.timeout(LEAVING_SECONDS):
                await self._writer.flush()
                await self._beats.leave()

    async def _runs_end(self) -> None:
        """Wait for the runs, and for those to which a claim under way still leads: it may have won, and the
        next owner could not know that its upstream was never called.
        """
        while True:
            tasks = [run.task for run in self._engine.runs.values() if run.task is not None]
            if tasks:
                await asyncio.wait(tasks)
            elif self._steward.claiming():
                await asyncio.sleep(CLAIM_SECONDS)
            else:
                return

    async def _hand_over(self) -> None:
        """Stop what did not finish, and start nothing: another executor goes on with it."""
        points.at("handing over", self)
        self._engine.leaving = True
        runs = list(self._engine.runs.values())
        for run in runs:
            run.abandoned = True
            if run.task is not None:
                run.task.cancel()
        tasks = [run.task for run in runs if run.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=LEAVING_SECONDS)


def _limits(settings: Settings) -> Limits:
    return Limits(
        record_bytes=settings.max_record_bytes - RECORD_OVERHEAD,
        output_bytes=settings.max_output_bytes,
        events=settings.max_events,
    )
