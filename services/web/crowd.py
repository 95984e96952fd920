"""Which connections a server has, and which of them it closes when there are too many. Pure.

No key and no quota bounds a connection before it has sent a whole head, which names the tenant. These
bounds do:

    came    one more connection   over the bound of its address: this connection goes
                                  over the server's bound: the oldest goes that never sent a whole head
    begun   a head is unfinished  over the bound: the one goes whose head has been unfinished for longest
    known   a head is whole       the connection counts as a connection only

An honest client sends its head in one piece, or in a few within milliseconds, so the oldest unfinished head
is the least honest. A connection that has sent a whole head is never closed for another: its client may be
sending a request.
"""

from collections import Counter
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address
from typing import Generic, Literal, NamedTuple, TypeVar

from msgspec import Struct

Guest = TypeVar("Guest", bound=Hashable)
Why = Literal["connections", "heads", "address"]
_IPV6_SITE_BITS = 64
"""The first bits of an IPv6 address name one customer's network; the rest the customer chooses (RFC 6177)."""


class CrowdBounds(Struct, frozen=True):
    """How many connections one server holds, how many of them with unfinished heads, and how many of one
    address (0: no bound, for a server behind a balancer, whose address all connections have).
    """

    connections: int = 10_000
    heads: int = 1_000
    per_address: int = 0


class Leaver(NamedTuple, Generic[Guest]):
    """A connection that is to be closed, and the bound that says so."""

    guest: Guest
    why: Why


class Crowd(Generic[Guest]):
    """The connections of one server. A `Leaver` is not counted any more: its `left` need not be told."""

    def __init__(self, bounds: CrowdBounds) -> None:
        self._bounds = bounds
        self._address_of: dict[Guest, str] = {}
        self._at: Counter[str] = Counter()
        # Dictionaries keep the order in which their keys came: the first one has waited for longest.
        self._unknown: dict[Guest, None] = {}
        self._unfinished: dict[Guest, None] = {}

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._address_of)

    def __repr__(self) -> str:
        return f"<crowd of {len(self)}, {self.unfinished} with unfinished heads>"

    @property
    def unfinished(self) -> int:
        """How many connections have sent a part of a head."""
        return len(self._unfinished)

    def came(self, guest: Guest, address: str) -> Leaver[Guest] | None:
        """Count a connection from `address` (an IP, or "" for none). Returns which one must be closed."""
        site = _site(address) if self._bounds.per_address else ""
        self._address_of[guest] = site
        self._at[site] += 1
        self._unknown[guest] = None
        if self._bounds.per_address and self._at[site] > self._bounds.per_address:
            return self._turn_out(guest, "address")
        if len(self) > self._bounds.connections:
            return self._turn_out(next(iter(self._unknown)), "connections")
        return None

    def begun(self, guest: Guest) -> Leaver[Guest] | None:
        """Note that `guest` has sent a part of a head. Returns which connection must be closed."""
        if guest not in self._address_of:
            return None
        self._unfinished[guest] = None
        if len(self._unfinished) > self._bounds.heads:
            return self._turn_out(next(iter(self._unfinished)), "heads")
        return None

    def known(self, guest: Guest) -> None:
        """Note that `guest` has sent a whole head."""
        self._unknown.pop(guest, None)
        self._unfinished.pop(guest, None)

    def left(self, guest: Guest) -> None:
        """Note that `guest` is gone. Harmless when repeated."""
        self.known(guest)
        site = self._address_of.pop(guest, None)
        if site is not None:
            self._at[site] -= 1
            if not self._at[site]:
                del self._at[site]

    def _turn_out(self, guest: Guest, why: Why) -> Leaver[Guest]:
        self.left(guest)
        return Leaver(guest, why)


def _site(address: str) -> str:
    """The customer of an address: for IPv6 its network, of which the customer has every address."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return ip.packed[: _IPV6_SITE_BITS // 8].hex()
    return str(ip)
