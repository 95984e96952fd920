"""Idempotency-Key: one response for one key and body, whatever happens in between (A-10, P-2, P-20, P-30)."""

import asyncio
import json
from typing import Any

import pytest

from schemas.ids import Tenant, idempotent_response_id
from schemas.records import NewRecord
from tests.ingesting import NAMES, PARTITIONS, Ingesting, error_of, executing, ingesting

KEY = "Idempotency-Key: once"


async def test_the_same_key_and_body_are_one_response() -> None:
    async with ingesting() as running:
        first = await running.create(KEY)
        second = await running.create(KEY)
        assert (first, len(running.records())) == (second, 1)
        assert first["id"] == idempotent_response_id(Tenant("default"), "once", PARTITIONS)


async def test_concurrent_ones_are_one_response() -> None:
    async with ingesting() as running:
        made = await asyncio.gather(*(running.create(KEY) for _ in range(20)))
        assert len({response["id"] for response in made}) == 1
        assert len({json.dumps(response) for response in made}) == 1


async def test_it_holds_over_a_restart_of_ingest() -> None:
    async with ingesting() as running:
        first = await running.create(KEY)
        await running.stop("ingest")
        await running.start_ingest()
        assert (await running.create(KEY))["id"] == first["id"]


async def test_it_holds_when_nobody_serves_the_request_any_more() -> None:
    async with ingesting() as running:
        body = {"background": True, "agent_reference": {"type": "agent_reference", "name": "weather"}}
        first = await running.post(body, KEY)
        await running.stop("ingest")
        await running.start_ingest("")
        again = await running.post(body, KEY)
        assert (again.status, again.body) == (200, first.body)
        assert error_of(await running.post(body))["code"] == "agent_not_found"
        assert len(running.records()) == 1


async def test_it_holds_however_much_is_open() -> None:
    async with ingesting(max_queue=1) as running:
        first = await running.create(KEY)
        assert (await running.post({"background": True})).status == 429
        assert await running.create(KEY) == first


async def test_another_body_is_refused() -> None:
    async with ingesting() as running:
        await running.create(KEY)
        answer = await running.post({"background": True, "input": "something else"}, KEY)
        assert (answer.status, error_of(answer)["code"]) == (422, "idempotency_key_reused")
        assert answer.headers["x-should-retry"] == "false"
        assert len(running.records()) == 1


async def test_of_two_bodies_at_once_one_wins() -> None:
    async with ingesting() as running:
        asked = [{"background": True, "input": text} for text in ("a", "b") * 10]
        answers = await asyncio.gather(*(running.post(body, KEY) for body in asked))
        taken = {body["input"] for body, answer in zip(asked, answers, strict=True) if answer.status == 200}
        assert len(taken) == 1
        assert {answer.status for answer in answers} == {200, 422}


async def test_the_white_space_of_a_body_does_not_matter() -> None:
    async with ingesting() as running:
        first = await running.post(b'{"model":"echo","input":"hi","background":true}', KEY)
        second = await running.post(b'{"background": true, "input": "hi", "model": "echo"}', KEY)
        assert first.body == second.body


async def test_keys_are_the_tenants_own() -> None:
    async with ingesting() as running:
        mine = await running.create(KEY)
        theirs = await running.create(KEY, "x-rejoinder-tenant: acme")
        assert mine["id"] != theirs["id"]


async def test_a_key_whose_response_was_deleted_is_refused() -> None:
    async with ingesting() as running:
        made = await running.create(KEY)
        await running.delete(made["id"])
        answer = await running.post({"background": True}, KEY)
        assert (answer.status, error_of(answer)["code"]) == (422, "response_deleted")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_repeated_post_that_waits_gets_the_same_answer(stream: bool) -> None:
    async with ingesting() as running, executing(running):
        first = await running.post({"stream": stream}, KEY)
        second = await running.post({"stream": stream}, KEY)
        assert first.status == 200
        assert first.body == second.body


async def test_what_is_not_stored_is_met_by_its_key_and_by_nobody_else() -> None:
    """P-78: the key's holder is who created it, for as long as the fold remembers it."""
    async with ingesting() as running, executing(running):
        first = await running.post({"store": False}, KEY)
        again = await running.post({"store": False}, KEY)
        assert (first.status, first.body) == (again.status, again.body) == (200, first.body)
        assert (await running.get(json.loads(first.body)["id"])).status == 404
        assert len(running.accepted()) == 1


async def test_what_is_ephemeral_is_met_by_its_key_while_it_is_seen_and_never_made_again() -> None:
    """P-79, P-85: the last beat in the log says that its time is over."""
    body = {"background": True, "store": False}
    async with ingesting(ephemeral_s=60) as running:
        made = await running.create(KEY, **body)
        closed = json.loads((await running.cancel(made["id"])).body)
        again = await running.post(body, KEY)
        assert (again.status, json.loads(again.body)) == (200, closed)
        assert (await running.get(made["id"])).status == 200

        clock = running.log.clock
        running.log.clock = lambda: clock() + 61_000
        beat = NewRecord(b"exec_1", b"{}", [("kind", b"beat")])
        await running.log.writer().append(NAMES.executors, 0, beat)
        refused = await running.post(body, KEY)
        assert (refused.status, error_of(refused)["code"]) == (422, "response_deleted")
        for gone in (running.get, running.cancel, running.delete):
            assert (await gone(made["id"])).status == 404
        assert len(running.accepted()) == 1


async def test_the_end_of_a_repeated_post_does_not_cancel_what_another_one_made() -> None:
    async with ingesting() as running, executing(running):
        body: dict[str, Any] = {"metadata": {"echo.tokens": "50", "echo.interval_ms": "20"}}
        first = asyncio.create_task(running.post(body, KEY))
        second = asyncio.create_task(running.post(body, KEY))
        await asyncio.sleep(0)
        final = await first
        assert json.loads(final.body)["status"] == "completed"
        assert (await second).body == final.body


async def test_an_append_in_doubt_is_answered_once_the_fold_shows_it() -> None:
    async with ingesting() as running:
        running.log.fail_next("unknown-appended")
        made = await running.create(KEY)
        assert [one.id for one in running.accepted()] == [made["id"]]
        assert (await running.post({"background": True, "input": "another"}, KEY)).status == 422


async def test_an_unknown_outcome_may_be_repeated_and_meets_its_own_record() -> None:
    async with ingesting() as running:
        running.log.fail_next("unknown-lost")
        answer = await running.post({"background": True}, KEY)
        assert (answer.status, "x-should-retry" in answer.headers) == (503, False)
        await _until_taken(running)
        assert len(running.records()) == 1


async def _until_taken(running: Ingesting) -> None:
    from tests.conftest import eventually

    async def taken() -> bool:
        return (await running.post({"background": True}, KEY)).status == 200

    await eventually(taken)


async def test_a_void_request_may_be_repeated_with_its_key() -> None:
    async with ingesting(acceptance_ms=500) as running:
        clock = running.log.clock
        running.log.clock = lambda: clock() + 1000
        assert (await running.post({"background": True}, KEY)).status == 503
        running.log.clock = clock
        # Log time never goes back within a partition: the log catches up with itself first.
        await _until_taken(running)
        assert len(running.accepted()) >= 2


async def test_a_key_that_is_too_long_is_refused() -> None:
    async with ingesting() as running:
        answer = await running.post({"background": True}, f"Idempotency-Key: {'k' * 256}")
        assert (answer.status, error_of(answer)["param"]) == (400, "Idempotency-Key")
        await running.create(f"Idempotency-Key: {'k' * 255}")
        assert len(running.records()) == 1
