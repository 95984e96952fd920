"""An event loop whose time is virtual: it never waits, it turns the clock on to the next thing due."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Standstill(Exception):
    """Nothing is ready, nothing is due: every task waits for another."""


class _Selector(selectors.SelectSelector):
    """No file ever becomes ready; waiting turns the clock."""

    clock = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Standstill
        self.clock += max(0.0, timeout)
        return []


class Clockwork(asyncio.SelectorEventLoop):
    """The loop. `time()` is in virtual seconds since its start."""

    def __init__(self) -> None:
        self._hands = _Selector()
        super().__init__(self._hands)

    def time(self) -> float:
        return self._hands.clock


def play(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a clock of its own."""
    with asyncio.Runner(loop_factory=Clockwork) as runner:
        return runner.run(main)
