"""Response objects where the log holds what nobody can read, and how much output is kept folded."""

import json
from typing import Any

import pytest

from services.replay.app import Service
from services.replay.snapshot import Snapshots
from services.replay.window import Window
from tests.responses import Author
from tests.unit.test_replay_streams import find, new_log, replaying

ODD: list[dict[str, Any]] = [
    {"type": None},
    {"type": {"a": 1}},
    {"type": "response.output_text.delta", "output_index": {}, "delta": []},
    {"type": "response.output_text.annotation.added", "output_index": [], "content_index": "x"},
    {"type": "response.created", "response": 5},
]


async def shown(service: Service, author: Author) -> dict[str, Any]:
    """What a GET answers."""
    made: dict[str, Any] = json.loads(await service.replay.object(await find(service, author)))
    return made


async def broken(author: Author, value: bytes) -> Author:
    """Close the response with a terminal event that has this value."""
    number = len(author.frames)
    await author.put(author.headers().event(number, "response.completed", value, "completed"))
    author.frames.append(b"event: response.completed\nid: %d\ndata: %b\n\n" % (number, value))
    return author


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "value",
    [b"", b"no json", b"{}", b'{"response":5}', b"[" * 3000],
    ids=["empty", "text", "bare", "number", "deep"],
)
async def test_a_final_object_that_cannot_be_read_is_what_is_known_and_an_error(
    value: bytes, packed: bool
) -> None:
    log = new_log()
    author = await broken(await (await Author(log.writer(), 1).accept()).take(), value)
    if packed:
        await author.pack()
    async with replaying(log, memory=0 if packed else 1 << 30) as service:
        got = await shown(service, author)
        view = await service.replay.view(author.id, None)
    assert got == author.initial | {"status": "completed", "error": got["error"]}
    assert got["error"]["message"] == "The final object of this response cannot be read."
    assert (view.status, json.loads(bytes(view.object))) == ("completed", got)


@pytest.mark.parametrize("fields", ODD, ids=str)
async def test_an_event_that_cannot_be_folded_does_not_hide_the_rest(fields: dict[str, Any]) -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    item = {"output_index": 0, "item": {"id": "msg_1", "type": "message", "content": []}}
    await author.event("response.output_item.added", item)
    await author.event("response.output_text.delta", fields)
    async with replaying(log) as service:
        got = await shown(service, author)
    assert (got["id"], got["status"], got["model"]) == (author.id, "in_progress", "echo")
    assert [item["id"] for item in got["output"]] == ["msg_1"]


async def test_a_command_needs_no_output() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.event("response.output_item.added", {"output_index": 0, "item": {"id": "msg_1"}})
    async with replaying(log) as service:
        view = await service.replay.view(author.id, None)
        assert service.snapshots.size == 0
    assert json.loads(bytes(view.object)) == author.initial | {"status": "in_progress"}


async def test_folded_output_is_bounded_in_bytes() -> None:
    log = new_log()
    authors = [await (await Author(log.writer(), number).accept()).take() for number in range(5)]
    for author in authors:
        await author.say("x" * 10_000)
    async with replaying(log) as service:
        snapshots = Snapshots(service.seeker, bound=25_000)
        for author in authors:
            window = await find(service, author)
            assert isinstance(window, Window)
            await snapshots.object(window)
            assert 0 < snapshots.size <= 25_000


@pytest.mark.parametrize("end", ["complete", "cancel", "delete"])
async def test_folded_output_goes_when_the_response_closes(end: str) -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        await shown(service, author)
        assert service.snapshots.size == len(author.after(-1))
        await getattr(author, end)()
        await service.replay.find(author.id)
        assert service.snapshots.size == 0


async def test_folded_output_goes_with_a_fold_that_is_lost() -> None:
    log = new_log()
    author = await Author(log.writer(), 1).accept()
    async with replaying(log) as service:
        await shown(service, author)
        for folding in service.foldings.values():
            folding.clear()
        assert service.snapshots.size == 0
