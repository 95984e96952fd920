"""A service ends with any of its loops."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from services.loops import while_all_run

Loop = Callable[[], Coroutine[None, None, None]]


async def for_ever() -> None:
    await asyncio.Event().wait()


async def cancelled_from_inside() -> None:
    raise asyncio.CancelledError


async def over() -> None:
    pass


async def broken() -> None:
    raise LookupError("no such topic")


async def serve(loop: Loop, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop(), name="Feed.run"), group.create_task(for_ever())]
        await while_all_run(tasks, stop)
        for task in tasks:
            task.cancel()


async def test_loops_run_until_the_service_is_told_to_stop() -> None:
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(for_ever, stop))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not serving.done()
    stop.set()
    await serving


@pytest.mark.parametrize(
    "ends, why",
    [
        (cancelled_from_inside, "Feed.run ended, which it never does"),
        (over, "Feed.run ended, which it never does"),
        (broken, "no such topic"),
    ],
)
async def test_a_loop_that_ends_ends_the_service(ends: Loop, why: str) -> None:
    with pytest.raises(ExceptionGroup) as ended:
        await serve(ends, asyncio.Event())
    assert [str(error) for error in ended.value.exceptions] == [why]
