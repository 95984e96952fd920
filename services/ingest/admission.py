"""Bounds how many responses are open: admits or refuses a create before anything is appended (A-10).

Pure: the load of replays' folds comes in (`PartitionLoad`), a refusal or nothing goes out. What several say
of one partition is not added up: the replay that has folded most of it counts, and while none says anything,
what was said last. A response counts as open
if replay has folded it so, if this process had it acknowledged behind what replay has folded, or if this
process is appending it. So no create of this process is missed, but for one: an append whose outcome is
unknown counts only once replay has folded it.

    the tenant is at its own bound (`max_open` of its quota)   the tenant is refused
    `max_queue` are open                                       tenants at their fair share of it are refused
    twice as many are open                                     every tenant is refused

So one tenant's flood leaves room for the others, and a tenant that is alone has all of `max_queue`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from schemas.ids import Tenant
from services.config import Quota
from services.web.internal import PartitionLoad
from services.web.room import at_its_limit, subtract

OUTDATED_S = 60.0
"""Seconds after which a load of a lower position counts. A replica that lags, or has started again and reads
the log, passes the higher one long before; only a log that was made anew never does."""
RETRY_QUEUE_S = 5
"""Retry-After, seconds, when too many responses are open: a run takes seconds at least."""


class Full(NamedTuple):
    """Why there is no room: `why` for people, `reason` for metrics."""

    why: str
    reason: str


class Admission:
    """The bounds of one ingest, and what counts against them. `quota` gives a tenant's own bounds."""

    def __init__(self, max_queue: int, quota: Callable[[Tenant], Quota]) -> None:
        self._max_queue = max_queue
        self._quota = quota
        self._told: dict[int, tuple[PartitionLoad, float]] = {}
        """By partition, the load that counts, and when it was told."""
        self._loaded: Counter[Tenant] = Counter()
        """The sum of these loads."""
        self._mine: Counter[Tenant] = Counter()
        """Admitted here and not yet in the load: being appended, or acknowledged behind it."""
        self._acknowledged: list[tuple[int, int, Tenant]] = []
        """Partition, offset and tenant of those of `_mine` that are in the log."""

    def __repr__(self) -> str:
        return f"<admission {self.open}/{self._max_queue} open>"

    @property
    def open(self) -> int:
        """How many responses are open, as far as this process knows."""
        return self._loaded.total() + self._mine.total()

    def by_tenant(self) -> Counter[Tenant]:
        """How many responses of each tenant are open; no tenant with none. A copy, so any thread may ask."""
        return Counter(dict(self._loaded)) + Counter(dict(self._mine))

    def full(self, tenant: Tenant) -> Full | None:
        """Why one more response of `tenant` is refused now; None if it is admitted."""
        total, own = self.open, self._loaded[tenant] + self._mine[tenant]
        bound = self._quota(tenant).max_open
        if bound is not None and own >= bound:
            return Full(f"{own} responses of tenant {tenant} are open", "tenant_full")
        if total >= 2 * self._max_queue or (total >= self._max_queue and own >= self._share(tenant)):
            return Full("too many responses are open", "queue_full")
        return None

    @contextmanager
    def place(self, tenant: Tenant) -> Iterator[Callable[[int, int], None]]:
        """Count one more response of `tenant` while the block lasts. Raises ApiError (429) without room.

        The block gets a function to call with partition and offset once the `accepted` is in the log. Then
        the response counts until replay has folded it.
        """
        if full := self.full(tenant):
            raise at_its_limit(full.why, RETRY_QUEUE_S, full.reason)
        held = False

        def hold(partition: int, offset: int) -> None:
            nonlocal held
            held = True
            self._acknowledged.append((partition, offset, tenant))

        self._mine[tenant] += 1
        try:
            yield hold
        finally:
            if not held:
                subtract(self._mine, tenant, 1)

    def loaded(self, parts: Mapping[int, PartitionLoad], now: float) -> None:
        """Take what a replay says of its partitions at `now` (s). What it has folded counts here no more."""
        for partition, load in parts.items():
            known = self._told.get(partition)
            if known is None or load.position >= known[0].position or now - known[1] > OUTDATED_S:
                for tenant, count in known[0].tenants.items() if known else ():
                    subtract(self._loaded, tenant, count)
                self._loaded.update(load.tenants)
                self._told[partition] = load, now
        behind, self._acknowledged = self._acknowledged, []
        for partition, offset, tenant in behind:
            if partition in self._told and offset < self._told[partition][0].position:
                subtract(self._mine, tenant, 1)
            else:
                self._acknowledged.append((partition, offset, tenant))

    def _share(self, tenant: Tenant) -> float:
        return self._max_queue / len({*self._loaded, *self._mine, tenant})
