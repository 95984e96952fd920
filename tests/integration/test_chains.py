"""Conversations by `previous_response_id` (A-13), as the upstream gets them, through the whole system."""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from schemas.ids import Tenant, idempotent_response_id, parse_response_id, partition_of
from schemas.records import Claimed, parse
from services.settings import environment
from tests.api import Api, error_of, request, text, types
from tests.conftest import eventually
from tests.model_server import ModelServer
from tests.process import REJOINDER
from tests.records import records_of
from tests.system import System

TURNS = 30
PARTITIONS = 4
Item = dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer().serving() as serving:
        yield serving


@pytest.fixture(autouse=True)
def closed_gate(server: ModelServer) -> Iterator[None]:
    server.gate.clear()
    yield
    server.gate.set()


@pytest.fixture(scope="module")
def config(server: ModelServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = tmp_path_factory.mktemp("chains") / "rejoinder.toml"
    config.write_text(f'[[models]]\nmatch = "*"\nbase_url = "{server.url}"\n')
    return config


@pytest.fixture(scope="module")
def system(config: Path, kafka: str) -> Iterator[System]:
    with System(kafka, config.parent, config=config, partitions=PARTITIONS) as running:
        yield running


@pytest.fixture
def api(system: System) -> Api:
    return Api(system.base_url)


def created(
    api: Api, words: str, previous: str | None = None, model: str = "text", key: str | None = None
) -> str:
    body = request(words, model=f"m-{model}", previous_response_id=previous)
    answer = api.post(body, {"idempotency-key": key} if key else {})
    assert answer.status == 200, answer
    return str(answer.json["id"])


def closed(api: Api, words: str, previous: str | None = None, model: str = "text") -> str:
    id = created(api, words, previous, model)
    api.events(id)
    return id


def completed(api: Api, id: str) -> dict[str, Any]:
    return api.eventually(id, lambda response: response["status"] == "completed")


def elsewhere(api: Api, words: str, previous: str) -> Iterator[str]:
    """Successors whose key leads them out of the predecessor's partition: one in each of the others."""
    wanted = set(range(PARTITIONS)) - {partition(previous)}
    for attempt in range(200):
        key = f"{words} {previous} {attempt}"
        there = partition_of(idempotent_response_id(Tenant("default"), key, PARTITIONS))
        if there in wanted:
            wanted.discard(there)
            yield created(api, words, previous, key=key)


def partition(id: str) -> int:
    parsed = parse_response_id(id)
    assert parsed
    return partition_of(parsed)


def said(words: str) -> Item:
    """A turn's input, as upstreams get it."""
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": words}]}


def heard(server: ModelServer, words: str) -> list[Item]:
    """The input with which the upstream was called for the turn that says `words`: once, and no more."""
    [body] = [body for body in server.asked if body["input"][-1] == said(words)]
    assert "previous_response_id" not in body
    return [unnamed(item) for item in body["input"]]


def unnamed(item: Item) -> Item:
    """An item without its id: clients and upstreams have names of their own for it (U-30)."""
    return {name: value for name, value in item.items() if name != "id"}


def turns(api: Api, *ids_and_words: tuple[str, str]) -> list[Item]:
    """What the turns said and put out, one after the other."""
    return [
        item
        for id, words in ids_and_words
        for item in (said(words), *map(unnamed, api.response(id)["output"]))
    ]


async def test_a_long_chain_is_sent_whole_and_stored_once(
    api: Api, server: ModelServer, system: System
) -> None:
    chain: list[tuple[str, str]] = []
    for turn in range(TURNS):
        words = f"long {turn:02}"
        chain.append((closed(api, words, chain[-1][0] if chain else None), words))
    for length in (0, 1, TURNS - 1):
        assert heard(server, chain[length][1]) == [*turns(api, *chain[:length]), said(chain[length][1])]
    assert len({partition(id) for id, _ in chain}) == 1

    stored: Counter[str] = Counter()
    for record in await records_of(system):
        key = (record.key or b"").decode()
        stored[key.partition("/")[0]] += len(key) + len(record.value or b"")
    sizes = [stored[id] for id, _ in chain[1:]]
    assert max(sizes) - min(sizes) < 100, sizes


def test_an_open_one_is_waited_for(api: Api, server: ModelServer) -> None:
    first = created(api, "open 1", model="gated")
    second = created(api, "open 2", first)
    third = created(api, "open 3", second)
    api.eventually(first, lambda response: response["status"] == "in_progress")
    for waiting in (second, third):
        assert api.response(waiting)["status"] == "queued"
        assert types(api.take(waiting, 2)) == ["response.created", "response.queued"]
    server.gate.set()
    completed(api, third)
    ends = [api.response(id)["completed_at"] for id in (first, second, third)]
    assert ends == sorted(ends)
    assert heard(server, "open 3") == [*turns(api, (first, "open 1"), (second, "open 2")), said("open 3")]


@pytest.mark.parametrize(
    ("model", "status", "kept"),
    [("tool+failed", "failed", 2), ("tool+cut", "failed", 1), ("tool+incomplete", "incomplete", 2)],
)
def test_of_one_that_did_not_complete_the_input_and_the_finished_items_are_used(
    api: Api, server: ModelServer, model: str, status: str, kept: int
) -> None:
    first = closed(api, f"{model} 1", model=model)
    second = closed(api, f"{model} 2", first)
    ended = api.response(first)
    assert (ended["status"], api.response(second)["status"]) == (status, "completed")
    finished = [unnamed(item) for item in ended["output"] if item["status"] == "completed"]
    assert len(finished) == kept
    assert heard(server, f"{model} 2") == [said(f"{model} 1"), *finished, said(f"{model} 2")]


def test_of_a_cancelled_one_the_input_and_the_finished_items_are_used(api: Api, server: ModelServer) -> None:
    first = created(api, "cancelled 1", model="tool+gated")
    partial = api.eventually(first, lambda response: len(response["output"]) == 2)
    second = created(api, "cancelled 2", first)
    assert api.cancel(first).status == 200
    completed(api, second)
    assert api.response(first)["output"] == []
    finished = [unnamed(item) for item in partial["output"] if item["status"] == "completed"]
    assert len(finished) == 1
    assert heard(server, "cancelled 2") == [said("cancelled 1"), *finished, said("cancelled 2")]


def test_one_that_was_cancelled_while_it_waited_does_not_hide_the_open_one_before(
    api: Api, server: ModelServer
) -> None:
    first = created(api, "hidden 1", model="gated")
    second = created(api, "hidden 2", first)
    api.cancel(second)
    third = created(api, "hidden 3", second)
    api.eventually(first, lambda response: text(response))
    assert api.response(third)["status"] == "queued"
    server.gate.set()
    completed(api, third)
    whole = [*turns(api, (first, "hidden 1")), said("hidden 2"), said("hidden 3")]
    assert heard(server, "hidden 3") == whole


def test_one_that_is_not_stored_follows_but_cannot_be_followed(api: Api, server: ModelServer) -> None:
    first = closed(api, "unstored 1")
    unstored = {"background": False, "store": False, "previous_response_id": first}
    second = api.post(request("unstored 2", model="m-text", **unstored)).json
    assert (second["status"], second["previous_response_id"]) == ("completed", first)
    assert heard(server, "unstored 2") == [*turns(api, (first, "unstored 1")), said("unstored 2")]
    answer = api.post(request("unstored 3", model="m-text", previous_response_id=second["id"]))
    assert answer.status == 404


def test_a_deleted_one_cannot_be_followed(api: Api) -> None:
    first = closed(api, "deleted")
    api.delete(first)
    answer = api.post(request("after", model="m-text", previous_response_id=first))
    assert (answer.status, error_of(answer)["code"]) == (404, "previous_response_not_found")
    assert error_of(answer)["param"] == "previous_response_id"


def test_one_deleted_further_back_ends_the_chain_and_is_never_said_again(
    api: Api, server: ModelServer
) -> None:
    first = closed(api, "erased 1")
    second = closed(api, "erased 2", first)
    third = closed(api, "erased 3", second)
    api.delete(first)
    fourth = closed(api, "erased 4", third)
    response = api.response(fourth)
    assert (response["status"], response["error"]["type"]) == ("failed", "conversation")
    assert first in response["error"]["message"]
    assert not [body for body in server.asked if body["input"][-1] == said("erased 4")]


def test_one_that_is_deleted_while_it_is_waited_for_ends_the_chain(api: Api) -> None:
    first = created(api, "going 1", model="gated")
    second = created(api, "going 2", first)
    api.delete(first)
    response = api.eventually(second, lambda response: response["status"] == "failed")
    assert response["error"]["type"] == "conversation"


def test_a_key_may_lead_a_successor_into_another_partition(api: Api, server: ModelServer) -> None:
    first = created(api, "key 1", model="gated")
    second = next(elsewhere(api, "key 2", first))
    assert partition(first) != partition(second)
    api.eventually(first, lambda response: text(response))
    assert types(api.take(second, 2)) == ["response.created", "response.queued"]
    assert api.response(second)["status"] == "queued"
    server.gate.set()
    completed(api, second)
    third = closed(api, "key 3", second)
    assert partition(third) == partition(second)
    assert heard(server, "key 3") == [*turns(api, (first, "key 1"), (second, "key 2")), said("key 3")]


def test_a_cycle_cannot_be_made_even_by_who_knows_the_ids(api: Api) -> None:
    one, two = (idempotent_response_id(Tenant("default"), key, PARTITIONS) for key in ("one", "two"))

    def following(previous: str, key: str) -> int:
        body = request("round", model="m-text", previous_response_id=previous)
        return api.post(body, {"idempotency-key": key}).status

    assert [following(one, "one"), following(two, "one"), following(one, "two")] == [404] * 3
    assert created(api, "begin", key="one") == one
    assert [following(one, "two"), following(two, "one"), following(one, "one")] == [200, 422, 422]
    completed(api, two)


@pytest.mark.slow
def test_a_conversation_goes_on_after_a_restart_of_everything(
    kafka: str, config: Path, server: ModelServer
) -> None:
    with System(kafka, config.parent, config=config, partitions=2, grace_s=1) as system:
        api = Api(system.base_url)
        first = closed(api, "restart 1")
        second = closed(api, "restart 2", first)
        slow = api.create("restart 3", tokens=100, interval_ms=100, previous_response_id=second)
        waiting = created(api, "restart 4", slow)
        api.eventually(slow, lambda response: text(response))
        system.stop()
        system.start()
        api = Api(system.base_url)
        assert api.response(waiting)["status"] == "queued"
        api.eventually(waiting, lambda response: response["status"] == "completed", timeout=40)
        before = [(first, "restart 1"), (second, "restart 2"), (slow, "restart 3")]
        assert heard(server, "restart 4") == [*turns(api, *before), said("restart 4")]
        fifth = closed(api, "restart 5", waiting)
        before = [*before, (waiting, "restart 4")]
        assert heard(server, "restart 5") == [*turns(api, *before), said("restart 5")]
        assert api.response(fifth)["status"] == "completed"


def test_those_who_wait_take_no_slot_from_those_they_wait_for(
    kafka: str, config: Path, server: ModelServer
) -> None:
    with System(kafka, config.parent, config=config, partitions=PARTITIONS, slots=2) as system:
        api = Api(system.base_url)
        busy = [created(api, "busy", model="gated") for _ in range(2)]
        for id in busy:
            api.eventually(id, lambda response: text(response))
        first = created(api, "slots 1")
        waiting = [*elsewhere(api, "slots 2", first), *elsewhere(api, "slots 3", first)]
        assert {api.response(id)["status"] for id in (first, *waiting)} == {"queued"}
        server.gate.set()
        for id in (*busy, first, *waiting):
            completed(api, id)


@contextmanager
def another_executor(system: System, log: Path) -> Iterator[None]:
    """A second executor beside the one of `system`, set up alike."""
    [replay] = system.titled("rejoinder replay")
    listening = {each.laddr.port for each in replay.net_connections() if each.status == "LISTEN"}
    [internal] = listening - {urlsplit(system.base_url).port}
    beside = environment({"kafka": system.kafka, "replay_url": f"http://127.0.0.1:{internal}"})
    environ = {**os.environ, **system.environ, **beside}
    with log.open("wb") as output:
        process = subprocess.Popen([REJOINDER, "executor"], env=environ, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


async def claimants(system: System) -> dict[str, str]:
    """The executor that claimed each response."""
    entries = [parse(record) for record in await records_of(system)]
    return {entry.id: entry.executor for entry in entries if isinstance(entry, Claimed)}


@pytest.mark.slow
async def test_one_that_another_executor_runs_is_waited_for(
    kafka: str, config: Path, server: ModelServer, tmp_path: Path
) -> None:
    with (
        System(kafka, tmp_path, config=config, partitions=PARTITIONS) as system,
        another_executor(system, tmp_path / "executor.log"),
    ):
        api = Api(system.base_url)

        async def both_claim() -> bool:
            closed(api, "warm up")
            return len(set((await claimants(system)).values())) == 2

        await eventually(both_claim, timeout=30)
        first = created(api, "two executors 1", model="gated")
        waiting = list(elsewhere(api, "two executors 2", first))
        api.eventually(first, lambda response: text(response))
        assert {api.response(id)["status"] for id in waiting} == {"queued"}
        server.gate.set()
        for id in waiting:
            completed(api, id)
        by = await claimants(system)
        assert {by[id] for id in waiting} > {by[first]}
