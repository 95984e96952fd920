"""POSTs that wait, for the final object or the stream, and what happens when somebody goes (A-7, A-21)."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from schemas.records import Cancelled, EventRecord
from tests.conftest import eventually
from tests.ingesting import Ingesting, error_of, executing, ingesting
from tests.serving import HOST, read_answer

SLOW = {"metadata": {"echo.tokens": "1000", "echo.interval_ms": "20"}}
QUICK = {"input": "one two three"}


@pytest.fixture
async def running() -> AsyncIterator[Ingesting]:
    async with ingesting() as running, executing(running):
        yield running


class Waiting:
    """POSTs whose answers are still to come; all of them are hung up when the test ends."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []

    async def post(self, running: Ingesting, *headers: str, **body: Any) -> asyncio.StreamReader:
        raw = json.dumps({"model": "echo", "input": "hi", **body}).encode()
        reader, writer = await asyncio.open_connection(HOST, running.port)
        self._writers.append(writer)
        lines = ["POST /v1/responses HTTP/1.1", "host: x", f"content-length: {len(raw)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)
        return reader

    async def stream(self, running: Ingesting, **body: Any) -> asyncio.StreamReader:
        """A stream whose first delta has come."""
        reader = await self.post(running, stream=True, **body)
        await reader.readuntil(b"output_text.delta")
        return reader

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def waiting() -> AsyncIterator[Waiting]:
    waiting = Waiting()
    yield waiting
    waiting.hang_up()
    await asyncio.sleep(0)


async def completed(running: Ingesting, id: str) -> None:
    async def shown_completed() -> bool:
        return bool(json.loads((await running.get(id)).body)["status"] == "completed")

    await eventually(shown_completed)


def events_of(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: ")]


async def test_a_synchronous_post_answers_the_final_object(running: Ingesting) -> None:
    answer = await running.post(QUICK)
    final = json.loads(answer.body)
    assert (answer.status, final["status"], final["background"]) == (200, "completed", False)
    assert final["output"][0]["content"][0]["text"] == "one two three"


@pytest.mark.parametrize("background", [True, False])
async def test_a_streamed_post_answers_every_event_once(running: Ingesting, background: bool) -> None:
    answer = await running.post({**QUICK, "stream": True, "background": background})
    events = events_of(answer.body)
    assert answer.whole
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0]["type"] == "response.created"
    assert (events[1]["type"] == "response.queued") is background
    assert events[-1]["type"] == "response.completed"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_response_that_is_not_stored_is_answered_here_and_404_elsewhere(
    running: Ingesting, stream: bool
) -> None:
    answer = await running.post({**QUICK, "store": False, "stream": stream})
    id = events_of(answer.body)[-1]["response"]["id"] if stream else json.loads(answer.body)["id"]
    assert answer.status == 200
    for refused in (await running.get(id), await running.cancel(id), await running.delete(id)):
        assert refused.status == 404


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_cancels_its_response(
    running: Ingesting, waiting: Waiting, stream: bool
) -> None:
    await (waiting.stream if stream else waiting.post)(running, **SLOW)
    await eventually(lambda: running.entries("event"))
    waiting.hang_up()
    cancelled = await eventually(lambda: running.entries("cancelled"))
    assert isinstance(cancelled[0], Cancelled)
    assert json.loads((await running.get(cancelled[0].id)).body)["status"] == "cancelled"


async def test_a_client_that_goes_before_its_response_began_cancels_it_as_well(waiting: Waiting) -> None:
    async with ingesting() as running:
        await waiting.post(running, **SLOW)
        await eventually(running.accepted)
        waiting.hang_up()
        await eventually(lambda: running.entries("cancelled"))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_keyed_response_goes_on_without_its_client_and_meets_the_repetition(
    running: Ingesting, waiting: Waiting, stream: bool
) -> None:
    body = {"stream": stream, "metadata": {"echo.tokens": "60", "echo.interval_ms": "20"}}
    await waiting.post(running, "idempotency-key: again", **body)
    await eventually(lambda: running.entries("event"))
    waiting.hang_up()
    answer = await running.post(body, "idempotency-key: again")
    final = events_of(answer.body)[-1]["response"] if stream else json.loads(answer.body)
    assert (answer.status, final["status"]) == (200, "completed")
    assert running.entries("cancelled") == []


async def test_a_background_stream_goes_on_without_its_client(running: Ingesting, waiting: Waiting) -> None:
    await waiting.stream(running, background=True, metadata={"echo.tokens": "40", "echo.interval_ms": "20"})
    id = running.accepted()[0].id
    waiting.hang_up()
    await completed(running, id)
    assert running.entries("cancelled") == []


async def test_a_response_that_was_deleted_meanwhile_is_a_404_for_who_waits(
    running: Ingesting, waiting: Waiting
) -> None:
    reader = await waiting.post(running, **SLOW)
    (accepted,) = await eventually(running.accepted)
    await running.delete(accepted.id)
    assert (await read_answer(reader)).status == 404


async def test_who_waits_for_a_final_object_outlives_a_restart_of_replay(
    running: Ingesting, waiting: Waiting
) -> None:
    reader = await waiting.post(running, metadata={"echo.tokens": "60", "echo.interval_ms": "20"})
    await eventually(lambda: running.entries("event"))
    await running.stop("replay")
    await running.start_replay()
    answer = await read_answer(reader)
    assert (answer.status, json.loads(answer.body)["status"]) == (200, "completed")


async def test_a_stream_is_cut_when_replay_goes_and_its_response_goes_on(
    running: Ingesting, waiting: Waiting
) -> None:
    reader = await waiting.stream(running, metadata={"echo.tokens": "60", "echo.interval_ms": "20"})
    id = running.accepted()[0].id
    await running.stop("replay")
    with pytest.raises(ConnectionResetError):
        await reader.read(-1)
    await running.start_replay()
    await completed(running, id)
    assert running.entries("cancelled") == []


async def test_a_drain_cuts_streams_tells_who_waits_where_to_look_and_cancels_nothing(
    running: Ingesting, waiting: Waiting
) -> None:
    stream = await waiting.stream(running, **SLOW)
    reader = await waiting.post(running, **SLOW)
    await eventually(lambda: len(running.accepted()) == 2)
    async with asyncio.timeout(5):
        await running.stop("ingest")
    answer = await read_answer(reader)
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
    assert any(accepted.id in error_of(answer)["message"] for accepted in running.accepted())
    with pytest.raises(ConnectionResetError):
        await stream.read(-1)
    assert running.entries("cancelled") == []


@pytest.mark.parametrize(
    "store, later", [(True, "can be retrieved"), (False, "is not stored, so it cannot be retrieved")]
)
async def test_when_replay_cannot_be_asked_the_post_is_not_to_be_repeated(
    monkeypatch: pytest.MonkeyPatch, store: bool, later: str
) -> None:
    monkeypatch.setattr("services.ingest.attach.AWAY_S", 0.2)
    async with ingesting() as running:
        await running.stop("replay")
        answer = await running.post({"stream": True, "store": store})
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
        assert error_of(answer)["message"].endswith(
            f"response '{running.accepted()[0].id}' goes on and {later}."
        )


@pytest.mark.parametrize("stream", [True, False])
async def test_a_delete_under_a_waiting_client_is_no_error_in_the_log(
    running: Ingesting, waiting: Waiting, stream: bool
) -> None:
    with capture_logs() as said:
        reader = await (waiting.stream if stream else waiting.post)(running, **SLOW)
        await eventually(lambda: running.entries("event"))
        entry = running.entries("event")[0]
        assert isinstance(entry, EventRecord)
        assert (await running.delete(entry.id)).status == 200
        with suppress(ConnectionError):
            await reader.read(1 << 20) if not stream else await reader.read()

    loud = [line for line in said if line["log_level"] in ("warning", "error", "critical")]
    assert not loud
