"""Cancel and delete: the log decides, once (A-11, A-12, P-24, P-25, P-30)."""

import asyncio
import json
from typing import Any

import pytest

from schemas.fold import TERMINAL_STATUSES
from schemas.records import Deleted
from services.placement import PAUSE_S
from services.web.internal import ResponseView
from services.web.replay_client import ReplayClient
from tests.conftest import eventually
from tests.ingesting import Ingesting, error_of, executing, ingesting
from tests.serving import Answer
from tests.steady import steady


async def test_a_queued_response_is_cancelled_at_once() -> None:
    async with ingesting() as running:
        made = await running.create()
        answer = await running.cancel(made["id"])
        assert answer.status == 200
        assert json.loads(answer.body) == made | {"status": "cancelled", "output": []}
        assert (await running.get(made["id"])).body == answer.body


async def test_a_running_response_is_cancelled_without_its_output() -> None:
    async with ingesting() as running:
        author = await (await (await running.author().accept()).take()).say("a", "b")
        answer = await running.cancel(author.id)
        assert json.loads(answer.body) == author.initial | {"status": "cancelled", "output": []}


async def test_cancelling_again_answers_the_same_bytes_and_appends_nothing() -> None:
    async with ingesting() as running:
        made = await running.create()
        first = await running.cancel(made["id"])
        second = await running.cancel(made["id"])
        assert (second.status, second.body) == (200, first.body)
        assert len(running.entries("cancelled")) == 1


async def test_concurrent_cancels_all_answer_the_winners_object() -> None:
    async with ingesting() as running:
        made = await running.create()
        answers = await asyncio.gather(*(running.cancel(made["id"]) for _ in range(10)))
        assert {(answer.status, answer.body) for answer in answers} == {(200, answers[0].body)}


@pytest.mark.parametrize(
    "status, words", [("completed", "a completed"), ("failed", "a failed"), ("incomplete", "an incomplete")]
)
async def test_a_closed_response_cannot_be_cancelled(status: str, words: str) -> None:
    async with ingesting() as running:
        author = await (await running.author().accept()).take()
        await author.event(f"response.{status}", {"response": author.initial | {"status": status}}, status)
        answer = await running.cancel(author.id)
        assert (answer.status, error_of(answer)["message"]) == (400, f"Cannot cancel {words} response.")
        assert running.entries("cancelled") == []


@pytest.mark.parametrize("closed", [True, False])
async def test_a_synchronous_response_cannot_be_cancelled(closed: bool) -> None:
    async with ingesting() as running:
        author = await (await running.author().accept(background=False)).take()
        if closed:
            await author.complete()
        answer = await running.cancel(author.id)
        assert (answer.status, error_of(answer)["message"]) == (400, "Cannot cancel a synchronous response.")


async def test_a_cancel_that_loses_to_the_end_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with ingesting() as running:
        author = await (await running.author().accept()).take()
        look = ReplayClient.view

        async def and_then_it_ends(*asked: Any, **terms: Any) -> ResponseView:
            seen = await look(*asked, **terms)
            if seen.status not in TERMINAL_STATUSES:
                await author.complete()
            return seen

        monkeypatch.setattr(ReplayClient, "view", and_then_it_ends)
        answer = await running.cancel(author.id)
        assert (answer.status, error_of(answer)["message"]) == (400, "Cannot cancel a completed response.")
        assert len(running.entries("cancelled")) == 1


async def test_cancel_and_completion_race_to_one_outcome() -> None:
    async with ingesting() as running, executing(running):
        for _ in range(30):
            made = await running.create(input="one two")
            answer = await running.cancel(made["id"])

            async def closed(id: str = made["id"]) -> dict[str, Any]:
                shown: dict[str, Any] = json.loads((await running.get(id)).body)
                return shown if shown["completed_at"] or shown["status"] == "cancelled" else {}

            status = (await eventually(closed))["status"]
            assert (answer.status, status) in [(200, "cancelled"), (400, "completed")]


async def test_a_closed_response_is_deleted() -> None:
    async with ingesting() as running:
        author = await (await (await running.author().accept()).take()).complete()
        answer = await running.delete(author.id)
        assert answer.status == 200
        assert json.loads(answer.body) == {"id": author.id, "object": "response", "deleted": True}
        (deleted,) = running.entries("deleted")
        assert isinstance(deleted, Deleted)
        assert deleted.accepted_offset == author.accepted.offset
        for refused in await everything(running, author.id):
            assert (refused.status, error_of(refused)["message"]) == (
                404,
                f"Response with id '{author.id}' not found.",
            )


async def test_an_open_response_is_deleted_and_its_run_ends() -> None:
    async with ingesting() as running, executing(running):
        made = await running.create(metadata={"echo.tokens": "10000", "echo.interval_ms": "10"})
        await eventually(lambda: len(running.entries("event")) > 3)
        assert (await running.delete(made["id"])).status == 200
        for refused in await everything(running, made["id"]):
            assert refused.status == 404


async def everything(running: Ingesting, id: str) -> list[Answer]:
    return [await running.get(id), await running.cancel(id), await running.delete(id)]


@pytest.mark.parametrize(
    "id",
    ["resp_0000" + "0" * 32, "resp_ffff" + "0" * 32, "nope", "resp_0000" + "0" * 31 + "Z", "%00", "a%2Fb"],
)
async def test_an_unknown_or_malformed_id_is_a_404_and_leaves_no_record(id: str) -> None:
    async with ingesting() as running:
        for refused in (await running.cancel(id), await running.delete(id)):
            assert refused.status == 404
        assert running.records() == []


async def test_another_tenants_response_is_a_404() -> None:
    async with ingesting() as running:
        made = await running.create("x-rejoinder-tenant: acme")
        for refused in (await running.cancel(made["id"]), await running.delete(made["id"])):
            assert refused.status == 404
        assert len(running.records()) == 1


async def test_with_the_log_away_both_are_503_within_five_seconds() -> None:
    async with ingesting() as running:
        made = await running.create()
        running.log.available = False
        began = steady()
        answers = await asyncio.gather(running.cancel(made["id"]), running.delete(made["id"]))
        assert steady() - began < 5
        assert [answer.status for answer in answers] == [503, 503]
        assert all("retry-after" in answer.headers for answer in answers)


async def test_an_append_in_doubt_is_answered_by_what_the_fold_shows() -> None:
    async with ingesting() as running:
        made = await running.create()
        running.log.fail_next("unknown-appended", 2)
        assert (await running.cancel(made["id"])).status == 200
        await asyncio.sleep(PAUSE_S)  # the partition rests after a failure
        assert (await running.delete(made["id"])).status == 200
        assert (await running.get(made["id"])).status == 404


@pytest.mark.parametrize("outcome", ["lost", "unknown-lost"])
async def test_a_failed_append_is_a_503_that_may_be_repeated(outcome: Any) -> None:
    async with ingesting() as running:
        made = await running.create()
        running.log.fail_next(outcome)
        answer = await running.cancel(made["id"])
        assert (answer.status, "x-should-retry" in answer.headers) == (503, False)

        async def cancelled() -> bool:
            return (await running.cancel(made["id"])).status == 200

        await eventually(cancelled)
