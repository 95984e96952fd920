"""An executor that dies anywhere: every response goes on, or ends honestly, and no call is made twice."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest

from tests.api import insisting, types
from tests.long import SOAK
from tests.reliability import audit
from tests.reliability.conftest import Deploy
from tests.reliability.doomed import POINTS
from tests.reliability.rig import Child, Nursery, Rig, until
from tests.reliability.upstream import Upstream

MODELS = ("echo", "resumable", "repeatable", "fragile")
STOPPING = ("before draining", "before the last beat")
TAKING_OVER = [
    point for point in POINTS if "takeover" in point or "past" in point or "executor_lost" in point
]
FIRST_LIFE = [point for point in POINTS if point not in (*STOPPING, *TAKING_OVER)]
WORDS, PAUSE = 40, 0.05
VISIBLE_S = 20.0
"""Rule A-19."""
COULD_NOT_START = 1
"""The status of a service that says why and ends."""


class Case:
    """One response, and when it was asked for."""

    def __init__(self, rig: Rig, model: str, number: int) -> None:
        self.model, self.name = model, f"{model}-{number}-{time.monotonic_ns()}"
        metadata = {"case": self.name, "words": str(WORDS), "pause": str(PAUSE)}
        if model == "echo":
            metadata = {"echo.tokens": str(WORDS), "echo.interval_ms": str(int(PAUSE * 1000))}
        body = {"model": model, "input": "one two three", "background": True, "metadata": metadata}
        answer = insisting(lambda: rig.api.post(body, {"Idempotency-Key": self.name}))
        assert answer.status == 200, answer
        self.id: str = answer.json["id"]


@pytest.fixture(scope="module")
def nursery(rig: Rig) -> Iterator[Nursery]:
    running = Nursery(rig)
    yield running
    running.close()


@pytest.fixture(scope="module")
def rig(kafka: str, deploy: Deploy) -> Iterator[Rig]:
    """With one executor that is never killed."""
    with deploy(kafka, partitions=16) as running:
        running.start_all()
        yield running


def settle(rig: Rig, cases: list[Case], upstream: Upstream) -> tuple[Counter[Any], list[audit.Life]]:
    """All cases have ended as they may; says how, and what is known of each."""
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
            exhausted = life.attempts > rig.settings.max_attempts  # those who took it over died as well
            lost = "attempts_exhausted" if exhausted else "executor_lost"
            assert response["error"]["type"] == lost, response["error"]
            assert case.model != "echo"
            assert life.attempts > 1
        else:
            assert response["status"] == "completed", response
            assert types(frames).count("response.output_text.delta") == WORDS
    return ends, [known[case.id] for case in cases]


def run_doomed(rig: Rig, nursery: Nursery, upstream: Upstream, pairs: list[tuple[str, str]]) -> Counter[Any]:
    """Doomed executors work until each has died at its point; then a healthy one does what is left.

    While they die one after the other, the next owner of a response may be dead before it can act. The bound
    of rule A-19 begins with the last death.
    """
    began = time.monotonic()
    leaving = [nursery.start(point) for point in STOPPING]
    until(lambda: all("partitions owned" in child.log for child in leaving))
    cases = [Case(rig, MODELS[n % 4], n) for n in range(8)]
    for child in leaving:
        os.kill(child.pid, signal.SIGTERM)
    dooms = [f"{point}:{model}" for point, model in pairs]
    dying = [nursery.start(doom) for doom in dooms]
    with ThreadPoolExecutor(8) as pool:
        while supervise(nursery, dying, dooms):
            left = {doom: c.log[-500:] for doom, c in zip(dooms, dying, strict=True) if c.status is None}
            assert time.monotonic() < began + 150, left
            cases += pool.map(lambda n: Case(rig, MODELS[n % 4], n), range(8))
            time.sleep(0.5)
    died, died_at = time.monotonic(), int(time.time() * 1000)
    points = [*STOPPING, *(point for point, _ in pairs)]
    for child, point in zip([*leaving, *dying], points, strict=True):
        assert child.status == -9, child.log
        assert f"doomed at {point}" in child.log
    ends, lives = settle(rig, cases, upstream)
    print(len(cases), ends, f"{died - began:.1f} s dying, {time.monotonic() - died:.1f} s settling")
    next_at = [min(at for at in life.at if at > died_at) for life in lives if life.at[-1] > died_at]
    silences = [(at - died_at) / 1000 for at in next_at] or [0.0]
    print(
        f"{len(silences)} were open at the last death, the first word after it within {max(silences):.1f} s"
    )
    assert audit.percentile(silences, 0.99) <= VISIBLE_S
    return ends


def supervise(nursery: Nursery, children: list[Child], dooms: list[str]) -> bool:
    """Whether some of them live. Those that never began are started again: where dozens start at once, Kafka
    may be too slow to answer, and they end.
    """
    for n, child in enumerate(children):
        if child.status == COULD_NOT_START and "is away" in child.log:
            children[n] = nursery.start(dooms[n])
    return any(child.status is None for child in children)


def doom(turn: int, every: int = 1) -> list[tuple[str, str]]:
    """Each point of a first life with one of the models, another one every turn. An executor that dies at a
    takeover does so at any model. Of all these, the first of each `every`.
    """
    first = [(point, MODELS[(n + turn) % len(MODELS)]) for n, point in enumerate(FIRST_LIFE)]
    return first[::every] + [(point, "") for point in TAKING_OVER[::every]]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("turn", range(len(MODELS) if SOAK else 1))
def test_killed_anywhere_every_response_goes_on_or_ends_honestly(
    rig: Rig, nursery: Nursery, upstream: Upstream, turn: int
) -> None:
    ends = run_doomed(rig, nursery, upstream, doom(turn, every=1 if SOAK else 4))

    assert any(attempts > 1 for _, _, attempts in ends)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not SOAK, reason="some minutes: set REJOINDER_SOAK=1")
def test_one_death_at_a_time_is_seen_for_twenty_seconds_at_most(
    rig: Rig, nursery: Nursery, upstream: Upstream
) -> None:
    silences: list[float] = []
    for point, model in doom(0)[: len(FIRST_LIFE)]:
        dying, cases = nursery.start(f"{point}:{model}"), []
        until(lambda child=dying: "partitions owned" in child.log or child.status)  # type: ignore[misc]
        while dying.status is None:
            cases += [Case(rig, MODELS[n % 4], n) for n in range(8)]
            time.sleep(0.5)
        _, lives = settle(rig, cases, upstream)
        taken = [life for life in lives if life.attempts > 1]
        longest = [max(after - before for before, after in pairwise(life.at)) / 1000 for life in taken]
        print(f"{point}: {len(taken)} of {len(cases)} taken over, silent for {max(longest, default=0):.1f} s")
        silences += longest
    median, longest_of_all = audit.percentile(silences, 0.5), max(silences)
    print(f"{len(silences)} takeovers: silent for {median:.1f} s (p50), {longest_of_all:.1f} s (the longest)")
    assert audit.percentile(silences, 0.99) <= VISIBLE_S
