"""Streams: an honest end is clean, every other one is a reset, and the source always learns of it."""

import asyncio
import socket
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp

from schemas.events import KEEP_ALIVE
from services.web.answers import json_answer
from services.web.edge import route
from services.web.sse import EventStream
from services.web.stream import End, Sink
from tests.conftest import PATIENCE, eventually
from tests.serving import HOST, ask, opened, read_answer, serving

FRAME = b"event: a\nid: 0\ndata: {}\n\n"


class Stage:
    """A source under the test's control, and what became of its stream."""

    def __init__(self) -> None:
        self.chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.closed = asyncio.Event()
        self.ended: asyncio.Queue[End] = asyncio.Queue()

    async def source(self) -> AsyncIterator[bytes]:
        try:
            while (chunk := await self.chunks.get()) is not None:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk
        finally:
            self.closed.set()

    def put(self, *chunks: bytes | Exception | None) -> None:
        for chunk in chunks:
            self.chunks.put_nowait(chunk)

    def route(self, path: str = "/stream", *, pushed: bool = False, **options: Any) -> Route:
        """A route that answers with the stream. With `pushed` its chunks are written past ASGI."""

        async def answer(_: Request) -> ASGIApp:
            sink = Sink() if pushed else None
            return EventStream(self.source(), sink=sink, on_end=self.ended.put_nowait, **options)

        return route("GET", path, answer)

    async def end(self) -> End:
        async with asyncio.timeout(PATIENCE):
            return await self.ended.get()


@pytest.mark.parametrize("pushed", [False, True])
async def test_a_source_that_returns_ends_the_body_cleanly(pushed: bool) -> None:
    stage = Stage()
    stage.put(FRAME, FRAME, None)
    async with serving([stage.route(pushed=pushed)]) as (_, port):
        answer = await ask(port, "GET /stream")
    assert (answer.status, answer.body, answer.whole) == (200, FRAME * 2, True)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    assert await stage.end() == "complete"


async def test_a_connection_goes_on_after_a_stream_that_ended_cleanly() -> None:
    stage = Stage()
    stage.put(None, None)
    async with serving([stage.route()]) as (server, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        for _ in range(2):
            writer.write(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            assert (await reader.readuntil(b"\r\n0\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert server.connections == 1
        writer.close()


@pytest.mark.parametrize("pushed", [False, True])
async def test_a_source_that_fails_resets_the_connection(pushed: bool) -> None:
    stage = Stage()
    stage.put(FRAME, RuntimeError("lost"))
    async with serving([stage.route(pushed=pushed)]) as (_, port):
        answer = await ask(port, "GET /stream")
    assert (answer.body, answer.whole) == (FRAME, False)
    assert await stage.end() == "cut"
    assert stage.closed.is_set()


@pytest.mark.parametrize("pushed", [False, True])
async def test_a_client_that_goes_closes_the_source(pushed: bool) -> None:
    stage = Stage()
    async with serving([stage.route(pushed=pushed)]) as (_, port):
        reader, writer = await opened(port, "GET /stream")
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        writer.close()
        assert await stage.end() == "disconnected"
        assert stage.closed.is_set()


async def test_a_client_that_goes_behind_a_pipelined_request_closes_the_source() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n" * 2)
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        writer.transport.abort()
        assert await stage.end() == "disconnected"


@pytest.mark.parametrize("pushed", [False, True])
async def test_silence_is_broken_by_the_one_keep_alive_line(pushed: bool) -> None:
    stage, keepalive_s, raw = Stage(), 0.05, asyncio.StreamReader()
    stage.put(FRAME)
    began = time.monotonic()
    async with serving([stage.route(pushed=pushed, keepalive_s=keepalive_s)]) as (_, port):
        reader, writer = await opened(port, "GET /stream")
        for _ in range(3):
            raw.feed_data(await reader.readuntil(KEEP_ALIVE))
        stage.put(FRAME, None)
        raw.feed_data(await reader.readuntil(b"\r\n0\r\n\r\n"))
        took = time.monotonic() - began
        writer.close()
    answer = await read_answer(raw)
    beats = answer.body.count(KEEP_ALIVE)
    assert (answer.body, answer.whole) == (FRAME + KEEP_ALIVE * beats + FRAME, True)
    assert beats * keepalive_s <= took, "one came before its time"


@pytest.mark.parametrize("pushed", [False, True])
async def test_a_reader_that_takes_nothing_is_reset_and_the_others_go_on(pushed: bool) -> None:
    slow, quick = Stage(), Stage()
    async with serving([slow.route("/slow", pushed=pushed, stall_s=0.4), quick.route()]) as (_, port):
        with socket.create_connection((HOST, port)) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(b"GET /slow HTTP/1.1\r\nhost: a\r\n\r\n")
            for _ in range(200):
                slow.put(b"x" * (1 << 20))
            assert await slow.end() == "stalled"
            with pytest.raises(ConnectionResetError):
                await _drain(stalled)
        quick.put(FRAME, None)
        assert (await ask(port, "GET /stream")).whole


async def test_readers_that_take_nothing_of_an_answer_that_is_whole_are_stalled_too() -> None:
    """The rest of the answer lies below the bound from which on a write waits."""
    stages = [Stage() for _ in range(20)]
    routes = [stage.route(f"/{number}", stall_s=0.4) for number, stage in enumerate(stages)]
    async with serving(routes) as (_, port):
        clients = [socket.create_connection((HOST, port)) for _ in stages]
        for number, (client, stage) in enumerate(zip(clients, stages, strict=True)):
            client.sendall(b"GET /%d HTTP/1.1\r\nhost: a\r\n\r\n" % number)
            stage.put(b"x" * (256 << 10), None)
        assert [await stage.end() for stage in stages] == ["stalled"] * len(stages)
        for client in clients:
            with pytest.raises(ConnectionResetError):
                await _drain(client)
            client.close()


@pytest.mark.parametrize("chunks", [[1 << 20, 1 << 20], [256 << 10]], ids=["amid it", "at its end"])
async def test_a_reader_that_the_system_gives_up_first_has_not_taken_all(chunks: list[int]) -> None:
    stage = Stage()
    async with serving([stage.route(stall_s=60)], socket_timeout_s=1) as (_, port):
        with socket.create_connection((HOST, port)) as client:
            client.sendall(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            stage.put(*(b"x" * size for size in chunks), None)
            assert await stage.end() == "stalled"


@pytest.mark.parametrize("goes", [True, False], ids=["it goes", "it takes all"])
async def test_a_slow_reader_of_one_large_write_is_not_cut(goes: bool) -> None:
    """It takes something between any two looks, though one write lasts much longer than `stall_s`."""
    stage, stall_s, size = Stage(), 1.0, 512 << 10
    stage.put(b"x" * size, None)
    async with serving([stage.route(stall_s=stall_s)]) as (_, port):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.connect((HOST, port))
            client.setblocking(False)
            loop, began, taken = asyncio.get_running_loop(), time.monotonic(), 0
            await loop.sock_sendall(client, b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            while taken < size // 2 or (not goes and taken < size):
                taken += len(await loop.sock_recv(client, 8192))
                await asyncio.sleep(0.03)
            assert time.monotonic() - began > stall_s
        assert await stage.end() == ("disconnected" if goes else "complete")


async def _drain(sock: socket.socket) -> None:
    def read() -> None:
        while sock.recv(1 << 20):
            pass

    await asyncio.to_thread(read)


@pytest.mark.parametrize("pushed", [False, True])
async def test_a_slow_reader_that_takes_something_keeps_its_stream(pushed: bool) -> None:
    stage, stall_s, began = Stage(), 2.0, time.monotonic()
    size = 24 << 20
    stage.put(*[b"x" * (1 << 20)] * (size >> 20), None)
    async with serving([stage.route(pushed=pushed, stall_s=stall_s)]) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port, limit=1 << 16)
        writer.write(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
        taken = 0
        while taken < size:
            taken += len(await reader.read(1 << 20))
            await asyncio.sleep(0.02)
        assert await stage.end() == "complete"
        assert time.monotonic() - began > stall_s, "nobody was slow"
        writer.close()


@pytest.mark.parametrize("pushed", [False, True])
async def test_chunks_of_any_size_arrive_whole_and_in_order(pushed: bool) -> None:
    stage = Stage()
    chunks = [b"%d" % n * 3**n for n in range(13)] * 2
    stage.put(*chunks, None)
    async with serving([stage.route(pushed=pushed)]) as (_, port):
        answer = await ask(port, "GET /stream")
    assert max(map(len, chunks)) > 1 << 20
    assert (answer.body, answer.whole) == (b"".join(chunks), True)


async def test_slow_readers_of_the_same_bytes_hold_them_once() -> None:
    size, readers = 8 << 20, 20
    shared, stages = b"x" * size, [Stage() for _ in range(readers)]
    routes = [stage.route(f"/{n}", pushed=True) for n, stage in enumerate(stages)]
    async with serving(routes) as (_, port):
        clients = [await opened(port, f"GET /{n}") for n in range(readers)]
        tracemalloc.start()
        try:
            for stage in stages:
                stage.put(shared, shared, None)
            await eventually(lambda: all(stage.chunks.qsize() == 1 for stage in stages))
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        for _, writer in clients:
            writer.transport.abort()
        assert [await stage.end() for stage in stages] == ["disconnected"] * readers
        assert held < size


async def test_a_process_that_stood_still_drops_nobody_for_it() -> None:
    stage, stall_s = Stage(), 0.5
    size = 24 << 20
    stage.put(*[b"x" * (1 << 20)] * (size >> 20), None)
    async with serving([stage.route(stall_s=stall_s)]) as (_, port):
        reader, writer = await opened(port, "GET /stream")
        await reader.readexactly(1 << 20)  # and behind it more than all buffers hold
        time.sleep(3 * stall_s)  # noqa: ASYNC251  # that is what stands still
        taken = 1 << 20
        while taken < size:
            taken += len(await reader.read(1 << 20))
        assert await stage.end() == "complete"
        writer.close()


async def test_head_answers_without_a_body() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, port):
        reader, writer = await opened(port, "HEAD /stream")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await stage.end() == "complete"
        writer.close()


async def old_client(port: int, request: str) -> tuple[bytes, bytes, bool]:
    """What a client of HTTP/1.0 takes for head and body, and whether the connection ended in order."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"{request} HTTP/1.0\r\n\r\n".encode())
    came = b""
    try:
        while piece := await reader.read(1 << 16):
            came += piece
        return *came.partition(b"\r\n\r\n")[::2], True
    except ConnectionResetError:
        return *came.partition(b"\r\n\r\n")[::2], False
    finally:
        writer.close()


@pytest.mark.parametrize("pushed", [False, True])
@pytest.mark.parametrize("method, body", [("GET", FRAME * 2), ("HEAD", b"")])
async def test_a_client_of_http_1_0_gets_a_stream_without_chunks_that_its_end_closes(
    method: str, body: bytes, pushed: bool
) -> None:
    stage = Stage()
    stage.put(FRAME, FRAME, None)
    async with serving([stage.route(pushed=pushed)]) as (_, port):
        head, got, orderly = await old_client(port, f"{method} /stream")
        assert (got, orderly) == (body, True)
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head
        assert await stage.end() == "complete"


async def test_a_client_of_http_1_0_sees_a_dishonest_end_as_a_reset() -> None:
    stage = Stage()
    stage.put(FRAME)
    async with serving([stage.route()]) as (server, port):
        asked = asyncio.create_task(old_client(port, "GET /stream"))
        await eventually(lambda: stage.chunks.empty())
        await server.drain(0)
        _, body, orderly = await asked
        assert not orderly
        assert FRAME.startswith(body)


async def test_an_answer_of_known_length_is_the_same_in_http_1_0() -> None:
    async def plain(_: Request) -> ASGIApp:
        return json_answer("x" * 100_000)

    async with serving([route("GET", "/", plain)]) as (_, port):
        head, body, orderly = await old_client(port, "GET /")
        assert (len(body), orderly) == (100_002, True)
        assert b"content-length: 100002" in head
