"""Services as children: kept alive, named in the log, stopped in time, never left behind."""

import asyncio
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import psutil
import pytest

from services.dev.child import FIRST_PAUSE, Child, ChildRefused
from tests.conftest import eventually
from tests.steady import steady

SLEEP = "import time; print('up', flush=True); time.sleep(100)"


class Kept:
    """A child that is kept, and what it said."""

    def __init__(self, code: str, stop_s: float = 10) -> None:
        self.said = io.StringIO()
        self.child = Child("one", [sys.executable, "-c", code], os.environ, self.said)
        self._stop_s = stop_s

    async def __aenter__(self) -> "Kept":
        self.keeping = asyncio.create_task(self.child.keep(self._stop_s))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.keeping.cancel()
        with suppress(asyncio.CancelledError, ChildRefused):
            await self.keeping

    def ups(self) -> int:
        return self.said.getvalue().count("up\n")

    def lines(self) -> list[str]:
        return self.said.getvalue().splitlines()


def at_least(count: int, what: Callable[[], int]) -> Callable[[], bool]:
    return lambda: what() >= count


async def test_its_lines_are_passed_on_with_its_name() -> None:
    async with Kept(f"import sys; print('to stderr', file=sys.stderr, flush=True); {SLEEP}") as kept:
        await eventually(at_least(1, kept.ups))
    assert kept.said.getvalue() == "one       | to stderr\none       | up\n"


async def test_a_child_that_is_killed_is_started_again() -> None:
    async with Kept(SLEEP) as kept:
        await eventually(at_least(1, kept.ups))
        first = kept.child.pid
        kept.child.kill()
        await eventually(at_least(2, kept.ups))
        assert kept.child.pid != first


async def test_a_child_that_keeps_ending_is_started_ever_more_slowly() -> None:
    starts: list[float] = []

    async def started_again() -> bool:
        nonlocal starts
        before, starts = starts, [float(line.split()[-1]) for line in kept.lines()]
        return len(starts) > len(before)

    async with Kept("import time; print('up', time.monotonic(), flush=True); raise SystemExit(1)") as kept:
        while len(starts) <= 4:
            await eventually(started_again)
    pauses = [after - before for before, after in pairwise(starts)]
    assert all(took >= FIRST_PAUSE * 2**n for n, took in enumerate(pauses)), pauses


async def test_a_child_with_wrong_settings_is_not_started_again() -> None:
    async with Kept("raise SystemExit(2)") as kept:
        with pytest.raises(ChildRefused, match="one cannot start: see its line above"):
            await kept.keeping


async def test_a_child_may_drain_before_it_ends() -> None:
    drain = "lambda *_: (time.sleep(.3), print('drained'), exit(0))"
    drains = f"import signal; signal.signal(signal.SIGTERM, {drain})"
    async with Kept(f"{drains}; {SLEEP}") as kept:
        await eventually(at_least(1, kept.ups))
        pid = kept.child.pid
    assert not psutil.pid_exists(pid)
    assert kept.said.getvalue().endswith("drained\n")


async def test_a_child_that_does_not_end_in_time_is_killed() -> None:
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    async with Kept(f"{stubborn}; {SLEEP}", stop_s=0.3) as kept:
        await eventually(at_least(1, kept.ups))
        pid, began = kept.child.pid, steady()
    assert not psutil.pid_exists(pid)
    assert steady() - began < 5


SUPERVISED = """
import asyncio, os, sys
from services.process import serve

async def run(stop):
    print(os.getpid(), flush=True)
    await stop.wait()
    if sys.argv[1] == "stuck":
        await asyncio.Event().wait()

serve("test", run, 0.1, with_parent=True)
"""


@pytest.mark.parametrize("manner", ["drains", "stuck"])
async def test_a_service_ends_when_its_starter_is_gone(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The starter is a shell that is killed, so no process is left to send a signal."""
    starter = f"{sys.executable} -c '{SUPERVISED}' {manner}; true"
    shell = await asyncio.create_subprocess_exec(
        "/bin/sh", "-c", starter, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert shell.stdout is not None
    service = int(await shell.stdout.readline())
    shell.kill()
    assert shell.stdin is not None
    shell.stdin.close()
    await eventually(lambda: not psutil.pid_exists(service), timeout=10)
    await shell.wait()


async def test_a_second_signal_ends_a_service_at_once() -> None:
    code = SUPERVISED.replace("with_parent=True", "with_parent=False")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, "stuck", stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    await process.stdout.readline()
    assert " ".join(psutil.Process(process.pid).cmdline()).startswith("rejoinder test")
    process.send_signal(signal.SIGTERM)
    assert b"stopping" in await process.stdout.readline()
    assert process.returncode is None
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 128 + signal.SIGTERM
