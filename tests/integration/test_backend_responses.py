"""services/executor/backends/responses.py against real HTTP servers: what it sends, what comes of it."""

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp.client_proto import ResponseHandler
from msgspec import structs

from schemas.errors import SettingsError
from services import config
from services.backoff import Backoff
from services.executor.backend import Backend, Lapsed, Resume, UpstreamError
from services.executor.backends import Registry, build, failures, responses, upstream
from tests.conftest import PATIENCE
from tests.upstreams import ID, SSE, Call, Outcome, Raw, Script, framed, outcome, raw, registry, request
from tests.whole import followed, told

DELTA = {
    "type": "response.output_text.delta",
    "item_id": "msg_1",
    "delta": "hi",
    "logprobs": [],
    "new": {"x": 1},
}
ITEM = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": []}


def lifecycle(type: str, **response: Any) -> dict[str, Any]:
    return {"type": type, "response": {"id": "resp_theirs", "object": "response", **response}}


CREATED = lifecycle("response.created", status="in_progress", output=[])
COMPLETED = lifecycle("response.completed", status="completed", output=[ITEM])


async def whole_stream(call: Call) -> None:
    await call.head()
    await call.events(CREATED, DELTA, COMPLETED)


@asynccontextmanager
async def serving(
    script: Script,
    lines: str = "",
    environ: dict[str, str] | None = None,
    agent: bool = False,
    record_bytes: int = 1 << 20,
) -> AsyncIterator[tuple[Raw, Backend, Registry]]:
    async with raw(script) as server:
        backends = registry(server.url, lines, environ, record_bytes=record_bytes)
        body: dict[str, Any] = {"agent_reference": {"name": "helper"}} if agent else {"model": "m"}
        try:
            yield server, backends.resolve(body), backends
        finally:
            await backends.close()


async def run(script: Script, lines: str = "", **body: Any) -> tuple[Raw, Outcome]:
    async with serving(script, lines) as (server, backend, _):
        return server, await outcome(backend, request(**body))


async def hang_up(server: Raw) -> None:
    async with asyncio.timeout(PATIENCE):
        await server.calls[-1].hung_up.wait()


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "CONNECT_PAUSE", 0.01)
    monkeypatch.setattr(responses, "REJOIN_PAUSE", 0.01)
    monkeypatch.setattr(responses, "POLL_PAUSE", 0.01)


# What is sent.


async def test_events_pass_through_with_unknown_fields() -> None:
    _, got = await run(whole_stream)
    assert (got.events, got.error) == ([CREATED, DELTA, COMPLETED], None)
    assert all(one.upstream_id is None and one.cursor is None for one in got.upstream)


async def test_the_body_stands_for_itself() -> None:
    said = [{"role": "user", "content": "before"}, {"role": "user", "content": "now"}]
    server, _ = await run(
        whole_stream,
        input=said,
        background=True,
        store=True,
        previous_response_id="resp_before",
        agent_reference={"type": "agent_reference", "name": "helper"},
        temperature=0.5,
        unknown={"kept": True},
    )
    assert (server.calls[0].method, server.calls[0].path) == ("POST", "/v1/responses")
    assert server.calls[0].body == {
        "model": "m",
        "input": said,
        "stream": True,
        "store": False,
        "temperature": 0.5,
        "unknown": {"kept": True},
    }


async def test_a_route_drops_what_its_server_refuses() -> None:
    server, got = await run(whole_stream, 'drop = ["store", "metadata"]', metadata={"a": "b"}, seed=7)
    assert got.error is None
    assert server.calls[0].body.keys() == {"model", "input", "stream", "seed"}


@pytest.mark.parametrize(("lines", "left_out"), [("", True), ("resumable = true", False)])
async def test_former_thoughts_that_nobody_stored_are_left_out(lines: str, left_out: bool) -> None:
    bare = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}
    whole = [
        bare | {"encrypted_content": "x"},
        bare | {"content": [{"type": "reasoning_text", "text": "hm"}]},
    ]
    said = [{"role": "user", "content": "before"}, bare, *whole]
    server, _ = await run(whole_stream, lines, input=said)
    assert server.calls[0].body["input"] == [item for item in said if item is not bare or not left_out]


async def test_a_model_server_does_not_see_what_agents_add_to_their_items() -> None:
    said = {"type": "message", "role": "assistant", "content": "before", "new": 1}
    server, _ = await run(
        whole_stream, input=[said | {"response_id": ID, "agent_reference": {"name": "helper"}}]
    )
    assert server.calls[0].body["input"] == [said]


async def test_an_agent_is_told_its_reference() -> None:
    reference = {"type": "agent_reference", "name": "helper", "version": "2"}
    async with serving(whole_stream, agent=True) as (server, backend, _):
        got = await outcome(backend, request(agent_reference=reference))
    assert got.error is None
    assert server.calls[0].path == "/responses"
    assert server.calls[0].body["agent_reference"] == reference


async def test_key_and_headers_are_sent() -> None:
    lines = 'api_key_env = "THE_KEY"\nheaders = { x-team = "red" }'
    async with serving(whole_stream, lines, {"THE_KEY": "sk-1"}) as (server, backend, _):
        await outcome(backend, request())
    sent = server.calls[0].headers
    assert (sent["authorization"], sent["x-team"]) == ("Bearer sk-1", "red")
    assert sent["content-type"] == "application/json"


async def test_a_key_that_is_not_set_stops_the_start() -> None:
    with pytest.raises(SettingsError, match="THE_KEY: <model '\\*' responses> needs an API key"):
        registry("http://127.0.0.1:9", 'api_key_env = "THE_KEY"')


# How it fails.


def answering(status: int, body: object, type: str = "application/json", **headers: object) -> Script:
    async def script(call: Call) -> None:
        await call.answer(status, body, type, **headers)

    return script


def sending(data: bytes) -> Script:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(CREATED, DELTA)
        await call.write(data)

    return script


@pytest.mark.parametrize(
    ("status", "body", "says", "code"),
    [
        (500, {"error": {"message": "boom", "code": "oops"}}, "answered 500: boom", "server_error"),
        (400, {"error": {"message": "bad", "code": "invalid_prompt"}}, "answered 400: bad", "invalid_prompt"),
        (429, {"error": {"message": "slow down"}}, "answered 429: slow down", "rate_limit_exceeded"),
        (404, {"detail": "Not Found"}, "answered 404: Not Found", "server_error"),
        (422, {"detail": [{"loc": ["body"]}]}, 'answered 422: [{"loc":["body"]}]', "server_error"),
        (400, {"error": "plain"}, "answered 400: plain", "server_error"),
        (400, {"message": "bare"}, "answered 400: bare", "server_error"),
        (502, b"<html>proxy</html>", "answered 502: proxy", "server_error"),
        (502, b"<html></html>", "answered 502: Bad Gateway", "server_error"),
        (499, b"", "answered 499: no reason given", "server_error"),
        (
            401,
            {"error": {"message": "key sk-12 is wrong"}},
            "did not authorise Rejoinder (401)",
            "server_error",
        ),
    ],
)
async def test_an_error_answer_ends_with_the_upstreams_words_and_a_known_code(
    status: int, body: object, says: str, code: str
) -> None:
    server, got = await run(answering(status, body))
    assert (got.events, got.failure.code, got.failure.type) == ([], code, "upstream_error")
    assert got.failure.message.startswith(f"The model server {says}")
    assert len(server.calls) == 1


async def test_a_redirect_is_not_followed() -> None:
    async def script(call: Call) -> None:
        await call.answer(307, b"", location=f"{server_url[0]}/v1/elsewhere")

    server_url: list[str] = []
    async with serving(script) as (server, backend, _):
        server_url.append(server.url)
        got = await outcome(backend, request())
    assert "redirected the call (307)" in got.failure.message
    assert len(server.calls) == 1


@pytest.mark.parametrize(
    ("script", "says", "type"),
    [
        (sending(b""), "ended its stream without a terminal event", "upstream_truncated"),
        (sending(b'data: {"type": "response.comp'), "without a terminal event", "upstream_truncated"),
        (sending(b"data: {broken\n\n"), "sent something that is not JSON", "upstream_malformed"),
        (sending(b"data: \xff\n\n"), "sent something that is not JSON", "upstream_malformed"),
        (
            sending(b'data: {"type": "x", "a": NaNa}\n\n'),
            "sent something that is not JSON",
            "upstream_malformed",
        ),
        (sending(b"data: [1]\n\n"), "sent JSON that is not an object", "upstream_malformed"),
        (sending(b'data: {"a": 1}\n\n'), "sent an event without a type", "upstream_malformed"),
        (sending(b'data: {"type": 7}\n\n'), "sent an event without a type", "upstream_malformed"),
        (
            sending(b'data: {"type": "response.completed"}\n\n'),
            "sent response.completed without a response",
            "upstream_malformed",
        ),
        (sending(b'data: {"a": ' + b"[" * 50_000 + b"\n\n"), "nested too deeply", "upstream_malformed"),
        (
            sending(b'data: {"type": "x", "a": ' + b"[" * 200 + b"]" * 200 + b"}\n\n"),
            "nested too deeply",
            "upstream_malformed",
        ),
        (
            sending(b'data: {"error": {"message": "no more"}}\n\n'),
            "reported an error: no more",
            "upstream_error",
        ),
        (sending(b"error: no more\n\n"), "reported an error: no more", "upstream_error"),
        (
            sending(b'error: {"type": "server_error", "message": "no more"}\n\n'),
            "reported an error: no more",
            "upstream_error",
        ),
        (sending(b'{"error": "no more"}\n'), "reported an error: no more", "upstream_error"),
        (sending(b'data: {"code": 1, "msg": "no more"}\n\n'), "reported an error: no more", "upstream_error"),
        (
            sending(b'data: {"type": "error", "message": "no more", "code": "x"}\n\n'),
            "reported an error: no more",
            "upstream_error",
        ),
        (
            sending(b'event: error\ndata: {"error": {"message": "no more"}}\n\n'),
            "reported an error: no more",
            "upstream_error",
        ),
        (
            sending(b"data: " + b"x" * (upstream.MAX_EVENT_BYTES + 1)),
            f"sent an event larger than {upstream.MAX_EVENT_BYTES} bytes",
            "event_too_large",
        ),
    ],
)
async def test_a_bad_stream_ends_honestly_and_what_came_before_is_kept(
    script: Script, says: str, type: str
) -> None:
    server, got = await run(script)
    assert got.events == [CREATED, DELTA]
    assert says in got.failure.message
    assert (got.failure.code, got.failure.type) == ("server_error", type)
    assert len(server.calls) == 1


@pytest.mark.parametrize("streamed", [True, False], ids=["event", "answer"])
async def test_where_records_are_larger_so_may_be_what_the_upstream_says(streamed: bool) -> None:
    output = [{**ITEM, "content": [{"type": "output_text", "text": "x" * 1_500_000, "annotations": []}]}]
    completed = lifecycle("response.completed", status="completed", output=output)

    async def script(call: Call) -> None:
        if streamed:
            await call.head()
            await call.events(CREATED, completed)
        else:
            await call.answer(200, completed["response"])

    async with serving(script, record_bytes=2 << 20) as (_, backend, _):
        got = await outcome(backend, request())
    assert got.events[-1]["type"] == "response.completed"


async def test_an_event_of_a_shape_that_nobody_foresaw_ends_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unprepared(_: failures.UpstreamErrors, event: dict[str, Any]) -> None:
        event.get("odd", {"foreseen": 1})["foreseen"]

    monkeypatch.setattr(failures.UpstreamErrors, "redact", unprepared)
    _, got = await run(sending(b'data: {"type": "y", "odd": {"a": 1}}\n\n'))
    assert got.events == [CREATED, DELTA]
    assert "sent an event whose fields do not fit" in got.failure.message


async def test_the_code_of_an_error_event_is_kept_where_it_is_known() -> None:
    _, got = await run(sending(b'data: {"type": "error", "message": "m", "code": "rate_limit_exceeded"}\n\n'))
    assert got.failure.code == "rate_limit_exceeded"


async def test_a_reset_in_mid_stream_is_not_repeated() -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(CREATED, DELTA)
        await read.wait()
        call.reset()

    read = asyncio.Event()
    async with serving(script) as (server, backend, _):
        stream = backend.stream(request())
        assert [one.event for one in await anext(stream)] == [CREATED, DELTA]
        read.set()
        with pytest.raises(UpstreamError, match="broke the connection before the response ended") as caught:
            await anext(stream)
    assert caught.value.type == "upstream_truncated"
    assert len(server.calls) == 1


async def test_a_reset_before_any_answer_is_not_repeated() -> None:
    async def script(call: Call) -> None:
        call.reset()

    server, got = await run(script)
    assert "broke the connection" in got.failure.message
    assert len(server.calls) == 1


async def test_a_chunked_body_cut_short_is_a_broken_connection() -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.write(b"data: ")
        call.cut()

    _, got = await run(script)
    assert "broke the connection" in got.failure.message


async def test_what_is_not_http_is_refused() -> None:
    async def script(call: Call) -> None:
        await call.send(b"SSH-2.0\r\n\r\n")

    _, got = await run(script)
    assert "does not speak HTTP" in got.failure.message


async def test_silence_before_the_answer_ends_at_the_idle_limit() -> None:
    async def script(call: Call) -> None:
        await call.hung_up.wait()

    _, got = await run(script, "timeout = 0.2")
    assert (got.failure.message, got.failure.type) == (
        "The model server sent nothing for 0.2 s.",
        "upstream_idle",
    )


async def test_one_that_does_not_read_the_request_is_silent_and_the_rest_of_it_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The whole conversation is sent, which may be more than a connection takes unread."""

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.transport.abort()

    over, closed = asyncio.Event(), list[Any]()
    real = aiohttp.TCPConnector._create_connection

    async def noted(self: aiohttp.TCPConnector, *args: Any) -> Any:
        made = await real(self, *args)
        closed.append(made.closed)
        return made

    monkeypatch.setattr(aiohttp.TCPConnector, "_create_connection", noted)
    listener = await asyncio.start_server(accepted, "127.0.0.1", 0)
    backends = registry(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", "timeout = 0.2")
    said = [{"role": "user", "content": "x" * 30_000_000}]
    try:
        async with asyncio.timeout(PATIENCE):
            got = await outcome(backends.resolve({"model": "m"}), request(said))
            await closed[0]
    finally:
        over.set()
        await backends.close()
        listener.close()
    assert got.failure.type == "upstream_idle"


async def test_one_that_takes_a_large_request_slowly_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of silence begins anew with what is taken, not only when all was."""

    async def script(call: Call) -> None:
        await call.answer(200, {"id": "resp_theirs", "status": "completed", "output": []})

    def noted(self: ResponseHandler) -> None:
        begun.append(self)
        real(self)

    begun, real = list[Any](), ResponseHandler.start_timeout
    monkeypatch.setattr(ResponseHandler, "start_timeout", noted)
    _, got = await run(script, input=[{"role": "user", "content": "x" * 4_000_000}])
    assert got.error is None
    assert len(begun) > 4_000_000 / upstream.PIECE


async def test_silence_in_mid_stream_ends_at_the_idle_limit() -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(CREATED)
        await call.hung_up.wait()

    async with serving(script, "timeout = 1") as (server, backend, _):
        got = await outcome(backend, request())
        await hang_up(server)
    assert got.events == [CREATED]
    assert got.failure.type == "upstream_idle"


async def test_keep_alive_comments_are_signs_of_life() -> None:
    async def script(call: Call) -> None:
        await call.head()
        for _ in range(25):
            await asyncio.sleep(0.1)
            await call.write(b": keep-alive\n\n")
        await call.events(COMPLETED)

    _, got = await run(script, "timeout = 2")
    assert got.types == ["response.completed"]


async def test_html_instead_of_a_stream_is_refused() -> None:
    _, got = await run(answering(200, b"<html>", "text/html"))
    assert "answered with text/html instead of an event stream" in got.failure.message


BYTES = b"".join(map(framed, [CREATED, DELTA, COMPLETED]))


def wire(*head: str, body: bytes = BYTES) -> bytes:
    return "\r\n".join([*head, "", ""]).encode() + body


@pytest.mark.parametrize(
    "answer",
    [
        wire("HTTP/1.0 200 OK", f"content-type: {SSE}"),
        wire("HTTP/1.1 200 OK", "content-type: Text/Event-Stream; charset=UTF-8", "connection: close"),
        wire("HTTP/1.1 103 Early Hints", "", "HTTP/1.1 200 OK", f"content-type: {SSE}", "connection: close"),
        wire(
            "HTTP/1.1 200 OK",
            f"content-type: {SSE}",
            "transfer-encoding: chunked",
            body=b"%x;a=b\r\n%b\r\n0\r\nx-trailer: 1\r\n\r\n" % (len(BYTES), BYTES),
        ),
        wire(
            "HTTP/1.1 200 OK",
            f"content-type: {SSE}",
            "content-encoding: gzip",
            "connection: close",
            body=gzip.compress(BYTES),
        ),
        wire("HTTP/1.1 200 OK", f"content-type: {SSE}", "connection: close", body=b"data:\n\n" + BYTES),
    ],
    ids=["1.0", "upper case", "hints", "trailer", "gzip", "empty event"],
)
async def test_a_whole_stream_is_told_however_it_is_sent(answer: bytes) -> None:
    async def script(call: Call) -> None:
        await call.send(answer)

    _, got = await run(script)
    assert (got.events, got.error) == ([CREATED, DELTA, COMPLETED], None)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (wire("HTTP/1.1 204 No Content", body=b""), "answered with 204 and no content type instead of"),
        (
            wire("HTTP/1.1 200 OK", "connection: close", body=b""),
            "answered with 200 and no content type instead of",
        ),
        (
            wire("HTTP/1.1 200 OK", f"content-type: {SSE}", "connection: close", body=b""),
            "without a terminal event",
        ),
        (
            wire("HTTP/1.1 200 OK", "content-type: application/json", "content-length: 0", body=b""),
            "answered with application/json instead of",
        ),
        (
            wire("HTTP/1.1 200 OK", "content-length: 1", "transfer-encoding: chunked"),
            "does not speak HTTP as expected",
        ),
        (
            wire("HTTP/1.1 200 OK", "content-encoding: gzip", f"content-type: {SSE}", "connection: close"),
            "broke the connection",
        ),
    ],
    ids=["204", "no type", "empty", "empty JSON", "two lengths", "no gzip"],
)
async def test_an_answer_without_a_stream_is_said_to_be_that(answer: bytes, says: str) -> None:
    async def script(call: Call) -> None:
        await call.send(answer)

    _, got = await run(script)
    assert got.events == []
    assert says in got.failure.message


@pytest.mark.parametrize("cut", [True, False])
async def test_an_error_whose_body_does_not_come_is_told_by_its_status(
    cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "ERROR_BODY_TIMEOUT", 0.05)

    async def script(call: Call) -> None:
        await call.head(500, "application/json")
        await call.write(b'{"error": ')
        if cut:
            call.cut()
        else:
            await call.hung_up.wait()

    _, got = await run(script)
    assert got.failure.message == "The model server answered 500: Internal Server Error"


async def test_a_server_that_is_not_there_is_tried_again_and_then_said_to_be_unreachable() -> None:
    async with raw(whole_stream) as gone:
        url = gone.url
    backends = registry(url)
    got = await outcome(backends.resolve({"model": "m"}), request())
    await backends.close()
    assert got.failure.message == "The model server cannot be reached: Connection refused."
    assert got.failure.type == "upstream_unreachable"


async def test_a_connection_that_is_not_made_in_time_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux a listener whose queue is full answers nothing at all."""
    monkeypatch.setattr(upstream, "CONNECT_TIMEOUT", 0.3)
    tried_again = asyncio.Event()

    class Noted(Backoff):
        async def wait(self) -> None:
            await super().wait()
            tried_again.set()

    monkeypatch.setattr(upstream, "Backoff", Noted)
    async with full(whole_stream) as (url, open_up):
        backends = registry(url)
        running = asyncio.create_task(outcome(backends.resolve({"model": "m"}), request()))
        await asyncio.wait([running, asyncio.create_task(tried_again.wait())], return_when="FIRST_COMPLETED")
        server = await open_up()
        got = await running
        await backends.close()
    assert (got.types[-1], got.error) == ("response.completed", None)
    assert len(server.calls) == 1


@asynccontextmanager
async def full(script: Script) -> AsyncIterator[tuple[str, Callable[[], Awaitable[Raw]]]]:
    """A port where connections are not taken until its opener is called; then `script` serves it."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as waiting:
        for _ in range(2):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        server = Raw(script)
        served: list[asyncio.Server] = []

        async def open_up() -> Raw:
            waiting.close()
            listener.accept()[0].close()  # the one that was in the queue
            served.append(await asyncio.start_server(server.serve, sock=listener))
            return server

        yield f"http://127.0.0.1:{listener.getsockname()[1]}", open_up
        for opened in served:
            opened.close()


async def test_a_name_that_does_not_resolve_is_not_shown() -> None:
    backends = registry("http://secret-host.invalid")
    got = await outcome(backends.resolve({"model": "m"}), request())
    await backends.close()
    assert got.failure.type == "upstream_unreachable"
    assert "secret-host" not in got.failure.message


# What may be called again.


class Leave:
    """Says yes to so many calls."""

    def __init__(self, calls: int) -> None:
        self.left = calls

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Lapsed


@pytest.mark.parametrize("calls", [0, 1, 2])
async def test_leave_is_asked_for_each_call(calls: int) -> None:
    async with serving(answering(503, {}, retry_after="0.01")) as (server, backend, _):
        with pytest.raises(Lapsed):
            await outcome(backend, structs.replace(request(), calling=Leave(calls)))
    assert len(server.calls) == calls


async def test_leave_is_asked_when_the_connection_is_made() -> None:
    """Not before: connecting alone may take longer than a lease."""
    connected = asyncio.Event()

    async def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.set()
        writer.close()

    def calling() -> None:
        asked.append(connected.is_set())
        raise Lapsed

    asked: list[bool] = []
    listener = await asyncio.start_server(accepted, "127.0.0.1", 0)
    backends = registry(f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    real = aiohttp.TCPConnector._create_connection

    async def slow(self: aiohttp.TCPConnector, *args: Any) -> Any:
        made = await real(self, *args)
        await connected.wait()
        return made

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(aiohttp.TCPConnector, "_create_connection", slow)
        with pytest.raises(Lapsed):
            await outcome(backends.resolve({"model": "m"}), structs.replace(request(), calling=calling))
    await backends.close()
    listener.close()
    assert asked == [True]


async def test_leave_is_asked_for_each_rejoin() -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(CREATED | {"sequence_number": 0}, DELTA | {"sequence_number": 1})
        call.cut()

    asking = structs.replace(request(), calling=Leave(2), abandoned=lambda: True)
    async with serving(script, "resumable = true") as (server, backend, _):
        with pytest.raises(Lapsed):
            await outcome(backend, asking)
    assert [call.method for call in server.calls] == ["POST", "GET"]


@pytest.mark.parametrize("status", [429, 503])
async def test_a_call_is_made_again_when_the_upstream_says_when(status: int) -> None:
    async def script(call: Call) -> None:
        if len(server.calls) < 3:
            await call.answer(status, {"error": {"message": "busy"}}, retry_after=0)
        else:
            await whole_stream(call)

    async with serving(script) as (server, backend, _):
        got = await outcome(backend, request())
    assert (got.events, got.error) == ([CREATED, DELTA, COMPLETED], None)
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("status", "headers", "calls"),
    [
        (429, {"retry_after": 0}, upstream.CALLS),
        (429, {}, 1),
        (429, {"retry_after": 3600}, 1),
        (429, {"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1),
        (503, {"retry_after": -1}, 1),
        (500, {"retry_after": 0}, 1),
    ],
)
async def test_calls_again_are_bounded(status: int, headers: dict[str, Any], calls: int) -> None:
    server, got = await run(answering(status, {"error": {"message": "busy"}}, **headers))
    assert f"answered {status}: busy" in got.failure.message
    assert len(server.calls) == calls


# An upstream that cannot stream.


async def test_an_unstreamed_answer_is_streamed() -> None:
    text = {"type": "output_text", "text": "hello", "annotations": []}
    output = [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "think"}]},
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "c",
            "name": "f",
            "arguments": '{"a":1}',
            "status": "completed",
        },
        {**ITEM, "content": [text, {"type": "refusal", "refusal": "no"}], "response_id": "resp_theirs"},
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}},
    ]
    answer = {
        "id": "resp_theirs",
        "object": "response",
        "status": "completed",
        "output": output,
        "usage": None,
    }
    _, got = await run(answering(200, answer))
    assert got.error is None
    began, *events = told(got.events)
    followed([began, *events])
    assert [event["type"] for event in events] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.content_part.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
    ]
    final = events[-1]["response"]["output"]
    assert [item["id"] for item in final] == [*["rs_1", "fc_1", "msg_1"], events[-2]["item"]["id"]]
    assert [e["item"] for e in events if e["type"] == "response.output_item.done"] == final
    assert final[2]["response_id"] == ID
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == ["think", '{"a":1}', "hello", "no"]


@pytest.mark.parametrize(
    ("status", "end"), [("failed", "failed"), ("incomplete", "incomplete"), ("cancelled", "failed")]
)
async def test_an_unstreamed_answer_ends_as_it_ended(status: str, end: str) -> None:
    _, got = await run(answering(200, {"id": "x", "status": status, "output": []}))
    assert (got.types, got.events[-1]["response"]["status"]) == ([f"response.{end}"], status)


async def test_the_mere_text_of_an_unstreamed_answer_is_streamed() -> None:
    said = {"type": "message", "id": "msg_1", "role": "assistant", "content": "hello"}
    _, got = await run(answering(200, {"id": "x", "status": "completed", "output": [said], "usage": None}))
    assert [event["delta"] for event in told(got.events) if "delta" in event] == ["hello"]


async def test_an_error_with_status_200_is_told_in_its_own_words() -> None:
    _, got = await run(answering(200, {"error": {"message": "no more"}, "status": "failed"}))
    assert "reported an error: no more" in got.failure.message


@pytest.mark.parametrize(
    "answer", [{"status": "queued", "output": []}, {"choices": []}, {"status": "completed"}]
)
async def test_an_answer_that_is_no_finished_response_is_refused(answer: object) -> None:
    _, got = await run(answering(200, answer))
    assert "not a finished response" in got.failure.message


# Stopping, and the terminal event.


async def test_closing_the_stream_cuts_the_connection() -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(CREATED)
        await call.hung_up.wait()

    async with serving(script) as (server, backend, _):
        async with aclosing(backend.stream(request())) as stream:
            await anext(stream)
        await hang_up(server)
    assert len(server.calls) == 1


async def test_nothing_is_read_after_the_terminal_event() -> None:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(CREATED, COMPLETED, DELTA)
        await call.write(b"data: [DONE]\n\n")
        await call.hung_up.wait()

    async with serving(script) as (server, backend, _):
        got = await outcome(backend, request())
        await hang_up(server)
    assert got.events == [CREATED, COMPLETED]


async def test_done_markers_and_comments_are_passed_over() -> None:
    async def script(call: Call) -> None:
        await call.head(type=f"{SSE}; charset=utf-8")
        await call.write(b": hello\n\ndata: [DONE]\n\n")
        await call.events(COMPLETED)

    _, got = await run(script)
    assert (got.events, got.error) == ([COMPLETED], None)


async def test_secrets_that_an_upstream_repeats_are_redacted() -> None:
    lines = 'api_key_env = "THE_KEY"\nheaders = { x-team = "hunter22" }'
    script = answering(400, {"error": {"message": "your key sk-1234 of hunter22 is odd"}})
    async with serving(script, lines, {"THE_KEY": "sk-1234"}) as (_, backend, _):
        got = await outcome(backend, request())
    assert got.failure.message == "The model server answered 400: your key [redacted] of [redacted] is odd"


@pytest.mark.parametrize("output", [5, "text", [{"type": []}], [{"type": "message", "content": 3}]], ids=str)
async def test_an_odd_output_takes_nothing_back(output: object) -> None:
    """What the scribe makes of it is its own affair; the events before it are told in any case."""
    _, got = await run(
        sending(
            b"data: "
            + msgspec.json.encode(
                lifecycle("response.completed", status="completed", output=output, response_id="x")
            )
            + b"\n\n"
        )
    )
    assert got.error is None
    assert [event["type"] for event in got.events][1:] == [DELTA["type"], "response.completed"]


@pytest.mark.parametrize("whole", [False, True])
async def test_secrets_in_the_error_of_a_response_are_redacted(whole: bool) -> None:
    """Whoever takes the event on knows no secret: neither where it is streamed nor where it is one object."""
    error = {"code": "sk-1234", "message": "key sk-1234", "type": "x", "more": [{"sk-1234": "a sk-1234"}]}
    failed = lifecycle("response.failed", status="failed", output=[], error=error)

    async def script(call: Call) -> None:
        if whole:
            await call.answer(200, failed["response"])
        else:
            await call.head()
            await call.events(DELTA | {"error": {"message": "sk-1234"}}, failed)

    async with serving(script, 'api_key_env = "THE_KEY"', {"THE_KEY": "sk-1234"}) as (_, backend, _):
        got = await outcome(backend, request())
    assert got.error is None
    assert b"sk-1234" not in msgspec.json.encode(got.events)
    told = got.events[-1]["response"]["error"]
    assert (told["message"], told["type"]) == ("key [redacted]", "x")


async def test_a_secret_across_the_cut_is_redacted() -> None:
    key = "k" * 150
    script = answering(400, {"error": {"message": "x" * (failures.MAX_WORDS - 80) + key}})
    async with serving(script, 'api_key_env = "THE_KEY"', {"THE_KEY": key}) as (_, backend, _):
        got = await outcome(backend, request())
    assert "kkk" not in got.failure.message
    assert len(got.failure.message) <= failures.MAX_WORDS


@pytest.mark.parametrize(
    ("header", "said", "told"),
    [
        ('x-team = "red"', "the input is required", "the input is required"),
        ('x-api-key = "red"', "key red", "key [redacted]"),
        ('authorization = "Bearer sk-12345678"', "key sk-12345678", "key [redacted]"),
        ('x-a = "abcdef12", x-b = "ef1234567890"', "abcdef1234567890!", "[redacted]!"),
        ('x-api-key = "red", x-auth = "act"', "red", "[redacted]"),
    ],
)
async def test_ordinary_words_of_headers_are_no_secrets(header: str, said: str, told: str) -> None:
    script = answering(400, {"error": {"message": said}})
    async with serving(script, f"headers = {{ {header} }}") as (_, backend, _):
        got = await outcome(backend, request())
    assert got.failure.message == f"The model server answered 400: {told}"


# Resumable upstreams.


class Background:
    """A Responses server in small: runs in the background, keeps its stream, breaks connections as told.

    `breaks` says after how many events each connection in turn is reset (None: never).
    """

    def __init__(self, *breaks: int | None, events: int = 6) -> None:
        self.breaks = list(breaks)
        deltas = [{**DELTA, "delta": f"{n} ", "sequence_number": n} for n in range(1, events - 1)]
        final = {**COMPLETED, "sequence_number": events - 1}
        self.stream = [{**CREATED, "sequence_number": 0}, *deltas, final]
        self.cancelled = asyncio.Event()
        self.hold = False
        """Send no terminal event, and wait."""
        self.numbers_begin = True
        """Whether a rejoined stream honours `starting_after`."""

    async def __call__(self, call: Call) -> None:
        if call.path.endswith("/cancel"):
            self.cancelled.set()
            await call.answer(200, {"id": "resp_theirs", "status": "cancelled"})
            return
        after = int(call.path.partition("starting_after=")[2] or -1) if self.numbers_begin else -1
        await call.head()
        left = self.breaks.pop(0) if self.breaks else None
        for event in self.stream[after + 1 : -1 if self.hold else None]:
            if left == 0:
                await asyncio.sleep(0.02)
                call.reset()
                return
            left = None if left is None else left - 1
            await call.events(event)
        if self.hold:
            await call.hung_up.wait()


async def test_a_resumable_upstream_is_started_in_the_background_and_its_events_carry_id_and_cursor() -> None:
    script = Background()
    server, got = await run(script, "resumable = true", store=False)
    assert got.events == script.stream
    assert (server.calls[0].body["background"], server.calls[0].body["store"]) == (True, True)
    assert [(one.upstream_id, one.cursor) for one in got.upstream] == [("resp_theirs", n) for n in range(6)]
    assert not script.cancelled.is_set()


@pytest.mark.parametrize("breaks", [(1,), (3,), (5,), (2, 1, 1, 1), (2, 0, 0, 1)])
@pytest.mark.parametrize("numbers_begin", [True, False])
async def test_a_lost_connection_is_rejoined_where_it_was_lost(
    breaks: tuple[int], numbers_begin: bool
) -> None:
    script = Background(*breaks)
    script.numbers_begin = numbers_begin
    if not numbers_begin:
        script.breaks = script.breaks[:1]
    server, got = await run(script, "resumable = true")
    assert (got.events, got.error) == (script.stream, None)
    assert server.calls[1].method == "GET"
    assert server.calls[1].path == f"/v1/responses/resp_theirs?stream=true&starting_after={breaks[0] - 1}"


async def test_rejoining_without_getting_anywhere_is_bounded() -> None:
    script = Background(2, *[0] * 50)
    server, got = await run(script, "resumable = true")
    assert got.events == script.stream[:2]
    assert "broke the connection" in got.failure.message
    assert len([call for call in server.calls if "stream=true" in call.path]) == responses.REJOINS
    assert script.cancelled.is_set()


async def test_a_rejoined_stream_with_a_gap_is_refused() -> None:
    script = Background(2)
    del script.stream[2]
    _, got = await run(script, "resumable = true")
    assert "rejoined its stream with a gap" in got.failure.message
    assert script.cancelled.is_set()


@pytest.mark.parametrize("number", [1, 2])
async def test_numbers_that_do_not_say_where_to_rejoin_are_refused(number: int) -> None:
    """A stream rejoined there would say twice what is in the log."""
    script = Background()
    script.stream[3]["sequence_number"] = number
    _, got = await run(script, "resumable = true")
    assert got.events == script.stream[:3]
    assert "numbered an event no higher than the one before it" in got.failure.message
    assert script.cancelled.is_set()


async def test_an_executor_goes_on_where_another_one_stopped() -> None:
    script = Background()
    async with serving(script, "resumable = true") as (server, backend, _):
        got = await outcome(backend, request(), Resume("resp_theirs", 3, 4))
    assert got.events == script.stream[4:]
    assert [call.method for call in server.calls] == ["GET"]


async def test_an_id_that_fits_no_header_is_none() -> None:
    """Such an id would make a record of the run too large to be appended."""

    async def script(call: Call) -> None:
        await call.head()
        await call.events(lifecycle("response.created", id="r" * 10_000), COMPLETED | {"sequence_number": 1})

    _, got = await run(script, "resumable = true")
    assert [one.upstream_id for one in got.upstream] == [None, "resp_theirs"]


async def test_without_an_upstream_id_nothing_is_called_again() -> None:
    async with serving(Background(), "resumable = true") as (server, backend, _):
        got = await outcome(backend, request(), Resume(None, None, 1))
    assert got.failure.type == "executor_lost"
    assert server.calls == []


@pytest.mark.parametrize(("counted", "calls"), [(0, 1), (1, 1), (2, 0)])
async def test_one_that_is_also_repeatable_is_started_again_while_nothing_was_said(
    counted: int, calls: int
) -> None:
    lines = "resumable = true\nrepeatable = true"
    async with serving(whole_stream, lines) as (server, backend, _):
        got = await outcome(backend, request(), Resume(None, None, counted))
    assert [call.method for call in server.calls] == ["POST"] * calls
    assert (got.error is None) == bool(calls)
    assert calls or got.failure.type == "executor_lost"


async def test_an_upstream_that_forgot_the_response_ends_it() -> None:
    async def script(call: Call) -> None:
        await call.answer(404, {"error": {"message": "Response with id 'resp_theirs' not found."}})

    async with serving(script, "resumable = true") as (_, backend, _):
        got = await outcome(backend, request(), Resume("resp_theirs", 3, 4))
    assert "answered 404: Response with id" in got.failure.message


async def test_closing_the_stream_cancels_the_upstream_response() -> None:
    script = Background()
    script.hold = True
    async with (
        serving(script, "resumable = true") as (server, backend, _),
        aclosing(backend.stream(request())) as stream,
    ):
        await anext(stream)
    assert script.cancelled.is_set()
    assert (server.calls[-1].method, server.calls[-1].path) == ("POST", "/v1/responses/resp_theirs/cancel")


async def test_an_abandoned_run_leaves_the_upstream_running() -> None:
    script = Background()
    script.hold = True
    mine = msgspec.structs.replace(request(), abandoned=lambda: True)
    async with (
        serving(script, "resumable = true") as (_, backend, _),
        aclosing(backend.stream(mine)) as stream,
    ):
        await anext(stream)
    assert not script.cancelled.is_set()


async def test_an_upstream_that_does_not_answer_the_cancel_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responses, "CANCEL_TIMEOUT", 0.5)

    async def script(call: Call) -> None:
        if not call.path.endswith("/cancel"):
            await call.head()
            await call.events({**CREATED, "sequence_number": 0})
        await call.hung_up.wait()

    async with (
        serving(script, "resumable = true") as (server, backend, _),
        aclosing(backend.stream(request())) as stream,
    ):
        await anext(stream)
        async with asyncio.timeout(5):
            await stream.aclose()
    assert server.calls[-1].path.endswith("/cancel")


async def test_an_upstream_that_answers_a_rejoin_with_a_passing_error_is_asked_again() -> None:
    inner = Background(2)

    async def script(call: Call) -> None:
        if len(server.calls) == 2:
            await call.answer(502, b"restarting", "text/plain")
        else:
            await inner(call)

    async with serving(script, "resumable = true") as (server, backend, _):
        got = await outcome(backend, request())
    assert (got.events, got.error) == (inner.stream, None)


async def test_an_upstream_without_a_timeout_of_its_own_has_the_executors() -> None:
    async def script(call: Call) -> None:
        await call.hung_up.wait()

    async with raw(script) as server:
        environ = {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": f"{server.url}/v1"}
        backends = build(config.load("", environ), environ, idle=0.2)
        got = await outcome(backends.resolve({"model": "m"}), request())
        await backends.close()
    assert got.failure.message == "The model server sent nothing for 0.2 s."
