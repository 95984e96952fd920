"""The items that requests refer to, over the log in memory: what is found, and what the upstream calls it."""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from schemas import response
from schemas.events import NAMED
from schemas.ids import ResponseId, Tenant, item_id, response_id
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Bounds
from services.replay import items
from services.replay.routes import InternalRoutes
from services.settings import Settings
from services.web.internal import ITEMS_PATH, Found, Name, Turn, Wanted, turn_path
from tests.responses import TENANT, Author
from tests.serving import Answer, ask, serving
from tests.unit.test_replay_streams import NAMES, PARTITIONS, new_log, replaying

THEIRS = Name("msg_up", "0badcafe")


class Site:
    """Replay's internal port over a log."""

    def __init__(self, log: MemoryLog, port: int) -> None:
        self.log = log
        self.port = port
        self.written = 0

    async def author(self, **body: Any) -> "Writing":
        self.written += 1
        author = Author(self.log.writer(), self.written)
        await (await author.accept(**body)).take()
        return Writing(author)

    async def ask(self, wanted: Wanted | bytes) -> Answer:
        body = wanted if isinstance(wanted, bytes) else msgspec.json.encode(wanted)
        return await ask(self.port, f"POST {ITEMS_PATH}", body)

    async def find(
        self, *ids: str, tenant: str = TENANT, previous: ResponseId | None = None, contents: bool = True
    ) -> Found:
        answer = await self.ask(Wanted(Tenant(tenant), previous, list(ids), contents))
        assert answer.status == 200, answer
        return msgspec.json.decode(answer.body, type=Found)


class Writing:
    """A response with items of its own."""

    def __init__(self, author: Author) -> None:
        self.author = author
        self.id = author.id
        self.output: list[dict[str, Any]] = []

    def of(self, position: int) -> str:
        return item_id("msg", self.id, position)

    async def add(self, words: str, *, end: str | None = "completed", name: Name | None = None) -> str:
        """One more message; it stays under way without an `end`."""
        at = {"output_index": len(self.output)}
        item = {"id": self.of(len(self.output)), "type": "message", "role": "assistant"}
        named = {NAMED: msgspec.to_builtins(name)} if name else {}
        begun = {**item, "status": "in_progress", "content": []}
        await self.author.event("response.output_item.added", at | {"item": begun} | named)
        part = {"type": "output_text", "text": "", "annotations": []}
        place = at | {"item_id": item["id"], "content_index": 0}
        await self.author.event("response.content_part.added", place | {"part": part})
        await self.author.event("response.output_text.delta", place | {"delta": words})
        done = {**item, "status": end, "content": [part | {"text": words}]}
        self.output.append(done)
        if end:
            await self.author.event("response.output_item.done", at | {"item": done})
        return item["id"]

    async def close(self, status: str = "completed") -> None:
        final = response.final_response(self.author.initial, status=status, output=self.output)
        await self.author.event(f"response.{status}", {"response": final}, status)


@asynccontextmanager
async def site(log: MemoryLog | None = None) -> AsyncIterator[Site]:
    log = log or new_log()
    async with replaying(log) as service:
        routes = InternalRoutes(service.replay, Settings(), lambda: 8000, lambda: True).routes()
        async with serving(routes) as (_, port):
            yield Site(log, port)


def words(found: Found) -> list[str]:
    return [item["content"][0]["text"] for item in found.items.values()]


@pytest.mark.parametrize("packed", [False, True])
async def test_an_item_of_a_completed_response_comes_with_its_upstreams_name(packed: bool) -> None:
    log = new_log()
    writing = Writing(await (await Author(log.writer(), 1).accept()).take())
    named, ours = await writing.add("one", name=THEIRS), await writing.add("two")
    await writing.close()
    if packed:
        await writing.author.pack()
        log.retain("responses.events", 0, writing.author.ack.offset + 1)
    async with site(log) as at:
        found = await at.find(ours, named, "msg_unknown")
        assert found == Found(
            ["msg_unknown"], {ours: writing.output[1], named: writing.output[0]}, {named: THEIRS}
        )
        assert await at.find(ours, "x", contents=False) == Found(["x"])
        answer = await ask(at.port, f"GET {turn_path(writing.id)}")
        turn = msgspec.json.decode(answer.body, type=Turn)
        assert (turn.output, turn.names) == (writing.output, {named: THEIRS})


async def test_of_an_open_response_what_is_done_is_there() -> None:
    async with site() as at:
        writing = await at.author()
        done, under_way = await writing.add("one"), await writing.add("two", end=None)
        assert await at.find(done, under_way) == Found([under_way], {done: writing.output[0]})


@pytest.mark.parametrize("end", ["failed", "incomplete", "cancelled"])
async def test_of_one_that_did_not_complete_the_items_cut_short_are_there_too(end: str) -> None:
    async with site() as at:
        writing = await at.author()
        ids = [await writing.add("one"), await writing.add("two", end="incomplete")]
        ids.append(await writing.add("three", end=None, name=THEIRS))
        await (writing.author.cancel() if end == "cancelled" else writing.close(end))
        found = await at.find(*ids)
    assert words(found) == ["one", "two", "three"]
    assert [item["status"] for item in found.items.values()] == ["completed", "incomplete", "incomplete"]
    assert found.names == {ids[2]: THEIRS}


async def test_an_input_item_is_found_by_its_place_and_a_reference_is_no_item() -> None:
    async with site() as at:
        given = [{"role": "user", "content": "one"}, {"type": "item_reference", "id": "msg_1"}]
        writing = await at.author(input=given)
        ids = [item_id("msg", writing.id, position, given=True) for position in range(3)]
        found = await at.find(*ids)
    assert (words(found), found.missing) == (["one"], ids[1:])


async def test_other_ids_are_looked_for_from_the_predecessor_back() -> None:
    async with site() as at:
        first = await at.author(input=[{"role": "user", "content": "mine", "id": "msg_mine"}])
        first.output.append(
            {"id": "msg_old", "type": "message", "content": [{"type": "output_text", "text": "old"}]}
        )
        await first.author.event("response.output_item.done", {"output_index": 0, "item": first.output[0]})
        await first.close()
        second = await at.author(previous_response_id=first.id)
        found = await at.find("msg_mine", "msg_old", "msg_3", previous=second.id)
        assert (words(found), found.missing) == (["mine", "old"], ["msg_3"])
        assert (await at.find("msg_mine")).missing == ["msg_mine"]
        await first.author.delete()
        assert (await at.find("msg_mine", previous=second.id)).missing == ["msg_mine"]


async def test_what_a_tenant_may_not_see_is_not_there() -> None:
    async with site() as at:
        foreign, unstored, gone = (
            await at.author(tenant="other"),
            await at.author(store=False),
            await at.author(),
        )
        ids = [await writing.add("one") for writing in (foreign, unstored, gone)]
        await gone.author.delete()
        assert (await at.find(*ids)).missing == ids
        assert words(await at.find(*ids, tenant="other")) == ["one"]


async def test_an_answer_is_bounded_and_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items, "ANSWER_BYTES", 100)
    async with site() as at:
        wanted = [await (await at.author()).add("long " * 20) for _ in range(12)] + ["msg_1"]
        found, asked = list[str](), 0
        left: Sequence[str] = wanted
        while left:
            answer = await at.find(*left)
            found, left, asked = [*found, *answer.items], answer.left, asked + 1
        assert (found, answer.missing) == (wanted[:-1], ["msg_1"])
        assert asked > 2


async def test_an_item_that_is_asked_for_twice_is_found_once() -> None:
    async with site() as at:
        id = await (await at.author()).add("one")
        assert words(await at.find(id, id, id)) == ["one"]


async def test_what_is_no_question_is_refused() -> None:
    async with site() as at:
        answer = await at.ask(b'{"ids": 3}')
        assert answer.status == 400
        assert json.loads(answer.body)["error"]["message"]


async def test_many_responses_are_looked_up_for_one_request() -> None:
    async with site() as at:
        wanted = [await (await at.author()).add(f"word {number}") for number in range(3 * items.TOGETHER + 1)]
        assert list((await at.find(*wanted)).items) == wanted


class CountingLog(MemoryLog):
    """Counts how often somebody asks where partitions end."""

    asked = 0

    async def bounds(self, topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        self.asked += 1
        return await super().bounds(topic, partitions)


async def test_the_end_of_the_log_is_asked_for_once_whatever_is_referred_to() -> None:
    log = CountingLog(
        {NAMES.events: PARTITIONS, NAMES.transcripts: PARTITIONS, NAMES.index: PARTITIONS, NAMES.executors: 1}
    )
    async with site(log) as at:
        unknown = [
            item_id("msg", response_id(number % (PARTITIONS + 3), number.to_bytes(16)), 0)
            for number in range(500)
        ]
        previous = None
        for _ in range(30):
            writing = await at.author(**({"previous_response_id": previous} if previous else {}))
            await writing.close()
            previous = writing.id
        done = await (await at.author()).add("one")
        before = log.asked
        found = await at.find(*unknown, done, "msg_theirs", previous=previous)
        assert (words(found), found.missing) == (["one"], [*unknown, "msg_theirs"])
        assert log.asked - before <= 8
