"""Many races: whichever record comes first in the log is what happened, for every reader, for good."""

import random
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api import Api, error_of, insisting, request
from tests.long import SOAK
from tests.reliability import audit
from tests.reliability.conftest import Deploy
from tests.reliability.rig import Rig, until
from tests.reliability.upstream import Upstream
from tests.steady import steady

RACES = 1_000 if SOAK else 250
AT_ONCE = 24
ABORTED_S = 2.0
MARGIN_S = 1.0
"""What a loaded machine may add."""


@pytest.fixture(scope="module")
def rig(kafka: str, deploy: Deploy) -> Iterator[Rig]:
    with deploy(kafka, partitions=8) as running:
        running.start_all()
        yield running


@pytest.fixture(scope="module")
def doors(rig: Rig) -> list[Api]:
    """Two ingests."""
    _, other = rig.another("ingest")
    return [Api(f"http://127.0.0.1:{rig.ports['ingest']}"), other]


def racing(doors: list[Api], n: int) -> tuple[Api, Api, str, random.Random]:
    """A response that will be over in some 50 ms, the two doors in a random order, and chance."""
    chance = random.Random(n)
    one, other = chance.sample(doors, 2)
    body = request("a b c", tokens=8, interval_ms=chance.choice((1, 5, 10)))
    answer = insisting(lambda: one.post(body))
    assert answer.status == 200, answer
    return one, other, answer.json["id"], chance


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_cancelled_or_completed_it_stays_what_it_became(rig: Rig, doors: list[Api]) -> None:
    def race(n: int) -> tuple[str, str]:
        one, other, id, chance = racing(doors, n)
        time.sleep(chance.random() * 0.15)
        answer = insisting(lambda: other.cancel(id))
        if answer.status == 200:
            assert answer.json["status"] == "cancelled"
            assert answer.json["output"] == []
            assert insisting(lambda: one.cancel(id)).json == answer.json, (
                "a second cancel says something else"
            )
            return id, "cancelled"
        assert answer.status == 400, answer
        assert error_of(answer)["message"] == "Cannot cancel a completed response."
        return id, "completed"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ends = dict(pool.map(race, range(RACES)))
    found, _ = audit.check(rig, ends)
    print(Counter(ends.values()))
    assert len(ends) == RACES
    assert set(ends.values()) == {"cancelled", "completed"}, "nothing raced"
    for id, end in ends.items():
        assert found[id][-1].event["response"]["status"] == end


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_deleted_it_stays_deleted_whatever_is_appended(rig: Rig, doors: list[Api]) -> None:
    def race(n: int) -> str:
        one, other, id, chance = racing(doors, n)
        time.sleep(chance.random() * 0.1)
        answer = insisting(lambda: other.delete(id))
        assert answer.status == 200, answer
        assert answer.json == {"id": id, "object": "response", "deleted": True}
        assert rig.api.get(id).status == 404
        assert one.delete(id).status == 404
        return id

    with ThreadPoolExecutor(AT_ONCE) as pool:
        ids = list(pool.map(race, range(RACES)))
    known = audit.lives(rig)
    assert all(known[id].deleted for id in ids)
    late = Counter(why for id in ids for why in known[id].not_counting)
    print(f"{len(ids)} deleted; appended behind it: {dict(late)}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert set(pool.map(lambda id: rig.api.get(id).status, ids)) == {404}
        assert set(pool.map(lambda id: rig.api.get(id, "?stream=true").status, ids[:100])) == {404}


def start(rig: Rig, model: str, name: str, count: int) -> dict[str, str]:
    """Responses that go on for a minute: the case of each, by id."""
    cases = {}
    for n in range(count):
        case = f"{name}-{model}-{n}"
        body: dict[str, Any] = {"model": model, "input": "x", "background": True}
        body["metadata"] = {"case": case, "words": "600", "pause": "0.1"}
        cases[insisting(lambda: rig.api.post(body, {"Idempotency-Key": case})).json["id"]] = case  # noqa: B023
    return cases


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_cancel_reaches_the_upstream_and_every_other_state(
    rig: Rig, doors: list[Api], upstream: Upstream
) -> None:
    claimed = start(rig, "fragile", "claimed", 25) | start(rig, "resumable", "claimed", 25)
    for id in claimed:
        rig.api.take(id, 6)
    answered_at: dict[str, float] = {}

    def cancel(n_id: tuple[int, str]) -> None:
        n, id = n_id
        assert doors[n % 2].cancel(id).json["status"] == "cancelled"
        answered_at[id] = steady()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(cancel, enumerate(claimed)))
    ended = {"fragile": upstream.hung_up, "resumable": upstream.cancelled}
    until(lambda: all(case in ended[case.split("-")[1]] for case in claimed.values()))
    stops = [ended[case.split("-")[1]][case] - answered_at[id] for id, case in claimed.items()]
    print(f"upstreams stopped after the answer p50 {sorted(stops)[25]:.2f} s, at most {max(stops):.2f} s")
    assert max(stops) <= ABORTED_S + MARGIN_S

    orphaned = start(rig, "fragile", "orphaned", 10) | start(rig, "resumable", "orphaned", 10)
    for id in orphaned:
        rig.api.take(id, 6)
    rig.named("executor")[0].kill()
    queued = start(rig, "fragile", "queued", 10)
    for n, id in enumerate([*orphaned, *queued]):
        assert doors[n % 2].cancel(id).json["status"] == "cancelled"
    rig.ready([rig.start("executor")])
    rig.api.closed("the new executor works")
    kept = {case for case in orphaned.values() if "resumable" in case}
    until(lambda: kept <= upstream.cancelled.keys())  # no executor ran them: the new owner says so

    ids = [*claimed, *orphaned, *queued]
    found, known = audit.check(rig, ids)
    assert {frames[-1].event["response"]["status"] for frames in found.values()} == {"cancelled"}
    assert {known[id].attempts for id in queued} == {0}
    assert all(upstream.calls[case] == 0 for case in queued.values())
    assert all(upstream.calls[case] == 1 for case in (claimed | orphaned).values())
    assert all(upstream.calls[case] == 1 for case in {**claimed, **orphaned}.values())
