"""Clocks for upper bounds: one stands still while the machine does, one goes as fast as the machine computes.

A bound on time is a promise of the code. A virtual machine on a busy host may not run at all for seconds, and
no code is to blame for that. So a thread that only sleeps keeps this clock: if it wakes too late, the time of
the delay does not count. Gaps shorter than `LATE` count, and so does every second of a machine that is merely
slow.

A bound on the CPU time of a step is set for a machine that does nothing else. Beside busy neighbours the same
step takes half as long again, since caches and a core's units are shared. `slowness` says by how much, from a
piece of work that is always the same.
"""

import time
from threading import Thread

import msgspec

TICK = 0.02
LATE = 0.25
"""Seconds. A longer gap is the machine's fault; a shorter one may be the code's."""


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


YARDSTICK_S = 0.0055
"""CPU seconds of the yardstick on the machine for which the bounds are set, when it does nothing else: two
cores of a virtual machine of 2026.
"""
_YARDSTICK = msgspec.json.encode([{"a": [number, str(number)]} for number in range(12_000)])


def slowness() -> float:
    """How many times as long as on that machine the yardstick takes here and now, 1 or more."""
    begun = time.thread_time()
    msgspec.json.encode(msgspec.json.decode(_YARDSTICK))
    sorted(str(number) for number in range(20_000))
    return max(1.0, (time.thread_time() - begun) / YARDSTICK_S)


_ticker = _Ticker()
_ticker.start()


def steady() -> float:
    """Seconds without those in which the machine stood still. Only differences have a meaning."""
    return _ticker.now()
