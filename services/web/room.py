"""Bounds the memory that request bodies take while they are read (A-10).

Bytes count when they arrive, so a body that a client announces, or sends slowly, takes no room. One tenant
may have at most `TENANT_SHARE` of them.
"""

from collections import Counter
from typing import Self

from schemas.errors import ApiError
from schemas.ids import Tenant

BODIES_BYTES = 128 << 20
"""Bytes of request bodies that one process holds at most."""
CREATE_BYTES = 8 << 10
"""Bytes that a create under way counts beside its body, for its tasks, headers and connections: so any number
of tiny bodies is bounded too, at 16,384 creates."""
TENANT_SHARE = 0.5
"""The part of these bytes that one tenant may have, so that its flood of bodies leaves the others room."""
RETRY_BYTES_S = 1
"""Retry-After, seconds, when there is no room: an append takes milliseconds, and gives its room back."""


class Room:
    """The bytes of the bodies, and of the creates, that one process has under way, at most `bound`."""

    def __init__(self, bound: int = BODIES_BYTES) -> None:
        self._bound = bound
        self._taken: Counter[Tenant] = Counter()
        self.creates = 0
        """How many creates are under way: their bodies are whole."""

    def __repr__(self) -> str:
        return f"<room {self.taken}/{self._bound} bytes>"

    @property
    def taken(self) -> int:
        """How many bytes count now."""
        return self._taken.total()

    def seat(self, tenant: Tenant) -> "Seat":
        """A seat for one body of `tenant`."""
        return Seat(self, tenant)

    def arrive(self, tenant: Tenant, size: int) -> None:
        """Count `size` more bytes of a body of `tenant` until `leave`. Raises ApiError (429) without room."""
        if self._taken[tenant] + size > self._bound * TENANT_SHARE or self.taken + size > self._bound:
            raise at_its_limit("too many requests are being read", RETRY_BYTES_S, "bodies_full")
        self._taken[tenant] += size

    def leave(self, tenant: Tenant, size: int) -> None:
        """Give back what `arrive` counted."""
        subtract(self._taken, tenant, size)


class Seat:
    """The bytes that one body takes of a `Room`, until `give_up` or the end of a `with` block."""

    def __init__(self, room: Room, tenant: Tenant) -> None:
        self._room = room
        self._tenant = tenant
        self._size = 0
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.give_up()

    def take(self, size: int) -> None:
        """Count `size` more bytes of the body. Raises ApiError (429) without room."""
        self._room.arrive(self._tenant, size)
        self._size += size

    def begin(self) -> None:
        """Count a create: its body is whole. Raises ApiError (429) without room."""
        self.take(CREATE_BYTES)
        self._room.creates += 1
        self._begun = True

    def give_up(self) -> None:
        """Give all bytes back: the body is not needed any more. Harmless when repeated."""
        self._room.leave(self._tenant, self._size)
        self._room.creates -= self._begun
        self._size, self._begun = 0, False


def subtract(counter: Counter[Tenant], tenant: Tenant, count: int) -> None:
    """Take `count` from what `tenant` has, and forget the tenant when nothing is left."""
    counter[tenant] -= count
    if not counter[tenant]:
        del counter[tenant]


def at_its_limit(why: str, retry_after: int, reason: str) -> ApiError:
    """The error 429: nothing was stored, and the client may try again in `retry_after` seconds."""
    sentence = f"Rejoinder is at its limit: {why}. Try again in {retry_after} s."
    headers = {"retry-after": str(retry_after)}
    code = "rate_limit_exceeded"
    return ApiError(429, sentence, type="rate_limit_error", code=code, headers=headers, reason=reason)
