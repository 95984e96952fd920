"""An executor that dies anywhere: every response goes on, or ends honestly, and no call is made twice."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal

from tests.api import types
from tests.reliability import audit
from tests.reliability.doomed import POINTS
from tests.reliability.rig import SOAK, Nursery, Rig, until
from tests.reliability.upstream import Upstream, served

MODELS = ("echo", "resumable", "repeatable", "fragile")
STOPPING = ("before draining", "before the last beat")
TAKING_OVER = [
    point for point in POINTS if "takeover" in point or "past" in point or "executor_lost" in point
]
FIRST_LIFE = [point for point in POINTS if point not in (*STOPPING, *TAKING_OVER)]
WORDS, PAUSE = 40, 0.05


class Case:
    """One response, and when it was asked for."""

    def __init__(self, rig: Rig, model: str, number: int) -> None:
        self.model, self.name = model, f"{model}-{number}-{time.monotonic_ns()}"
        metadata = {"case": self.name, "words": str(WORDS), "pause": str(PAUSE)}
        if model == "echo":
            metadata = {"echo.tokens": str(WORDS), "echo.interval_ms": str(int(PAUSE * 1000))}
        body = {"model": model, "input": "one two three", "background": True, "metadata": metadata}
        answer = rig.api.post(body)
        assert answer.status == 200, answer
        self.id: str = answer.json["id"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with served() as running:
        yield running


@pytest.fixture(scope="module")
def nursery(rig: Rig) -> Iterator[Nursery]:
    running = Nursery(rig)
    yield running
    running.close()


@pytest.fixture(scope="module")
def rig(
    kafka: str, portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory, upstream: Upstream
) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("death")
    config = folder / "rejoinder.toml"
    config.write_text(upstream.config)
    with Rig(kafka, folder, portal, config=str(config), partitions=16) as running:
        running.ready(running.start(name) for name in ("replay", "ingest", "projector"))
        yield running


def settle(rig: Rig, cases: list[Case], upstream: Upstream) -> Counter[Any]:
    """All cases have ended as they may; says how."""
    found, known = audit.check(rig, [case.id for case in cases])
    ends: Counter[Any] = Counter()
    for case in cases:
        frames, life = found[case.id], known[case.id]
        response = frames[-1].event["response"]
        ends[case.model, response["status"], life.attempts] += 1
        calls = upstream.calls[case.name]
        assert calls <= life.attempts, f"{case.name}: {calls} calls in {life.attempts} attempts"
        if case.model in ("fragile", "resumable"):
            assert calls <= 1, f"{case.name}: {calls} calls"
        if response["status"] == "failed":
            assert response["error"]["type"] == "executor_lost", response["error"]
            assert case.model != "echo"
            assert life.attempts > 1
        else:
            assert response["status"] == "completed", response
            assert types(frames).count("response.output_text.delta") == WORDS
    return ends


def run_doomed(rig: Rig, nursery: Nursery, upstream: Upstream, pairs: list[tuple[str, str]]) -> Counter[Any]:
    """Doomed executors work until each has died at its point; then a healthy one does what is left."""
    began = time.monotonic()
    leaving = [nursery.start(point) for point in STOPPING]
    until(lambda: all("partitions owned" in child.log for child in leaving), 40)
    cases = [Case(rig, MODELS[n % 4], n) for n in range(8)]
    for child in leaving:
        os.kill(child.pid, signal.SIGTERM)
    dying = [nursery.start(f"{point}:{model}") for point, model in pairs]
    with ThreadPoolExecutor(8) as pool:
        while any(child.status is None for child in dying):
            assert time.monotonic() < began + 90, [c.log[-500:] for c in dying if c.status is None]
            cases += pool.map(lambda n: Case(rig, MODELS[n % 4], n), range(8))
            time.sleep(0.5)
    died = time.monotonic()
    points = [*STOPPING, *(point for point, _ in pairs)]
    for child, point in zip([*leaving, *dying], points, strict=True):
        assert child.status == -9, child.log
        assert f"doomed at {point}" in child.log
    ends = settle(rig, cases, upstream)
    print(len(cases), ends, f"{died - began:.1f} s dying, {time.monotonic() - died:.1f} s settling")
    return ends


def doom(turn: int) -> list[tuple[str, str]]:
    """Each point with one of the models, another one every turn; who dies taking over takes what comes."""
    first = [(point, MODELS[(n + turn) % len(MODELS)]) for n, point in enumerate(FIRST_LIFE)]
    return first + [(point, "") for point in TAKING_OVER]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("turn", range(len(MODELS) if SOAK else 1))
def test_killed_anywhere_every_response_goes_on_or_ends_honestly(
    rig: Rig, nursery: Nursery, upstream: Upstream, turn: int
) -> None:
    if not rig.named("executor"):
        rig.ready([rig.start("executor")])

    ends = run_doomed(rig, nursery, upstream, doom(turn))

    assert any(attempts > 1 for _, _, attempts in ends)
