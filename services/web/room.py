"""Memory for request bodies: a bound on the bytes under way, and who is refused over it (A-10).

Bytes count when they come: what a client only announces, or sends slowly, takes no room. One tenant may have
at most `TENANT_SHARE` of them.
"""

from collections import Counter
from typing import Self

from schemas.errors import ApiError
from schemas.ids import Tenant

BODIES_BYTES = 128 << 20
"""Bytes of request bodies that may be under way at once in one process."""
TENANT_SHARE = 0.5
"""The part of the bytes under way that one tenant may have: a flood of bodies leaves others room."""
RETRY_BYTES_S = 1
"""Retry-After, seconds, when too many bytes are under way: appends take milliseconds."""


class Room:
    """The bytes of bodies under way in one process, at most `bound`."""

    def __init__(self, bound: int = BODIES_BYTES) -> None:
        self._bound = bound
        self._taken: Counter[Tenant] = Counter()

    def __repr__(self) -> str:
        return f"<room {self.taken}/{self._bound} bytes>"

    @property
    def taken(self) -> int:
        """How many bytes are under way."""
        return self._taken.total()

    def seat(self, tenant: Tenant) -> "Seat":
        """For one body of `tenant`."""
        return Seat(self, tenant)

    def arrive(self, tenant: Tenant, size: int) -> None:
        """Count `size` more bytes of a body of `tenant`, until `leave`. Raises ApiError (429)."""
        if self._taken[tenant] + size > self._bound * TENANT_SHARE or self.taken + size > self._bound:
            raise at_its_limit("too many requests are being read", RETRY_BYTES_S, "bodies_full")
        self._taken[tenant] += size

    def leave(self, tenant: Tenant, size: int) -> None:
        """Give back what `arrive` counted."""
        subtract(self._taken, tenant, size)


class Seat:
    """What one body has taken of a `Room`, piece by piece, until it is given up, or a block ends."""

    def __init__(self, room: Room, tenant: Tenant) -> None:
        self._room = room
        self._tenant = tenant
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def take(self, size: int) -> None:
        """`size` more bytes of the body have come. Raises ApiError (429)."""
        self._room.arrive(self._tenant, size)
        self._size += size

    def give_up(self) -> None:
        """The body is not needed any more. Harmless when that is known."""
        self._room.leave(self._tenant, self._size)
        self._size = 0


def subtract(counter: Counter[Tenant], tenant: Tenant, count: int) -> None:
    """Count `count` less of `tenant`, and forget it where nothing is left."""
    counter[tenant] -= count
    if not counter[tenant]:
        del counter[tenant]


def at_its_limit(why: str, retry_after: int, reason: str) -> ApiError:
    """429: nothing was stored, and it is worth trying again in `retry_after` seconds."""
    sentence = f"Rejoinder is at its limit: {why}. Try again in {retry_after} s."
    headers = {"retry-after": str(retry_after)}
    code = "rate_limit_exceeded"
    return ApiError(429, sentence, type="rate_limit_error", code=code, headers=headers, reason=reason)
