"""Paces requests by load: a lone record goes at once, and many streams wait for each other, for milliseconds.

A request costs its broker, the readers that it wakes and its sender what dozens of records in it cost. So the
more records come, the longer the next request waits for company, up to a bound that nobody sees.
"""

from collections.abc import Callable
from math import inf

WINDOW_S = 0.1
"""Seconds over which records are counted."""


class Pace:
    """Says how many seconds to leave between the beginnings of two requests.

    `least` of them at rest, `longest` from `busy` records a second on, in proportion between; `least` as well
    while `hurry` says that something waits for the next request. Without `busy` it is always `longest`.
    """

    def __init__(
        self, least: float, longest: float, busy: float = 0.0, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        self._least = least
        self._longest = longest
        self._busy = busy
        self._hurry = hurry
        self._since = -inf
        self._count = 0
        self._usual = least if busy else longest

    def __repr__(self) -> str:
        return f"<Pace {self._usual * 1000:.1f} ms>"

    def took(self, records: int, now: float) -> None:
        """Note that a request had so many records, at loop time `now` (s)."""
        self._count += records
        if self._busy and now - self._since >= WINDOW_S:
            rate = self._count / (now - self._since)
            self._usual = max(self._least, self._longest * min(1.0, rate / self._busy))
            self._since, self._count = now, 0

    def seconds(self) -> float:
        """Seconds between the beginnings of two requests, as of now."""
        return self._least if self._hurry() else self._usual
