"""Forwarding: what goes in comes out, as it comes, and both sides learn how it ended."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp
from structlog.testing import capture_logs

from services.broker.tcp import free_port
from services.web import pulse
from services.web.answers import json_answer, read_body
from services.web.edge import route
from services.web.forward import Forward, Upstream
from services.web.internal import Report
from tests.conftest import eventually
from tests.integration.test_web_stream import FRAME, Stage
from tests.serving import HOST, ask, opened, read_answer, serving
from tests.upstreams import Call, Script, raw

BOUND = 1 << 18


async def mirror(request: Request) -> ASGIApp:
    body = await read_body(request, BOUND)
    seen = {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "headers": dict(request.headers),
        "body": body.decode(),
    }
    return json_answer(seen, 201, {"x-own": "kept"})


@asynccontextmanager
async def forwarding(upstream_port: int, stall_s: float = 30, request_s: float = 20) -> AsyncIterator[int]:
    upstream = Upstream(f"http://{HOST}:{upstream_port}", stall_s=stall_s)
    forward = Forward(upstream, BOUND, Report("there", "upstream", "Look there"))
    async with serving([Route("/{rest:path}", forward)], request_s=request_s) as (_, port):
        yield port
    await upstream.close()


async def test_a_request_and_its_answer_pass_through_whole() -> None:
    async with serving([route("POST", "/a/{rest:path}", mirror)]) as (_, inner), forwarding(inner) as port:
        headers = ["x-tenant: t", "connection: x-tenant, x-request-id", "te: trailers", "x-request-id: mine"]
        headers.append("idempotency-key: Schlüssel ☃")
        answer = await ask(port, "POST /a/b%2Fc?include[]=x&y=%20", b"hello", headers)
    seen = json.loads(answer.body)
    assert (answer.status, answer.headers["x-own"], answer.headers["x-request-id"]) == (201, "kept", "mine")
    assert (seen["method"], seen["path"], seen["query"]) == ("POST", "/a/b%2Fc", "include[]=x&y=%20")
    assert seen["body"] == "hello"
    assert seen["headers"] == {
        "host": f"{HOST}:{inner}",
        "x-tenant": "t",
        "x-request-id": "mine",
        "idempotency-key": "Schlüssel ☃".encode().decode("latin-1"),
        "content-length": "5",
    }


@pytest.mark.parametrize("target", ["*@{}:{}/x", "@{}:{}/x", "*", "*/../@{}:{}"])
async def test_no_target_leads_anywhere_but_to_the_upstream(target: str) -> None:
    async with (
        serving([route("GET", "/{rest:path}", mirror)]) as (_, elsewhere),
        serving([]) as (_, inner),
        forwarding(inner) as port,
    ):
        answer = await ask(port, f"GET {target.format(HOST, elsewhere)}")
        assert answer.status == 400


@pytest.mark.parametrize("path", ["/@h:1/x", "//h:1/x", "/a?b=/@h:1", "*@h:1", ":9@h:1/"])
def test_a_path_is_never_a_host(path: str) -> None:
    upstream = Upstream("http://127.0.0.1:8/base/")
    with suppress(ValueError):
        url = upstream.url(path)
        assert (url.host, url.port, url.user) == ("127.0.0.1", 8, None)
        assert str(url) == f"http://127.0.0.1:8/base{path}"


@pytest.mark.parametrize(("here", "there"), [(0.2, 20), (20, 0.2)], ids=["here", "there"])
async def test_a_body_that_does_not_come_in_time_is_refused_wherever_it_is_noticed(
    here: float, there: float
) -> None:
    async with (
        serving([route("POST", "/", mirror)], request_s=there) as (inner, inner_port),
        forwarding(inner_port, request_s=here) as port,
    ):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nx")
        answer = await read_answer(reader)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (408, "request_timeout")
        await eventually(lambda: inner.connections == 0)
        writer.close()


async def test_a_body_without_a_length_passes_through() -> None:
    async with serving([route("POST", "/", mirror)]) as (_, inner), forwarding(inner) as port:
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n")
        assert json.loads((await read_answer(reader)).body)["body"] == "abcdef"
        writer.close()


async def test_a_request_id_is_the_same_on_both_sides() -> None:
    async with serving([route("GET", "/", mirror)]) as (_, inner), forwarding(inner) as port:
        answer = await ask(port, "GET /")
    assert json.loads(answer.body)["headers"]["x-request-id"] == answer.headers["x-request-id"]


async def test_a_stream_comes_as_it_is_made_and_ends_cleanly() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), forwarding(inner) as port:
        reader, writer = await opened(port, "GET /stream")
        for _ in range(3):
            stage.put(FRAME)
            await reader.readuntil(FRAME)
        stage.put(None)
        assert (await reader.readuntil(b"0\r\n\r\n")) == b"\r\n0\r\n\r\n"
        assert await stage.end() == "complete"
        writer.close()


async def test_an_upstream_that_breaks_off_cuts_the_answer() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), forwarding(inner) as port:
        reader, writer = await opened(port, "GET /stream")
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        stage.put(RuntimeError("lost"))
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_a_client_that_goes_closes_the_upstreams_stream() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), forwarding(inner) as port:
        reader, writer = await opened(port, "GET /stream")
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        writer.close()
        assert await stage.end() == "disconnected"


async def test_a_client_that_goes_before_any_answer_is_noticed() -> None:
    arrived, gone = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> ASGIApp:
        arrived.set()
        while not await request.is_disconnected():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        gone.set()
        return json_answer("nobody")

    async with serving([route("POST", "/", wait)]) as (_, inner), forwarding(inner) as port:
        _, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
        await arrived.wait()
        writer.close()
        await gone.wait()


async def test_a_reader_that_takes_nothing_is_dropped_on_both_sides() -> None:
    stage = Stage()
    async with serving([stage.route()]) as (_, inner), forwarding(inner, stall_s=0.4) as port:
        with socket.create_connection((HOST, port)) as stalled:
            stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stalled.sendall(b"GET /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            stage.put(*[b"x" * (1 << 20)] * 200)
            assert await stage.end() == "disconnected"


async def test_an_upstream_that_is_away_is_a_503() -> None:
    async with forwarding(free_port()) as front:
        answer = await ask(front, "POST /v1/responses", b"{}")
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert "x-should-retry" not in answer.headers
    assert json.loads(answer.body)["error"]["code"] == "service_unavailable"


async def hang_up(call: Call) -> None:
    call.reset()


async def say_nothing(call: Call) -> None:
    await call.hung_up.wait()


@pytest.mark.parametrize(
    ("script", "what"), [(hang_up, "broke off"), (say_nothing, "does not answer")], ids=["broken", "silent"]
)
async def test_who_may_have_been_heard_is_told_what_a_repetition_does(
    script: Script, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that is stopped takes requests all the same: nobody waits for it for ever (A-10)."""
    monkeypatch.setattr(pulse, "SILENCE_S", 0.01)
    monkeypatch.setattr(pulse, "LOOK_S", 0.01)
    with capture_logs() as logs:
        async with raw(script) as silent, forwarding(int(silent.url.rpartition(":")[2])) as front:
            plain = await ask(front, "POST /v1/responses", b"{}")
            keyed = await ask(front, "POST /v1/responses", b"{}", ["idempotency-key: k"])
            deleted = await ask(front, "DELETE /v1/responses/resp_1")
    assert (plain.status, plain.headers["x-should-retry"]) == (503, "false")
    assert f"A part of the server {what}. The request may have been accepted".encode() in plain.body
    for repeatable in (keyed, deleted):
        assert (repeatable.status, "x-should-retry" in repeatable.headers) == (503, False)
        assert f"A part of the server {what}; try again.".encode() in repeatable.body
    assert {(entry["log_level"], entry["event"]) for entry in logs} == {
        ("warning", "upstream cannot be asked, trying again")
    }


async def test_an_answer_may_take_as_long_as_its_service_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SILENCE_S", 0.01)
    looked = asyncio.Event()

    async def live(_: Request) -> ASGIApp:
        looked.set()
        return json_answer("live")

    async def wait(request: Request) -> ASGIApp:
        await looked.wait()
        return await mirror(request)

    routes = [route("GET", "/livez", live), route("POST", "/", wait)]
    async with serving(routes) as (_, inner), forwarding(inner) as port:
        assert (await ask(port, "POST /", b"slow")).status == 201


@pytest.mark.parametrize(
    ("header", "status", "code"),
    [
        (f"content-length: {BOUND + 1}", 413, "request_too_large"),
        ("content-encoding: gzip\r\ncontent-length: 9", 415, "unsupported_content_encoding"),
    ],
    ids=["too large", "compressed"],
)
async def test_what_a_head_tells_of_a_bad_body_is_refused_before_any_of_it_came(
    header: str, status: int, code: str
) -> None:
    async with serving([route("POST", "/", mirror)]) as (_, inner_port), forwarding(inner_port) as port:
        own, forwarded = [await ask(at, "POST /", headers=[header]) for at in (inner_port, port)]
        assert (forwarded.status, json.loads(forwarded.body)["error"]["code"]) == (status, code)
        assert forwarded.body == own.body
        assert forwarded.headers.get("x-should-retry") == own.headers.get("x-should-retry")
