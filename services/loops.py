"""The loops of a service, which run for as long as it does: one that ends, ends the service. And the one loop
under them all, which no piece of work may hold for long.

A TaskGroup takes no notice of a task that is cancelled, were it by a library's mistake. The service would go
on, deaf and seemingly alive, and nobody would start it again.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from schemas.steps import Steps

T = TypeVar("T")

FEW = 2000
"""Elements that Python code goes through in a few milliseconds: for these a thread does not pay."""


async def while_all_run(loops: Collection[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Wait until `stop` is set. Raises RuntimeError, or what ended it, when a loop ends before that."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopping, *loops], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for loop in loops:
        if loop.done():
            error = None if loop.cancelled() else loop.exception()
            raise RuntimeError(f"{loop.get_name()} ended, which it never does") from error


async def in_turns(steps: Steps[T]) -> T:
    """What `steps` come to; everybody else gets a turn between two of them."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


async def apart(elements: int, work: Callable[[], T]) -> T:
    """What `work` comes to, which goes through so many elements in Python: many of them in a thread, which
    leaves the loop its turns every 5 ms. Nobody else may change what it works on.
    """
    return work() if elements <= FEW else await asyncio.to_thread(work)


class Tasks:
    """Tasks that outlive the request that began them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do `work` beside everything else."""
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return running

    async def close(self, within_s: float) -> None:
        """Give what runs `within_s` seconds to finish, then stop it."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=within_s)
            for task in late:
                task.cancel()
