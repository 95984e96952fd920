"""A service ends with any of its loops."""

import asyncio
from collections.abc import Callable, Coroutine

import pytest

from services.loops import Joint, while_all_run

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


class Digging:
    """Work that a test ends."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.joint = Joint(self._dig)

    async def _dig(self, where: str) -> int:
        self.begun.append(where)
        return await asyncio.shield(self.end)

    async def asked(self, *keys: str) -> list[asyncio.Task[int]]:
        """A task for each key, all of which wait."""
        tasks = [asyncio.create_task(self.joint.get(key)) for key in keys]
        for _ in range(3):
            await asyncio.sleep(0)
        return tasks


async def test_who_asks_while_work_is_under_way_shares_it_and_who_asks_later_has_it_done_anew() -> None:
    digging = Digging()
    tasks = await digging.asked("a", "b", "a", "a")
    digging.end.set_result(7)
    assert await asyncio.gather(*tasks) == [7] * 4
    assert digging.begun == ["a", "b"]

    await asyncio.gather(*await digging.asked("a", "a"))
    assert digging.begun == ["a", "b", "a"]


async def test_an_error_is_shared_as_well_and_the_next_one_tries_again() -> None:
    digging = Digging()
    tasks = await digging.asked("a", "a")
    digging.end.set_exception(LookupError("rock"))
    for task in tasks:
        with pytest.raises(LookupError, match="rock"):
            await task
    digging.end = asyncio.get_running_loop().create_future()
    digging.end.set_result(1)

    assert await digging.joint.get("a") == 1


async def test_who_goes_takes_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    digging = Digging()
    first, second = await digging.asked("a", "a")
    first.cancel()
    digging.end.set_result(7)

    assert await second == 7
    digging.end = asyncio.get_running_loop().create_future()
    [alone] = await digging.asked("a")
    alone.cancel()
    digging.end.set_exception(LookupError("rock"))
    await asyncio.wait([alone])
    for _ in range(3):
        await asyncio.sleep(0)
    assert digging.begun == ["a", "a"]
    assert not caplog.records, "an error that nobody waits for is not logged"
