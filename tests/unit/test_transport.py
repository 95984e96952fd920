"""Transports beside SSE: what it takes to say the same events in another way, shown by two test doubles.

`Lines` is HTTP: a line of JSON an event. `Lane` is one of several responses on a WebSocket: a text frame an
event, with the lane's name in it. Neither touches the fan-out, nor what sends.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message

from schemas.errors import ApiError, RejoinderError, not_found
from schemas.events import KEEP_ALIVE, encoded_in, frame
from schemas.ids import parse_response_id
from services.replay.app import Service
from services.replay.replay import Deleted
from services.replay.window import Window
from services.web.edge import route
from services.web.served import EXTENSION
from services.web.stream import TURN_BYTES, End, Stream
from services.web.transport import Body, body
from tests.conftest import eventually
from tests.responses import Author
from tests.serving import ask, opened, read_answer, serving
from tests.unit.test_replay_streams import find, new_log, replaying

NDJSON = b"application/x-ndjson"


class Lines(Body):
    """A line of JSON an event, an empty one in silence; a failure is a last line."""

    def __init__(self) -> None:
        super().__init__(headers=[(b"content-type", NDJSON)], pause=b"\n")

    def events(self, frames: bytes) -> Sequence[Message]:
        return [body(b"".join(b"%b\n" % event.value for event in encoded_in(frames)))]

    def error(self, error: RejoinderError) -> Sequence[Message]:
        return [body(json.dumps(told(error)).encode() + b"\n"), *self.end()]


class Lane:
    """A text frame an event, with `stream_id`; a failure is a frame as well, and the socket stays open."""

    def __init__(self, stream_id: str) -> None:
        self.stream_id = stream_id
        self.got: list[bytes] = []
        """What the fan-out handed over."""

    def head(self) -> Sequence[Message]:
        return []

    def events(self, frames: bytes) -> Sequence[Message]:
        self.got.append(frames)
        name = b'{"stream_id":"%b",' % self.stream_id.encode()
        return [_text(event.value.replace(b"{", name, 1).decode()) for event in encoded_in(frames)]

    def keep_alive(self) -> Sequence[Message]:
        return []

    def end(self) -> Sequence[Message]:
        return []

    def error(self, error: RejoinderError) -> Sequence[Message]:
        return [_text(json.dumps(told(error) | {"stream_id": self.stream_id}))]


def _text(text: str) -> Message:
    return {"type": "websocket.send", "text": text}


def told(error: RejoinderError) -> dict[str, Any]:
    """An error as an event."""
    status = error.status if isinstance(error, ApiError) else 500
    return {"type": "error", "status": status, "error": {"message": str(error)}}


class Socket:
    """A WebSocket whose client takes everything, as an ASGI server shows it."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.streaming = self.aborted = self.stalled = False
        self.closed = asyncio.Event()

    def abort(self) -> None:
        self.aborted = True

    untaken_bytes = 0

    async def all_taken(self) -> bool:
        return not self.closed.is_set()

    async def send(self, message: Message) -> None:
        assert message["type"] == "websocket.send"
        self.sent.append(json.loads(message["text"]))

    async def gone(self) -> Message:
        await self.closed.wait()
        return {"type": "websocket.disconnect", "code": 1005}

    async def say(self, stream: Stream) -> None:
        """A response on one of its lanes."""
        scope = {"type": "websocket", "path": "/", "extensions": {EXTENSION: {"connection": self}}}
        await stream(scope, self.gone, self.send)

    def of(self, stream_id: str) -> list[dict[str, Any]]:
        """What was sent on a lane."""
        return [dict(sent) for sent in self.sent if sent["stream_id"] == stream_id]


def events_of(author: Author, cursor: int = -1) -> list[dict[str, Any]]:
    return [json.loads(event.value) for event in encoded_in(author.after(cursor))]


def lines_of(answer: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.splitlines()]


def lines(service: Service, **terms: Any) -> list[BaseRoute]:
    """A route that tells a response in lines."""

    async def answer(request: Request) -> ASGIApp:
        id = parse_response_id(request.path_params["id"])
        found = await service.replay.find(id) if id else None
        if found is None or isinstance(found, Deleted):
            raise not_found(request.path_params["id"])
        cursor = int(request.query_params.get("starting_after", -1))
        return Stream(service.replay.chunks(found, cursor), Lines(), **terms)

    return [route("GET", "/lines/{id}", answer)]


async def test_lines_say_what_sse_says_from_history_to_live_to_the_end() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say("one ", "two\n")
    async with replaying(log) as service, serving(lines(service)) as (_, port):
        whole = asyncio.create_task(ask(port, f"GET /lines/{author.id}"))
        rest = asyncio.create_task(ask(port, f"GET /lines/{author.id}?starting_after=2"))
        await author.say("three ")
        await author.complete()
        first, second = await whole, await rest

        assert (first.status, first.headers["content-type"], first.whole) == (200, NDJSON.decode(), True)
        assert lines_of(first.body) == events_of(author)
        assert lines_of(second.body) == events_of(author, 2)
        packed = await ask(port, f"GET /lines/{(await author.pack()).id}")
        assert packed.body == first.body


async def test_a_transport_that_can_say_why_ends_whole_where_sse_is_reset() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service, serving(lines(service)) as (_, port):
        reader, writer = await opened(port, f"GET /lines/{author.id}")
        await author.say("one ")
        found = await find(service, author)
        assert isinstance(found, Window)
        await eventually(lambda: found.readers == 1)
        await author.delete()
        answer = await read_answer(reader)
        writer.close()
    *events, error = lines_of(answer.body)
    assert (answer.whole, error["type"]) == (True, "error")
    assert author.id in error["error"]["message"]
    assert events == events_of(author)[: len(events)]


async def test_silence_is_broken_in_the_transports_own_way() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service, serving(lines(service, keepalive_s=0.05)) as (_, port):
        reader, writer = await opened(port, f"GET /lines/{author.id}")
        assert b"1\r\n\n\r\n" in await reader.readuntil(b"1\r\n\n\r\n")
        writer.close()


async def test_lanes_share_a_socket_and_one_that_fails_leaves_the_others() -> None:
    log, socket, ends = new_log(), Socket(), dict[str, End]()
    stays = await (await Author(log.writer(), 1).accept()).take()
    goes = await (await Author(log.writer(), 2, 1).accept()).take()
    async with replaying(log) as service:

        async def lane(name: str, author: Author) -> None:
            chunks = service.replay.chunks(await find(service, author), -1)
            await socket.say(Stream(chunks, Lane(name), on_end=lambda end: ends.update({name: end})))

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(lane("a", stays))
            tasks.create_task(lane("b", goes))
            for author in (stays, goes):
                await author.say("one ")
            await eventually(lambda: len(socket.sent) == len(stays.frames) + len(goes.frames))
            await goes.delete()
            await eventually(lambda: "b" in ends)
            await stays.complete()
    *said, error = socket.of("b")
    assert said == [event | {"stream_id": "b"} for event in events_of(goes)]
    assert (error["type"], error["status"]) == ("error", 500)
    assert socket.of("a") == [event | {"stream_id": "a"} for event in events_of(stays)]
    assert (ends, socket.aborted) == ({"a": "complete", "b": "cut"}, False)


async def test_a_socket_that_closes_closes_its_lanes() -> None:
    log, socket, ends = new_log(), Socket(), list[End]()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        found = await find(service, author)
        stream = Stream(service.replay.chunks(found, -1), Lane("a"), on_end=ends.append)
        saying = asyncio.create_task(socket.say(stream))
        await eventually(lambda: len(socket.sent) == len(author.frames))
        socket.closed.set()
        await saying
    assert ends == ["disconnected"]


async def test_readers_of_any_transport_get_the_same_bytes_from_the_fan_out() -> None:
    """An event is encoded once, however many read it."""
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        readers = [Lane(str(n)) for n in range(3)]
        found = await find(service, author)
        sockets = [Socket() for _ in readers]
        async with asyncio.TaskGroup() as tasks:
            for socket, reader in zip(sockets, readers, strict=True):
                tasks.create_task(socket.say(Stream(service.replay.chunks(found, -1), reader)))
            await author.say("one ", "two ")
            await author.complete()
        first, *others = (reader.got for reader in readers)
        assert b"".join(first) == author.after(-1)
        assert all(mine is theirs for other in others for mine, theirs in zip(first, other, strict=True))


@pytest.mark.parametrize(
    "value", [b"{}", b'{"a":"b\\n\\ndata: c"}', b'{"id: 7":" data: x"}', b'{"a":\n1}', b'{"a":"\r"}']
)
def test_frames_are_taken_apart_as_they_were_put_together(value: bytes) -> None:
    frames = frame("a", 7, value) + frame("b", 8, value)
    assert list(encoded_in(frames)) == [(7, value.replace(b"\n", b" ")), (8, value.replace(b"\n", b" "))]


def test_a_keep_alive_and_a_broken_type_are_no_events() -> None:
    broken = frame("a\n\nb", 1, b"{}") + frame("a\nid: x", 2, b"{}")
    assert list(encoded_in(KEEP_ALIVE + frame("a", 0, b"{}") + broken)) == [
        (0, b"{}"),
        (1, b"{}"),
        (2, b"{}"),
    ]


async def test_a_client_that_takes_everything_at_once_leaves_others_their_turns() -> None:
    """Nothing in such a stream ever waits: its events are in memory, and a write never fills the socket."""
    piece, pieces, turns = b"x" * (TURN_BYTES // 4), 400, 0

    async def history() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            yield piece

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    lane = Lane("a")
    await Socket().say(Stream(history(), lane))
    beside.cancel()

    assert len(lane.got) == pieces
    assert turns >= pieces // 4
