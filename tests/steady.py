"""A clock for upper bounds, which stands still while the machine does.

That something takes at most so long is a promise of the code. A virtual machine on a busy host may not run
at all for seconds, and no code is to blame for that. So a thread that only sleeps keeps this clock: what it
wakes too late by was nobody's time. Gaps shorter than `LATE` count, and so does every second of a machine
that is merely slow.
"""

import time
from threading import Thread

TICK = 0.02
LATE = 0.25
"""Seconds; a gap that is longer is the machine's, up to which it may be ours."""


class _Ticker(Thread):
    def __init__(self) -> None:
        super().__init__(name="steady", daemon=True)
        self._at = 0.0, time.monotonic()
        """What the clock showed last, and when."""

    def run(self) -> None:
        while True:
            time.sleep(TICK)
            self._at = self.now(), time.monotonic()

    def now(self) -> float:
        shown, at = self._at
        return shown + min(time.monotonic() - at, LATE)


_ticker = _Ticker()
_ticker.start()


def steady() -> float:
    """Seconds since some moment, without those in which the machine stood still. Only differences tell."""
    return _ticker.now()
