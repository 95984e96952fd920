"""Who is let in: bounds on open responses and on bytes under way, decided before any id exists (A-10).

Bytes count when they come: what a client only announces, or sends slowly, takes no room. One tenant may have
at most `TENANT_SHARE` of them.

Pure: what replay's folds say (`Load`) comes in, a refusal or nothing comes out. Between two loads the number
of open responses is that of the last load plus what was accepted here since it was asked for: never too low
by what this process did, too high by no more than one interval's.

Over `max_queue` open responses, only tenants below their fair share of it are let in, and nobody at twice
that: one tenant's flood leaves room for the others, and a tenant that is alone has all of it.
"""

from collections import Counter

from schemas.errors import ApiError
from schemas.ids import Tenant
from services.web.internal import Load

TENANT_SHARE = 0.5
"""The part of the bytes under way that one tenant may have: a flood of bodies leaves others room."""
RETRY_QUEUE_S = 5
"""Retry-After, seconds, when too many responses are open: runs take seconds at least."""
RETRY_BYTES_S = 1
"""Retry-After, seconds, when too many bytes are under way: appends take milliseconds."""


class Admission:
    """The bounds of one ingest, and what counts against them."""

    def __init__(self, max_queue: int, max_bytes: int) -> None:
        self._max_queue = max_queue
        self._max_bytes = max_bytes
        self._bytes: Counter[Tenant] = Counter()
        self._load = Load(0, {})
        self._earlier: Counter[Tenant] = Counter()
        self._since: Counter[Tenant] = Counter()

    def __repr__(self) -> str:
        return (
            f"<admission {self.open}/{self._max_queue} open, {self._bytes.total()}/{self._max_bytes} bytes>"
        )

    @property
    def open(self) -> int:
        """How many responses are open, as far as is known here."""
        return self._load.open + self._earlier.total() + self._since.total()

    def arrive(self, tenant: Tenant, size: int) -> None:
        """Count `size` more bytes of a body of `tenant`, until `leave`. Raises ApiError (429)."""
        share = self._max_bytes * TENANT_SHARE
        if self._bytes[tenant] + size > share or self._bytes.total() + size > self._max_bytes:
            raise refusal("too many requests are being read", RETRY_BYTES_S)
        self._bytes[tenant] += size

    def leave(self, tenant: Tenant, size: int) -> None:
        """Give back what `arrive` counted."""
        self._bytes[tenant] -= size
        if not self._bytes[tenant]:
            del self._bytes[tenant]

    def admit(self, tenant: Tenant) -> None:
        """Let one more response of `tenant` in. Raises ApiError (429)."""
        total = self.open
        if total >= 2 * self._max_queue or (total >= self._max_queue and self._over_share(tenant)):
            raise refusal("too many responses are open", RETRY_QUEUE_S)

    def accepted(self, tenant: Tenant) -> None:
        """One more response of `tenant` is open."""
        self._since[tenant] += 1

    def asked(self) -> None:
        """Replay is asked for its load now: what is accepted from here on may not be in the answer."""
        self._earlier += self._since
        self._since = Counter()

    def loaded(self, load: Load) -> None:
        """Replay answered: what was accepted before it was asked is in `load`."""
        self._load = load
        self._earlier = Counter()

    def _over_share(self, tenant: Tenant) -> bool:
        active = {*self._load.tenants, *self._earlier, *self._since, tenant}
        mine = self._load.tenants.get(tenant, 0) + self._earlier[tenant] + self._since[tenant]
        return mine >= self._max_queue / len(active)


def refusal(why: str, retry_after: int) -> ApiError:
    """429: nothing was stored, and it is worth trying again in `retry_after` seconds."""
    sentence = f"Rejoinder is at its limit: {why}. Try again in {retry_after} s."
    headers = {"retry-after": str(retry_after)}
    return ApiError(429, sentence, type="rate_limit_error", code="rate_limit_exceeded", headers=headers)
