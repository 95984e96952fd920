"""How many partitions a topic has, for a process that follows when some are added.

every LOOK_S                           look, so that new partitions are used soon
asked for one that is not known yet    look at once: somebody else may use it already (P-144)
"""

import asyncio
from collections.abc import Callable

import structlog

from schemas.errors import LogError
from services.eventlog.port import Log

LOOK_S = 2.0
"""Seconds between two looks. One costs a small request."""
SHARED_S = 0.1
"""Seconds that a look waits for more who ask: clients can invent ids, so those of that time share one."""

log = structlog.get_logger()


OnGrowth = Callable[[int], None]
"""Called with each larger count, before anybody who asked hears of it. It must not wait."""


class KnownPartitions:
    """The count of `topic`, `value` at first."""

    def __init__(self, log_: Log, topic: str, value: int) -> None:
        self.value = value
        self._log = log_
        self._topic = topic
        self._listeners: list[OnGrowth] = []
        self._looking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<KnownPartitions {self._topic}: {self.value}>"

    def on_growth(self, listener: OnGrowth) -> None:
        """Have `listener` called from now on."""
        self._listeners.append(listener)

    async def includes(self, partition: int) -> bool:
        """Whether the topic has the partition, as of now if it was not known before. Raises LogError."""
        if partition >= self.value:
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._shared())
                # Takes the error of a look for which nobody waits any more, or asyncio would log it.
                self._looking.add_done_callback(lambda look: look.cancelled() or look.exception())
            await asyncio.shield(self._looking)
        return partition < self.value

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except LogError as error:
                log.info("cannot look for new partitions, trying again", topic=self._topic, why=str(error))

    async def _shared(self) -> None:
        await asyncio.sleep(SHARED_S)
        await self._look()

    async def _look(self) -> None:
        count = await self._log.partitions(self._topic)
        if count > self.value:
            log.info("partitions were added", topic=self._topic, partitions=count, before=self.value)
            self.value = count
            for listener in self._listeners:
                listener(count)
