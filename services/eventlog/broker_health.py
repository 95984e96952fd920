"""Which brokers answer. Pure: what was asked and answered comes in with the time, a verdict comes out.

    healthy   its oldest request, long polls and appends aside, is younger than `OLD_S`, and it answered its
              last probe: a new response may be placed there
    silent    a probe was not answered within `PROBE_S`, or it takes no connection: what it was sent has
              failed, and nothing more is sent to it until it answers a probe

Long polls and appends may rightly take long (an append waits for other brokers), so they are not counted. The
probes are, one every `PERIOD_S`. When this process itself stood still, no answer can have come: the ages of
all requests begin anew.

A broker that was silent may have been hung, and then believes for a moment that it still leads what others
lead by now. `trusted_since` says how new the metadata must be that names it a leader (P-80).
"""

from collections.abc import Container, Iterable
from math import inf
from typing import NamedTuple

PERIOD_S = 1.0
"""Seconds between the beginnings of two probes of a broker."""
PROBE_S = 2.0
"""Seconds within which a probe is answered, or the broker is silent."""
OLD_S = 1.0
"""The age in seconds from which a request makes its broker unhealthy."""
STILL_S = 1.0
"""Seconds between two ticks above which it was this process that stood still. Ticks come every 0.2 s."""
FORGET_S = 3600.0
"""Seconds without a word of it in any metadata after which a silent broker was taken out of the cluster."""
RECOVERING_S = 5.0
"""Seconds after a silence in which a broker is the last to be asked for metadata: its own may be old."""


class Turned(NamedTuple):
    """Brokers whose state changed since the tick before."""

    unhealthy: list[int]
    silent: list[int]
    answering: list[int]
    """They were silent, and answer again."""
    overdue: list[int]
    """Their probes are to be given up."""


class _Broker:
    def __init__(self) -> None:
        self.asked: dict[int, float] = {}
        """When each request under way was sent, the oldest first."""
        self.probed_at = -inf
        self.probing: int | None = None
        self.healthy = True
        self.silent = False
        self.told_silent = False
        self.forgotten = False
        """Whether it counts no more, though it is silent."""
        self.named_at = inf
        """When metadata named it last."""
        self.trusted_since = -inf

    def oldest(self, now: float) -> float:
        """The age of the oldest request under way, in seconds."""
        return now - next(iter(self.asked.values()), now)


class BrokerHealth:
    """What one process knows of its brokers. Times are those of its loop, in seconds."""

    def __init__(self) -> None:
        self._brokers: dict[int, _Broker] = {}
        self._last_request = 0
        self._ticked_at = inf

    def __repr__(self) -> str:
        return f"<broker health, silent: {[node for node in self._brokers if self.silent(node)]}>"

    # -- what happens ------------------------------------------------------------------------------------

    def asked(self, node: int, now: float) -> int:
        """`node` is sent a request that it should answer at once; returns what `answered` wants."""
        self._last_request += 1
        self._broker(node).asked[self._last_request] = now
        return self._last_request

    def answered(self, node: int, request: int) -> None:
        """A request was answered, or nobody waits for it any more."""
        self._broker(node).asked.pop(request, None)

    def suspected(self, node: int) -> None:
        """A connection to `node` failed: its next probe is due at once."""
        self._broker(node).probed_at = -inf

    def forget(self, known: Container[int], now: float) -> int:
        """Count no broker as silent that no metadata has named for `FORGET_S`: how many these are now.

        Kafka names no broker that is away. So it may come back, and what is known of it stays.
        """
        forgotten = 0
        for node, broker in self._brokers.items():
            if node in known or broker.named_at == inf:
                broker.named_at = now
            elif broker.told_silent and now - broker.named_at >= FORGET_S:
                broker.told_silent, broker.forgotten = False, True
                forgotten += 1
        return forgotten

    def due(self, nodes: Iterable[int], now: float) -> list[int]:
        """Those of `nodes` that are to be probed now."""
        return [node for node in nodes if self._due(self._broker(node), now)]

    def probe(self, node: int, now: float) -> None:
        """A probe of `node` begins."""
        broker = self._broker(node)
        broker.probed_at, broker.probing = now, self.asked(node, now)

    def probed(self, node: int, now: float, *, answered: bool) -> None:
        """The probe of `node` ended: with an answer, or without hope of one."""
        broker = self._broker(node)
        if broker.probing is not None:
            self.answered(node, broker.probing)
        broker.probing = None
        if answered and broker.silent:
            broker.trusted_since = now
        broker.silent = not answered

    def tick(self, now: float) -> Turned:
        """Look at all brokers, several times a second: which of them turned since the last look."""
        if now - self._ticked_at > STILL_S:
            self._forgive(now)
        self._ticked_at = now
        turned = Turned([], [], [], [])
        for node, broker in self._brokers.items():
            if broker.probing is not None and now - broker.asked[broker.probing] >= PROBE_S:
                broker.silent = True
                turned.overdue.append(node)
            was_healthy = broker.healthy
            broker.healthy = not broker.silent and broker.oldest(now) < OLD_S
            if was_healthy and not broker.healthy:
                turned.unhealthy.append(node)
            if broker.forgotten:
                broker.forgotten = broker.silent
            elif broker.silent != broker.told_silent:
                broker.told_silent = broker.silent
                (turned.silent if broker.silent else turned.answering).append(node)
        return turned

    # -- what is known -----------------------------------------------------------------------------------

    def healthy(self, node: int) -> bool:
        """Whether `node` was quick to answer as of the last tick, as far as is known."""
        broker = self._brokers.get(node)
        return broker is None or (broker.healthy and not broker.silent)

    def silent(self, node: int) -> bool:
        """Whether `node` answers nothing, as far as is known."""
        broker = self._brokers.get(node)
        return broker is not None and broker.silent

    def trusted_since(self, node: int) -> float:
        """The time since which `node` is known to answer: older metadata is no word about what it leads."""
        broker = self._brokers.get(node)
        return -inf if broker is None else broker.trusted_since

    def order(self, nodes: Iterable[int], now: float) -> list[int]:
        """`nodes` that are not silent, in the order in which to ask them for what any of them knows."""
        candidates = [node for node in nodes if not self.silent(node)]
        return sorted(
            candidates,
            key=lambda node: (self.trusted_since(node) + RECOVERING_S > now, not self.healthy(node)),
        )

    def _broker(self, node: int) -> _Broker:
        if node not in self._brokers:
            self._brokers[node] = _Broker()
        return self._brokers[node]

    @staticmethod
    def _due(broker: _Broker, now: float) -> bool:
        return broker.probing is None and broker.probed_at + PERIOD_S <= now

    def _forgive(self, now: float) -> None:
        """This process stood still. Meanwhile any broker may have done so too, and lost what it led."""
        for broker in self._brokers.values():
            broker.asked = dict.fromkeys(broker.asked, now)
            broker.trusted_since = now
