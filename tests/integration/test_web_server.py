"""The server: ports, and a drain that is bounded and honest."""

import asyncio
import gc
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp

from services.broker.tcp import free_port
from services.settings import Settings
from services.web.answers import json_answer, read_body
from services.web.connection import MAX_HEAD_BYTES, connection
from services.web.edge import Edge, route
from services.web.health import routes, serve_admin
from services.web.server import CannotListen, Server
from services.web.sse import EventStream
from services.web.stream import End
from tests.conftest import eventually
from tests.serving import HOST, ask, read_answer, serving
from tests.steady import steady

READERS = 1000


async def test_a_port_in_use_is_one_clear_line() -> None:
    async with serving([]) as (_, port):
        with pytest.raises(CannotListen, match=rf"^port {port} on {HOST} is in use: stop what listens there"):
            await Server(Edge([])).start(HOST, port)


async def test_a_host_that_is_not_ours_is_one_clear_line() -> None:
    with pytest.raises(CannotListen, match=r"^192\.0\.2\.1 is no address of this machine"):
        await Server(Edge([])).start("192.0.2.1", 0)


async def test_a_port_is_free_again_at_once_after_a_drain() -> None:
    async with serving(routes(list)) as (_, port):
        assert (await ask(port, "GET /livez")).status == 200
    again = Server(Edge([]))
    assert await again.start(HOST, port) == port
    await again.drain(0)


async def test_sockets_of_dead_peers_are_given_up() -> None:
    async def options(request: Request) -> ASGIApp:
        sock = connection(request.scope).transport.get_extra_info("socket")
        wanted = {"nodelay": socket.TCP_NODELAY, "user_timeout": socket.TCP_USER_TIMEOUT}
        return json_answer({name: sock.getsockopt(socket.IPPROTO_TCP, at) for name, at in wanted.items()})

    async with serving([route("GET", "/", options)]) as (_, port):
        assert (await ask(port, "GET /")).body == b'{"nodelay":1,"user_timeout":30000}'


LINE = b"GET /livez HTTP/1.1\r\nhost: a\r\n"


@pytest.mark.parametrize(
    "piece", [b"x" * 4096, b"x: y\r\n" * 700, b"x: " + b"y" * 60000 + b"\r\n"], ids=["one", "many", "huge"]
)
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["endless", "whole"])
async def test_a_head_over_its_bound_is_told_so_and_hung_up_on(piece: bytes, end: bytes) -> None:
    async with serving(routes(list)) as (server, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(LINE + piece * 20 + end)
        answer = await read_answer(reader)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (431, "request_head_too_large")
        assert await reader.read() == b""
        writer.close()
        await eventually(lambda: server.connections == 0)


async def test_a_head_a_little_above_its_bound_is_refused_and_one_a_little_below_is_not() -> None:
    async with serving(routes(list)) as (_, port):
        assert (await ask(port, "GET /livez", headers=[f"x: {'y' * (MAX_HEAD_BYTES - 100)}"])).status == 200
        assert (await ask(port, "GET /livez", headers=[f"x: {'y' * MAX_HEAD_BYTES}"])).status == 431


async def test_requests_behind_one_another_do_not_count_for_each_others_heads() -> None:
    one = LINE + b"x: " + b"y" * 30000 + b"\r\n\r\n"
    async with serving(routes(list)) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(one * 5)
        for _ in range(5):
            assert (await read_answer(reader)).status == 200
        writer.close()


POST = b"POST /size HTTP/1.1\r\nhost: a\r\n"


async def size(request: Request) -> ASGIApp:
    return json_answer(len(await read_body(request, 1 << 20)))


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /si",
        POST,
        POST + b"content-length: 9\r\n\r\nx",
        POST + b"transfer-encoding: chunked\r\n\r\n1\r\n",
    ],
    ids=["line", "head", "body", "chunk"],
)
async def test_a_request_that_does_not_come_whole_in_time_is_refused_and_hung_up_on(sent: bytes) -> None:
    async with serving([route("POST", "/size", size)], request_s=0.2) as (server, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(sent)
        answer = await read_answer(reader)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (408, "request_timeout")
        assert answer.headers["connection"] == "close"
        assert answer.headers["x-request-id"].startswith("req_")
        assert await reader.read() == b""
        await eventually(lambda: server.connections == 0)
        writer.close()


async def test_a_whole_request_has_all_the_time_it_needs() -> None:
    async def slow(request: Request) -> ASGIApp:
        await asyncio.sleep(1.5)
        return await size(request)

    async with serving([route("POST", "/size", slow)], request_s=1) as (_, port):
        assert (await ask(port, "POST /size", b"four")).body == b"4"


async def test_a_body_that_goes_on_behind_its_answer_is_hung_up_on() -> None:
    async def early(_: Request) -> ASGIApp:
        return json_answer("enough")

    async with serving([route("POST", "/size", early)], request_s=1) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(POST + b"content-length: 9\r\n\r\nx")
        assert (await read_answer(reader)).body == b'"enough"'
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("length", ["-1", "nine", "9, 10"])
async def test_a_content_length_that_is_none_is_refused_in_the_envelope(length: str) -> None:
    async with serving([route("POST", "/size", size)]) as (_, port):
        answer = await ask(port, "POST /size", headers=[f"content-length: {length}"])
        assert (answer.status, json.loads(answer.body)["error"]["type"]) == (400, "invalid_request_error")


UPGRADES = {
    "h2c": b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: AAMAAABkAAQ\r\n",
    "websocket": b"upgrade: websocket\r\nconnection: keep-alive, upgrade\r\n",
}
BODIES = {
    "length": b"content-length: 4\r\n\r\nfour",
    "chunks": b"transfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("offer", UPGRADES.values(), ids=UPGRADES)
@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_request_that_offers_an_upgrade_is_served_without_it(offer: bytes, body: bytes) -> None:
    async with serving([route("POST", "/size", size)]) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write((POST + offer + body) * 3)
        for _ in range(3):
            assert (await read_answer(reader)).body == b"4"
        head, _, rest = body.partition(b"\r\n\r\n")
        writer.write(POST + offer + b"expect: 100-continue\r\n" + head + b"\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(rest)
        assert (await read_answer(reader)).body == b"4"
        writer.close()


async def test_what_comes_behind_a_body_is_no_header() -> None:
    async def names(request: Request) -> ASGIApp:
        return json_answer(list(request.headers))

    async with serving([route("POST", "/", names)]) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"1\r\nx\r\n0\r\nx-rejoinder-tenant: another\r\n\r\n")
        seen = json.loads((await read_answer(reader)).body)
        assert seen == ["host", "transfer-encoding"]
        writer.close()


@pytest.mark.parametrize("target", [b"a:1", b"/size"])
async def test_a_tunnel_is_refused(target: bytes) -> None:
    async with serving([route("POST", "/size", size)]) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"CONNECT " + target + b" HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await read_answer(reader)).status == 400
        writer.close()


async def test_a_drain_of_half_received_bodies_logs_nothing_of_each(caplog: pytest.LogCaptureFixture) -> None:
    arrived: list[int] = []

    async def slow(request: Request) -> ASGIApp:
        return json_answer(len(await read_body(request, 99, arrived.append)))

    async with serving([route("POST", "/size", slow)]) as (server, port):
        writers = [(await asyncio.open_connection(HOST, port))[1] for _ in range(5)]
        for writer in writers:
            writer.write(POST + b"content-length: 9\r\n\r\nx")
        await eventually(lambda: len(arrived) == 5)
        await server.drain(0.1)
        assert server.connections == 0
        for writer in writers:
            writer.close()
    assert caplog.records == []


async def test_a_drain_cuts_a_thousand_streams_at_once() -> None:
    ends: list[End] = []

    async def silence() -> AsyncIterator[bytes]:
        yield b": hello\n"
        await asyncio.Event().wait()

    async def stream(_: Request) -> ASGIApp:
        return EventStream(silence(), on_end=ends.append)

    async def open_stream(port: int) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(HOST, port)
        writers.append(writer)
        writer.write(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await reader.readuntil(b": hello\n\r\n")
        return reader

    writers: list[asyncio.StreamWriter] = []
    async with serving([route("GET", "/", stream)]) as (server, port):
        readers = [await open_stream(port) for _ in range(READERS)]
        began = steady()
        await server.drain(10)
        assert steady() - began < 10
        for reader in readers:
            with pytest.raises(ConnectionResetError):
                await reader.read()
    assert ends == ["cut"] * READERS
    assert server.connections == 0
    for writer in writers:
        writer.close()


async def test_a_drain_lets_a_request_finish_and_refuses_the_next() -> None:
    arrived, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Request) -> ASGIApp:
        arrived.set()
        await go.wait()
        return json_answer("done")

    async with serving([route("GET", "/slow", slow), *routes(list)]) as (server, port):
        under_way = asyncio.create_task(ask(port, "GET /slow"))
        await arrived.wait()
        draining = asyncio.create_task(server.drain(10))
        while not server.draining:  # noqa: ASYNC110
            await asyncio.sleep(0)
        refused = await ask(port, "GET /slow")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await ask(port, "GET /slow", headers=["accept: text/event-stream"])
        assert (await ask(port, "GET /livez")).status == 200
        ready = await ask(port, "GET /readyz")
        assert (ready.status, b"draining" in ready.body) == (503, True)
        go.set()
        assert (await under_way).body == b'"done"'
        await draining
        with pytest.raises(ConnectionRefusedError):
            await ask(port, "GET /slow")


async def test_a_drain_does_not_wait_for_idle_connections_or_past_its_bound() -> None:
    arrived = asyncio.Event()

    async def forever(_: Request) -> ASGIApp:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving([route("GET", "/", forever), *routes(list)]) as (server, port):
        idle, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        await read_answer(idle)
        stuck = asyncio.create_task(ask(port, "GET /"))
        await arrived.wait()
        began, shown = time.monotonic(), steady()
        await server.drain(0.3)
        assert time.monotonic() - began > 0.25  # a loop's timer may fire a moment early
        assert steady() - shown < 2
        assert await idle.read() == b""
        with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
            await stuck
        writer.close()


async def test_readiness_says_what_is_missing() -> None:
    reasons: list[str] = []
    async with serving(routes(lambda: reasons)) as (_, port):
        assert (await ask(port, "GET /readyz")).status == 200
        reasons.append("partition 3 is 17 records behind")
        answer = await ask(port, "GET /readyz")
        assert answer.status == 503
        assert b"partition 3 is 17 records behind" in answer.body
        assert (await ask(port, "GET /livez")).status == 200


async def test_metrics_are_what_prometheus_reads() -> None:
    async with serving(routes(list)) as (_, port):
        answer = await ask(port, "GET /metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert b"# TYPE python_info gauge" in answer.body


async def test_a_service_without_routes_has_an_admin_port_when_it_is_given_one() -> None:
    port = free_port()
    async with serve_admin(Settings(), list):
        with pytest.raises(ConnectionRefusedError):
            await ask(port, "GET /readyz")
    async with serve_admin(Settings(admin_port=port), list):
        assert (await ask(port, "GET /readyz")).status == 200


async def test_a_drain_tells_who_sends_on_an_idle_connection_and_then_closes_it() -> None:
    async with serving(routes(list)) as (server, port):
        idle, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n")
        assert (await read_answer(idle)).status == 200
        draining = asyncio.create_task(server.drain(60))
        await eventually(lambda: server.draining)
        writer.write(b"GET /v1/responses HTTP/1.1\r\nhost: a\r\n\r\n")
        refused = await read_answer(idle)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        assert await idle.read() == b""
        await draining
        writer.close()


async def test_a_served_connection_leaves_nothing_for_the_garbage_collector() -> None:
    """That goes once in 200,000 new objects (services/process.py): what it alone can free piles up."""
    async with serving([route("POST", "/size", size)]) as (server, port):
        gc.collect()
        gc.disable()
        try:
            for _ in range(100):
                assert (await ask(port, "POST /size", b"four")).body == b"4"
            await eventually(lambda: server.connections == 0)
            assert gc.collect() < 100
        finally:
            gc.enable()
