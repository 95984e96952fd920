"""By which names a server may be called (A-18).

A page of any origin can point a name of its own at 127.0.0.1, once its browser has loaded it (DNS rebinding).
To the browser the server is then that page's own: no preflight, `Origin` and `Host` agree. Only the name in
`Host` gives it away. An address is never refused: to rebind takes a name.
"""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from services.settings import is_loopback

LOOPBACK_NAMES = ("localhost",)
"""What a browser resolves to the machine itself, whatever a name server says (RFC 6761, 6.3)."""


def names_inside(listening_on: str) -> tuple[str, ...]:
    """The names of a port that only services of ours call: on loopback a browser reaches it too."""
    return LOOPBACK_NAMES if is_loopback(listening_on) else ()


class Hosts:
    """The names that are allowed; without any, every name is."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(_plain(name) for name in names)

    def __contains__(self, host: str) -> bool:
        """Whether a request with the header `Host: host` is meant for this server."""
        name = _plain(_without_port(host))
        return not self._names or name in self._names or not name or _is_address(name)


_HOST = re.compile(r"(?:\[([^\[\]]*)\]|([^:]*))(?::[0-9]*)?")


def _without_port(host: str) -> str:
    """The name or address of a `Host`; what is shaped like none stays as it is, and is nobody's name."""
    shaped = _HOST.fullmatch(host.strip())
    return (shaped[1] or shaped[2] or "") if shaped else host


def _plain(name: str) -> str:
    """Names are compared without their case and the dot of the root."""
    return name.strip().lower().removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
