"""Decides by log order which executors are alive (P-50, P-51).

Every executor appends a beat to one partition, the next only when the last was read back. X is gone for me
when enough consecutive beats of mine follow X's last. A broker pause stops all beats alike, and clocks have
no say. After a pause each executor has at most one beat under way, so no executor is counted out by a queue
of beats that drains.
"""

import math

from schemas.ids import ExecutorId

BEATS_TO_GONE = 4
"""So many consecutive beats of mine after another's last make it gone."""
BEAT_INTERVAL = 2.0
"""Seconds between my beats, at least."""


class Liveness:
    """Counts my beats since each other executor's last."""

    def __init__(self, me: ExecutorId) -> None:
        self.me = me
        self._since: dict[ExecutorId, int] = {}
        self._sent_at = -math.inf
        self._unbroken_since = math.inf
        self.beats = 0
        """How many beats of mine were read back. Before the first, peers may not know me: I do not act."""
        self.now = 0
        """Log time (ms) of my last beat: the only clock that deadlines are held against."""

    def met(self, executor: ExecutorId) -> None:
        """A claim of `executor` was read: if it is new to me, its time starts now."""
        self._since.setdefault(executor, 0)

    def beat(self, executor: ExecutorId, *, leaving: bool = False) -> None:
        """A beat was read back, in log order. A `leaving` executor has stopped its runs: it is gone at
        once.
        """
        if executor != self.me:
            self._since[executor] = BEATS_TO_GONE if leaving else 0
            return
        self.beats += 1
        for other in self._since:
            self._since[other] += 1

    def own_beat(self, sent_at: float, now: float, within: float, log_time: int = 0) -> None:
        """A beat of mine, sent at `sent_at`, was read back at `now` (loop time, seconds), with its log time.

        More than `within` seconds after the one before was sent, it begins anew.
        """
        if now - self._sent_at >= within:
            self._unbroken_since = now
        self._sent_at = sent_at
        self.now = log_time

    def unbroken(self, since: float, now: float, within: float) -> bool:
        """Whether my beats have followed each other within so many seconds from `since` to `now`.

        If so, no peer can have counted me out.
        """
        return self._unbroken_since <= since and now - self._sent_at < within

    def heard(self, executor: ExecutorId) -> int:
        """How many beats of mine had been read back when `executor` was last heard of."""
        return self.beats - self._since.get(executor, 0)

    def gone(self, executor: ExecutorId) -> bool:
        """Whether the runs of `executor` are up for takeover."""
        return executor != self.me and self._since.get(executor, 0) >= BEATS_TO_GONE

    def __repr__(self) -> str:
        return f"<Liveness of {self.me}: {self.beats} beats, {len(self._since)} others>"
