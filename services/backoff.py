"""Pauses between attempts at something that cannot be awaited: longer each time, up to a bound."""

import asyncio


class Backoff:
    """The pauses of one undertaking: `first` seconds, then twice as long each time, at most `longest`."""

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._last = 0.0
        """The last pause; 0: the last attempt succeeded, or there was none."""

    def __repr__(self) -> str:
        return f"<Backoff {self._last} of {self._first} to {self._longest} s>"

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._last > 0

    def pause(self) -> float:
        """Seconds to wait after an attempt that failed. The next pause is longer."""
        self._last = min(max(self._last * 2, self._first), self._longest)
        return self._last

    async def wait(self) -> None:
        """Wait after an attempt that failed."""
        await asyncio.sleep(self.pause())

    def succeeded(self) -> None:
        """The next pause is the first again."""
        self._last = 0.0
