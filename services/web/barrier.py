"""Read your own write: a read waits until the tail has passed the partition's end as of its arrival (P-80).

    arrival → where does the partition end now? (ListOffsets, one at a time to each leader; reads that arrive
              meanwhile share the next one)
    → wait until the tail's position is there → read the fold
    → not there in time, or the log is away: 503 with Retry-After, never a false 404

If a leader is gone, only reads of its own partitions are refused.
"""

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Hashable, Mapping
from heapq import heappop, heappush
from itertools import count

from schemas.errors import LogError, unavailable, unreachable
from services.loops import wake

PATIENCE = 4.5
"""Seconds until a read is refused with 503: its client must hear that within 5 s (A-10)."""

Ends = Callable[[frozenset[int]], Awaitable[dict[int, int]]]
"""Returns the next offsets to be written of some partitions, as of now."""
Leader = Callable[[int], Hashable]
"""Returns the leader of a partition. Partitions of one leader are asked for together."""


class Position:
    """How far the tail of one partition has come, and the reads that wait for it."""

    def __init__(self) -> None:
        self.value = -1
        """The offset to be read next; -1 before the start."""
        self._waiting: list[tuple[int, int, Future[None]]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<Position {self.value}, {len(self._waiting)} waiting>"

    def set(self, offset: int) -> None:
        """Note that the next record to be read is at `offset`: lower only if a fold was lost (P-64)."""
        self.value = offset
        while self._waiting and self._waiting[0][0] <= offset:
            wake(heappop(self._waiting)[2])

    async def reach(self, offset: int) -> None:
        """Wait until everything before `offset` has been folded."""
        if self.value < offset:
            future = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (offset, next(self._order), future))
            await future


class _Round:
    """One look-up of ends at one leader, shared by all reads that come before it starts."""

    def __init__(self) -> None:
        self.partitions: set[int] = set()
        self.answer: Future[dict[int, int]] = asyncio.get_running_loop().create_future()
        # Takes the error of a look-up for which no read waits any more, or asyncio would log it.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())


class Barrier:
    """Waits for the tails of one topic, whose `positions` are by partition. `ends` asks where partitions end,
    `leader` says who leads them.
    """

    def __init__(
        self, positions: Mapping[int, Position], ends: Ends, leader: Leader, patience: float = PATIENCE
    ) -> None:
        self._positions = positions
        self._ends = ends
        self._leader = leader
        self._patience = patience
        self._next: dict[Hashable, _Round] = {}
        self._asking: dict[Hashable, asyncio.Task[None]] = {}

    def positions(self) -> dict[int, int]:
        """By partition, how far it is folded: the offset to be read next."""
        return {partition: position.value for partition, position in self._positions.items()}

    async def reach(self, partition: int, offset: int | None = None) -> None:
        """Return when the fold has passed the record at `offset` (None: the partition's end as of now).

        Raises ApiError 503 if the fold does not get there in time.
        """
        try:
            async with asyncio.timeout(self._patience):
                end = await self._end(partition) if offset is None else offset + 1
                await self._positions[partition].reach(end)
        except TimeoutError:
            raise unavailable("The log was not read up to now in time.", reason="behind") from None
        except LogError as error:
            raise unreachable() from error

    async def _end(self, partition: int) -> int:
        leader = self._leader(partition)
        mine = self._next.get(leader)
        if mine is None:
            mine = self._next[leader] = _Round()
        mine.partitions.add(partition)
        if leader not in self._asking:
            self._asking[leader] = asyncio.create_task(self._ask(leader))
        return (await asyncio.shield(mine.answer))[partition]

    async def _ask(self, leader: Hashable) -> None:
        """Look up ends at a leader, one look-up at a time. Reads that arrive during one share the next."""
        try:
            while (asked := self._next.pop(leader, None)) is not None:
                try:
                    asked.answer.set_result(await self._ends(frozenset(asked.partitions)))
                except Exception as error:  # any error goes to the reads that asked; the next round goes on
                    asked.answer.set_exception(error)
        finally:
            del self._asking[leader]
