"""Ingest's public port, which takes clients' commands for one release: for balancers that route by method."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from schemas.errors import unavailable
from schemas.ids import ResponseId
from services.web.replay_client import ReplayClient
from tests.conftest import eventually
from tests.ingesting import Ingesting, error_of, executing, ingesting
from tests.serving import HOST, Answer, ask, read_answer

SLOW = {"metadata": {"echo.tokens": "1000", "echo.interval_ms": "20"}}


@pytest.fixture
async def running() -> AsyncIterator[Ingesting]:
    async with ingesting() as running, executing(running):
        yield running


async def post(running: Ingesting, *headers: str, **body: object) -> Answer:
    raw = json.dumps({"model": "echo", "input": "one two", **body}).encode()
    return await ask(running.port, "POST /v1/responses", raw, headers)


async def waiting(
    running: Ingesting, *headers: str, **body: object
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    raw = json.dumps({"model": "echo", "input": "one two", **body}).encode()
    reader, writer = await asyncio.open_connection(HOST, running.port)
    lines = ["POST /v1/responses HTTP/1.1", f"host: {HOST}", f"content-length: {len(raw)}", *headers]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
    return reader, writer


async def test_every_kind_of_create_is_answered(running: Ingesting) -> None:
    queued, final, streamed = [
        await post(running, **more) for more in ({"background": True}, {}, {"stream": True})
    ]
    assert json.loads(queued.body)["status"] == "queued"
    assert json.loads(final.body)["status"] == "completed"
    assert streamed.whole
    assert b"response.completed" in streamed.body
    assert len(running.accepted()) == 3


async def test_a_key_meets_what_the_front_door_made(running: Ingesting) -> None:
    made = await running.create("Idempotency-Key: k", input="one two")
    met = await post(running, "Idempotency-Key: k", background=True)
    assert json.loads(met.body)["id"] == made["id"]
    assert (await post(running, "Idempotency-Key: k", background=True, input="x")).status == 422


async def test_cancel_and_delete_are_taken(running: Ingesting) -> None:
    made = await running.create(**SLOW)
    cancelled = await ask(running.port, f"POST /v1/responses/{made['id']}/cancel", b"{}")
    assert json.loads(cancelled.body)["status"] == "cancelled"
    assert (await ask(running.port, f"DELETE /v1/responses/{made['id']}")).status == 200
    assert (await running.get(made["id"])).status == 404


async def test_what_was_never_sent_may_be_sent_again() -> None:
    async with ingesting() as running:
        running.log.unsent = 1
        refused = await post(running, background=True)
        assert (refused.status, "x-should-retry" in refused.headers) == (503, False)
        assert (await post(running, background=True)).status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_cancels_its_response(running: Ingesting, stream: bool) -> None:
    _, writer = await waiting(running, stream=stream, **SLOW)
    await eventually(lambda: running.entries("event"))
    writer.transport.abort()
    await eventually(lambda: running.entries("cancelled"))


async def test_a_drain_cuts_streams_tells_who_waits_where_to_look_and_cancels_nothing(
    running: Ingesting,
) -> None:
    stream, writer = await waiting(running, stream=True, **SLOW)
    await stream.readuntil(b"output_text.delta")
    reader, another = await waiting(running, **SLOW)
    await eventually(lambda: len(running.accepted()) == 2)
    async with asyncio.timeout(5):
        await running.stop("ingest")
    answer = await read_answer(reader)
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
    assert any(accepted.id in error_of(answer)["message"] for accepted in running.accepted())
    with pytest.raises(ConnectionResetError):
        await stream.read(-1)
    for each in (writer, another):
        each.close()
    assert running.entries("cancelled") == []


async def test_who_waits_for_a_final_object_outlives_a_restart_of_replay(running: Ingesting) -> None:
    reader, writer = await waiting(running, metadata={"echo.tokens": "60", "echo.interval_ms": "20"})
    await eventually(lambda: running.entries("event"))
    await running.stop("replay")
    await running.start_replay()
    answer = await read_answer(reader)
    writer.close()
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "completed")


@pytest.mark.parametrize("store, later", [(True, "can be retrieved"), (False, "cannot be retrieved")])
@pytest.mark.parametrize("key, told", [((), "false"), (("Idempotency-Key: k",), None)])
async def test_when_replay_goes_only_a_post_with_a_key_is_to_be_repeated(
    monkeypatch: pytest.MonkeyPatch,
    running: Ingesting,
    store: bool,
    later: str,
    key: tuple[str, ...],
    told: str | None,
) -> None:
    monkeypatch.setattr("services.web.replay_client.AWAY_S", 0.2)
    reader, writer = await waiting(running, *key, store=store, **SLOW)
    await eventually(lambda: running.entries("event"))
    await running.stop("replay")
    answer = await read_answer(reader)
    writer.close()
    assert (answer.status, answer.headers.get("x-should-retry")) == (503, told)
    assert error_of(answer)["message"].endswith(f"{later}.")


@pytest.mark.parametrize("key, told", [((), "false"), (("Idempotency-Key: k",), None)])
async def test_what_is_in_the_log_and_cannot_be_looked_up_is_not_to_be_repeated_without_a_key(
    monkeypatch: pytest.MonkeyPatch, running: Ingesting, key: tuple[str, ...], told: str | None
) -> None:
    view = ReplayClient.view

    async def away(self: ReplayClient, id: ResponseId, offset: int | None = None, **terms: Any) -> Any:
        if offset is not None:
            raise unavailable("The state of the response cannot be looked up now.")
        return await view(self, id, offset, **terms)

    monkeypatch.setattr(ReplayClient, "view", away)
    answer = await post(running, *key, background=True)
    assert (answer.status, answer.headers.get("x-should-retry")) == (503, told)
    assert len(running.accepted()) == 1
