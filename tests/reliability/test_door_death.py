"""An ingest or a replay dies at any point of a create: a client that repeats it by key has one response."""

import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api import insisting, request, types
from tests.long import SOAK
from tests.reliability import audit
from tests.reliability.conftest import Deploy
from tests.reliability.doomed import AT_INGEST, AT_THE_DOOR, VARIABLE
from tests.reliability.rig import Rig, Service, until


@pytest.fixture(scope="module")
def rig(kafka: str, deploy: Deploy) -> Iterator[Rig]:
    with deploy(kafka, partitions=4) as running:
        running.ready(running.start(name) for name in ("replay", "ingest", "executor"))
        yield running


def doomed(rig: Rig, name: str, point: str) -> Service:
    """The service of that name, in the place of the one that ran, which ends itself at `point`."""
    for running in rig.named(name):
        running.kill()
    command = [sys.executable, "-m", "tests.reliability.doomed", name]
    service = rig.start(name, command, **{VARIABLE: point})
    rig.ready([service])
    return service


def created(rig: Rig, key: str) -> str:
    """The id of what a client makes that asks again, whatever becomes of its connection."""
    body = request("one two three", interval_ms=1, tokens=20)
    answer = until(lambda: insisting(lambda: rig.api.post(body, {"Idempotency-Key": key})))
    assert answer.status == 200, answer
    return str(answer.json["id"])


def killed_at_each(rig: Rig, name: str, points: Iterable[str]) -> None:
    """One create, while the service dies at one point after the other, and then lives."""
    first, *others = points if SOAK else list(points)[-1:]
    dying = doomed(rig, name, first)
    with ThreadPoolExecutor(1) as pool:
        making = pool.submit(created, rig, name)
        for point in (*others, None):
            assert dying.wait() == -9, dying.log
            assert "doomed at" in dying.log
            if point is not None:
                dying = doomed(rig, name, point)
        rig.ready([rig.start(name)])
        id = making.result()
    assert created(rig, name) == id
    frames, _ = audit.check(rig, [id])
    assert types(frames[id])[-1] == "response.completed"
    assert types(frames[id]).count("response.output_text.delta") == 20


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_an_ingest_killed_at_any_point_of_a_create_makes_one_response(rig: Rig) -> None:
    killed_at_each(rig, "ingest", AT_INGEST)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_front_door_killed_at_any_point_of_a_create_makes_one_response(rig: Rig) -> None:
    killed_at_each(rig, "replay", AT_THE_DOOR)
