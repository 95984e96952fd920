"""What an executor asks of replay to know a conversation, and what it keeps."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from schemas.errors import ApiError, not_found, unavailable
from schemas.ids import ResponseId, Tenant, response_id
from schemas.records import Deleted
from services.executor import conversation
from services.executor.backend import UpstreamError
from services.executor.conversation import Conversation
from services.executor.partition import Partition
from services.web import replay_client
from services.web.answers import error_answer
from services.web.internal import Turn
from tests.conftest import PATIENCE, eventually
from tests.executing import conversing
from tests.upstreams import Call, raw

TENANT = Tenant("t")


def id_of(number: int, partition: int = 0) -> ResponseId:
    return response_id(partition, number.to_bytes(16))


def said(number: int) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": f"in {number}"}


def put_out(number: int) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": f"out {number}"}


def turn(id: ResponseId, number: int, previous: ResponseId | None, tenant: Tenant = TENANT) -> Turn:
    return Turn(id, tenant, previous, [said(number)], [put_out(number)])


class Replay:
    """Answers with turns, after refusing as often as it is told."""

    def __init__(self, *turns: Turn) -> None:
        self.turns = {known.id: known for known in turns}
        self.refusals = 0
        self.asked: list[str] = []

    async def answer(self, call: Call) -> None:
        id = ResponseId(call.path.split("/")[3])
        if self.refusals:
            self.refusals -= 1
            await refuse(call, unavailable("The response is still open."))
            return
        self.asked.append(id)
        known = self.turns.get(id)
        if known:
            await call.answer(200, msgspec.json.encode(known))
        else:
            await refuse(call, not_found(id))


async def refuse(call: Call, error: ApiError) -> None:
    """As replay does."""
    await call.answer(error.status, bytes(error_answer(error).body))


@asynccontextmanager
async def talking(replay: Replay, bound: float = inf) -> AsyncIterator[Conversation]:
    async with raw(replay.answer) as server, conversing(server.url, bound) as chains:
        yield chains


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "RETRY_SECONDS", 0.01)


CHAIN = [turn(id_of(1), 1, None), turn(id_of(2), 2, id_of(1)), turn(id_of(3), 3, id_of(2))]
BODY = {"input": "now", "previous_response_id": id_of(3)}
NOW = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "now"}]}
WHOLE = [said(1), put_out(1), said(2), put_out(2), said(3), put_out(3), NOW]


async def test_turns_come_oldest_first_and_are_asked_for_once() -> None:
    replay, partition = Replay(*CHAIN), Partition(0, floor=0)
    async with talking(replay) as chains:
        for _ in range(2):
            assert (await chains.input(partition, TENANT, BODY)).items == WHOLE
    assert replay.asked == [id_of(3), id_of(2), id_of(1)]


async def test_without_a_predecessor_nobody_is_asked() -> None:
    async with conversing() as chains:
        assert (await chains.input(Partition(0, floor=0), TENANT, {"input": "now"})).items == [NOW]


async def test_a_conversation_that_is_too_long_ends_the_response_and_is_not_read_to_its_beginning() -> None:
    size = len(msgspec.json.encode(CHAIN[-1]))
    replay, partition = Replay(*CHAIN), Partition(0, floor=0)
    async with talking(replay, 2 * size) as chains:
        before = BODY | {"previous_response_id": id_of(2)}
        assert (await chains.input(partition, TENANT, before)).items == [*WHOLE[:4], NOW]
    replay.asked.clear()
    async with talking(replay, 2 * size - 1) as chains:
        for there in (Partition(0, floor=0), partition):  # where nothing is kept, and where two turns are
            with pytest.raises(UpstreamError, match=f"longer than {2 * size - 1} bytes") as refused:
                await chains.input(there, TENANT, BODY)
    assert (refused.value.code, refused.value.type) == ("invalid_prompt", "conversation")
    assert id_of(1) not in replay.asked


async def test_a_conversation_of_too_many_items_ends_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    replay, before = Replay(*CHAIN), BODY | {"previous_response_id": id_of(2)}
    async with talking(replay) as chains:
        monkeypatch.setattr(conversation, "MAX_ITEMS", 4)
        assert (await chains.input(Partition(0, floor=0), TENANT, before)).items == [*WHOLE[:4], NOW]
        with pytest.raises(UpstreamError, match="more than 4 items: begin a new one") as refused:
            await chains.input(Partition(0, floor=0), TENANT, BODY)
    assert (refused.value.code, refused.value.type) == ("invalid_prompt", "conversation")


async def test_a_deleted_turn_is_not_kept() -> None:
    replay, partition = Replay(*CHAIN), Partition(0, floor=0)
    partition.fold.apply(1, 1, Deleted(id_of(2), "n", TENANT))
    async with talking(replay) as chains:
        await chains.settle(partition, id_of(3))
        del replay.turns[id_of(2)]
        with pytest.raises(UpstreamError, match=id_of(2)):
            await chains.input(partition, TENANT, BODY)


async def test_turns_of_other_partitions_are_not_kept() -> None:
    elsewhere = id_of(7, partition=1)
    replay, partition = Replay(turn(elsewhere, 7, None)), Partition(0, floor=0)
    async with talking(replay) as chains:
        for _ in range(2):
            await chains.settle(partition, elsewhere)
    assert replay.asked == [elsewhere] * 2


@pytest.mark.parametrize("previous", [id_of(9), "resp_nonsense"])
async def test_what_is_not_there_is_named(previous: str) -> None:
    async with talking(Replay()) as chains:
        with pytest.raises(UpstreamError, match=f"'{previous}' not found") as refused:
            await chains.input(Partition(0, floor=0), TENANT, {"previous_response_id": previous})
    assert refused.value.type == "conversation"


async def test_nobody_is_told_of_anothers_turns() -> None:
    replay = Replay(CHAIN[0], turn(id_of(2), 2, id_of(1), Tenant("another")), CHAIN[2])
    async with talking(replay) as chains:
        with pytest.raises(UpstreamError, match=id_of(2)):
            await chains.input(Partition(0, floor=0), TENANT, BODY)


async def test_a_replay_that_cannot_answer_yet_is_asked_again() -> None:
    replay = Replay(*CHAIN)
    replay.refusals = 3
    async with talking(replay) as chains:
        assert (await chains.input(Partition(0, floor=0), TENANT, BODY)).items == WHOLE


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, {"detail": "Not Found"}, "is not replay: it answered 404 in words of its own"),
        (404, {"error": {"code": "not_found", "message": "There is no route."}}, "does not know the path"),
        (200, b"<html>welcome</html>", "is not replay: it answered with something else"),
        (502, b"bad gateway", "is not replay: it answered 502"),
        (500, {"error": {"code": "server_error", "message": "!"}}, "answered 500 (server_error)"),
    ],
)
async def test_what_is_not_replay_says_nothing_about_a_conversation(
    status: int, body: object, says: str
) -> None:
    """The operator is told once, and once more when it is mended: meanwhile it is asked again."""
    replay, mended = Replay(*CHAIN), asyncio.Event()

    async def script(call: Call) -> None:
        if mended.is_set():
            await replay.answer(call)
        else:
            await call.answer(status, body)

    with capture_logs() as logs:
        async with raw(script) as server, conversing(server.url) as chains:
            given = asyncio.create_task(chains.input(Partition(0, floor=0), TENANT, BODY))
            await eventually(lambda: len(server.calls) > 5)
            mended.set()
            assert (await given).items == WHOLE
    told = [(entry["log_level"], entry["event"]) for entry in logs]
    assert told == [("warning", "replay cannot be asked, trying again"), ("info", "replay answers again")]
    assert says in logs[0]["why"]
    assert "REJOINDER_REPLAY_URL" in logs[0]["mend"]


async def test_a_replay_that_says_nothing_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_client, "RUN_S", 0.2)
    replay = Replay(*CHAIN)

    async def script(call: Call) -> None:
        if len(server.calls) == 1:
            await call.hung_up.wait()
        else:
            await replay.answer(call)

    async with raw(script) as server, asyncio.timeout(PATIENCE), conversing(server.url) as chains:
        assert (await chains.input(Partition(0, floor=0), TENANT, BODY)).items == WHOLE


async def test_a_replay_that_is_not_there_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_client, "START_S", 0)
    with capture_logs() as logs:
        async with conversing() as chains:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await chains.input(Partition(0, floor=0), TENANT, BODY)
    assert [(entry["log_level"], entry["url"]) for entry in logs] == [("warning", "http://127.0.0.1:9")]


async def test_a_conversation_may_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "MAX_TURNS", 2)
    async with talking(Replay(*CHAIN)) as chains:
        await chains.settle(Partition(0, floor=0), id_of(3))
        with pytest.raises(UpstreamError, match="longer than 2 turns"):
            await chains.input(Partition(0, floor=0), TENANT, BODY)


async def test_a_turn_that_stays_unreadable_ends_who_needs_it() -> None:
    """Replay answers, so there is nothing for the operator to mend: the run must not wait for ever."""
    odd = msgspec.to_builtins(CHAIN[2]) | {"output": ["x", None, 3]}

    async def script(call: Call) -> None:
        await call.answer(200, odd)

    async with raw(script) as server, asyncio.timeout(PATIENCE), conversing(server.url) as chains:
        await chains.settle(Partition(0, floor=0), id_of(3))
        with pytest.raises(UpstreamError, match=f"'{id_of(3)}' cannot be read") as refused:
            await chains.input(Partition(0, floor=0), TENANT, BODY)
    assert refused.value.type == "conversation"
    assert len(server.calls) == 2 * conversation.UNREADABLE_TRIES
