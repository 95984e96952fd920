"""What ingest takes for an answer of replay, and what not."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from structlog.testing import capture_logs

from schemas.errors import ApiError, not_found, unavailable
from schemas.ids import response_id
from services.broker.tcp import free_port
from services.web import pulse, replay_client
from services.web.answers import error_answer
from services.web.internal import ReplayAway
from services.web.peer import Peer
from services.web.replay_client import ReplayClient
from services.web.replays import Replays
from tests.upstreams import Call, Script, raw

ID = response_id(0, b"r" * 16)
Ask = Callable[[ReplayClient], Awaitable[Any]]
LOOK_UPS: list[Ask] = [lambda replay: replay.view(ID), lambda replay: replay.loads()]
WAITS: list[Ask] = [lambda replay: replay.result(ID, 0), lambda replay: replay.stream(ID, 0)]


def answering(status: int, body: object) -> Script:
    async def script(call: Call) -> None:
        await call.answer(status, body)

    return script


def refusing(error: ApiError) -> Script:
    return answering(error.status, bytes(error_answer(error).body))


@asynccontextmanager
async def asking(script: Script) -> AsyncIterator[ReplayClient]:
    async with raw(script) as server:
        peer = Peer(server.url)
        try:
            yield ReplayClient(Replays([peer]))
        finally:
            await peer.close()


async def is_away(ask: Ask, replay: ReplayClient) -> bool:
    """Whether it cannot be asked now: a look-up for a client is a 503 then."""
    try:
        await ask(replay)
    except ReplayAway:
        return True
    except ApiError as error:
        return error.status == 503
    return False


@pytest.mark.parametrize("ask", [*LOOK_UPS, *WAITS], ids=["view", "load", "result", "stream"])
@pytest.mark.parametrize(
    "script",
    [
        answering(404, {"detail": "Not Found"}),
        answering(404, {"error": {"code": "not_found", "message": "There is no route.", "param": None}}),
        answering(404, b"<html>not found</html>"),
        answering(500, {"error": {"code": "server_error"}}),
    ],
    ids=["fastapi", "our-public-port", "html", "500"],
)
async def test_what_is_not_replay_is_no_word_about_a_response(script: Script, ask: Ask) -> None:
    """Never a false 404 (P-80); and the operator hears of it once."""
    with capture_logs() as logs:
        async with asking(script) as replay:
            for _ in range(3):
                assert await is_away(ask, replay)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    assert "REJOINDER_REPLAY_URL" in logs[0]["mend"]


async def test_the_url_of_a_replay_that_has_answered_is_not_called_wrong() -> None:
    answers = [refusing(not_found(ID)), answering(500, b"")]

    async def first_well(call: Call) -> None:
        await answers.pop(0)(call)

    with capture_logs() as logs:
        async with asking(first_well) as replay:
            assert not (await replay.view(ID)).found
            assert await is_away(LOOK_UPS[0], replay)
    assert [entry["mend"] for entry in logs] == ["is replay running?"]


async def test_a_replay_that_does_not_listen_yet_is_told_when_it_has_had_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    peer = Peer(f"http://127.0.0.1:{free_port()}")
    replay = ReplayClient(Replays([peer]))
    with capture_logs() as logs:
        for ask in LOOK_UPS:
            assert await is_away(ask, replay)
        assert logs == []
        monkeypatch.setattr(replay_client, "START_S", 0)
        assert await is_away(LOOK_UPS[1], replay)
    assert [entry["log_level"] for entry in logs] == ["warning"]
    await peer.close()


@pytest.mark.parametrize("ask", LOOK_UPS, ids=["view", "load"])
async def test_a_welcome_page_is_no_look_up(ask: Ask) -> None:
    async with asking(answering(200, b"<html>welcome</html>")) as replay:
        assert await is_away(ask, replay)


async def test_a_response_that_replay_does_not_know_is_not_there() -> None:
    with capture_logs() as logs:
        async with asking(refusing(not_found(ID))) as replay:
            assert not (await replay.view(ID)).found
            for ask in WAITS:
                with pytest.raises(ApiError) as raised:
                    await ask(replay)
                assert raised.value.status == 404
    assert logs == []


@pytest.mark.parametrize("ask", WAITS, ids=["result", "stream"])
async def test_a_replay_that_is_stopped_is_not_waited_for(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    async def say_nothing(call: Call) -> None:
        await call.hung_up.wait()

    monkeypatch.setattr(pulse, "SILENCE_S", 0.01)
    monkeypatch.setattr(pulse, "LOOK_S", 0.01)
    with capture_logs() as logs:
        async with asking(say_nothing) as replay:
            for _ in range(2):
                with pytest.raises(ReplayAway, match="is its process stopped"):
                    await ask(replay)
    assert [entry["log_level"] for entry in logs] == ["warning"]


async def test_a_replay_that_cannot_say_now_is_no_trouble() -> None:
    with capture_logs() as logs:
        async with asking(refusing(unavailable("The response is still open."))) as replay:
            for ask in WAITS:
                with pytest.raises(ReplayAway):
                    await ask(replay)
    assert logs == []
