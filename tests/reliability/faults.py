"""The faults of three brokers, and of the services on them, while clients go on asking (`failover`)."""

import time
from collections.abc import Callable, Collection
from typing import NamedTuple

from tests.reliability.cluster import NODES, Cluster
from tests.reliability.failover import Clients, Figures, check, figures, led_by
from tests.reliability.rig import Rig

PARTITIONS = 6
FAILOVER_S = 3.0
"""Seconds beyond Kafka's session within which refused requests are accepted again."""
ELECTION_S = 3.0
"""Seconds more when the controller is gone: the others wait for it for 2 s, then elect another."""
ANSWER_S = 20.0
MARGIN_S = 1.5
"""Seconds that a loaded machine may add."""
UNSURE = 0.01
"""The part of the POSTs that may go anywhere whose outcome may stay unknown."""


class Fault(NamedTuple):
    """One kind of trouble: `happens` begins it, lasts for some seconds, and ends it."""

    name: str
    happens: Callable[[Rig, Cluster, float], None]
    victims: Callable[[Cluster], Collection[int]]
    """The brokers that are away at some time of it."""
    election: bool = False
    """Whether it takes the controller away."""
    appends: bool = True
    """Whether Kafka can go on appending without its victims."""


def _follower(cluster: Cluster) -> list[int]:
    controller = cluster.controller()
    return [next(node for node in NODES if node != controller)]


def _controller(cluster: Cluster) -> list[int]:
    return [cluster.controller()]


def _followers(cluster: Cluster) -> list[int]:
    controller = cluster.controller()
    return [node for node in NODES if node != controller]


def _all(_: Cluster) -> list[int]:
    return list(NODES)


def _none(_: Cluster) -> list[int]:
    return []


def _dead(whom: Callable[[Cluster], list[int]]) -> Callable[[Rig, Cluster, float], None]:
    def happens(_: Rig, cluster: Cluster, seconds: float) -> None:
        victims = [cluster.brokers[node] for node in whom(cluster)]
        for broker in victims:
            broker.kill()
        time.sleep(seconds)
        cluster.start(victims)

    return happens


def _hung(whom: Callable[[Cluster], list[int]]) -> Callable[[Rig, Cluster, float], None]:
    def happens(_: Rig, cluster: Cluster, seconds: float) -> None:
        victims = [cluster.brokers[node] for node in whom(cluster)]
        for broker in victims:
            broker.pause()
        time.sleep(seconds)
        for broker in victims:
            broker.resume()

    return happens


def _rolling(_: Rig, cluster: Cluster, __: float) -> None:
    """Each broker is stopped as an operator does, and the next one when it is back."""
    for broker in cluster.brokers.values():
        broker.stop()
        cluster.start([broker])
        cluster.settle()


def _another_executor(rig: Rig, _: Cluster, seconds: float) -> None:
    rig.ready([rig.start("executor")])
    time.sleep(seconds / 2)


def _one_executor_less(rig: Rig, _: Cluster, seconds: float) -> None:
    rig.named("executor")[0].kill()
    time.sleep(seconds / 2)


DEAD = Fault("a broker is killed", _dead(_follower), _follower)
HUNG = Fault("a broker hangs", _hung(_follower), _follower)
DEAD_CONTROLLER = Fault("the active controller is killed", _dead(_controller), _controller, election=True)
HUNG_CONTROLLER = Fault("the active controller hangs", _hung(_controller), _controller, election=True)
ROLLING = Fault("rolling restart of the brokers", _rolling, _all, election=True)
BELOW = Fault("two brokers are killed: below min.insync.replicas", _dead(_followers), _all, appends=False)
MORE = Fault("an executor more", _another_executor, _none)
LESS = Fault("an executor is killed", _one_executor_less, _none)
ALL = (DEAD, HUNG, DEAD_CONTROLLER, HUNG_CONTROLLER, ROLLING, BELOW, MORE, LESS)


def trial(rig: Rig, cluster: Cluster, fault: Fault, seconds: float) -> Figures:
    """Let `fault` happen for so many `seconds` while clients ask for everything, and audit what they saw.

    Raises AssertionError when a promise is broken.
    """
    cluster.settle()
    clients = Clients(rig, cluster, partitions=PARTITIONS, words=int(10 * (seconds + 18)))
    try:
        with clients.about():
            hit = {partition for node in fault.victims(cluster) for partition in led_by(clients, node)}
            began = clients.now()
            fault.happens(rig, cluster, seconds)
        found = figures(clients, began, hit)
        print(f"{fault.name} for {seconds:g} s: {found}", *clients.refusals(began), sep="\n  ")
        hold(rig, cluster, fault, found)
        check(clients)
        return found
    finally:
        clients.close()


def hold(rig: Rig, cluster: Cluster, fault: Fault, found: Figures) -> None:
    """Check the figures of a fault against what is promised."""
    assert found.reads_refused_elsewhere == 0
    assert found.slowest_refusal <= ANSWER_S + MARGIN_S
    assert all(service.ready() for service in rig.alive), "what Kafka does is no reason to leave the balancer"
    if fault.appends:
        assert found.unsure <= UNSURE * found.posts
    if fault.appends and fault is not ROLLING:
        bound = cluster.session_s + FAILOVER_S + (ELECTION_S if fault.election else 0) + MARGIN_S
        assert max(found.again.values(), default=0.0) <= bound
        if fault is not LESS:  # a run that is taken over is silent for longer
            assert found.silence <= bound
