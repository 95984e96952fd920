"""By which names a server may be called (A-18).

The owner of a page can point the page's name at 127.0.0.1 once a browser has loaded it (DNS rebinding). The
browser then takes our server for that page's own: it sends no preflight, and `Origin` and `Host` agree. Only
the name in `Host` gives the page away. A `Host` that is an address is never refused: rebinding takes a name.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from services.fits import is_loopback

LOOPBACK_NAMES = ("localhost",)
"""Names that a browser resolves to the machine itself, whatever a name server says (RFC 6761, 6.3)."""


def names_inside(listening_on: str) -> tuple[str, ...]:
    """The names of a port that is for services of ours. On loopback a browser reaches it too, so only
    LOOPBACK_NAMES are allowed; elsewhere there is no bound.
    """
    return LOOPBACK_NAMES if is_loopback(listening_on) else ()


class Hosts:
    """The names that are allowed. If none is given, every name is allowed."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(_plain(name) for name in names)

    def __contains__(self, host: str) -> bool:
        """Whether a request with the header `Host: host` is meant for this server."""
        name = _plain(_without_port(host))
        return not self._names or name in self._names or not name or _is_address(name)


_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:]*))(?::[0-9]*)?")


def _without_port(host: str) -> str:
    """The name or address in a `Host`. A `Host` of another shape is returned as it is: it matches no name."""
    shaped = _HOST.fullmatch(host.strip())
    return (shaped[1] or shaped[2] or "") if shaped else host


def _plain(name: str) -> str:
    """`name` as it is compared: in lower case, without the dot of the root."""
    return name.strip().lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
