"""Read your own write: a read waits until the tail has passed the partition's end as of its arrival (P-80).

arrival → where does the partition end now? (ListOffsets, one at a time to each leader, shared by all that
                                             ask for its partitions meanwhile)
→ wait until the tail's position is there → read the fold
→ not there in time, or the log is away: 503 with Retry-After, never a false 404

A leader that is gone refuses the readers of its own partitions, and holds up nobody else.
"""

import asyncio
from asyncio import Future
from collections.abc import Awaitable, Callable, Hashable
from heapq import heappop, heappush
from itertools import count

from schemas.errors import LogError, unavailable

PATIENCE = 4.5
"""Seconds until a reader is told 503; a client must hear it within 5 s (A-10)."""

Ends = Callable[[frozenset[int]], Awaitable[dict[int, int]]]
"""The next offsets to be written of some partitions, as of now."""
Leader = Callable[[int], Hashable]
"""Whoever is asked about a partition; partitions of the same leader are asked for together."""


class Position:
    """How far the tail of one partition has come, and who waits for it to come further."""

    def __init__(self) -> None:
        self.value = -1
        """The offset to be read next; -1 before the start."""
        self._waiting: list[tuple[int, int, Future[None]]] = []
        self._order = count()

    def __repr__(self) -> str:
        return f"<Position {self.value}, {len(self._waiting)} waiting>"

    def set(self, offset: int) -> None:
        """The next record to be read is at `offset`; it goes back only when a fold was lost (P-64)."""
        self.value = offset
        while self._waiting and self._waiting[0][0] <= offset:
            future = heappop(self._waiting)[2]
            if not future.done():
                future.set_result(None)

    async def reach(self, offset: int) -> None:
        """Wait until everything before `offset` has been folded."""
        if self.value < offset:
            future = asyncio.get_running_loop().create_future()
            heappush(self._waiting, (offset, next(self._order), future))
            await future


class _Round:
    """One look-up of ends at one leader; whoever comes before it starts shares it."""

    def __init__(self) -> None:
        self.partitions: set[int] = set()
        self.answer: Future[dict[int, int]] = asyncio.get_running_loop().create_future()
        # Everybody who asked may have left: then nobody takes an error from it, and that is fine.
        self.answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())


class Barrier:
    """Waits for the tails of one topic. `ends` asks where partitions end, `leader` says who knows it."""

    def __init__(
        self, positions: list[Position], ends: Ends, leader: Leader, patience: float = PATIENCE
    ) -> None:
        self._positions = positions
        self._ends = ends
        self._leader = leader
        self._patience = patience
        self._next: dict[Hashable, _Round] = {}
        self._asking: dict[Hashable, asyncio.Task[None]] = {}

    def positions(self) -> list[int]:
        """How far each partition is folded: the offset to be read next."""
        return [position.value for position in self._positions]

    async def reach(self, partition: int, offset: int | None = None) -> None:
        """Return when the fold has passed the record at `offset`, or the partition's end as of now.

        Raises ApiError 503 when it does not get there in time.
        """
        try:
            async with asyncio.timeout(self._patience):
                end = await self._end(partition) if offset is None else offset + 1
                await self._positions[partition].reach(end)
        except TimeoutError:
            raise unavailable("The log was not read up to now in time.", reason="behind") from None
        except LogError as error:
            raise unavailable("The log cannot be reached.", reason="log_away") from error

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
        """One look-up at a leader at a time; what arrives during it shares the next."""
        try:
            while (asked := self._next.pop(leader, None)) is not None:
                try:
                    asked.answer.set_result(await self._ends(frozenset(asked.partitions)))
                except Exception as error:  # whatever it is, whoever asked must hear it, and others go on
                    asked.answer.set_exception(error)
        finally:
            del self._asking[leader]
