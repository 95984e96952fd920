"""Two executors: one dies, sleeps, or is replaced, and the other does what is right for each response."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import pytest

from tests.api import insisting
from tests.long import SOAK
from tests.reliability import audit
from tests.reliability.conftest import Deploy
from tests.reliability.rig import Rig, Service, until
from tests.reliability.upstream import Upstream
from tests.steady import steady

VISIBLE_S = 20.0
"""Rule A-19."""
ASLEEP_S = 60.0 if SOAK else 15.0
GRACE_S = 6.0
PAUSE_S = 0.1


@pytest.fixture(scope="module")
def rig(kafka: str, deploy: Deploy) -> Iterator[Rig]:
    with deploy(kafka, partitions=8, grace_s=GRACE_S) as running:
        running.start_all("executor")
        yield running


@pytest.fixture(autouse=True)
def two_executors(rig: Rig) -> None:
    """Both own partitions, whatever the test before has ended."""
    while len(rig.named("executor")) < 2:
        another(rig)
    shared(rig)


def create(rig: Rig, *models: str, count: int, words: int) -> dict[str, str]:
    """So many responses of each model, a word every `PAUSE_S`: the case of each, by id."""
    cases = {}
    for model, n in product(models, range(count)):
        case = f"{model}-{n}-{time.monotonic_ns()}"
        metadata = {"case": case, "words": str(words), "pause": str(PAUSE_S)}
        if model == "echo":
            metadata = {"echo.tokens": str(words), "echo.interval_ms": str(int(PAUSE_S * 1000))}
        body = {"model": model, "input": "one two", "background": True, "metadata": metadata}
        cases[insisting(lambda: rig.api.post(body, {"Idempotency-Key": case})).json["id"]] = case  # noqa: B023
    return cases


def another(rig: Rig) -> Service:
    service = rig.start("executor")
    rig.ready([service])
    shared(rig)
    return service


def shared(rig: Rig) -> None:
    """Wait until every executor owns partitions: one that has just come may own none."""
    until(lambda: all(one.metric("rejoinder_executor_partitions_owned") for one in rig.named("executor")), 30)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_other_executor_takes_over_within_twenty_seconds(rig: Rig, upstream: Upstream) -> None:
    cases = create(rig, "echo", "resumable", "fragile", count=20, words=120)
    with ThreadPoolExecutor(len(cases)) as pool:
        readers = {id: pool.submit(audit.watch, rig.api, id) for id in cases}
        for id in cases:
            rig.api.take(id, 8)
        rig.named("executor")[0].kill()
        seen = {id: reader.result(timeout=60) for id, reader in readers.items()}

    found, known = audit.check(rig, cases)
    taken = [id for id in cases if known[id].attempts > 1]
    silences = [seen[id].silence for id in taken]
    print(
        f"{len(taken)} of {len(cases)} taken over, silent for {audit.percentile(silences, 0.5):.1f} s (p50)",
        f"and {max(silences):.1f} s (the longest)",
    )
    assert taken
    assert max(silences) <= VISIBLE_S
    for id, case in cases.items():
        assert seen[id].frames == found[id]
        assert upstream.calls[case] == (not case.startswith("echo"))
        lost = case.startswith("fragile") and id in taken
        end = found[id][-1].event["response"]
        assert end["status"] == ("failed" if lost else "completed"), end
        if lost:
            assert end["error"]["type"] == "executor_lost"
            [item] = end["output"]
            assert item["status"] == "incomplete"
            assert item["content"][0]["text"].startswith("w0 w1")
        if id in taken:
            assert len(set(known[id].executors)) == 2, "the other process must have gone on"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nobody_ever_sees_an_event_of_an_executor_that_slept(rig: Rig, upstream: Upstream) -> None:
    cases = create(rig, "echo", "fragile", count=12, words=int(ASLEEP_S * 15))
    sleeper = rig.named("executor")[0]
    with ThreadPoolExecutor(len(cases)) as pool:
        readers = {id: pool.submit(audit.watch, rig.api, id, ASLEEP_S + 90) for id in cases}
        for id in cases:
            rig.api.take(id, 8)
        sleeper.pause()
        time.sleep(ASLEEP_S)
        sleeper.resume()
        seen = {id: reader.result(timeout=180) for id, reader in readers.items()}

    found, known = audit.check(rig, cases)
    slept = [id for id in cases if known[id].attempts > 1]
    fenced = sum(what.startswith("event ") for id in slept for what in known[id].not_counting)
    print(f"{len(slept)} of {len(cases)} taken over from the sleeper; {fenced} of its events do not count")
    assert slept
    assert fenced, "the sleeper woke and said nothing"
    for id, case in cases.items():
        assert seen[id].frames == found[id], "what was seen live is not what counts"
        assert upstream.calls[case] == (not case.startswith("echo"))
    assert sleeper.alive


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_rolling_restart_kills_no_run(rig: Rig, upstream: Upstream) -> None:
    cases: dict[str, str] = {}
    old = rig.named("executor")
    for service in old:
        another(rig)
        running = create(rig, "fragile", "echo", count=10, words=20)
        for id in running:
            rig.api.take(id, 4)
        service.terminate()
        cases |= running | create(rig, "fragile", count=10, words=20)
        assert service.wait() == 0

    found, known = audit.check(rig, cases)
    assert {frames[-1].event["response"]["status"] for frames in found.values()} == {"completed"}
    assert {known[id].attempts for id in cases} == {1}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_outlasts_the_grace_is_handed_over_and_never_cancelled(rig: Rig, upstream: Upstream) -> None:
    cases = create(rig, "echo", "resumable", "fragile", count=10, words=120)
    for id in cases:
        rig.api.take(id, 6)
    leaving = rig.named("executor")[0]
    began = steady()
    leaving.terminate()
    assert leaving.wait() == 0
    assert steady() - began <= GRACE_S + 5

    found, known = audit.check(rig, cases)
    handed = [id for id in cases if known[id].attempts > 1]
    assert handed
    for id, case in cases.items():
        end = found[id][-1].event["response"]
        lost = case.startswith("fragile") and id in handed
        assert end["status"] == ("failed" if lost else "completed"), end
        assert upstream.calls[case] == (not case.startswith("echo"))
        assert case not in upstream.cancelled
