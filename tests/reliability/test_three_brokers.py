"""Three brokers, one of them dead or hung: what others lead goes on, the rest as soon as Kafka failed over.

Short faults with the session that deploy/ sets. `make soak` has the long ones, and those with Kafka's own.
"""

import time
from collections.abc import Callable, Iterator

import pytest
from anyio.from_thread import BlockingPortal

from tests.reliability.cluster import NODES, SHORT_SESSION_S, Cluster
from tests.reliability.conftest import Deploy
from tests.reliability.failover import Clients, Figures, check, figures, led_by
from tests.reliability.rig import Broker, Rig

PARTITIONS = 6
AWAY_S = 9.0
"""Three sessions."""
AGAIN_S = 6.0
ANSWER_S = 20.0
MARGIN_S = 1.5
"""What a loaded machine may add."""


@pytest.fixture(scope="module")
def cluster(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(portal, tmp_path_factory.mktemp("cluster"), SHORT_SESSION_S) as running:
        yield running


@pytest.fixture(scope="module")
def rig(cluster: Cluster, deploy: Deploy) -> Iterator[Rig]:
    """A deployment with two executors."""
    with deploy(cluster.bootstrap, partitions=PARTITIONS, replication=3) as running:
        running.start_all("executor")
        yield running


def away(rig: Rig, cluster: Cluster, node: int, fault: Callable[[Broker], None]) -> Figures:
    """`node` is away for a while, by `fault`, while clients ask for everything; then it comes back."""
    broker = cluster.brokers[node]
    clients = Clients(rig, cluster, partitions=PARTITIONS, words=250)
    try:
        with clients.about():
            victims = led_by(clients, node)
            began = clients.now()
            fault(broker)
            time.sleep(AWAY_S)
            broker.start() if fault is Broker.kill else broker.resume()
        found = figures(clients, began, victims)
        print(node, "controller" if node == cluster.controller() else "", found)
        check(clients)
        return found
    finally:
        clients.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [Broker.kill, Broker.pause], ids=["dead", "hung"])
def test_one_broker_is_gone(rig: Rig, cluster: Cluster, fault: Callable[[Broker], None]) -> None:
    node = next(node for node in NODES if node != cluster.controller())

    found = away(rig, cluster, node, fault)

    assert found.reads_refused_elsewhere == 0
    assert max(found.again.values()) <= AGAIN_S + MARGIN_S
    assert found.silence <= AGAIN_S + MARGIN_S
    assert found.slowest_refusal <= ANSWER_S + MARGIN_S
    assert found.unsure <= 0.01 * found.posts
    assert all(service.ready() for service in rig.alive), "what Kafka does is no reason to leave the balancer"
