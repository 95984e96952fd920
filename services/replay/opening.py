"""Which partitions get new responses: all that were there at the start, and added ones when they are owned.

    added → an executor owns it and has committed its checkpoint → it gets new responses

A response in a partition that nobody owns yet would wait for as long as the group of the executors takes to
share the partition out. Those that must go there, after a predecessor, wait.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Container, Mapping

import structlog

from schemas.errors import LogError

LOOK_S = 1.0
"""Seconds between two looks whether an added partition is owned."""

Committed = Callable[[Collection[int]], Awaitable[Mapping[int, int | None]]]
"""Returns the checkpoints of the executors' group, None where it has none."""

log = structlog.get_logger()


class Opening(Container[int]):
    """The partitions that get new responses, `partitions` at first."""

    def __init__(self, partitions: Collection[int], committed: Committed) -> None:
        self._open = set(partitions)
        self._committed = committed
        self._waiting: set[int] = set()
        self._added = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Opening {sorted(self._open)}, waiting {sorted(self._waiting)}>"

    def __contains__(self, partition: object) -> bool:
        return partition in self._open

    def add(self, partitions: Collection[int]) -> None:
        """Open these as soon as they are owned."""
        self._waiting.update(partitions)
        self._added.set()

    async def run(self) -> None:
        """Open what was added, for ever."""
        while True:
            await self._added.wait()
            self._added.clear()
            while self._waiting:
                await self._look()
                if self._waiting:
                    await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        try:
            found = await self._committed(sorted(self._waiting))
        except LogError as error:
            log.info("cannot look whether added partitions are owned, trying again", why=str(error))
            return
        owned = {partition for partition, checkpoint in found.items() if checkpoint is not None}
        if owned:
            log.info("new responses go to added partitions too", partitions=sorted(owned))
            self._open |= owned
            self._waiting -= owned
