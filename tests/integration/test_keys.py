"""Idempotency-Key through the whole system (A-10): one key and body is one response and one upstream call."""

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api import Api, error_of, request, text
from tests.model_server import ModelServer
from tests.system import System
from tests.wire import Answer, Frame

AT_ONCE = 20


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer().serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def system(server: ModelServer, kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("keys")
    config = folder / "rejoinder.toml"
    config.write_text(f'[[models]]\nmatch = "*"\nbase_url = "{server.url}"\n')
    with System(kafka, folder, config=config) as running:
        yield running


@pytest.fixture
def api(system: System) -> Api:
    return Api(system.base_url)


@pytest.fixture
def words() -> str:
    """What only this test says."""
    return secrets.token_hex(8)


@pytest.fixture(autouse=True)
def closed_gate(server: ModelServer) -> Iterator[None]:
    server.gate.clear()
    yield
    server.gate.set()


def body(words: str, model: str = "text", **fields: Any) -> dict[str, Any]:
    return request(words, model=f"m-{model}", **fields)


def keyed(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


def streamed(api: Api, asked: dict[str, Any], key: str) -> list[Frame]:
    with api.connect("POST", "/v1/responses", asked | {"stream": True}, keyed(key)) as stream:
        assert stream.status == 200, stream.body()
        return list(stream.frames())


def calls(server: ModelServer, words: str) -> int:
    """How often the upstream was called with these words."""
    return sum(words in str(asked["input"]) for asked in server.asked)


def eventually_post(api: Api, asked: dict[str, Any], key: str) -> Answer:
    """The answer of a system of which a part is on its way up."""
    deadline = time.monotonic() + 30
    while True:
        try:
            answer = api.post(asked, keyed(key))
        except (OSError, AssertionError):
            answer = None
        if answer is not None and answer.status not in (502, 503):
            return answer
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)


@pytest.mark.parametrize("background", [True, False], ids=["background", "attached"])
def test_many_at_once_are_one_response(api: Api, server: ModelServer, words: str, background: bool) -> None:
    asked = body(words, background=background)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda _: api.post(asked, keyed(words)), range(AT_ONCE)))
    assert {answer.status for answer in answers} == {200}
    [id] = {answer.json["id"] for answer in answers}
    api.events(id)
    assert calls(server, words) == 1
    if not background:
        assert {answer.body for answer in answers} == {api.get(id).body}


def test_many_streams_at_once_are_one_response(api: Api, server: ModelServer, words: str) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        streams = list(pool.map(lambda _: streamed(api, body(words), words), range(AT_ONCE)))
    assert len({b"".join(frame.raw for frame in frames) for frames in streams}) == 1
    assert streams[0][-1].type == "response.completed"
    assert calls(server, words) == 1


def test_of_two_bodies_at_once_one_wins(api: Api, server: ModelServer, words: str) -> None:
    both = [body(f"{words} {n % 2}") for n in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(lambda asked: api.post(asked, keyed(words)), both))
    won = {asked["input"] for asked, answer in zip(both, answers, strict=True) if answer.status == 200}
    assert ({answer.status for answer in answers}, len(won)) == ({200, 422}, 1)
    [id] = {answer.json["id"] for answer in answers if answer.status == 200}
    api.events(id)
    assert calls(server, words) == 1


def test_a_repetition_meets_the_response_as_it_stands(api: Api, server: ModelServer, words: str) -> None:
    asked = body(words, model="gated")
    first = api.post(asked, keyed(words)).json
    open_one = api.eventually(first["id"], lambda response: text(response))
    # While it is open, the answer is its state; a GET tells its output so far.
    assert api.post(asked, keyed(words)).json == open_one | {"output": []}
    server.gate.set()
    api.events(first["id"])
    closed_one = api.post(asked, keyed(words))
    assert closed_one.body == api.get(first["id"]).body
    assert closed_one.json["status"] == "completed"
    assert calls(server, words) == 1


def test_a_stream_that_is_posted_again_has_every_event_from_the_first(api: Api, words: str) -> None:
    first = streamed(api, body(words), words)
    assert streamed(api, body(words), words) == first
    assert api.events(first[0].event["response"]["id"]) == first


def test_another_body_is_refused(api: Api, server: ModelServer, words: str) -> None:
    id = api.post(body(words), keyed(words)).json["id"]
    for other in (
        body(words, stream=True),
        body(words, temperature=0),
        body("else"),
        body(words, store=True),
    ):
        answer = api.post(other, keyed(words))
        assert (answer.status, error_of(answer)["code"]) == (422, "idempotency_key_reused")
        assert answer.headers["x-should-retry"] == "false"
    api.events(id)
    assert calls(server, words) == 1


def test_keys_belong_to_a_tenant(api: Api, system: System, words: str) -> None:
    stranger = Api(system.base_url, {"x-rejoinder-tenant": "somebody-else"})
    ours, theirs = (each.post(body(words), keyed(words)).json["id"] for each in (api, stranger))
    assert ours != theirs
    assert stranger.post(body("else"), keyed(words)).status == 422
    assert (api.get(theirs).status, stranger.get(ours).status) == (404, 404)


def test_one_who_met_the_response_does_not_cancel_it_by_going_away(
    api: Api, server: ModelServer, words: str
) -> None:
    asked = body(words, model="gated", background=False, stream=True)
    with api.connect("POST", "/v1/responses", asked, keyed(words)) as mine:
        frames = mine.frames()
        first = next(frames)
        with api.connect("POST", "/v1/responses", asked, keyed(words)) as another:
            assert next(another.frames()).raw == first.raw
        server.gate.set()
        assert list(frames)[-1].type == "response.completed"


def test_a_key_that_leads_to_a_deleted_response_is_refused(api: Api, words: str) -> None:
    id = api.post(body(words), keyed(words)).json["id"]
    api.delete(id)
    answer = api.post(body(words), keyed(words))
    assert (answer.status, error_of(answer)["code"]) == (422, "response_deleted")


@pytest.mark.parametrize("killed", ["ingest", "replay"])
def test_it_holds_when_a_service_is_killed(
    api: Api, system: System, server: ModelServer, words: str, killed: str
) -> None:
    closed, open_one = f"{words} closed", f"{words} open"
    done = api.post(body(closed), keyed(closed)).json["id"]
    api.events(done)
    running = api.post(body(open_one, model="gated"), keyed(open_one)).json["id"]
    api.eventually(running, lambda response: text(response))
    [service] = system.titled(f"rejoinder {killed}")
    service.kill()
    assert eventually_post(api, body(closed), closed).json["id"] == done
    assert eventually_post(api, body(open_one, model="gated"), open_one).json["id"] == running
    assert eventually_post(api, body("else"), closed).status == 422
    server.gate.set()
    api.events(running)
    assert (calls(server, closed), calls(server, open_one)) == (1, 1)
