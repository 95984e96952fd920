"""Who is let in: bounds on open responses and on bytes under way, decided before any id exists (A-10).

Bytes count when they come: what a client only announces, or sends slowly, takes no room. One tenant may have
at most `TENANT_SHARE` of them.

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

from schemas.errors import ApiError
from schemas.ids import Tenant
from services.config import Quota
from services.web.internal import Load

TENANT_SHARE = 0.5
"""The part of the bytes under way that one tenant may have: a flood of bodies leaves others room."""
RETRY_QUEUE_S = 5
"""Retry-After, seconds, when too many responses are open: runs take seconds at least."""
RETRY_BYTES_S = 1
"""Retry-After, seconds, when too many bytes are under way: appends take milliseconds."""


class Full(NamedTuple):
    """There is no room: `why` for people, `reason` for metrics."""

    why: str
    reason: str


class Admission:
    """The bounds of one ingest, and what counts against them. `quota` says what a tenant may have."""

    def __init__(self, max_queue: int, max_bytes: int, quota: Callable[[Tenant], Quota]) -> None:
        self._max_queue = max_queue
        self._max_bytes = max_bytes
        self._quota = quota
        self._bytes: Counter[Tenant] = Counter()
        self._load = Load(0, {}, [])
        self._mine: Counter[Tenant] = Counter()
        """Let in here and not in the load: being appended, or acknowledged behind it."""
        self._acknowledged: list[tuple[int, int, Tenant]] = []
        """Partition, offset and tenant of those of `_mine` that are in the log."""

    def __repr__(self) -> str:
        return (
            f"<admission {self.open}/{self._max_queue} open, {self._bytes.total()}/{self._max_bytes} bytes>"
        )

    @property
    def open(self) -> int:
        """How many responses are open, as far as is known here."""
        return self._load.open + self._mine.total()

    @property
    def body_bytes(self) -> int:
        """How many bytes of bodies are under way."""
        return self._bytes.total()

    def by_tenant(self) -> Counter[Tenant]:
        """How many responses of each tenant are open, of those that have some. For any thread: it copies."""
        return Counter(self._load.tenants) + Counter(dict(self._mine))

    def arrive(self, tenant: Tenant, size: int) -> None:
        """Count `size` more bytes of a body of `tenant`, until `leave`. Raises ApiError (429)."""
        share = self._max_bytes * TENANT_SHARE
        if self._bytes[tenant] + size > share or self._bytes.total() + size > self._max_bytes:
            raise _refusal("too many requests are being read", RETRY_BYTES_S, "bodies_full")
        self._bytes[tenant] += size

    def leave(self, tenant: Tenant, size: int) -> None:
        """Give back what `arrive` counted."""
        _subtract(self._bytes, tenant, size)

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
            raise _refusal(full.why, RETRY_QUEUE_S, full.reason)
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
                _subtract(self._mine, tenant, 1)

    def loaded(self, load: Load) -> None:
        """Replay answered: what it has folded is counted in `load`."""
        self._load = load
        behind, self._acknowledged = self._acknowledged, []
        for partition, offset, tenant in behind:
            if load.covers(partition, offset):
                _subtract(self._mine, tenant, 1)
            else:
                self._acknowledged.append((partition, offset, tenant))

    def _share(self, tenant: Tenant) -> float:
        return self._max_queue / len({*self._load.tenants, *self._mine, tenant})


def _subtract(counter: Counter[Tenant], tenant: Tenant, count: int) -> None:
    counter[tenant] -= count
    if not counter[tenant]:
        del counter[tenant]


def _refusal(why: str, retry_after: int, reason: str) -> ApiError:
    """429: nothing was stored, and it is worth trying again in `retry_after` seconds."""
    sentence = f"Rejoinder is at its limit: {why}. Try again in {retry_after} s."
    headers = {"retry-after": str(retry_after)}
    code = "rate_limit_exceeded"
    return ApiError(429, sentence, type="rate_limit_error", code=code, headers=headers, reason=reason)
