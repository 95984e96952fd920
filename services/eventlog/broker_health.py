"""Decides which brokers answer. Pure: requests, answers and the time come in, verdicts come out.

    healthy   the broker answered its last probe, and its oldest request (long polls and appends do not
              count) is younger than `OLD_S`: a new response may be placed there
    silent    the broker did not answer a probe within `PROBE_S`, or takes no connection: its requests have
              failed, and it gets no more of them until it answers a probe

A long poll waits for news and an append for other brokers, so their age says nothing about this broker. Each
broker is probed every `PERIOD_S`, and the probe's age counts. After this process itself stood still, the ages
of all requests begin anew: no answer can have reached it meanwhile.

A broker that was silent may have been hung. It then believes for a moment that it still leads partitions that
others lead by now. `trusted_since` says how new the metadata must be that names it a leader (P-80).
"""

from collections.abc import Callable, Container, Iterable
from math import inf
from typing import NamedTuple

PERIOD_S = 1.0
"""Seconds between the beginnings of two probes of a broker."""
PROBE_S = 2.0
"""Seconds within which a probe is answered, or the broker is silent."""
OLD_S = 1.0
"""The age in seconds from which a request makes its broker unhealthy."""
TICK_S = 0.2
"""Seconds between two ticks while something is under way to a broker that it should answer at once."""
STILL_S = 0.8
"""If a tick comes so many seconds late, this process stood still."""
FORGET_S = 3600.0
"""Seconds for which no metadata names a silent broker, after which it counts as taken out of the cluster."""
RECOVERING_S = 5.0
"""Seconds after its silence for which a broker is asked for metadata last: its own may be old."""


class Turned(NamedTuple):
    """Brokers whose state changed since the tick before."""

    unhealthy: list[int]
    silent: list[int]
    answering: list[int]
    """Brokers that were silent and answer again."""
    overdue: list[int]
    """Brokers whose probes the caller must give up."""


class _Broker:
    def __init__(self) -> None:
        self.asked: dict[int, float] = {}
        """When each request under way was sent, the oldest first."""
        self.probed_at = -inf
        self.probing: int | None = None
        self.suspected = False
        self.healthy = True
        self.silent = False
        self.told_silent = False
        self.forgotten = False
        """Whether `Brokers` counts it no more, though it is silent."""
        self.named_at = inf
        """When metadata named it last."""
        self.trusted_since = -inf

    def oldest(self, now: float) -> float:
        """The age of the oldest request under way, in seconds."""
        return now - next(iter(self.asked.values()), now)


class BrokerHealth:
    """What one process knows of its brokers. Times are those of its loop, in seconds."""

    def __init__(self, suspicion: Callable[[], None] = lambda: None) -> None:
        """`suspicion` is called when the next tick must come before its time."""
        self._suspicion = suspicion
        self._brokers: dict[int, _Broker] = {}
        self._last_request = 0
        self._next_tick = inf

    def __repr__(self) -> str:
        return f"<broker health, silent: {[node for node in self._brokers if self.silent(node)]}>"

    # -- what happens ------------------------------------------------------------------------------------

    def asked(self, node: int, now: float) -> int:
        """Note that `node` gets a request that it should answer at once. Returns a number for `answered`."""
        self._last_request += 1
        self._broker(node).asked[self._last_request] = now
        if self._next_tick - now > TICK_S:  # it is to be looked at sooner than an idle process looks
            self._suspicion()
        return self._last_request

    def answered(self, node: int, request: int) -> None:
        """Note that a request was answered, or that its caller gave it up."""
        self._broker(node).asked.pop(request, None)

    def suspected(self, node: int) -> None:
        """Note that a connection to `node` failed: its next probe is due `TICK_S` after the last one."""
        self._broker(node).suspected = True
        self._suspicion()

    def forget(self, known: Container[int], now: float) -> int:
        """Count no broker as silent that no metadata has named for `FORGET_S`. Returns how many are new ones.

        Kafka's metadata names no broker that is away. So it may come back, and what is known of it stays.
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
        """The `nodes` that must be probed now."""
        return [node for node in nodes if self._due(self._broker(node), now)]

    def probe(self, node: int, now: float) -> None:
        """Note that a probe of `node` begins."""
        broker = self._broker(node)
        broker.probed_at, broker.probing, broker.suspected = now, self.asked(node, now), False

    def probed(self, node: int, now: float, *, answered: bool) -> None:
        """Note that the probe of `node` ended; `answered` says whether an answer came."""
        broker = self._broker(node)
        if broker.probing is not None:
            self.answered(node, broker.probing)
        broker.probing = None
        if answered and broker.silent:
            broker.trusted_since = now
        broker.silent = not answered

    def pause(self, now: float) -> float:
        """Seconds until the next tick: `TICK_S` while a request is under way, else until a probe is due.

        A suspicion ends the pause.
        """
        brokers = self._brokers.values()
        if any(broker.asked or broker.suspected for broker in brokers):
            pause = TICK_S
        else:
            due = min((broker.probed_at + PERIOD_S for broker in brokers), default=now)
            pause = max(TICK_S, due - now)
        self._next_tick = now + pause
        return pause

    def tick(self, now: float) -> Turned:
        """Judge all brokers anew and return those whose state changed. The next one is due after `pause`."""
        if now - self._next_tick > STILL_S:
            self._forgive(now)
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
        """Whether `node` was healthy at the last tick; true of a broker that was never asked."""
        broker = self._brokers.get(node)
        return broker is None or (broker.healthy and not broker.silent)

    def silent(self, node: int) -> bool:
        """Whether `node` is silent; false of a broker that was never asked."""
        broker = self._brokers.get(node)
        return broker is not None and broker.silent

    def trusted_since(self, node: int) -> float:
        """Loop time since which `node` is known to answer. Older metadata cannot say what it leads."""
        broker = self._brokers.get(node)
        return -inf if broker is None else broker.trusted_since

    def order(self, nodes: Iterable[int], now: float) -> list[int]:
        """The `nodes` that are not silent, best first, for a question that every broker can answer."""
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
        period = TICK_S if broker.suspected else PERIOD_S
        return broker.probing is None and broker.probed_at + period <= now

    def _forgive(self, now: float) -> None:
        """Begin all ages anew after this process stood still.

        Any broker may have hung meanwhile and lost what it led, so metadata from before is not trusted.
        """
        for broker in self._brokers.values():
            broker.asked = dict.fromkeys(broker.asked, now)
            broker.trusted_since = now
