"""Who is connected to a server, and who has to go when there are too many. Pure.

Until a connection has sent a whole head nobody knows whose it is, so no key and no quota bounds it. What it
may cost is bounded here:

    came    one more connection   over its address's bound: it goes itself
                                  over the server's bound: the oldest goes that never sent a whole head
    begun   a head is unfinished  over the bound: the one that has been unfinished for longest goes
    known   a head is whole       it counts as a connection only

An honest head comes in one piece, or in a few within milliseconds, so the oldest unfinished one is the least
honest. Connections that were known are never turned out for others: a request may be on its way to them.
"""

from collections import Counter
from collections.abc import Hashable
from ipaddress import IPv6Address, ip_address
from typing import Generic, Literal, NamedTuple, TypeVar

from msgspec import Struct

Guest = TypeVar("Guest", bound=Hashable)
Why = Literal["connections", "heads", "address"]
_IPV6_SITE_BITS = 64
"""One customer of a provider has at least so many bits to choose addresses from (RFC 6177)."""


class Bounds(Struct, frozen=True):
    """How many connections one server holds, how many unfinished heads among them, and how many connections
    of one address (0: any number, as where a balancer stands in front and all have its address).
    """

    connections: int = 10_000
    heads: int = 1_000
    per_address: int = 0


class Leaver(NamedTuple, Generic[Guest]):
    """The connection that is to be closed, and which bound says so."""

    guest: Guest
    why: Why


class Crowd(Generic[Guest]):
    """The connections of one server. Whoever is told to close one need not say that it has `left`."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._address_of: dict[Guest, str] = {}
        self._at: Counter[str] = Counter()
        # Dictionaries keep the order in which their keys came: the first one has waited for longest.
        self._unknown: dict[Guest, None] = {}
        self._unfinished: dict[Guest, None] = {}

    def __len__(self) -> int:
        """How many are connected."""
        return len(self._address_of)

    def __repr__(self) -> str:
        return f"<crowd of {len(self)}, {self.unfinished} with unfinished heads>"

    @property
    def unfinished(self) -> int:
        """How many have sent a part of a head."""
        return len(self._unfinished)

    def came(self, guest: Guest, address: str) -> Leaver[Guest] | None:
        """A connection from `address` (an IP, or "" for none); returns who has to go for it."""
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
        """`guest` has sent a part of a head; returns who has to go for it."""
        if guest not in self._address_of:
            return None
        self._unfinished[guest] = None
        if len(self._unfinished) > self._bounds.heads:
            return self._turn_out(next(iter(self._unfinished)), "heads")
        return None

    def known(self, guest: Guest) -> None:
        """`guest` has sent a whole head."""
        self._unknown.pop(guest, None)
        self._unfinished.pop(guest, None)

    def left(self, guest: Guest) -> None:
        """`guest` is gone. Harmless when that is known."""
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
    """Whose an address is: an IPv6 network is one customer's, whatever address in it is used."""
    try:
        ip = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return ip.packed[: _IPV6_SITE_BITS // 8].hex()
    return str(ip)
