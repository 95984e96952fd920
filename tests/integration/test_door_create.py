"""POST /v1/responses: what is refused leaves no record, what is answered is in the log (A-9, A-10, A-13)."""

import asyncio
import json
from functools import partial
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.ids import item_id, parse_response_id, partition_of, response_id
from services.broker.tcp import free_port
from services.replay.ingest_client import IngestClient
from services.web import room
from tests.conftest import eventually
from tests.ingesting import CONFIG, NAMES, PARTITIONS, Ingesting, error_of, ingesting
from tests.serving import HOST, ask, read_answer
from tests.steady import steady


async def test_a_background_post_answers_the_object_that_is_in_the_log() -> None:
    async with ingesting() as running:
        made = await running.create(metadata={"a": "b"}, something_new=[1])
        (accepted,) = running.accepted()
        (record,) = running.records()
    value = json.loads(record.value or b"")
    assert value["response"] == made
    assert value["request"]["something_new"] == [1]
    assert (made["id"], made["status"], made["background"]) == (accepted.id, "queued", True)
    assert (accepted.tenant, accepted.background, accepted.store, accepted.previous) == (
        "default",
        True,
        True,
        None,
    )
    assert 0 <= accepted.not_after - record.timestamp <= 60_000


async def test_ids_spread_over_the_partitions() -> None:
    async with ingesting() as running:
        for _ in range(40):
            await running.create()
        assert {partition_of(entry.id) for entry in running.accepted()} == set(range(PARTITIONS))


async def test_an_agent_needs_no_model_and_gives_its_name() -> None:
    async with ingesting() as running:
        agent = {"type": "agent_reference", "name": "weather"}
        made = await running.create(model=None, agent_reference=agent)
        (accepted,) = running.accepted()
    assert (made["model"], made["agent_reference"]) == ("weather", agent)
    assert (accepted.model, accepted.route, accepted.to_agent) == ("", "weather", True)


async def test_an_accepted_names_the_model_asked_for_and_the_route_that_serves_it() -> None:
    globs = '[[models]]\nmatch = "gpt-*"\nbase_url = "http://127.0.0.1:9"\n'
    async with ingesting(CONFIG + globs) as running:
        await running.create(model="gpt-5")
        await running.create(model="weather")  # an agent's name passes for a model
        told = {(entry.model, entry.route, entry.to_agent) for entry in running.accepted()}
    assert told == {("gpt-5", "gpt-*", False), ("weather", "weather", True)}


@pytest.mark.parametrize(
    "body, status, param",
    [
        (b"nope", 400, None),
        ({"input": None}, 400, "input"),
        ({"model": "unknown"}, 400, "model"),
        ({"model": None}, 400, "model"),
        ({"model": None, "agent_reference": {"name": "nobody"}}, 400, "agent_reference.name"),
        ({"metadata": {"echo.tokens": "many"}}, 400, "metadata.echo.tokens"),
        ({"conversation": "conv_1"}, 400, "conversation"),
        ({"previous_response_id": "resp_nope"}, 404, "previous_response_id"),
        ({"previous_response_id": "resp_0000" + "0" * 32}, 404, "previous_response_id"),
        ({"previous_response_id": "resp_ffff" + "0" * 32}, 404, "previous_response_id"),
        ({"input": "x" * 5000}, 413, None),
    ],
    ids=str,
)
async def test_a_refused_request_leaves_no_record(body: Any, status: int, param: str | None) -> None:
    async with ingesting(max_body_bytes=4096) as running:
        answer = await running.post(body)
        assert (answer.status, error_of(answer)["param"]) == (status, param)
        assert running.records() == []
        await running.create()


async def test_bodies_that_are_announced_and_do_not_come_hold_up_nobody() -> None:
    head = b"POST /v1/responses HTTP/1.1\r\nhost: x\r\n"
    announced = [
        head + b"content-length: 921600\r\n\r\nx",
        head + b"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n",
    ]
    async with ingesting(request_s=5) as running:
        held = [await asyncio.open_connection(HOST, running.public) for _ in range(300)]
        for number, (_, writer) in enumerate(held):
            writer.write(announced[number % 2])
        await running.create()
        for reader, writer in held:
            assert (await read_answer(reader)).status == 408
            writer.close()
        assert len(running.accepted()) == 1


async def test_a_body_without_a_length_is_bounded_too() -> None:
    async with ingesting(max_body_bytes=4096) as running:
        reader, writer = await asyncio.open_connection(HOST, running.public)
        writer.write(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"1000\r\n" + b" " * 4096 + b"\r\n" + b"10\r\n" + b" " * 16 + b"\r\n")
        answer = await read_answer(reader)
        writer.close()
        assert answer.status == 413
        assert running.records() == []


@pytest.mark.parametrize("tenant", ["", "a b", "x" * 129])
async def test_a_malformed_tenant_is_refused(tenant: str) -> None:
    async with ingesting() as running:
        answer = await running.post({}, f"x-rejoinder-tenant: {tenant}")
        assert answer.status == 400
        assert running.records() == []


async def test_the_tenant_is_the_headers() -> None:
    async with ingesting() as running:
        made = await running.create("x-rejoinder-tenant: acme")
        assert running.accepted()[0].tenant == "acme"
        assert (await running.get(made["id"], "x-rejoinder-tenant: acme")).status == 200
        assert (await running.get(made["id"])).status == 404


KEYS = ("acme=open-sesame-open-sesame", "other=another-key-of-another")


async def test_with_api_keys_the_key_says_whose_request_it_is() -> None:
    async with ingesting(api_keys=KEYS) as running:
        mine = "Authorization: Bearer open-sesame-open-sesame"
        made = await running.create(mine, "x-rejoinder-tenant: other")
        assert running.accepted()[0].tenant == "acme"
        assert (await running.get(made["id"], mine)).status == 200
        assert (await running.get(made["id"], "authorization: bearer another-key-of-another")).status == 404
        assert (await running.cancel(made["id"], mine)).status == 200


@pytest.mark.parametrize(
    "headers",
    [(), ("Authorization: Bearer open-sesame",), ("Authorization: Basic open-sesame-open-sesame",)],
)
async def test_without_a_known_api_key_everything_is_refused(headers: tuple[str, ...]) -> None:
    async with ingesting(api_keys=KEYS) as running:
        id = "resp_0000" + "0" * 32
        for refused in (
            await running.post({"background": True}, *headers),
            await running.cancel(id, *headers),
            await running.delete(id, *headers),
            await running.get(id, *headers),
        ):
            assert (refused.status, error_of(refused)["code"]) == (401, "invalid_api_key")
        assert running.records() == []


async def test_a_successor_goes_to_its_predecessors_partition() -> None:
    async with ingesting() as running:
        first = await running.create()
        for _ in range(5):
            await running.create(previous_response_id=first["id"])
        assert len({partition_of(entry.id) for entry in running.accepted()}) == 1
        assert {entry.previous for entry in running.accepted()} == {None, first["id"]}


async def test_a_response_goes_to_the_partition_of_what_it_refers_to() -> None:
    async with ingesting() as running:
        first = await running.create()
        referring = [{"type": "item_reference", "id": item_id("msg", first["id"], 0, given=True)}]
        for _ in range(5):
            await running.create(input=referring)
        assert len({partition_of(entry.id) for entry in running.accepted()}) == 1
        assert {entry.previous for entry in running.accepted()} == {None}


async def test_a_reference_that_leads_to_nothing_is_a_400_and_leaves_no_record() -> None:
    async with ingesting() as running:
        far = response_id(0xFFFF, bytes(16))
        for unknown in ("msg_1", item_id("msg", far, 0), item_id("msg", response_id(0, bytes(16)), 0)):
            answer = await running.post({"input": [{"id": unknown}]})
            error = error_of(answer)
            assert (answer.status, error["param"], error["code"]) == (400, "input[0].id", "item_not_found")
        assert not running.records()


async def test_references_that_cannot_be_looked_up_now_are_a_503_to_be_repeated() -> None:
    async with ingesting() as running:
        first = await running.create()
        await running.stop("ingest")
        nowhere = f"http://{HOST}:{free_port()}"
        running.ingest_settings = replace(running.ingest_settings, replay_url=nowhere)
        await running.start_ingest()
        answer = await running.post({"input": [{"id": item_id("msg", first["id"], 0, given=True)}]})
        assert (answer.status, error_of(answer)["code"]) == (503, "service_unavailable")
        assert "x-should-retry" not in answer.headers
        assert len(running.records()) == 1


async def test_a_predecessor_of_another_tenant_or_deleted_or_not_stored_is_unknown() -> None:
    async with ingesting() as running:
        theirs = await running.author().accept(tenant="acme")
        unstored = await running.author(2).accept(background=False, store=False)
        deleted = await (await running.author(3).accept()).delete()
        before = len(running.records())
        for author in (theirs, unstored, deleted):
            answer = await running.post({"previous_response_id": author.id})
            assert (answer.status, error_of(answer)["code"]) == (404, "previous_response_not_found")
        assert len(running.records()) == before


async def test_nothing_may_follow_what_is_ephemeral_and_the_refusal_says_what_to_do() -> None:
    async with ingesting() as running:
        stored = await (await (await running.author().accept()).take()).complete()
        made = await running.create(store=False, previous_response_id=stored.id)
        before = len(running.records())
        for chained in ({}, {"store": False}, {"background": True, "store": False}):
            answer = await running.post({"previous_response_id": made["id"], **chained})
            error = error_of(answer)
            assert (answer.status, error["param"]) == (404, "previous_response_id")
            assert error["code"] == "previous_response_not_found"
            assert error["message"].endswith("is not stored: send its items as 'input' instead.")
        assert len(running.records()) == before


async def test_an_append_that_surely_failed_is_a_503_to_be_repeated() -> None:
    async with ingesting() as running:
        running.log.fail_next("lost")
        answer = await running.post({"background": True})
    assert answer.status == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "x-should-retry" not in answer.headers


async def test_an_append_in_doubt_is_answered_once_the_fold_shows_it() -> None:
    async with ingesting() as running:
        running.log.fail_next("unknown-appended")
        made = await running.create()
        assert [one.id for one in running.accepted()] == [made["id"]]


async def test_an_append_in_doubt_that_the_fold_does_not_show_must_not_be_repeated() -> None:
    async with ingesting() as running:
        running.log.fail_next("unknown-lost")
        answer = await running.post({"background": True})
    assert answer.status == 503
    assert answer.headers["x-should-retry"] == "false"


async def test_what_was_never_sent_goes_elsewhere_under_another_id() -> None:
    async with ingesting() as running:
        running.log.unsent = 3
        made = await running.create()
        assert [one.id for one in running.accepted()] == [made["id"]]
        assert (await running.get(made["id"])).status == 200


async def test_what_has_its_place_by_a_key_or_a_predecessor_stays_there() -> None:
    async with ingesting() as running:
        first = await running.create()
        running.log.unsent = 2
        await running.create("Idempotency-Key: k")
        await running.create(previous_response_id=first["id"])
        assert running.log.unsent == 2


async def test_a_record_that_is_too_large_is_a_413() -> None:
    async with ingesting() as running:
        answer = await running.post(
            {"background": True, "input": "x" * 700_000, "instructions": "y" * 200_000}
        )
        assert answer.status == 413
        assert running.records() == []


async def test_a_413_for_what_is_stored_twice_names_the_field_and_the_true_numbers() -> None:
    async with ingesting() as running:
        answer = await running.post({"background": True, "instructions": "y" * 530_000})
    error = error_of(answer)
    assert (answer.status, error["param"]) == (413, "instructions")
    assert answer.headers["x-should-retry"] == "false"
    assert "together with the response's object" in error["message"]
    assert "its body may have at most" not in error["message"]


async def test_a_request_that_reached_the_log_too_late_is_void() -> None:
    async with ingesting(acceptance_ms=1) as running:
        clock = running.log.clock
        running.log.clock = lambda: clock() + 1000
        answer = await running.post({"background": True})
        (late,) = running.accepted()
        assert answer.status == 503
        assert "retry-after" in answer.headers
        assert "x-should-retry" not in answer.headers
        assert (await running.get(late.id)).status == 404


async def test_with_the_log_away_it_refuses_within_five_seconds_and_recovers_by_itself() -> None:
    async with ingesting() as running:
        running.log.available = False
        began = steady()
        answer = await running.post({"background": True})
        assert steady() - began < 5
        assert (answer.status, "retry-after" in answer.headers) == (503, True)

        async def refuses_at_once() -> bool:
            began = steady()
            refused = (await running.post({"background": True})).status == 503
            return refused and steady() - began < 0.2

        await eventually(refuses_at_once)
        assert await running.ready(), "what Kafka does is no reason to leave the balancer"
        running.log.available = True
        await eventually(running.create)
        assert len(running.accepted()) == 1


async def test_too_many_open_responses_are_refused_before_any_id() -> None:
    async with ingesting(max_queue=3) as running:
        for _ in range(3):
            await running.create()
        answer = await running.post({"background": True})
        assert (answer.status, error_of(answer)["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert len(running.records()) == 3
        await running.create("x-rejoinder-tenant: another")
        for entry in running.accepted():
            await running.delete(entry.id, f"x-rejoinder-tenant: {entry.tenant}")

        async def lets_in() -> bool:
            return (await running.post({"background": True})).status == 200

        await eventually(lets_in)


async def test_a_tenant_s_own_bound_is_its_own_and_what_closed_makes_room() -> None:
    async with ingesting() as running:
        await running.stop("ingest")
        await running.start_ingest('[[tenants]]\nmatch = "trial-*"\nmax_open = 2\n')
        await eventually(running.ready)
        for trial in ("trial-1", "trial-2"):
            own = f"x-rejoinder-tenant: {trial}"
            made = [await running.create(own) for _ in range(2)]
            assert (await running.post({"background": True}, own)).status == 429
            for response in made:
                assert (await running.cancel(response["id"], own)).status == 200
                await eventually(partial(is_admitted, running, own))  # a refusal waits 30 ms for figures
        await running.create()


async def is_admitted(running: Ingesting, tenant: str) -> bool:
    """Whether one more response of the tenant was created."""
    return (await running.post({"background": True}, tenant)).status == 200


async def test_every_id_is_one_of_ours() -> None:
    async with ingesting() as running:
        made = await running.create()
        assert parse_response_id(made["id"]) == made["id"]
        assert running.log.records(NAMES.events, partition_of(made["id"]))


async def test_with_replay_away_the_last_figures_hold() -> None:
    async with ingesting(max_queue=2) as running:
        for _ in range(2):
            await running.create()
        await running.stop("replay")
        body = b'{"model": "echo", "input": "x", "background": true}'
        assert (await ask(running.port, "POST /v1/responses", body)).status == 429
        assert len(running.records()) == 2


async def test_creates_under_way_are_bounded_however_small_their_bodies_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At replay, while ingest answers no create: one over the bound is told to try again."""
    monkeypatch.setattr(room, "CREATE_BYTES", room.BODIES_BYTES // 10)
    go_on, create = asyncio.Event(), IngestClient.create

    async def held(*asked: Any) -> Any:
        await go_on.wait()
        return await create(*asked)

    monkeypatch.setattr(IngestClient, "create", held)
    async with ingesting() as running:
        posts = [asyncio.create_task(running.post({"background": True})) for _ in range(9)]
        await eventually(lambda: sum(post.done() for post in posts) == 5)
        refused = [post.result() for post in posts if post.done()]
        assert [answer.status for answer in refused] == [429] * 5
        assert all(answer.headers["retry-after"] for answer in refused)
        go_on.set()
        answers = await asyncio.gather(*posts)
        assert sorted(answer.status for answer in answers) == [200] * 4 + [429] * 5
        assert (await running.post({"background": True})).status == 200
