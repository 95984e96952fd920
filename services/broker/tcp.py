"""Gives out free ports of this machine, for processes that are told their port before they start.

This process holds a port that it gave out until it ends, also while no process listens on it yet, or for a
moment no more: by a UDP socket on the same number. That disturbs no TCP listener, and any other process that
chooses a port from here meets it.
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

    They lie below those of outgoing connections: a process that starts again on its port must not find the
    connection of another process there. If that leaves none, the ports below the usual first one.
    """
    first = int(outgoing.split()[0]) if outgoing.strip() else OUTGOING_FROM
    if first <= 1024 + COUNT:
        first = OUTGOING_FROM
    return range(first - COUNT, first)


def free_port() -> int:
    """A port on which no process listens now, and that no other call gets while this process lives.

    After `HELD` further calls, or if a program really uses UDP there, it may be given out again.
    """
    return next(port for port in _ports if is_free(port) and _hold(port))


def _hold(port: int) -> bool:
    """Claim `port` against other calls and processes. Returns whether no other holds it."""
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
