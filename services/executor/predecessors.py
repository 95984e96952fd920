"""Holds a response back until all that it follows has closed (A-13, P-58).

A fold answers for most predecessors: one is open, or it completed, and then everything before it had closed.
One that ended otherwise may have left an open one behind it. Replay is asked for the others, once each: those
that the fold has forgotten, and those in a partition that this executor does not follow (an Idempotency-Key
leads its response to a partition of its own, P-2).

A run never waits for another. Runs that did could hold every slot while the runs that they wait for get none,
and a waiting run whose executor dies would end `executor_lost` although nothing had been called (P-44).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from schemas.fold import COMPLETED, State
from schemas.ids import ResponseId, partition_of
from services.executor.conversation import MAX_TURNS
from services.executor.partition import Partition

log = structlog.get_logger()

ASKING = 256
"""Predecessors that replay is asked about at the same time; the others take turns with them."""
PATIENCE_S = 30.0
"""Seconds of each turn."""

Settle = Callable[[Partition, ResponseId], Awaitable[None]]
"""Returns when a response and all before it have closed, or are gone."""


class Predecessors:
    """Knows which predecessors have settled. `stirred` is set when one more has."""

    def __init__(self, settle: Settle, partitions: Mapping[int, Partition], stirred: asyncio.Event) -> None:
        self._settle = settle
        self._partitions = partitions
        self._stirred = stirred
        self._settled: set[ResponseId] = set()
        self._asking: dict[ResponseId, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(ASKING)

    def __repr__(self) -> str:
        return f"<Predecessors asking={len(self._asking)} settled={len(self._settled)}>"

    def open(self, partition: Partition, state: State) -> bool:
        """Whether a response of `partition` has to wait for what it follows. Asks replay if no fold knows."""
        is_open, unknown = self._nearest(state)
        return is_open or (unknown is not None and not self._is_settled(partition, unknown))

    def sweep(self, waiting: Iterable[State]) -> None:
        """Forget the predecessors that none of `waiting` waits for. `waiting` must have every response that
        was never claimed, also one whose turn has not come for long.
        """
        wanted = {unknown for _, unknown in map(self._nearest, waiting)}
        self._settled &= wanted
        for id in self._asking.keys() - wanted:
            self._asking.pop(id).cancel()

    def close(self) -> None:
        """Ask no more."""
        for task in self._asking.values():
            task.cancel()
        self._asking.clear()

    def _nearest(self, state: State) -> tuple[bool, ResponseId | None]:
        """Whether a fold knows an open predecessor; else the one that replay must be asked about, if any."""
        previous = _previous(state)
        for _ in range(MAX_TURNS):  # its run refuses a longer one; what goes round in a circle is one
            if previous is None:
                break
            followed = self._partitions.get(partition_of(previous))
            before = followed.fold.get(previous) if followed else None
            if before is None or (followed and before.offset < followed.floor):  # not known from its start
                return False, previous
            if not before.closed or before.status == COMPLETED:
                return not before.closed, None
            previous = _previous(before)
        return False, None

    def _is_settled(self, partition: Partition, previous: ResponseId) -> bool:
        if previous in self._settled:
            return True
        if previous not in self._asking:
            self._asking[previous] = asyncio.create_task(self._ask(partition, previous))
        return False

    async def _ask(self, partition: Partition, previous: ResponseId) -> None:
        try:
            while not await self._settles(partition, previous):
                pass
        except Exception:
            log.exception("predecessor cannot be looked up", id=previous)  # its successor's run will say why
        self._asking.pop(previous, None)
        self._settled.add(previous)
        self._stirred.set()

    async def _settles(self, partition: Partition, previous: ResponseId) -> bool:
        async with self._places:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._settle(partition, previous)
            except TimeoutError:
                return False
        return True


def _previous(state: State) -> ResponseId | None:
    return state.accepted.previous if state.accepted else None
