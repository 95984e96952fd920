"""Three incidents of a real deployment: the alerts of each fire, no others do, and they end with it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal

from tests.alerting import Scrapes, needs_promtool
from tests.api import request
from tests.reliability.conftest import Deploy
from tests.reliability.rig import Broker, Rig, until

pytestmark = needs_promtool
MAX_QUEUE = 20
REFUSED = 600
"""Requests of a storm that are refused: played within five minutes, two a second."""


@pytest.fixture(scope="module")
def broker(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(portal, tmp_path_factory.mktemp("broker")) as running:
        yield running


@pytest.fixture(scope="module")
def rig(broker: Broker, deploy: Deploy) -> Iterator[Rig]:
    with deploy(broker.bootstrap, partitions=2, max_queue=MAX_QUEUE) as running:
        running.start_all()
        yield running


@pytest.fixture
def scrapes(rig: Rig) -> Scrapes:
    """A quarter of an hour in which all was well."""
    rig.api.closed("all is well")
    until(lambda: _open(rig) == 0)
    taken = Scrapes()
    for minute in (0, 14):
        scrape(rig, taken, minute)
    return taken


def scrape(rig: Rig, taken: Scrapes, minute: int) -> None:
    taken.take(minute, {f"{service.name}-{service.pid}": service.page for service in rig.alive})


def _open(rig: Rig) -> float:
    """How many responses are open, as ingest shows it."""
    (ingest,) = rig.named("ingest")
    return ingest.metric("rejoinder_ingest_open_responses")


def fill(rig: Rig, count: int, tenant: str = "greedy") -> list[str]:
    """Responses of one tenant that stay open until they are deleted."""
    headers = {"x-rejoinder-tenant": tenant}
    answers = [rig.api.post(request("waits", interval_ms=60_000), headers) for _ in range(count)]
    assert [answer.status for answer in answers] == [200] * count
    return [answer.json["id"] for answer in answers]


def empty(rig: Rig, ids: list[str], tenant: str = "greedy") -> None:
    for id in ids:
        assert (
            rig.api.ask("DELETE", f"/v1/responses/{id}", headers={"x-rejoinder-tenant": tenant}).status == 200
        )
    until(lambda: _open(rig) == 0)


def test_a_tenants_storm(rig: Rig, scrapes: Scrapes, tmp_path: Path) -> None:
    ids = fill(rig, MAX_QUEUE)
    until(lambda: _open(rig) == MAX_QUEUE)
    greedy = {"x-rejoinder-tenant": "greedy"}
    assert rig.api.post(request("one more"), greedy).status == 429
    scrape(rig, scrapes, 15)
    for _ in range(REFUSED):
        assert rig.api.post(request("one more"), greedy).status == 429
    scrape(rig, scrapes, 20)
    empty(rig, ids)
    for minute in (21, 40):
        scrape(rig, scrapes, minute)
    scrapes.check({14: (), 20: {"RejoinderTenantStorm", "RejoinderQueueFull"}, 40: ()}, tmp_path)


def test_a_broker_that_answers_nothing(rig: Rig, broker: Broker, scrapes: Scrapes, tmp_path: Path) -> None:
    broker.pause()
    try:
        for service in rig.alive:
            until(lambda service=service: service.metric("rejoinder_kafka_silent_brokers") == 1)  # type: ignore[misc]
        (replay,) = rig.named("replay")
        until(lambda: replay.metric("rejoinder_log_reads_failing") > 0)
        for minute in (15, 20):
            scrape(rig, scrapes, minute)
    finally:
        broker.resume()
    for service in rig.alive:
        until(lambda service=service: service.metric("rejoinder_kafka_silent_brokers") == 0)  # type: ignore[misc]
        until(lambda service=service: service.metric("rejoinder_log_reads_failing") == 0)  # type: ignore[misc]
    rig.api.closed("all is well again")
    for minute in (21, 40):
        scrape(rig, scrapes, minute)
    scrapes.check({14: (), 20: {"RejoinderBrokerSilent", "RejoinderLogUnreadable"}, 40: ()}, tmp_path)


def test_the_last_executor_goes_and_the_queue_grows(rig: Rig, scrapes: Scrapes, tmp_path: Path) -> None:
    (executor,) = rig.named("executor")
    executor.kill()
    ids = fill(rig, 2)
    until(lambda: _open(rig) == len(ids))
    scrape(rig, scrapes, 15)
    ids += fill(rig, MAX_QUEUE - 3)
    until(lambda: _open(rig) == len(ids))
    scrape(rig, scrapes, 17)
    scrape(rig, scrapes, 20)
    rig.ready([rig.start("executor")])
    empty(rig, ids)
    for minute in (21, 40):
        scrape(rig, scrapes, minute)
    scrapes.check({14: (), 20: {"RejoinderNoExecutor", "RejoinderQueueFull"}, 40: ()}, tmp_path)
