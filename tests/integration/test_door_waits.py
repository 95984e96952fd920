"""POSTs that wait at the front door, for the final object or the stream, and what happens when the client or
a server goes (A-7, A-21).
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from schemas.errors import unavailable
from schemas.events import KEEP_ALIVE
from schemas.records import Cancelled, EventRecord
from services.eventlog.port import Batch
from services.replay.replay import Replay
from services.web.replay_client import ReplayClient
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
        reader, writer = await asyncio.open_connection(HOST, running.public)
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


@pytest.mark.parametrize("stream", [True, False])
async def test_who_waits_outlives_a_restart_of_ingest(
    running: Ingesting, waiting: Waiting, stream: bool
) -> None:
    body = {"stream": stream, "metadata": {"echo.tokens": "60", "echo.interval_ms": "20"}}
    reader = await waiting.post(running, **body)
    await eventually(lambda: running.entries("event"))
    await running.stop("ingest")
    answer = await read_answer(reader)
    final = events_of(answer.body)[-1]["response"] if stream else json.loads(answer.body)
    assert (answer.status, answer.whole, final["status"]) == (200, True, "completed")


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
        await running.stop("replay")
    answer = await read_answer(reader)
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
    assert any(accepted.id in error_of(answer)["message"] for accepted in running.accepted())
    with pytest.raises(ConnectionResetError):
        await stream.read(-1)
    assert running.entries("cancelled") == []


@pytest.mark.parametrize(
    "store, later",
    [(True, "goes on and can be retrieved"), (False, "is not stored, so it cannot be retrieved")],
)
async def test_a_fold_that_does_not_get_there_after_the_create_is_a_503_that_is_not_to_be_repeated(
    store: bool, later: str
) -> None:
    async with ingesting(barrier_s=1) as running, standing_still(running):
        answer = await running.post({"store": store})
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
        assert error_of(answer)["message"].endswith(f"response '{running.accepted()[0].id}' {later}.")
        keyed = await running.post({"store": store}, "idempotency-key: again")
        assert (keyed.status, "x-should-retry" in keyed.headers) == (503, False)


async def test_a_stream_has_its_head_and_keep_alives_before_the_fold_and_is_cut_without_it() -> None:
    async with ingesting(barrier_s=2, keepalive_s=0.1) as running, standing_still(running):
        answer = await running.post({"stream": True})
        assert (answer.status, answer.whole) == (200, False)
        assert answer.body.startswith(KEEP_ALIVE)
        assert b"event:" not in answer.body


@asynccontextmanager
async def standing_still(running: Ingesting) -> AsyncIterator[None]:
    """Replay's tail reads nothing more, while ingest is told by another one how much is open."""

    async def nothing(*_: Any, **terms: Any) -> list[Batch]:
        await asyncio.sleep(terms.get("max_wait", 0.5))
        return []

    with patch.object(running.log, "fetch", nothing):
        await asyncio.sleep(1)  # what waits for news has had its answer
        yield


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


async def test_what_a_fold_has_shown_is_never_said_not_to_have_been_started(
    running: Ingesting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fold is lost while a client waits, and what is read again does not show what was erased."""
    find, lost = Replay.find, []

    async def result(_: Replay, window: Any) -> bytes:
        lost.append(window)
        raise unavailable("The log is being read again.")

    async def found(self: Replay, *asked: Any) -> Any:
        return None if lost else await find(self, *asked)

    monkeypatch.setattr(Replay, "result", result)
    monkeypatch.setattr(Replay, "find", found)
    answer = await running.post({**QUICK, "store": False})
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
    assert "nothing was started" not in error_of(answer)["message"]
    assert running.accepted()[0].id in error_of(answer)["message"]


@pytest.mark.parametrize("background", [False, True])
async def test_who_is_told_that_nobody_knows_leaves_nothing_running(
    monkeypatch: pytest.MonkeyPatch, background: bool
) -> None:
    """The append is in doubt and the fold away: both come back when the client has its answer."""
    view, find = ReplayClient.view, Replay.find
    answered = asyncio.Event()

    async def cannot_tell(*what: Any, **terms: Any) -> Any:
        if not answered.is_set():
            raise unavailable("The log is away.")
        return await view(*what, **terms)

    async def not_found_yet(*what: Any) -> Any:
        if not answered.is_set():
            raise unavailable("The log is away.")
        return await find(*what)

    monkeypatch.setattr(ReplayClient, "view", cannot_tell)
    monkeypatch.setattr(Replay, "find", not_found_yet)
    async with ingesting() as running:
        running.log.fail_next("unknown-appended")
        answer = await running.post({**SLOW, "background": background})
        assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
        answered.set()
        if background:
            await asyncio.sleep(2)
        else:
            await eventually(lambda: running.entries("cancelled"))
        assert len(running.entries("cancelled")) == (not background)
