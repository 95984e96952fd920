"""An event loop whose time is virtual: it never waits, it turns the clock on to the next thing due.

A loop of its own and not a selector's with another clock: the simulation does little but schedule, and what
asyncio's loops do for files, threads and signals at every turn would be a quarter of its time.

Many processes share it. The context of a callback (`PROCESS`) says which process it belongs to; tasks, timers
and futures pass it on by themselves. So one process can be frozen while the others run, as by SIGSTOP: none
of its code runs, and when it is thawed all that came due or came in meanwhile runs at once.
"""

import asyncio
import contextvars
import sys
from asyncio import Future, Task
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from heapq import heappop, heappush
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
PROCESS: ContextVar[object] = ContextVar("PROCESS", default=None)
"""The process whose code runs; None is the world, which is never frozen."""


class Standstill(Exception):
    """Nothing is ready, nothing is due: every task waits for another."""


class _Handle:
    """One callback that is ready or due. It behaves as an `asyncio.TimerHandle`."""

    __slots__ = ("_arguments", "_callback", "_context", "_when", "gone", "timed")

    def __init__(
        self, when: float, callback: Callable[..., Any], arguments: tuple[Any, ...], context: Any, timed: bool
    ) -> None:
        self._when = when
        self.timed = timed
        self._callback = callback
        self._arguments = arguments
        self._context = contextvars.copy_context() if context is None else context  # an empty one is false
        self.gone = False

    def cancel(self) -> None:
        self.gone = True

    def cancelled(self) -> bool:
        return self.gone

    def when(self) -> float:
        return self._when

    def run(self) -> None:
        self._context.run(self._callback, *self._arguments)

    @property
    def process(self) -> object:
        return self._context.get(PROCESS)


class _Held:
    """The callbacks that a frozen process runs when it is thawed: those due, and those come in, in order."""

    def __init__(self) -> None:
        self._due: list[_Handle] = []
        self._news: list[_Handle] = []

    def hold(self, handle: _Handle) -> None:
        (self._due if handle.timed else self._news).append(handle)

    def released(self, rng: Random) -> list[_Handle]:
        """The timers first, as a loop has it whose tasks hear of the news a turn later; or both mingled."""
        turns = [iter(self._due)] * len(self._due) + [iter(self._news)] * len(self._news)
        if rng.random() < 0.5:
            rng.shuffle(turns)
        return [next(handles) for handles in turns]


class Clockwork(asyncio.AbstractEventLoop):
    """The loop. `time()` is in virtual seconds since its start. An error in a callback ends it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[_Handle] = deque()
        self._due: list[tuple[float, int, _Handle]] = []
        self._frozen: dict[object, _Held] = {}
        self._order = 0
        self._running = self._stopping = self._closed = False
        self._generators: dict[AsyncGenerator[Any, Any], None] = {}

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> _Handle:
        handle = _Handle(self._now, callback, args, context, timed=False)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> _Handle:
        handle = _Handle(when, callback, args, context, timed=True)
        self._order += 1
        heappush(self._due, (when, self._order, handle))
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> _Handle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def freeze(self, process: object) -> None:
        """Stop the code of `process` until it is thawed. A running callback goes on to its next await."""
        self._frozen.setdefault(process, _Held())

    def thaw(self, process: object, rng: Random) -> None:
        """Let `process` run again, if it was frozen: all its waiting callbacks run next."""
        if (held := self._frozen.pop(process, None)) is not None:
            self._ready.extend(held.released(rng))

    def create_future(self) -> "Future[Any]":
        return Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, T] | Generator[Any, Any, T], **options: Any) -> "Task[T]":
        return Task(coro, loop=self, **options)

    def run_forever(self) -> None:
        """Until stopped. Raises Standstill."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=self._began, finalizer=self._forgotten)
        asyncio._set_running_loop(self)
        self._running, self._stopping = True, False
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._running = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def run_until_complete(self, future: Awaitable[T]) -> T:  # type: ignore[override]
        whole = asyncio.ensure_future(future, loop=self)
        whole.add_done_callback(lambda _: self.stop())
        self.run_forever()
        return whole.result()

    def _turn(self) -> None:
        """Turn the clock on if nothing is ready, then call what is."""
        ready, due = self._ready, self._due
        while due and due[0][2].gone:
            heappop(due)
        if not ready:
            if not due:
                raise Standstill
            self._now = max(self._now, due[0][0])
        while due and due[0][0] <= self._now:
            ready.append(heappop(due)[2])
        frozen = self._frozen
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle.gone:
                continue
            if frozen and (held := frozen.get(handle.process)) is not None:
                held.hold(handle)
            else:
                handle.run()

    # What `asyncio.Runner`, tasks and generators ask of a loop besides.

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._closed = True

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        assert not enabled, "there is no such mode"

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Ignore a task's error that no code took: `World` watches the task and sees it."""

    async def shutdown_asyncgens(self) -> None:
        for generator in list(self._generators):
            await generator.aclose()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """There is none."""

    def _began(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators[generator] = None

    def _forgotten(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._generators.pop(generator, None)
        if not self._closed:
            self.create_task(generator.aclose())


def running() -> Clockwork:
    """The loop that runs."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clockwork)
    return loop


def play(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a clock of its own."""
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        return runner.run(main)
