"""Where a new response goes that may go anywhere: without Idempotency-Key and predecessor. Asks nobody."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from services.eventlog.port import Leader

PAUSE_S = 1.0
"""Seconds for which a partition is not tried again after a failure."""
LOOK_S = 0.1
"""Seconds for which it is remembered who leads: a look at 1,000 partitions takes longer than a POST."""


def place(healthy: Sequence[bool], held: Sequence[int], draw: float) -> int:
    """A partition, drawn among those whose leader is quick to answer; among all where none is. Pure.

    By partition: `healthy`, and `held`, how much is under way there. One that holds nothing is twice as
    likely as one that holds one: what a slow leader does not get done turns others away from it before it is
    known to be slow. `draw` is a fresh number from 0 to 1, without 1.
    """
    anywhere = not any(healthy)
    weights = [1 / (1 + n) if ok or anywhere else 0.0 for ok, n in zip(healthy, held, strict=True)]
    left = draw * sum(weights)
    for partition, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return partition
    return max(range(len(weights)), key=weights.__getitem__)


class Places:
    """The partitions as one process knows them: who leads, what failed a moment ago, what is under way.

    `leader` says who leads a partition, as far as is known.
    """

    def __init__(
        self,
        partitions: int,
        leader: Callable[[int], Leader | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.partitions = partitions
        self._leader = leader
        self._clock = clock
        self._away_until: dict[int, float] = {}
        self._under_way: Counter[int] = Counter()
        self._looked_at = -math.inf
        self._openings: list[bool] = []
        """By partition, as of that time: whether it can be appended to."""

    def place(self, draw: float) -> int:
        """The partition for a response that may go anywhere; see `place`."""
        return place(self._look(), [self._under_way[p] for p in range(self.partitions)], draw)

    def led(self) -> bool:
        """Whether some partition can be appended to now, as far as is known."""
        return any(self._look())

    def worth_trying(self, partition: int) -> bool:
        """Whether an append there may succeed. It may wait for a leader as long as others have one."""
        rested = self._away_until.get(partition, 0) <= self._clock()
        return rested and (self._healthy(partition) or self.led())

    def failed(self, partition: int) -> None:
        """An append there failed: it rests for `PAUSE_S`."""
        self._away_until[partition] = self._clock() + PAUSE_S
        self.look_again()

    def succeeded(self, partition: int) -> None:
        """An append there was confirmed."""
        self._away_until.pop(partition, None)

    def look_again(self) -> None:
        """Somebody has reason to think that leaders have changed."""
        self._looked_at = -math.inf

    @contextmanager
    def under_way(self, partition: int) -> Iterator[None]:
        """Something is under way there, for as long as the block lasts."""
        self._under_way[partition] += 1
        try:
            yield
        finally:
            self._under_way[partition] -= 1

    def _look(self) -> list[bool]:
        """Which partitions can be appended to, as of `LOOK_S` ago at most."""
        now = self._clock()
        if now >= self._looked_at + LOOK_S:
            self._looked_at = now
            self._openings = [
                self._healthy(partition) and self._away_until.get(partition, 0) <= now
                for partition in range(self.partitions)
            ]
        return self._openings

    def _healthy(self, partition: int) -> bool:
        leader = self._leader(partition)
        return leader is not None and leader.healthy
