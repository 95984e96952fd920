"""Who is let in: bounds on open responses, decided before anything is appended (A-10).

Pure: what replay's folds say (`Load`) comes in, a refusal or nothing comes out. Open is what replay has
folded, what was acknowledged here behind that, and what is being appended: never too low by what this process
did. Only an append whose outcome is unknown is not counted until replay has folded it, if ever.

    the tenant's own bound    nobody passes it (`max_open` of its quota)
    `max_queue` open          only tenants below their fair share of it are let in
    twice that                nobody is

So one tenant's flood leaves room for the others, and a tenant that is alone has all of `max_queue`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from schemas.ids import Tenant
from services.config import Quota
from services.web.internal import Load
from services.web.room import at_its_limit, subtract

RETRY_QUEUE_S = 5
"""Retry-After, seconds, when too many responses are open: runs take seconds at least."""


class Full(NamedTuple):
    """There is no room: `why` for people, `reason` for metrics."""

    why: str
    reason: str


class Admission:
    """The bounds of one ingest, and what counts against them. `quota` says what a tenant may have."""

    def __init__(self, max_queue: int, quota: Callable[[Tenant], Quota]) -> None:
        self._max_queue = max_queue
        self._quota = quota
        self._load = Load(0, {}, [])
        self._mine: Counter[Tenant] = Counter()
        """Let in here and not in the load: being appended, or acknowledged behind it."""
        self._acknowledged: list[tuple[int, int, Tenant]] = []
        """Partition, offset and tenant of those of `_mine` that are in the log."""

    def __repr__(self) -> str:
        return f"<admission {self.open}/{self._max_queue} open>"

    @property
    def open(self) -> int:
        """How many responses are open, as far as is known here."""
        return self._load.open + self._mine.total()

    def by_tenant(self) -> Counter[Tenant]:
        """How many responses of each tenant are open, of those that have some. For any thread: it copies."""
        return Counter(self._load.tenants) + Counter(dict(self._mine))

    def full(self, tenant: Tenant) -> Full | None:
        """Why one more response of `tenant` is not let in now, None when it is."""
        total, own = self.open, self._load.tenants.get(tenant, 0) + self._mine[tenant]
        bound = self._quota(tenant).max_open
        if bound is not None and own >= bound:
            return Full(f"{own} responses of tenant {tenant} are open", "tenant_full")
        if total >= 2 * self._max_queue or (total >= self._max_queue and own >= self._share(tenant)):
            return Full("too many responses are open", "queue_full")
        return None

    @contextmanager
    def place(self, tenant: Tenant) -> Iterator[Callable[[int, int], None]]:
        """A place for one more response of `tenant`, for as long as the block lasts. Raises ApiError (429).

        The block is given what to call once its `accepted` is in the log, with its partition and offset: from
        then on the place is held until replay has folded it.
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

    def loaded(self, load: Load) -> None:
        """Replay answered: what it has folded is counted in `load`."""
        self._load = load
        behind, self._acknowledged = self._acknowledged, []
        for partition, offset, tenant in behind:
            if load.covers(partition, offset):
                subtract(self._mine, tenant, 1)
            else:
                self._acknowledged.append((partition, offset, tenant))

    def _share(self, tenant: Tenant) -> float:
        return self._max_queue / len({*self._load.tenants, *self._mine, tenant})
