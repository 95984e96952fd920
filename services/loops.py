"""Ends a service when one of its loops ends, and keeps long work from holding the event loop.

The loops of a service run as long as the service. A TaskGroup ignores a task that is cancelled, even by a
library's mistake: the service would go on without that loop, seemingly alive, and no supervisor would start
it again.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from schemas.steps import Steps

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

FEW = 2000
"""Elements that Python code goes through in a few milliseconds: up to so many a thread does not pay."""


async def while_all_run(loops: Collection[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Wait until `stop` is set. Raises RuntimeError, from what ended the loop, if a loop ends before that."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([stopping, *loops], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
    for loop in loops:
        if loop.done():
            error = None if loop.cancelled() else loop.exception()
            raise RuntimeError(f"{loop.get_name()} ended, which it never does") from error


def wake(waiting: asyncio.Future[None]) -> None:
    """Let whoever awaits `waiting` go on. Harmless when repeated, and when nobody waits any more."""
    if not waiting.done():
        waiting.set_result(None)


async def in_turns(steps: Steps[T]) -> T:
    """The result of `steps`. Other tasks get a turn between two steps."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
        await asyncio.sleep(0)


async def apart(elements: int, work: Callable[[], T]) -> T:
    """The result of `work`, which goes through so many `elements` in Python. With more than FEW it runs in a
    thread, so that the event loop gets a turn every 5 ms. No other task may change what it works on.
    """
    return work() if elements <= FEW else await asyncio.to_thread(work)


class Joint(Generic[K, T]):
    """Does `work` on a key once for all who ask while it is under way: they share its result, or its error.

    Who asks later has it done anew. Who is cancelled leaves it to the others; it runs to its end, even for
    nobody.
    """

    def __init__(self, work: Callable[[K], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._under_way: dict[K, asyncio.Task[T]] = {}

    async def get(self, key: K) -> T:
        """The result of the work on `key`. Raises what it raises."""
        working = self._under_way.get(key)
        if working is None:
            working = self._under_way[key] = asyncio.create_task(self._work(key))
            working.add_done_callback(partial(self._over, key))
        return await asyncio.shield(working)

    def _over(self, key: K, working: asyncio.Task[T]) -> None:
        del self._under_way[key]
        if not working.cancelled():
            working.exception()  # takes an error for which nobody waits any more, or asyncio would log it


class Tasks:
    """Tasks that outlive the request that began them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` in a task of its own."""
        running = asyncio.create_task(work)
        self._running.add(running)
        running.add_done_callback(self._running.discard)
        return running

    async def close(self, within_s: float) -> None:
        """Wait `within_s` seconds for the tasks to finish, then cancel the rest."""
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=within_s)
            for task in late:
                task.cancel()
