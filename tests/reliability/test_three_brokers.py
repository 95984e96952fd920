"""Three brokers, one of them dead or hung: what others lead goes on, the rest as soon as Kafka failed over.

Short faults with the session that deploy/ sets. `make soak` has the long ones, and those with Kafka's own.
"""

from collections.abc import Iterator

import pytest
from anyio.from_thread import BlockingPortal

from tests.long import SOAK
from tests.reliability import faults
from tests.reliability.cluster import NODES, SHORT_SESSION_S, Cluster
from tests.reliability.conftest import Deploy
from tests.reliability.faults import PARTITIONS, Fault, trial
from tests.reliability.rig import Rig
from tests.steady import steady

AWAY_S = 9.0 if SOAK else 6.0
"""Two sessions at least."""
START_S = 30.0
"""Seconds in which a service gets ready that starts when a broker has just hung."""
SHORT = faults.ALL if SOAK else (faults.DEAD, faults.HUNG)


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


@pytest.mark.slow
@pytest.mark.skipif(not SOAK, reason="half a minute: set REJOINDER_SOAK=1")
def test_services_start_while_a_broker_hangs(rig: Rig, cluster: Cluster) -> None:
    cluster.settle()
    hung = cluster.brokers[NODES[0]]
    hung.pause()
    try:
        began = steady()
        service, _ = rig.another("replay")
        print(f"ready {steady() - began:.1f} s after its start")
    finally:
        hung.resume()
    service.kill()
    assert steady() - began < START_S


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", SHORT, ids=lambda fault: fault.name.replace(" ", "-"))
def test_nothing_is_lost_and_what_others_lead_goes_on(rig: Rig, cluster: Cluster, fault: Fault) -> None:
    found = trial(rig, cluster, fault, AWAY_S)
    assert found.posts > 10
