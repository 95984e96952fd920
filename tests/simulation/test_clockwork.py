"""The clock of the simulation: virtual, and each process can be frozen."""

import asyncio
from contextvars import copy_context
from random import Random

from tests.simulation.clockwork import PROCESS, play, running

FROZEN = 10.0


async def late_by_a_pause() -> tuple[list[float], list[str]]:
    """When a process that does something every second did it, frozen once; what it heard of an answer that
    came while it was, and that it waited two seconds for.
    """
    loop, heard, times = running(), [], []
    answer: asyncio.Future[None] = loop.create_future()
    process = copy_context()
    process.run(PROCESS.set, "process")

    async def every_second() -> None:
        for _ in range(4):
            await asyncio.sleep(1)
            times.append(loop.time())

    async def ask() -> None:
        try:
            async with asyncio.timeout(2):
                await answer
                heard.append("answer")
        except TimeoutError:
            heard.append("too late")

    tasks = [loop.create_task(job(), context=process) for job in (every_second, ask)]
    await asyncio.sleep(1.5)
    loop.freeze("process")
    await asyncio.sleep(FROZEN / 2)
    answer.set_result(None)
    await asyncio.sleep(FROZEN / 2)
    loop.thaw("process", Random(2))
    await asyncio.wait(tasks)
    return times, heard


def test_nothing_of_a_frozen_process_runs_and_all_that_came_due_does_when_it_is_thawed() -> None:
    times, heard = play(late_by_a_pause())
    assert times == [1, 1.5 + FROZEN, 2.5 + FROZEN, 3.5 + FROZEN]
    assert heard == ["too late"]  # though the answer was there: its timer ran first


def test_nobody_else_stands_still_meanwhile() -> None:
    async def whole() -> float:
        running().freeze("somebody")
        await asyncio.sleep(1)
        return running().time()

    assert play(whole()) == 1
