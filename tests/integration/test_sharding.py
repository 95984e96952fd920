"""Three shards, each a third of the partitions: whatever a client asks, any of them answers alike."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from schemas.ids import ResponseId, partition_of
from schemas.records import Cancelled
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Leader
from services.replay.shards import HOP
from tests.conftest import PATIENCE, eventually
from tests.ingesting import error_of
from tests.serving import HOST, Answer, ask, opened
from tests.sharding import Sharding, create, ends_cleanly, made, sharding

SHARDS = ("0/3", "1/3", "2/3")
OF = {p: SHARDS[p // 2] for p in range(6)}
BROWSER = "accept: text/event-stream"
KEYS = ("acme=sixteen-chars-of-acme", "other=sixteen-chars-of-other")


@pytest.fixture
async def running(anyio_backend: object) -> AsyncIterator[Sharding]:
    async with sharding() as started:
        yield started


def home(id: str) -> str:
    """The shard that serves a response."""
    return OF[partition_of(ResponseId(id))]


async def everywhere(at: Sharding, path: str, *headers: str, method: str = "GET") -> Answer:
    """The answer to a request, which all shards must give alike."""
    answers = [await ask(at.port_of(shard), f"{method} {path}", b"", headers) for shard in SHARDS]
    assert len({(answer.status, answer.body, answer.whole) for answer in answers}) == 1, answers
    return answers[0]


async def over(at: Sharding, shard: str, id: str) -> dict[str, Any]:
    """The final object, as a shard shows it; {} while there is none."""
    found: dict[str, Any] = json.loads((await ask(at.port_of(shard), f"GET /v1/responses/{id}")).body)
    return {} if found.get("status") in ("queued", "in_progress", None) else found


async def closed(at: Sharding, id: str) -> dict[str, Any]:
    """The final object, as its own shard shows it."""
    return await eventually(lambda: over(at, home(id), id))


async def test_any_shard_answers_for_any_response(running: Sharding) -> None:
    ids = [await made(running, shard) for shard in SHARDS for _ in range(2)]
    assert [home(id) for id in ids] == [shard for shard in SHARDS for _ in range(2)], "creates stay local"
    for id in (ids[0], ids[-1]):
        stream = await everywhere(running, f"/v1/responses/{id}?stream=true")
        assert stream.whole
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert b"event: response.completed" in stream.body
        await closed(running, id)
        assert (await everywhere(running, f"/v1/responses/{id}")).status == 200
        tail = await everywhere(running, f"/v1/responses/{id}?stream=true", "last-event-id: 4")
        assert stream.body.endswith(tail.body)
        assert (
            await everywhere(running, f"/v1/responses/{id}?stream=true&starting_after=99", BROWSER)
        ).status == 204
        assert json.loads((await everywhere(running, f"/v1/responses/{id}/input_items")).body)["data"]
        assert (await everywhere(running, f"/v1/responses/{id}?stream=true&starting_after=x")).status == 400
        assert (await everywhere(running, f"/v1/responses/{id}", "x-rejoinder-tenant: other")).status == 404
        for shard in SHARDS:
            head = await head_of(running, shard, f"/v1/responses/{id}")
            assert "content-length" in head


async def head_of(at: Sharding, shard: str, path: str) -> str:
    """The head of the answer to a HEAD, behind which nothing comes."""
    reader, writer = await opened(at.port_of(shard), f"HEAD {path}")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    writer.write(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()
    return head


async def test_commands_reach_a_response_from_any_shard(running: Sharding) -> None:
    slow = {"metadata": {"echo.tokens": "1000", "echo.interval_ms": "50"}}
    for shard in SHARDS:
        id = await made(running, "0/3", **slow)
        port = running.port_of(shard)
        cancelled = await ask(port, f"POST /v1/responses/{id}/cancel", b"{}")
        assert json.loads(cancelled.body)["status"] == "cancelled"
        assert json.loads((await everywhere(running, f"/v1/responses/{id}")).body)["status"] == "cancelled"
        assert (await ask(port, f"DELETE /v1/responses/{id}")).status == 200
        assert (await everywhere(running, f"/v1/responses/{id}")).status == 404


async def test_a_conversation_and_a_key_go_where_they_must_and_are_shown_through(running: Sharding) -> None:
    first = await made(running, "2/3")
    await closed(running, first)
    for answer in ("object", "stream", "result"):
        asked = {
            "previous_response_id": first,
            "background": answer == "object",
            "stream": answer == "stream",
        }
        came = await create(running, "0/3", **asked)
        assert came.status == 200, came
        assert came.whole
        if answer == "stream":
            assert b"event: response.completed" in came.body
            id = str(json.loads(came.body.split(b"data: ")[1].split(b"\n")[0])["response"]["id"])
        else:
            id = str(json.loads(came.body)["id"])
        assert home(id) == "2/3"
        assert (await closed(running, id))["status"] == "completed"
    keys = [f"idempotency-key: {number}" for number in range(6)]
    for key in keys:
        ids = {await made(running, shard, key) for shard in SHARDS}
        assert len(ids) == 1, "the same key meets the same response, wherever it is sent"
    other = await create(running, "0/3", keys[0], background=True, input="another")
    assert (other.status, error_of(other)["code"]) == (422, "idempotency_key_reused")


async def test_who_leaves_the_stream_of_another_shard_ends_its_response(running: Sharding) -> None:
    """And only who leaves: the stream of a response that is not stored is shown to its creator alone."""
    first = await made(running, "1/3")
    body = {
        "model": "echo",
        "input": "hi",
        "stream": True,
        "previous_response_id": first,
        "metadata": {"echo.tokens": "1000", "echo.interval_ms": "50"},
    }
    for stored in (True, False):
        raw = json.dumps(body | {"store": stored}).encode()
        reader, writer = await asyncio.open_connection(HOST, running.port_of("0/3"))
        head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
        writer.write(head.encode() + raw)
        await reader.readuntil(b"event: response.output_text.delta")
        id = running.accepted()[-1].id
        assert home(id) == "1/3"
        shown = await everywhere(running, f"/v1/responses/{id}")
        assert shown.status == (200 if stored else 404)
        writer.close()
        await eventually(partial(is_cancelled, running, id))


def is_cancelled(at: Sharding, id: ResponseId) -> bool:
    """Whether the log says that a response was cancelled."""
    return any(isinstance(entry, Cancelled) and entry.id == id for entry in at.entries("cancelled"))


async def test_items_of_other_shards_are_found(running: Sharding) -> None:
    said = []
    for shard in SHARDS:
        final = await closed(running, await made(running, shard))
        said.append(final["output"][0]["id"])
    refers = [{"type": "item_reference", "id": id} for id in said]
    answer = await create(running, "0/3", input=[*refers, {"role": "user", "content": "go on"}])
    assert answer.status == 200, answer
    response = json.loads(answer.body)
    assert home(response["id"]) == "2/3", "where the last item is"
    assert response["status"] == "completed", "the executor found them too"
    items = json.loads((await everywhere(running, f"/v1/responses/{response['id']}/input_items")).body)[
        "data"
    ]
    assert [item["type"] for item in items] == ["message"] * 4
    unknown = [{"type": "item_reference", "id": said[0][:-4] + "0009"}]
    refused = await create(running, "1/3", input=unknown)
    assert (refused.status, error_of(refused)["code"]) == (400, "item_not_found")


async def test_a_request_has_one_hop(running: Sharding) -> None:
    id = await made(running, "2/3")
    passed_on = f"{HOP}: 1"
    answer = await ask(running.port_of("0/3"), f"GET /v1/responses/{id}", b"", [passed_on])
    assert (answer.status, error_of(answer)["code"]) == (503, "misrouted")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    # A browser's EventSource comes again after a reset only.
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await ask(running.port_of("0/3"), f"GET /v1/responses/{id}?stream=true", b"", [passed_on, BROWSER])
    assert (await ask(running.port_of("2/3"), f"GET /v1/responses/{id}", b"", [passed_on])).status == 200


async def test_no_header_of_a_client_takes_its_tenant_off_on_the_way(running: Sharding) -> None:
    id = await made(running, "2/3")
    for header in ("x-rejoinder-tenant", "x-rejoinder-tenant, last-event-id", "authorization"):
        head = ["x-rejoinder-tenant: acme", f"connection: {header}"]
        for shard in SHARDS:
            assert (await ask(running.port_of(shard), f"GET /v1/responses/{id}", b"", head)).status == 404
    cursor = ["last-event-id: 2", "connection: last-event-id"]
    await closed(running, id)
    path = f"GET /v1/responses/{id}?stream=true"
    bodies = {(await ask(running.port_of(shard), path, b"", cursor)).body for shard in SHARDS}
    assert len(bodies) == 1
    assert b"id: 2\n" not in bodies.pop()


async def test_a_shard_that_is_gone_takes_nothing_else_along(running: Sharding) -> None:
    slow = {"metadata": {"echo.tokens": "100", "echo.interval_ms": "50"}}
    gone, stays = await made(running, "2/3", **slow), await made(running, "1/3")
    reader, writer = await opened(running.port_of("0/3"), f"GET /v1/responses/{gone}?stream=true")
    await reader.readuntil(b"event: response.output_text.delta")
    await running.stop("2/3")
    assert not await ends_cleanly(reader)
    writer.close()
    assert (await ask(running.port_of("0/3"), f"GET /v1/responses/{stays}")).status == 200
    assert home(await made(running, "0/3")) == "0/3"
    for headers in ((), (BROWSER,)):
        async with asyncio.timeout(5):
            refused = await ask(running.port_of("0/3"), f"GET /v1/responses/{gone}", b"", headers)
        assert refused.status == 503
        assert 1 <= int(refused.headers["retry-after"]) <= 60
    chained = await create(running, "0/3", previous_response_id=gone, background=True)
    assert chained.status == 503
    await running.start_shard("2/3")
    await eventually(running.ready)
    await eventually(lambda: running.known("0/3", 5))
    again = await ask(running.port_of("0/3"), f"GET /v1/responses/{gone}?stream=true")
    assert again.whole
    assert b"event: response.completed" in again.body


async def test_with_no_leader_of_its_own_a_shard_places_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    away: set[str] = set()

    def leader(_: MemoryLog, topic: str, partition: int) -> Leader:
        return Leader(partition // 2, healthy=OF.get(partition) not in away)

    monkeypatch.setattr(MemoryLog, "leader", leader)
    async with sharding() as running:
        away.add("0/3")
        await eventually(partial(is_placed_elsewhere, running))
        async with asyncio.timeout(PATIENCE):
            streamed = await create(running, "0/3", stream=True)
            waited = await create(running, "0/3")
        assert streamed.whole
        assert b"event: response.completed" in streamed.body
        assert json.loads(waited.body)["status"] == "completed"
        assert home(json.loads(waited.body)["id"]) != "0/3"


async def is_placed_elsewhere(at: Sharding) -> bool:
    """Whether a shard places in another: it looks at leaders now and then."""
    return home(await made(at, "0/3")) != "0/3"


async def test_keys_of_clients_go_along() -> None:
    """The other shard decides who may see what, by the client's own key."""
    async with sharding(api_keys=KEYS) as running:
        own, other = (f"authorization: Bearer sixteen-chars-of-{name}" for name in ("acme", "other"))
        id = await made(running, "2/3", own)
        path = f"/v1/responses/{id}"
        assert (await everywhere(running, path, other)).status == 404
        assert (await everywhere(running, path)).status == 401
        assert (await everywhere(running, f"{path}?stream=true", own)).status == 200
        named = await ask(running.port_of("0/3"), f"GET {path}", b"", [own, "x-request-id: mine"])
        assert named.headers["x-request-id"] == "mine"


async def test_a_change_of_the_count_loses_nothing() -> None:
    """Two shards become three: old and new are served at once, then the new alone. Ingest and executor go on
    with the list that they were started with.
    """
    async with sharding(("0/2", "1/2")) as running:
        first, last = await made(running, "0/2"), await made(running, "1/2")
        running.add("2/3")
        await running.change("0/2", "0/2,0/3")
        await running.change("1/2", "1/2,1/3")
        await running.start_shard("2/3")
        await eventually(running.ready)
        for asker in ("0/2", "1/2", "2/3"):
            for partition in range(6):
                await eventually(lambda a=asker, p=partition: running.known(a, p))  # type: ignore[misc]
        await running.change("0/2", "0/3")
        await running.change("1/2", "1/3")
        await eventually(running.ready)
        for partition in range(6):
            await eventually(lambda p=partition: running.known("0/2", p))  # type: ignore[misc]
        for id in (first, last):
            answers = [
                await ask(running.port_of(at), f"GET /v1/responses/{id}?stream=true")
                for at in ("0/2", "1/2", "2/3")
            ]
            assert {(answer.status, answer.body, answer.whole) for answer in answers} == {
                (200, answers[0].body, True)
            }
        keyed = {await made(running, at, "idempotency-key: k") for at in ("0/2", "1/2", "2/3")}
        assert len(keyed) == 1
        following = [
            await eventually(partial(made, running, "0/2", previous_response_id=id))  # once ingest has heard
            for id in (first, last)
        ]
        for id in following:
            found = await eventually(lambda i=id: over(running, "2/3", i))  # type: ignore[misc]
            assert found["status"] == "completed"


async def test_what_nobody_serves_is_misrouted_and_says_how_to_mend_it() -> None:
    async with sharding(("0/2",), alone=True) as running:

        async def misrouted() -> bool:
            missing = await ask(running.port_of("0/2"), f"GET /v1/responses/resp_0005{'0' * 32}")
            assert missing.status == 503
            error = error_of(missing)
            return error["code"] == "misrouted" and "REJOINDER_SHARD" in error["message"]

        await eventually(misrouted)  # until the replay has heard itself, another may serve it
        keys = [await create(running, "0/2", f"idempotency-key: {n}", background=True) for n in range(8)]
        assert {answer.status for answer in keys} == {200, 503}
        assert not [entry for entry in running.accepted() if partition_of(entry.id) > 2], "nothing was stored"
