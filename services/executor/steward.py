"""What the owner of partitions does besides running: claims, takeovers, deadlines, erasure, watermarks.

The steward looks when something stirred, and every beat at everything. Its decisions are pure (`decide.py`);
it acts only on partitions that are owned and caught up, and only after a beat of its own was read back (P-41,
P-51).
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from heapq import merge
from itertools import repeat

import structlog

from schemas.errors import LogUnavailable
from schemas.fold import State
from schemas.ids import ResponseId, Tenant
from services import points
from services.config import Route
from services.eventlog.port import Membership
from services.eventlog.tail import Tail
from services.executor import metrics
from services.executor.decide import DEADLINE_GRACE, Step, View, decide, overdue
from services.executor.engine import Engine
from services.executor.fairness import Load, Queue, by_turns
from services.executor.partition import Erasure, Orphan, Partition
from services.executor.predecessors import Predecessors

log = structlog.get_logger()


CLAIMS_S = 300.0
"""Seconds for which a claim that is not read back is remembered: longer than a writer tries (120).
One that turns up later may have called, for all that is known, and what is not repeatable ends then."""


class Steward:
    """Works for the partitions of `engine` that are owned.

    `calls` says whether the next claim of a response leads to a call of its upstream. `slots` bounds the runs
    of this process, `most` those of a tenant.
    """

    def __init__(
        self,
        engine: Engine,
        tail: Tail,
        predecessors: Predecessors,
        *,
        calls: Callable[[Partition, State], bool],
        slots: int,
        most: Callable[[Tenant], int],
        lease: float,
        memory_ms: int,
        ephemeral_ms: int,
    ) -> None:
        self._engine = engine
        self._tail = tail
        self._predecessors = predecessors
        self._calls = calls
        self._slots = slots
        self._most = most
        self._lease = lease
        self._memory_ms = memory_ms
        self._ephemeral_ms = ephemeral_ms
        self.now = 0
        """Log time of my last beat, ms."""
        self.accepting = True
        """False while draining: nothing is claimed any more."""
        self._claimed: deque[tuple[Partition, State]] = deque()
        """What was claimed by somebody at the last beat and is not looked at yet, for want of a slot."""
        self._lost: dict[Route | None, list[tuple[Partition, State]]] = {}
        """What lost its executor and waits for a place of its route."""

    def look(self) -> None:
        """Claim what lost its executor, then what waits, as far as there are free slots and places."""
        if not self._may_claim() or self._free() <= 0:
            return
        load = self._load()
        self._take_over(load)
        for partition, id in by_turns(self._waiting(load), load.share, _accepted_at):
            if self._free() <= 0:
                return
            state = partition.fold.responses[id]
            if self._is_due(partition, state):
                self._claim(partition, state)
                load.take(partition.queue(state))

    def look_at_all(self) -> None:
        """Every beat: take over, end what is overdue, send lost claims again, forget what is long closed."""
        loop_now = asyncio.get_running_loop().time()
        for partition in self._engine.partitions.values():
            partition.expire(before=loop_now - CLAIMS_S)
            self._reclaim_again(partition, loop_now)
            for state in partition.fold.forget(partition.time - self._memory_ms, self._ephemeral_ms):
                partition.orphans.pop(state.id, None)
        if not self._may_claim():
            return
        mine = list(self._mine())
        self._end_overdue(mine)
        self._claimed = deque((partition, state) for partition, state in mine if state.attempt)
        self._lost.clear()
        self._take_over(self._load())
        self._predecessors.sweep(state for _, state in mine if not state.attempt)

    def show(self) -> None:
        """Tell the metrics what waits in the partitions that are owned."""
        acting = self._acting()
        queues = (ids for p in acting for tenants in p.unclaimed.values() for ids in tenants.values())
        oldest = min((state.accepted_at for p in acting if (state := p.oldest())), default=self.now)
        metrics.QUEUED.set(sum(map(len, queues)))
        metrics.OLDEST.set(max(0, self.now - oldest) / 1000)
        metrics.FREE_SLOTS.set(max(0, self._free()))
        waiting = (erasure for p in acting for erasure in p.erasures.values() if erasure.after >= self.now)
        metrics.EPHEMERAL.set(sum(1 for _ in waiting))

    def claiming(self) -> bool:
        """Whether claims are under way that may still become runs: sent within a lease (P-42)."""
        since = asyncio.get_running_loop().time() - self._lease
        partitions = self._engine.partitions.values()
        return any(sent.at > since for partition in partitions for sent in partition.latest.values())

    def watermarks(self) -> dict[int, int]:
        """The watermarks of owned, caught-up partitions that moved since they were committed, but of those in
        which something late is still to be erased (P-94).
        """
        marks = {p.number: p.watermark(self._tail.position(p.number)) for p in self._acting() if p.is_rid}
        return {n: mark for n, mark in marks.items() if mark > self._engine.partitions[n].committed}

    def read(self, partitions: Iterable[int]) -> dict[int, int]:
        """How far each of `partitions`, by number, is folded."""
        return {number: self._tail.position(number) for number in partitions}

    def erasures(self) -> list[tuple[Partition, list[Erasure]]]:
        """What the owner has to erase now: of an ephemeral response nothing before a beat of mine says that
        its time is over (P-93).
        """
        return [(p, due) for p in self._acting() if (due := p.due(self.now))]

    def orphans(self) -> list[tuple[Partition, Orphan]]:
        """Those whose upstreams are to be told now, once each.

        An executor that has shown life since the close reads it and stops its upstream itself (P-46).
        """
        me, liveness = self._engine.me, self._engine.liveness
        due: list[tuple[Partition, Orphan]] = []
        for partition in self._acting():
            for orphan in list(partition.orphans.values()):
                lost = orphan.executor == me or liveness.gone(orphan.executor)
                if lost or liveness.heard(orphan.executor) > orphan.beats:
                    del partition.orphans[orphan.id]
                if lost:
                    due.append((partition, orphan))
        return due

    def _may_claim(self) -> bool:
        return self.accepting and self._engine.liveness.beats > 0

    def _mine(self) -> Iterator[tuple[Partition, State]]:
        """What is open and for this executor to go on with: what it owns, or claimed itself (P-43)."""
        for partition in self._engine.partitions.values():
            for state in partition.fold.open():
                if state.offset >= partition.floor and self._is_mine(partition, state):
                    yield partition, state

    def _is_mine(self, partition: Partition, state: State) -> bool:
        return state.executor == self._engine.me or self._acts_on(partition)

    def _end_overdue(self, mine: Iterable[tuple[Partition, State]]) -> None:
        """End what is past its deadline, with a free slot or without (P-47): what holds all slots may be what
        hangs. At most as many at a time as there are slots.
        """
        for partition, state in mine:
            if not overdue(state, self.now):
                continue
            run = self._engine.runs.get(state.id)
            if run is not None and overdue(state, self.now - 2 * DEADLINE_GRACE):
                self._engine.give_up(run)  # its upstream does not even stop
            if self._free() > -self._slots and self._is_due(partition, state):
                self._claim(partition, state)

    def _take_over(self, load: Load) -> None:
        """Claim what lost its executor, oldest first, before anything new: it was promised before. What would
        call a full upstream waits for a place; what only ends needs none (P-49).
        """
        for route in [route for route in self._lost if not load.full(route)]:
            self._claimed.extendleft(reversed(self._lost.pop(route)))
        while self._claimed and self._free() > 0:
            partition, state = self._claimed.popleft()
            followed = self._engine.partitions.get(partition.number) is partition
            mine = followed and not state.closed and self._is_mine(partition, state)
            if not mine or not self._is_due(partition, state):
                continue
            queue = partition.queue(state)
            if load.full(queue.route) and self._calls(partition, state):
                self._lost.setdefault(queue.route, []).append((partition, state))
            else:
                self._claim(partition, state)
                load.take(queue)

    def _acting(self) -> list[Partition]:
        return [partition for partition in self._engine.partitions.values() if self._acts_on(partition)]

    def _acts_on(self, partition: Partition) -> bool:
        return partition.owned and partition.acting(self._tail.position(partition.number))

    def _free(self) -> int:
        """Slots without a run or a claim that may become one."""
        claims = sum(len(partition.latest) for partition in self._engine.partitions.values())
        return self._slots - len(self._engine.runs) - claims

    def _waiting(self, load: Load) -> dict[Queue, Iterator[tuple[Partition, ResponseId]]]:
        """What was never claimed and has places, oldest first: no partition's queue waits for another's. What
        waits for a full route costs nothing here, however much it is.
        """
        queues: defaultdict[Queue, list[Iterator[tuple[Partition, ResponseId]]]] = defaultdict(list)
        for partition in self._acting():
            for route, tenants in partition.unclaimed.items():
                for tenant, ids in () if load.full(route) else tenants.items():
                    queues[Queue(tenant, route)].append(zip(repeat(partition), ids, strict=False))
        return {queue: merge(*parts, key=_accepted_at) for queue, parts in queues.items()}

    def _load(self) -> Load:
        """What runs have taken, and claims that may become some."""
        runs = self._engine.runs
        taken = [run.queue for run in runs.values()]
        for partition in self._engine.partitions.values():
            claimed = (partition.fold.responses[id] for id in partition.latest if id not in runs)
            taken += map(partition.queue, claimed)
        return Load(taken, self._slots, self._most)

    def _is_due(self, partition: Partition, state: State) -> bool:
        """Whether to claim the response is what to do about it now, if there is room for it."""
        sent = partition.latest.get(state.id)
        patience = asyncio.get_running_loop().time() - 2 * self._lease
        if sent is not None and sent.attempt == state.attempt + 1 and sent.at > patience:
            return False
        view = View(
            me=self._engine.me,
            now=self.now,
            running=state.id in self._engine.runs,
            gone=self._engine.liveness.gone,
            predecessor_open=state.executor is None and self._predecessors.open(partition, state),
        )
        return decide(state, view) is Step.CLAIM

    def _claim(self, partition: Partition, state: State) -> None:
        metrics.CLAIMS.labels("takeover" if state.attempt else "accepted").inc()
        self._engine.claim(partition, state.id, state.attempt + 1)

    def _reclaim_again(self, partition: Partition, now: float) -> None:
        """A run whose claim n + 1 got lost sends another."""
        for run in self._engine.runs.values():
            if run.reclaiming and run.id in partition.fold:
                sent = partition.latest.get(run.id)
                if sent is None or sent.at < now - self._lease / 2:
                    self._engine.claim(partition, run.id, run.attempt + 1)


def _accepted_at(waiting: tuple[Partition, ResponseId]) -> int:
    partition, id = waiting
    return partition.fold.responses[id].accepted_at


async def commit(steward: Steward, engine: Engine, membership: Membership) -> None:
    """Commit the watermarks that moved; a coordinator that is away is asked again next time."""
    marks = steward.watermarks()
    if not marks:
        return
    points.at("watermarks due", marks)
    try:
        await membership.commit(marks, steward.read(marks))
    except LogUnavailable as error:
        log.info("watermarks not committed, will be again", why=str(error))
        return
    for number, mark in marks.items():
        if number in engine.partitions:
            engine.partitions[number].committed = mark
    points.at("watermarks committed", marks)
