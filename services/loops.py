"""The loops of a service, which run for as long as it does: one that ends, ends the service. And the one loop
under them all, which no piece of work may hold for long.

A TaskGroup takes no notice of a task that is cancelled, were it by a library's mistake. The service would go
on, deaf and seemingly alive, and nobody would start it again.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import TypeVar

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
