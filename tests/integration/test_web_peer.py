"""Another service of ours: paths stay paths, a stream comes as it is made, both sides learn how it ended."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from starlette.requests import Request
from starlette.types import ASGIApp

from schemas.events import KEEP_ALIVE
from services.web import pulse
from services.web.answers import json_answer
from services.web.edge import route
from services.web.peer import Peer
from tests.conftest import PATIENCE
from tests.integration.test_web_stream import FRAME, Stage
from tests.serving import HOST, opened, serving


@asynccontextmanager
async def passing_on(port: int, stall_s: float = 30, silence_s: float | None = None) -> AsyncIterator[int]:
    """A server that passes on what the one at `port` streams."""
    peer = Peer(f"http://{HOST}:{port}", stall_s=stall_s)

    async def stream(_: Request) -> ASGIApp:
        return peer.stream(await peer.session.get(peer.url("/stream")), silence_s=silence_s)

    async with serving([route("GET", "/stream", stream)]) as (_, front):
        yield front
    await peer.close()


@pytest.mark.parametrize("path", ["/@h:1/x", "//h:1/x", "/a?b=/@h:1", "*@h:1", ":9@h:1/"])
def test_a_path_is_never_a_host(path: str) -> None:
    peer = Peer("http://127.0.0.1:8/base/")
    with suppress(ValueError):
        url = peer.url(path)
        assert (url.host, url.port, url.user) == ("127.0.0.1", 8, None)
        assert str(url) == f"http://127.0.0.1:8/base{path}"


async def test_a_stream_comes_as_it_is_made_and_ends_cleanly() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), passing_on(inner) as port:
        reader, writer = await opened(port, "GET /stream")
        for _ in range(3):
            stage.put(FRAME)
            await reader.readuntil(FRAME)
        stage.put(None)
        assert (await reader.readuntil(b"0\r\n\r\n")) == b"\r\n0\r\n\r\n"
        assert await stage.end() == "complete"
        writer.close()


async def test_a_peer_that_breaks_off_cuts_the_answer() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), passing_on(inner) as port:
        reader, writer = await opened(port, "GET /stream")
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        stage.put(RuntimeError("lost"))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_peer_that_falls_silent_cuts_the_answer() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), passing_on(inner, silence_s=0.2) as port:
        reader, writer = await opened(port, "GET /stream")
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectionResetError):
                await reader.read()
        assert await stage.end() == "disconnected"
        writer.close()


async def test_keep_alives_of_a_peer_hold_its_stream() -> None:
    stage = Stage()
    silence_s, keepalive_s = 1.0, 0.05
    routes = [stage.route(keepalive_s=keepalive_s)]
    async with serving(routes) as (_, inner), passing_on(inner, silence_s=silence_s) as port:
        reader, writer = await opened(port, "GET /stream")
        for _ in range(round(1.2 * silence_s / keepalive_s)):
            await reader.readuntil(KEEP_ALIVE)
        stage.put(None)
        assert await stage.end() == "complete"
        writer.close()


async def test_a_client_that_goes_closes_the_peers_stream() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), passing_on(inner) as port:
        reader, writer = await opened(port, "GET /stream")
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        writer.close()
        assert await stage.end() == "disconnected"


async def test_a_reader_that_takes_nothing_is_dropped_on_both_sides() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), passing_on(inner, stall_s=0.4) as port:
        with socket.create_connection((HOST, port)) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            stage.put(*[b"x" * (1 << 20)] * 200)
            assert await stage.end() == "disconnected"


@pytest.mark.parametrize(("size", "fits"), [(1 << 16, True), ((1 << 16) + 1, False)])
async def test_an_answer_is_read_up_to_its_bound(size: int, fits: bool) -> None:
    async def answer(_: Request) -> ASGIApp:
        return json_answer("x" * (size - 2))

    async with serving([route("GET", "/x", answer)]) as (_, port):
        peer = Peer(f"http://{HOST}:{port}")
        async with peer.session.get(peer.url("/x")) as answered:
            if fits:
                assert len(await peer.read(answered, 1 << 16)) == size
            else:
                with pytest.raises(aiohttp.ClientPayloadError):
                    await peer.read(answered, 1 << 16)
        await peer.close()


async def test_an_answer_may_take_as_long_as_its_service_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SILENCE_S", 0.01)
    looked = asyncio.Event()

    async def live(_: Request) -> ASGIApp:
        looked.set()
        return json_answer("live")

    async def wait(_: Request) -> ASGIApp:
        await looked.wait()
        return json_answer("slow")

    async with serving([route("GET", "/livez", live), route("GET", "/slow", wait)]) as (_, port):
        peer = Peer(f"http://{HOST}:{port}")
        async with peer.while_alive(), peer.session.get(peer.url("/slow")) as answer:
            assert await answer.json() == "slow"
        await peer.close()
