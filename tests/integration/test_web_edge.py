"""Around the routes: envelopes, request ids, CORS, bounded bodies."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from schemas.errors import ApiError, not_found, unavailable
from services.web import health
from services.web.answers import json_answer, read_body
from services.web.edge import OPEN_PATHS, route
from tests.serving import HOST, Answer, ask, read_answer, serving

ORIGIN = "https://app.example"
BOUND = 1000


async def refuse(request: Request) -> ASGIApp:
    errors: dict[str, Exception] = {
        "missing": not_found("resp_1"),
        "away": unavailable("Later.", outcome_unknown=True),
        "bug": RuntimeError("a secret detail"),
    }
    raise errors[request.path_params["kind"]]


async def size(request: Request) -> ASGIApp:
    return json_answer({"size": len(await read_body(request, BOUND))})


async def half(_: Request) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise ApiError(400, "too late")

    return app


async def plain(_: Request) -> ASGIApp:
    return Response("plain", headers={"vary": "Accept"})


ROUTES = [
    route("GET", "/refuse/{kind}", refuse),
    route("POST", "/size", size),
    route("GET", "/half", half),
    route("GET", "/plain", plain),
]


def error_of(answer: Answer) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    found = json.loads(answer.body)
    assert list(found) == ["error"]
    assert list(found["error"]) == ["message", "type", "param", "code"]
    error: dict[str, Any] = found["error"]
    return error


async def test_a_refusal_is_told_in_the_envelope() -> None:
    async with serving(ROUTES) as (_, port):
        answer = await ask(port, "GET /refuse/missing")
        assert answer.status == 404
        assert error_of(answer) == {
            "message": "Response with id 'resp_1' not found.",
            "type": "invalid_request_error",
            "param": "response_id",
            "code": "not_found",
        }
        answer = await ask(port, "GET /refuse/away")
        assert (answer.status, error_of(answer)["type"]) == (503, "server_error")
        assert answer.headers["retry-after"] == "2"
        assert answer.headers["x-should-retry"] == "false"


async def test_a_fault_of_our_own_is_a_500_without_details() -> None:
    async with serving(ROUTES) as (_, port):
        answer = await ask(port, "GET /refuse/bug")
    assert answer.status == 500
    assert error_of(answer)["type"] == "server_error"
    assert b"secret" not in answer.body


async def test_an_unknown_route_and_a_wrong_method_are_told_in_the_envelope() -> None:
    async with serving(ROUTES) as (_, port):
        answer = await ask(port, "GET /nowhere")
        assert (answer.status, error_of(answer)["message"]) == (404, "There is no route GET /nowhere.")
        answer = await ask(port, "DELETE /size")
        assert (answer.status, error_of(answer)["code"]) == (405, "method_not_allowed")
        assert answer.headers["allow"] == "POST"


async def test_an_error_after_the_answer_began_cuts_it() -> None:
    async with serving(ROUTES) as (_, port):
        answer = await ask(port, "GET /half")
    assert (answer.body, answer.whole) == (b"half", False)


async def test_every_answer_has_a_request_id_and_a_sane_one_is_kept() -> None:
    async with serving(ROUTES) as (_, port):
        ids = {
            (await ask(port, request)).headers["x-request-id"] for request in ["GET /plain", "GET /nowhere"]
        }
        assert len(ids) == 2
        assert all(id.startswith("req_") for id in ids)
        kept = await ask(port, "GET /plain", headers=["x-request-id: mine-1"])
        assert kept.headers["x-request-id"] == "mine-1"
        dropped = await ask(port, "GET /plain", headers=["x-request-id: a b"])
        assert dropped.headers["x-request-id"].startswith("req_")


async def test_a_body_within_the_bound_is_read() -> None:
    async with serving(ROUTES) as (_, port):
        answer = await ask(port, "POST /size", b"x" * BOUND)
    assert json.loads(answer.body) == {"size": BOUND}


@pytest.mark.parametrize("encoding, status", [("gzip", 415), ("Identity", 200)])
async def test_a_body_that_is_compressed_is_refused_by_the_headers_name(encoding: str, status: int) -> None:
    async with serving(ROUTES) as (_, port):
        answer = await ask(port, "POST /size", b"x", [f"content-encoding: {encoding}"])
    assert answer.status == status
    if status == 415:
        assert error_of(answer)["message"].startswith("Content-Encoding 'gzip' is not supported")


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes() -> None:
    async with serving(ROUTES) as (_, port):
        headers = [f"content-length: {BOUND + 1}", "expect: 100-continue"]
        answer = await ask(port, "POST /size", headers=headers)
    assert (answer.status, error_of(answer)["code"]) == (413, "request_too_large")


async def test_a_body_that_turns_out_too_large_is_refused_before_its_end() -> None:
    async with serving(ROUTES) as (_, port):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"POST /size HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write((b"200\r\n" + b"x" * 512 + b"\r\n") * 4)
        answer = await read_answer(reader)
        writer.close()
    assert (answer.status, error_of(answer)["type"]) == (413, "invalid_request_error")


async def test_a_preflight_allows_what_was_asked_for() -> None:
    asked = "authorization, x-stainless-lang, last-event-id"
    headers = [
        f"origin: {ORIGIN}",
        "access-control-request-method: POST",
        f"access-control-request-headers: {asked}",
    ]
    async with serving(ROUTES, [ORIGIN]) as (_, port):
        answer = await ask(port, "OPTIONS /size", headers=headers)
    assert answer.status == 204
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    assert answer.headers["access-control-allow-headers"] == asked
    assert answer.headers["access-control-allow-methods"] == "GET, POST, DELETE"


@pytest.mark.parametrize("request_line", ["GET /plain", "GET /refuse/bug", "GET /nowhere"])
async def test_an_allowed_origin_reads_every_answer(request_line: str) -> None:
    async with serving(ROUTES, [ORIGIN]) as (_, port):
        answer = await ask(port, request_line, headers=[f"origin: {ORIGIN}"])
    assert answer.headers["access-control-allow-origin"] == ORIGIN
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-should-retry", "x-rejoinder-response-id"} <= set(exposed)


@pytest.mark.parametrize(
    "status, sent",
    [
        (400, b"POST /size HTTP/1.1\r\norigin: %b\r\nhost: a\r\nno header\r\n\r\n"),
        (
            400,
            b"POST /size HTTP/1.1\r\norigin: %b\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nno\r\n",
        ),
        (408, b"POST /size HTTP/1.1\r\norigin: %b\r\nhost: a\r\nx: "),
        (408, b"POST /size HTTP/1.1\r\norigin: %b\r\nhost: a\r\ncontent-length: 9\r\n\r\nx"),
    ],
    ids=["header", "chunk", "late head", "late body"],
)
async def test_an_allowed_origin_reads_also_what_is_refused_before_the_app(status: int, sent: bytes) -> None:
    async with serving(ROUTES, [ORIGIN], request_s=0.2) as (_, port):
        for origin in (ORIGIN, "https://evil.example"):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(sent % origin.encode())
            answer = await read_answer(reader)
            writer.close()
            assert answer.status == status or (answer.status == 403 and origin != ORIGIN)
            assert answer.headers.get("access-control-allow-origin") == (ORIGIN if origin == ORIGIN else None)
            assert answer.headers["vary"] == "Origin"


async def test_another_origin_reads_nothing() -> None:
    other = "origin: https://evil.example"
    async with serving(ROUTES, [ORIGIN]) as (_, port):
        answer = await ask(port, "GET /plain", headers=[other])
        assert "access-control-allow-origin" not in answer.headers
        preflight = [other, "access-control-request-method: POST"]
        answer = await ask(port, "OPTIONS /size", headers=preflight)
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin, status",
    [
        (ORIGIN, 200),
        (f"http://{HOST}", 200),
        ("https://evil.example", 403),
        ("null", 403),
        (f"http://{HOST}.evil", 403),
    ],
)
async def test_a_page_of_another_origin_writes_nothing(origin: str, status: int) -> None:
    plain = ["content-type: text/plain", f"origin: {origin}"]
    async with serving(ROUTES, [ORIGIN]) as (_, port):
        answer = await ask(port, "POST /size", b"x", plain)
        assert answer.status == status
        if status == 403:
            assert error_of(answer)["code"] == "origin_not_allowed"
        assert (await ask(port, "GET /plain", headers=plain)).status == 200


@pytest.mark.parametrize("request_line", ["GET /plain", "POST /size", "OPTIONS /size", "GET /nowhere"])
async def test_what_is_meant_for_another_name_is_refused_and_told_how_to_mend_it(request_line: str) -> None:
    async with serving(ROUTES, hosts=["api.example"]) as (_, port):
        answer = await ask(
            port, request_line, headers=["host: evil.example:8000", "origin: http://evil.example:8000"]
        )
        assert (answer.status, error_of(answer)["code"]) == (421, "host_not_allowed")
        assert "evil.example:8000" in error_of(answer)["message"]
        assert "REJOINDER_HOSTS" in error_of(answer)["message"]


@pytest.mark.parametrize("host", ["api.example", "API.EXAMPLE:8000", "192.0.2.7:8000", "[::1]"])
async def test_its_names_and_addresses_are_served(host: str) -> None:
    async with serving(ROUTES, hosts=["api.example"]) as (_, port):
        assert (await ask(port, "GET /plain", headers=[f"host: {host}"])).status == 200


@pytest.mark.parametrize("path", ["/plain", "/livez", "/nowhere"])
async def test_a_request_that_names_no_host_is_refused_but_where_http_has_none(path: str) -> None:
    async with serving([*ROUTES, *health.routes(list)]) as (_, port):
        for version, refused in (("1.1", True), ("1.0", False)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET {path} HTTP/{version}\r\nconnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            assert (b"The header 'Host' is missing." in answer) == refused
            assert answer.startswith(b"HTTP/1.1 400 ") == refused


@pytest.mark.parametrize("name", ["Host", "Idempotency-Key", "Content-Encoding"])
@pytest.mark.parametrize("values", [("identity", "identity"), ("a", "b")])
async def test_a_header_that_says_one_thing_is_sent_once(name: str, values: tuple[str, str]) -> None:
    async with serving(ROUTES) as (_, port):
        answer = await ask(port, "POST /size", b"x", [f"{name.lower()}: {value}" for value in values])
        assert (answer.status, error_of(answer)["param"]) == (400, name.lower())
        assert error_of(answer)["message"] == f"The header '{name}' is sent more than once: send it once."


async def test_probes_have_no_name_to_give() -> None:
    async with serving([*ROUTES, *health.routes(list)], hosts=["api.example"]) as (_, port):
        for path in OPEN_PATHS:
            assert (await ask(port, f"GET {path}", headers=["host: pod-1"])).status == 200
