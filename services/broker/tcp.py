"""Ports of this machine on which nobody listens, for processes that are told their port before they start.

A port that was given out is held until this process ends, also while nobody listens on it yet, or for a
moment not any more: by a UDP socket on the same number. That stands in nobody's way, and any other process
that chooses a port from here meets it.
"""

import atexit
import random
import socket
from collections import deque
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

LOOPBACK = "127.0.0.1"
OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
"""Where Linux says which ports it gives to outgoing connections."""
OUTGOING_FROM = 32_768
"""The first of those ports where there is no such file: Linux's own default, and below macOS's."""
COUNT = 12_000
HELD = 200
"""How many ports a process holds at a time: each costs a file descriptor."""


def candidates(outgoing: str) -> range:
    """The ports to choose from, given what `OUTGOING` holds ("first last"), or an empty string.

    They lie below those of outgoing connections: whoever starts again on its port must not find a
    connection of somebody's on it. Where that leaves none, those below the usual first one.
    """
    first = int(outgoing.split()[0]) if outgoing.strip() else OUTGOING_FROM
    if first <= 1024 + COUNT:
        first = OUTGOING_FROM
    return range(first - COUNT, first)


def free_port() -> int:
    """A port on which nobody listens now, and that no other call gets while this process lives.

    After `HELD` further calls, and where somebody really speaks UDP, it may be given out again.
    """
    return next(port for port in _ports if is_free(port) and _hold(port))


def _hold(port: int) -> bool:
    """Claim `port` against all who choose one; whether nobody else holds it."""
    claim = socket.socket(type=socket.SOCK_DGRAM)
    try:
        claim.bind((LOOPBACK, port))
    except OSError:
        claim.close()
        return False
    _held.append(claim)
    if len(_held) > HELD:
        _held.popleft().close()
    return True


def _let_go() -> None:
    while _held:
        _held.pop().close()


def is_free(port: int) -> bool:
    """Whether `port` on loopback can be listened on, in the way Java and asyncio do it (SO_REUSEADDR)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def _shuffled() -> Iterator[int]:
    ports = candidates(OUTGOING.read_text() if OUTGOING.exists() else "")
    return cycle(random.sample(ports, len(ports)))


_ports = _shuffled()
_held: deque[socket.socket] = deque()
atexit.register(_let_go)
