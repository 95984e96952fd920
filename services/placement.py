"""Picks the partition of a new response that may be in any: one without Idempotency-Key and predecessor.

It only uses what this process knows, and asks no broker.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager

from services.eventlog.port import Leader

PAUSE_S = 1.0
"""Seconds for which a partition is not tried again after a failure."""
LOOK_S = 0.1
"""Seconds for which leaders' health is remembered: a look at 1,000 partitions takes longer than a POST."""


def place(healthy: Sequence[bool], held: Sequence[int], draw: float) -> int:
    """Draw a partition among those with a healthy leader; among all if there is none. Pure.

    By partition: `healthy`, and `held`, how many appends are under way there. A partition with none is twice
    as likely as one with one: appends pile up at a slow leader, and so turn new responses away before its
    health shows that it is slow. `draw` is a fresh number from 0 to 1, without 1.
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
    """The partitions as one process knows them: who leads, what failed a moment ago, how much is under way.

    `leader` returns the leader of a partition, None if it is not known. `clock` returns seconds. `local` are
    those that this process serves (None: all). Another one gets a new response only if nothing can be
    appended to those, and `elsewhere` says that it is served.
    """

    def __init__(
        self,
        partitions: int,
        leader: Callable[[int], Leader | None],
        *,
        local: Container[int] | None = None,
        elsewhere: Callable[[int], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.partitions = partitions
        self._local = local
        self._elsewhere = elsewhere
        self._leader = leader
        self._clock = clock
        self._away_until: dict[int, float] = {}
        self._under_way: Counter[int] = Counter()
        self._looked_at = -math.inf
        self._openings: list[bool] = []
        """By partition, whether it could be appended to at that time."""

    def grow(self, partitions: int) -> None:
        """Know of so many partitions from now on."""
        self.partitions = partitions
        self.look_again()

    def place(self, draw: float) -> int:
        """A partition for a response that may be in any: of those that are local, if one can be appended to;
        see `place`.
        """
        openings = self._look()
        for fits in (self._is_local, self._elsewhere):
            healthy = [is_open and fits(partition) for partition, is_open in enumerate(openings)]
            if any(healthy):
                break
        else:
            healthy = [self._is_local(partition) for partition in range(self.partitions)]
        return place(healthy, [self._under_way[p] for p in range(self.partitions)], draw)

    def _is_local(self, partition: int) -> bool:
        return self._local is None or partition in self._local

    def led(self) -> bool:
        """Whether any partition can be appended to now, as far as this process knows."""
        return any(self._look())

    def worth_trying(self, partition: int) -> bool:
        """Whether an append there may succeed. Without a healthy leader it may wait for one, as long as other
        partitions have one.
        """
        rested = self._away_until.get(partition, 0) <= self._clock()
        return rested and (self._healthy(partition) or self.led())

    def failed(self, partition: int) -> None:
        """Note that an append there failed: the partition rests for `PAUSE_S`."""
        self._away_until[partition] = self._clock() + PAUSE_S
        self.look_again()

    def succeeded(self, partition: int) -> None:
        """Note that an append there was confirmed."""
        self._away_until.pop(partition, None)

    def look_again(self) -> None:
        """Forget the leaders' health: they may have changed."""
        self._looked_at = -math.inf

    @contextmanager
    def under_way(self, partition: int) -> Iterator[None]:
        """Count an append as under way there while the block lasts."""
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
