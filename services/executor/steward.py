"""What the owner of partitions does besides folding: claims, takeovers, deadlines, erasure, watermarks.

The steward looks at what waits when something stirred, and at everything with every beat, and returns what is
to be done. It acts only on partitions that are owned and caught up, and only after a beat of its own was read
back (P-41, P-51, P-56). `decide.py` decides about one response.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import repeat

from schemas.fold import State
from schemas.ids import ResponseId, Tenant
from services.config import Route, label_of
from services.eventlog.port import Checkpoint
from services.executor import metrics
from services.executor.acts import Act
from services.executor.decide import DEADLINE_GRACE, Step, View, decide, overdue
from services.executor.engine import Engine
from services.executor.erasures import Erasure
from services.executor.fairness import Occupancy, Queue, by_turns
from services.executor.orphans import Orphan
from services.executor.partition import Partition
from services.executor.predecessors import Predecessors

CLAIMS_S = 300.0
"""Seconds for which a claim that is not read back is remembered: longer than a writer tries (120). If it
turns up later, it is unknown whether it led to a call, so a response that is not repeatable ends."""


class Steward:
    """Works for the partitions of `engine` that are owned. Times `now` are those of the loop, in seconds.

    `calls` says whether the next claim of a response leads to a call of its upstream. `slots` bounds the runs
    of this process, `most` those of a tenant.
    """

    def __init__(
        self,
        engine: Engine,
        predecessors: Predecessors,
        *,
        calls: Callable[[Partition, State], bool],
        slots: int,
        most: Callable[[Tenant], int],
        lease: float,
        memory_ms: int,
        ephemeral_ms: int,
    ) -> None:
        self.engine = engine
        self._predecessors = predecessors
        self._calls = calls
        self._slots = slots
        self._most = most
        self._lease = lease
        self._memory_ms = memory_ms
        self._ephemeral_ms = ephemeral_ms
        self.accepting = True
        """False while draining: nothing is claimed any more."""
        self._claimed: deque[tuple[Partition, State]] = deque()
        """Responses that had a claim at the last beat and were not looked at since, for want of a slot."""
        self._lost: dict[Route | None, list[tuple[Partition, State]]] = {}
        """Responses that lost their executor and wait for a place of their route."""
        self._shown = {""}
        """The routes, by label, of which metrics tell."""

    def look(self, now: float) -> list[Act]:
        """Claim responses that lost their executor, then those that wait, while slots and places are free."""
        if not self._may_claim() or self.free() <= 0:
            return []
        load = self._load()
        acts = self._take_over(load, now)
        for partition, id in by_turns(self._waiting(load), load.share, _accepted_at):
            if self.free() <= 0:
                break
            state = partition.fold.responses[id]
            if self._is_due(partition, state, now):
                acts += self._claim(partition, state, now)
                load.take(partition.waiting.queue(state))
        return acts

    def beat(self, now: float) -> list[Act]:
        """With every beat: take over, end the overdue, send lost claims again, forget what is long closed."""
        acts: list[Act] = []
        for partition in self.engine.partitions.values():
            partition.claims.expire(before=now - CLAIMS_S)
            acts += self._reclaim_again(partition, now)
            partition.forget(self._memory_ms, self._ephemeral_ms)
        if not self._may_claim():
            return acts
        mine = list(self._mine())
        acts += self._end_overdue(mine, now)
        self._claimed = deque((partition, state) for partition, state in mine if state.attempt)
        self._lost.clear()
        acts += self._take_over(self._load(), now)
        self._predecessors.sweep(state for _, state in mine if not state.attempt)
        return acts

    def show(self) -> None:
        """Tell the metrics what waits in the partitions that are owned."""
        acting, now = self._acting(), self.engine.liveness.now
        oldest = min((state.accepted_at for p in acting if (state := p.oldest())), default=now)
        self._show_routes(acting)
        followed = self.engine.partitions.values()
        metrics.LAG.set(sum(max(0, partition.end - partition.position) for partition in followed))
        metrics.OLDEST.set(max(0, now - oldest) / 1000)
        metrics.FREE_SLOTS.set(max(0, self.free()))
        waiting = (erasure for p in acting for erasure in p.erasures.wanted.values() if erasure.after >= now)
        metrics.EPHEMERAL.set(sum(1 for _ in waiting))

    def _show_routes(self, acting: Iterable[Partition]) -> None:
        """Tell the metrics what waits for each route, and which of its places are taken."""
        waiting, taken = Counter[str](), Counter[str]()
        for partition in acting:
            for route, tenants in partition.waiting.unclaimed.items():
                waiting[label_of(route)] += sum(map(len, tenants.values()))
        for route, runs in self._load().by_route():
            taken[label_of(route)] += runs
        self._shown |= waiting.keys() | taken.keys()
        for label in self._shown:
            metrics.QUEUED.labels(label).set(waiting[label])
            metrics.PLACES_TAKEN.labels(label).set(taken[label])

    def claiming(self, now: float) -> bool:
        """Whether claims are under way that may still become runs: sent within a lease (P-52)."""
        claims = [partition.claims.latest.values() for partition in self.engine.partitions.values()]
        return any(sent.at > now - self._lease for latest in claims for sent in latest)

    def checkpoints(self) -> dict[int, Checkpoint]:
        """The watermarks of owned, caught-up partitions, and how far each is folded (P-61), but of those in
        which something late is still to be erased (P-94).
        """
        rid = [partition for partition in self._acting() if partition.erasures.is_rid]
        return {p.number: Checkpoint(p.watermark(p.position), p.position) for p in rid}

    def erasures(self) -> list[tuple[Partition, list[Erasure]]]:
        """What the owner has to erase now. An ephemeral response waits until a beat of this executor says
        that its time is over (P-93).
        """
        return [(p, due) for p in self._acting() if (due := p.erasures.due(self.engine.liveness.now))]

    def orphans(self) -> list[tuple[Partition, Orphan]]:
        """The orphans whose upstreams are to be told now, once each."""
        liveness = self.engine.liveness
        return [(p, orphan) for p in self._acting() for orphan in p.orphans.take(liveness)]

    def free(self) -> int:
        """Slots without a run or a claim that may become one."""
        claims = sum(len(partition.claims.latest) for partition in self.engine.partitions.values())
        return self._slots - len(self.engine.runs) - claims

    def _may_claim(self) -> bool:
        return self.accepting and self.engine.liveness.beats > 0

    def _mine(self) -> Iterator[tuple[Partition, State]]:
        """The open responses that this executor has to go on with: it owns them, or claimed them (P-43)."""
        for partition in self.engine.partitions.values():
            for state in partition.fold.open():
                if state.offset >= partition.floor and self._is_mine(partition, state):
                    yield partition, state

    def _is_mine(self, partition: Partition, state: State) -> bool:
        mine = state.executor == self.engine.me and partition.caught_up()
        return mine or partition.acting()

    def _end_overdue(self, mine: Iterable[tuple[Partition, State]], now: float) -> list[Act]:
        """End responses past their deadline, with a free slot or without (P-47): the runs that hold all slots
        may be those that hang. It ends at most as many at a time as there are slots.
        """
        acts: list[Act] = []
        log_now = self.engine.liveness.now
        for partition, state in mine:
            if not overdue(state, log_now):
                continue
            run = self.engine.runs.get(state.id)
            if run is not None and overdue(state, log_now - 2 * DEADLINE_GRACE):
                acts += self.engine.give_up(run)  # its upstream does not even stop
            if self.free() > -self._slots and self._is_due(partition, state, now):
                acts += self._claim(partition, state, now)
        return acts

    def _take_over(self, load: Occupancy, now: float) -> list[Act]:
        """Claim responses that lost their executor, oldest first, before new ones: they were promised before.
        One that would call a full upstream waits for a place; one that only ends needs none (P-49).
        """
        acts: list[Act] = []
        for route in [route for route in self._lost if not load.full(route)]:
            self._claimed.extendleft(reversed(self._lost.pop(route)))
        while self._claimed and self.free() > 0:
            partition, state = self._claimed.popleft()
            followed = self.engine.partitions.get(partition.number) is partition
            mine = followed and not state.closed and self._is_mine(partition, state)
            if not mine or not self._is_due(partition, state, now):
                continue
            queue = partition.waiting.queue(state)
            if load.full(queue.route) and self._calls(partition, state):
                self._lost.setdefault(queue.route, []).append((partition, state))
            else:
                acts += self._claim(partition, state, now)
                load.take(queue)
        return acts

    def _acting(self) -> list[Partition]:
        return [partition for partition in self.engine.partitions.values() if partition.acting()]

    def _waiting(self, load: Occupancy) -> dict[Queue, Iterator[tuple[Partition, ResponseId]]]:
        """The responses that were never claimed and whose route has places, oldest first over all partitions.
        Those of a full route cost nothing here, however many they are.
        """
        queues: defaultdict[Queue, list[Iterator[tuple[Partition, ResponseId]]]] = defaultdict(list)
        for partition in self._acting():
            for route, tenants in partition.waiting.unclaimed.items():
                for tenant, ids in () if load.full(route) else tenants.items():
                    queues[Queue(tenant, route)].append(zip(repeat(partition), ids, strict=False))
        return {queue: merge(*parts, key=_accepted_at) for queue, parts in queues.items()}

    def _load(self) -> Occupancy:
        """The slots and places that runs have taken, and claims that may become runs."""
        runs = self.engine.runs
        taken = [run.queue for run in runs.values()]
        for partition in self.engine.partitions.values():
            claimed = (partition.fold.responses[id] for id in partition.claims.latest if id not in runs)
            taken += map(partition.waiting.queue, claimed)
        return Occupancy(taken, self._slots, self._most)

    def _is_due(self, partition: Partition, state: State, now: float) -> bool:
        """Whether the response should be claimed now, if there is room for it."""
        sent = partition.claims.latest.get(state.id)
        if sent is not None and sent.attempt == state.attempt + 1 and sent.at > now - 2 * self._lease:
            return False
        view = View(
            me=self.engine.me,
            now=self.engine.liveness.now,
            running=state.id in self.engine.runs,
            gone=self.engine.liveness.gone,
            predecessor_open=state.executor is None and self._predecessors.open(partition, state),
        )
        return decide(state, view) is Step.CLAIM

    def _claim(self, partition: Partition, state: State, now: float) -> Sequence[Act]:
        metrics.CLAIMS.labels("takeover" if state.attempt else "accepted").inc()
        return self.engine.claim(partition, state.id, state.attempt + 1, now)

    def _reclaim_again(self, partition: Partition, now: float) -> list[Act]:
        """A run whose claim n + 1 got lost sends another."""
        acts: list[Act] = []
        for run in self.engine.runs.values():
            if run.reclaiming and run.id in partition.fold:
                sent = partition.claims.latest.get(run.id)
                if sent is None or sent.at < now - self._lease / 2:
                    acts += self.engine.claim(partition, run.id, run.attempt + 1, now)
        return acts


def _accepted_at(waiting: tuple[Partition, ResponseId]) -> int:
    partition, id = waiting
    return partition.fold.responses[id].accepted_at
