"""Runs a service as a process: its title, its signals, and its end when the process that started it is gone.

SIGTERM, SIGINT  the first sets `stop`: the service drains and returns; the second ends the process at once
standard input   with `--with-parent`: when it ends, the starter is dead, and the service drains as well
"""

import asyncio
import gc
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import structlog
import uvloop
from setproctitle import setproctitle

from services.settings import Settings

T = TypeVar("T")
Run = Callable[[Settings, asyncio.Event], Coroutine[Any, Any, None]]
"""The type of `services.<name>.app.run`: serves until the event is set, drains, returns."""

Main = Callable[[asyncio.Event], Coroutine[Any, Any, T]]

ORPHAN_MARGIN_S = 5.0
"""Seconds over the grace period after which a service whose starter is gone ends, whatever it does."""
YOUNG_OBJECTS = 200_000
"""Container objects made between two garbage collections. With Python's 700 the collector goes dozens of
times over each fetched batch, whose records are all in use: 3.6 of the 8.3 µs that a record cost a reader."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


def serve(name: str, main: Main[None], grace_s: float, *, with_parent: bool = False) -> None:
    """Run one service to its end. Raises what `main` raises."""
    setproctitle(f"rejoinder {name}")
    if with_parent:
        bound = grace_s + ORPHAN_MARGIN_S
        threading.Thread(target=_end_with_parent, args=(bound,), daemon=True).start()
    _allow_files()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    until_stopped(main)


def _allow_files() -> None:
    """Raise the limit of open files to what the system grants: connections are files; shells allow 1,024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS grants fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def until_stopped(main: Main[T], at_once: Callable[[], None] = lambda: None) -> T:
    """Run `main` on a fresh loop. A signal sets its event; a second calls `at_once` and ends the process."""

    async def run() -> T:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, _stop, number, stop, at_once)
        return await main(stop)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def while_wanted(work: Coroutine[Any, Any, T], stop: asyncio.Event) -> T | None:
    """The result of `work`; None if `stop` is set before: `work` is cancelled then. Raises what it raises."""
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        stopping.cancel()
        working.cancel()
        await asyncio.wait({working})


def _stop(number: signal.Signals, stop: asyncio.Event, at_once: Callable[[], None]) -> None:
    if stop.is_set():
        at_once()
        os._exit(128 + number)
    log.info("stopping", signal=number.name)
    stop.set()


def _end_with_parent(bound_s: float) -> None:
    """End the process with its starter. Runs in a thread, because the loop may be stuck then."""
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(bound_s)
    os._exit(1)
