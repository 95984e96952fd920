"""Replay's routes over the log in memory: status codes, bodies, tenants, and how streams end."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.replay.app import Service
from services.replay.routes import InternalRoutes, PublicRoutes
from services.replay.shards import Shards
from services.settings import Settings
from services.web.callers import Callers
from services.web.internal import (
    LOAD_PATH,
    Load,
    PartitionLoad,
    result_path,
    stream_path,
    turn_path,
    view_path,
)
from services.web.replays import Replays
from tests.conftest import eventually
from tests.responses import Author
from tests.serving import Answer, ask, serving
from tests.unit.test_replay_streams import new_log, replaying

EVENT_STREAM = ["accept: text/event-stream"]


class Site:
    """A replay process with its routes on a port."""

    def __init__(self, log: MemoryLog, service: Service, port: int) -> None:
        self.log = log
        self.service = service
        self.port = port

    async def get(self, path: str, headers: Sequence[str] = ()) -> Answer:
        return await ask(self.port, f"GET {path}", headers=headers)

    async def response(self, author: Author) -> dict[str, Any]:
        answer = await self.get(f"/v1/responses/{author.id}")
        assert answer.status == 200, answer
        found: dict[str, Any] = json.loads(answer.body)
        return found


@asynccontextmanager
async def site(log: MemoryLog | None = None, **options: Any) -> AsyncIterator[Site]:
    log = log or new_log()
    async with replaying(log, **options) as service:
        settings = Settings()
        shards = Shards(Replays([]), service.foldings, settings)
        routes = [
            *PublicRoutes(service.replay, shards, settings, Callers(settings)).routes(),
            *InternalRoutes(service.replay, settings, lambda: 8000, lambda: True).routes(),
        ]
        async with serving(routes) as (_, port):
            yield Site(log, service, port)


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(answer.body)["error"]
    return error


async def closed(log: MemoryLog, number: int = 1, **body: Any) -> Author:
    author = await (await Author(log.writer(), number).accept(**body)).take()
    await author.say("one ", "two ")
    return await author.complete()


async def test_a_stream_is_whole_and_has_the_headers_that_proxies_need() -> None:
    async with site() as at:
        author = await closed(at.log)
        answer = await at.get(f"/v1/responses/{author.id}?stream=true")

        assert (answer.status, answer.whole, answer.body) == (200, True, author.after(-1))
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"


async def test_cursors_in_query_and_header() -> None:
    async with site() as at:
        author = await closed(at.log)
        path = f"/v1/responses/{author.id}?stream=1&starting_after="

        assert (await at.get(f"{path}1", ["last-event-id: 3"])).body == author.after(3)
        assert (await at.get(f"{path}3", ["last-event-id: 1"])).body == author.after(3)
        assert error_of(await at.get(f"{path}x"))["param"] == "starting_after"


async def test_past_the_end_a_closed_stream_is_empty_and_stops_an_eventsource() -> None:
    async with site() as at:
        author = await closed(at.log)
        path = f"/v1/responses/{author.id}?stream=true&starting_after={author.last}"
        plain, browser = await at.get(path), await at.get(path, EVENT_STREAM)

        assert (plain.status, plain.body, plain.whole) == (200, b"", True)
        assert browser.status == 204


async def test_an_open_response_shows_its_output_so_far() -> None:
    async with site() as at:
        author = await Author(at.log.writer(), 1).accept()
        assert (await at.response(author))["status"] == "queued"
        await author.take()
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        await author.event("response.output_item.added", {"output_index": 0, "item": item})
        await author.event(
            "response.content_part.added",
            {"item_id": "msg_1", "output_index": 0, "content_index": 0, "part": part},
        )
        for count in (1, 2):
            await author.say("word ")
            shown = await at.response(author)
            assert shown["status"] == "in_progress"
            assert shown["output"][0]["content"][0]["text"] == "word " * count
        await author.complete()
        assert (await at.response(author))["status"] == "completed"


async def test_a_response_outside_the_background_is_never_queued() -> None:
    async with site() as at:
        author = await Author(at.log.writer(), 1).accept(background=False)
        assert (await at.response(author))["status"] == "in_progress"


@pytest.mark.parametrize("packed", [False, True])
async def test_a_closed_response_is_the_object_of_its_terminal_event(packed: bool) -> None:
    log = new_log()
    author = await closed(log)
    if packed:
        await author.pack()
        log.retain("responses.events", 0, author.ack.offset + 1)
    async with site(log) as at:
        shown = await at.response(author)

    assert shown == json.loads(author.frames[-1].partition(b"data: ")[2])["response"]


async def test_what_nobody_may_see_is_one_404() -> None:
    async with site() as at:
        foreign = await Author(at.log.writer(), 1).accept(tenant="other")
        hidden = await Author(at.log.writer(), 2).accept(background=False, store=False)
        deleted = await (await Author(at.log.writer(), 3).accept()).delete()
        packed = await closed(at.log, 4, tenant="other")
        await packed.pack()
        ids = [
            foreign.id,
            hidden.id,
            deleted.id,
            packed.id,
            f"resp_{'0' * 36}",
            f"resp_ffff{'0' * 32}",
            "resp_x",
            "a%20b",
        ]
        for id in ids:
            for path in ("", "?stream=true", "/input_items"):
                answer = await at.get(f"/v1/responses/{id}{path}")
                shown = id.replace("%20", " ")
                assert answer.status == 404
                assert error_of(answer)["message"] == f"Response with id '{shown}' not found."
        mine = await at.get(f"/v1/responses/{foreign.id}", ["x-rejoinder-tenant: other"])
        assert mine.status == 200


async def test_a_tail_that_does_not_get_there_is_a_503_and_never_a_404() -> None:
    async with site(barrier_s=0.05) as at:
        author = await Author(at.log.writer(), 1).accept()
        await eventually(lambda: at.response(author))
        at.service.feed.folded[0].set(0)
        for path in (str(author.id), f"{author.id}/input_items", f"resp_{'0' * 36}"):
            answer = await at.get(f"/v1/responses/{path}")
            assert answer.status == 503
            assert 1 <= int(answer.headers["retry-after"]) <= 60


async def test_p144_what_is_in_an_added_partition_is_served_at_once_and_what_is_in_none_a_404() -> None:
    log = new_log()
    added = await Author(log.writer(), 1, partition=1).accept()
    nowhere = Author(log.writer(), 2, partition=2)
    async with site(log, partitions=1) as replay:
        answers = await asyncio.gather(*(replay.get(f"/v1/responses/{added.id}") for _ in range(3)))
        assert [answer.status for answer in answers] == [200] * 3
        assert (await replay.get(f"/v1/responses/{nowhere.id}")).status == 404
        log.grow(topics().transcripts, 3)
        log.grow(topics().index, 3)
        log.grow(topics().events, 3)
        await nowhere.accept()
        assert (await replay.get(f"/v1/responses/{nowhere.id}")).status == 200


async def test_ids_that_somebody_invents_ask_the_log_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log, looks = new_log(), 0
    count = log.partitions

    async def counted(topic: str) -> int:
        nonlocal looks
        looks += topic == topics().events
        return await count(topic)

    monkeypatch.setattr(log, "partitions", counted)
    invented = [Author(log.writer(), number, partition=9).id for number in range(20)]
    async with replaying(log) as service:
        assert not any(await asyncio.gather(*map(service.replay.find, invented)))
    assert looks == 1


async def test_an_eventsource_is_not_told_503_but_refused_the_connection() -> None:
    async with site(barrier_s=0.05) as at:
        author = await Author(at.log.writer(), 1).accept()
        await eventually(lambda: at.response(author))
        at.service.feed.folded[0].set(0)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await at.get(f"/v1/responses/{author.id}?stream=true", EVENT_STREAM)


async def test_a_delete_cuts_the_stream_within_its_body() -> None:
    async with site() as at:
        author = await Author(at.log.writer(), 1).accept()
        reading = asyncio.create_task(at.get(f"/v1/responses/{author.id}?stream=true"))
        await eventually(lambda: any(w.readers for w in at.service.foldings[0].windows.values()))
        await author.delete()
        answer = await reading

        assert (answer.status, answer.whole) == (200, False)


async def test_input_items_of_open_and_packed_responses() -> None:
    log = new_log()
    author = await closed(log, input=[{"role": "user", "content": f"line {n}"} for n in range(3)])
    async with site(log) as at:
        before = await at.get(f"/v1/responses/{author.id}/input_items?limit=2")
    await author.pack()
    log.retain("responses.events", 0, author.ack.offset + 1)
    async with site(log) as at:
        after = await at.get(f"/v1/responses/{author.id}/input_items?limit=2")

    page = json.loads(before.body)
    assert page == json.loads(after.body)
    assert [item["content"][0]["text"] for item in page["data"]] == ["line 2", "line 1"]
    assert page["has_more"] is True


async def test_ingest_sees_every_state() -> None:
    async with site() as at:
        author = await (await Author(at.log.writer(), 1).accept(store=False, background=False)).take()
        view = json.loads((await at.get(view_path(author.id, author.ack.offset))).body)
        assert (view["found"], view["status"], view["accepted_offset"]) == (
            True,
            "queued",
            author.accepted.offset,
        )
        assert (view["store"], view["background"], view["body_sha256"]) == (False, False, "sha")
        load = msgspec.json.decode((await at.get(LOAD_PATH)).body, type=Load)
        assert (load.open, load.tenants) == (1, {"default": 1})
        part = PartitionLoad(author.ack.offset + 1, {author.tenant: 1})
        assert load.by_partition() == {0: part, 1: PartitionLoad(0, {})}

        stream = asyncio.create_task(at.get(stream_path(author.id, author.ack.offset)))
        result = asyncio.create_task(at.get(result_path(author.id, author.ack.offset)))
        await author.complete()
        assert (await stream).body == author.after(-1)
        assert json.loads((await result).body)["status"] == "completed"
        nothing = {"open": 0, "tenants": {}, "positions": [3, 0]}
        parts = {"0": {"position": 3, "tenants": {}}, "1": {"position": 0, "tenants": {}}}
        assert json.loads((await at.get(LOAD_PATH)).body) == nothing | {"partitions": parts}

        await author.delete()
        view = json.loads((await at.get(view_path(author.id))).body)
        assert (view["found"], view["deleted"]) == (True, True)
        unknown = json.loads((await at.get(view_path(Author(at.log.writer(), 9).id))).body)
        assert unknown["found"] is False


async def test_a_result_that_is_deleted_meanwhile_is_a_204() -> None:
    async with site() as at:
        author = await Author(at.log.writer(), 1).accept()
        result = asyncio.create_task(at.get(result_path(author.id, author.ack.offset)))
        await eventually(lambda: any(w.readers for w in at.service.foldings[0].windows.values()))
        await author.delete()

        assert (await result).status == 204


async def test_a_turn_is_the_input_and_the_finished_items() -> None:
    async with site() as at:
        author = await (await Author(at.log.writer(), 1).accept(input="question")).take()
        turn = asyncio.create_task(at.get(turn_path(author.id)))
        done = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": []}
        await author.event("response.output_item.done", {"output_index": 0, "item": done})
        await author.event("response.output_item.added", {"output_index": 1, "item": done | {"id": "msg_2"}})
        await author.cancel()
        said = json.loads((await turn).body)

        assert said["output"] == [done]
        assert [item["content"][0]["text"] for item in said["input"]] == ["question"]
        assert (said["tenant"], said["previous"]) == ("default", None)
