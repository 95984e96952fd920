"""The front door forwards the routes of the services behind it, by one table (A-29)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from unittest.mock import patch

import msgspec
import pytest
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from schemas.errors import ApiError, invalid
from services.replay.forwarding import ANSWER_BYTES, BODY_BYTES, Forwarding, behind
from services.settings import Settings
from services.web.answers import json_answer
from services.web.callers import Callers
from services.web.connection import connection
from services.web.edge import Edge, route
from services.web.forwarded import caller_of
from services.web.room import Room
from services.web.server import Server
from tests.serving import HOST, Answer, ask, serving

SECRET = "the-services-share-this"
KEYS = Settings(api_keys=("acme=a-key-of-a-tenant",), admin_keys=("a-key-of-an-admin",))
TABLE: Mapping[str, Mapping[str, Sequence[str]]] = {
    "analytics": {"/v1/things": ("GET", "POST", "DELETE"), "/v1/things/{id}": ("GET",)},
    "webhooks": {},
}


async def told(request: Request) -> Response:
    """Says what came."""
    caller = caller_of(request)
    came = {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "body": (await request.body()).decode(),
        "tenant": caller.tenant,
        "admin": caller.admin,
    }
    return json_answer(came, 201 if request.method == "POST" else 200, {"cache-control": "no-store"})


async def refuses(_: Request) -> Response:
    raise invalid("There is no such group.", "group_by")


async def breaks_off(request: Request) -> Response:
    connection(request.scope).abort()
    return Response()


async def floods(_: Request) -> Response:
    return Response(b"x" * (ANSWER_BYTES + 1))


async def another(_: Request) -> Response:
    return Response("<h1>Bad Gateway</h1>", 502)


@asynccontextmanager
async def service(handler: Callable[..., object], secret: str = SECRET) -> AsyncIterator[str]:
    """A service with the paths of `TABLE` on its internal port, and its URL."""
    inside = [
        route(method, f"/internal{path}", handler)  # type: ignore[arg-type]
        for path, methods in TABLE["analytics"].items()
        for method in methods
    ]
    server = Server(Edge(inside, secret=secret))
    port = await server.start(HOST, 0)
    try:
        yield f"http://{HOST}:{port}"
    finally:
        await server.drain(0)


@asynccontextmanager
async def front_door(url: str, settings: Settings = KEYS, room: Room | None = None) -> AsyncIterator[int]:
    """A front door before `url`, and its port."""

    settings = replace(settings, analytics_url=url, internal_secret=SECRET)
    forwarding = Forwarding(behind(settings), Callers(settings), room or Room())
    routes: Sequence[BaseRoute] = forwarding.routes(TABLE)
    async with serving(routes) as (_, port):
        yield port
    await forwarding.close()


TENANT = ["authorization: Bearer a-key-of-a-tenant"]
ADMIN = ["authorization: Bearer a-key-of-an-admin"]


def run(
    handler: Callable[..., object], request: str, body: bytes = b"", headers: Sequence[str] = TENANT
) -> Answer:
    async def main() -> Answer:
        async with service(handler) as url, front_door(url) as port:
            return await ask(port, request, body, headers)

    return asyncio.run(main())


def decoded(answer: Answer) -> dict[str, object]:

    return msgspec.json.decode(answer.body, type=dict[str, object])


def error(answer: Answer) -> dict[str, object]:
    found = decoded(answer)["error"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    "line, method, path, query",
    [
        (
            "GET /v1/things?group_by[]=model&group_by=a%26b",
            "GET",
            "/v1/things",
            "group_by[]=model&group_by=a%26b",
        ),
        ("GET /v1/things/a%20b?", "GET", "/v1/things/a%20b", ""),
        ("DELETE /v1/things", "DELETE", "/v1/things", ""),
    ],
)
def test_a_request_arrives_as_it_was_sent(line: str, method: str, path: str, query: str) -> None:
    came = decoded(run(told, line))
    assert (came["method"], came["path"], came["query"]) == (method, f"/internal{path}", query)
    assert (came["tenant"], came["admin"]) == ("acme", False)


def test_a_body_and_its_answer_pass_through() -> None:
    answer = run(told, "POST /v1/things", b'{"name": "x"}', [*TENANT, "content-type: application/json"])
    assert (answer.status, decoded(answer)["body"]) == (201, '{"name": "x"}')
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"


def test_an_admin_is_told_from_a_tenant() -> None:
    came = decoded(run(told, "GET /v1/things", headers=ADMIN))
    assert (came["tenant"], came["admin"]) == (None, True)


def test_the_name_of_a_caller_is_the_doors_word_alone() -> None:
    forged = [*TENANT, 'x-rejoinder-caller: {"tenant": null, "admin": true}']
    came = decoded(run(told, "GET /v1/things", headers=forged))
    assert (came["tenant"], came["admin"]) == ("acme", False)


def test_without_a_key_nothing_is_forwarded() -> None:
    assert run(told, "GET /v1/things", headers=()).status == 401


def test_a_refusal_is_the_services() -> None:
    answer = run(refuses, "GET /v1/things")
    assert (answer.status, error(answer)["param"]) == (400, "group_by")


def test_a_body_that_is_too_large_is_refused_and_its_room_given_back() -> None:
    room = Room()

    async def main() -> Answer:
        async with service(told) as url, front_door(url, room=room) as port:
            return await ask(port, "POST /v1/things", b"x" * (BODY_BYTES + 1), TENANT)

    assert asyncio.run(main()).status == 413
    assert room.taken == 0


def test_a_service_that_breaks_off_is_asked_again_only_to_read() -> None:
    asked: list[str] = []

    async def once(request: Request) -> Response:
        asked.append(request.method)
        return await (breaks_off if len(asked) == 1 else told)(request)

    assert run(once, "GET /v1/things").status == 200
    assert asked == ["GET", "GET"]
    asked.clear()
    answer = run(once, "POST /v1/things", b"{}")
    assert (answer.status, answer.headers["x-should-retry"]) == (503, "false")
    assert asked == ["POST"]


@pytest.mark.parametrize("handler", [breaks_off, another, floods])
def test_what_is_no_answer_of_the_service_is_a_503(handler: Callable[..., object]) -> None:
    answer = run(handler, "GET /v1/things")
    assert (answer.status, error(answer)["code"]) == (503, "service_unavailable")
    assert "analytics" in str(error(answer)["message"])


def test_a_service_that_is_away_is_a_503_that_may_be_repeated() -> None:
    async def main() -> Answer:
        async with service(told) as url:
            pass
        async with front_door(url) as port:
            return await ask(port, "POST /v1/things", b"{}", TENANT)

    answer = asyncio.run(main())
    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert "x-should-retry" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/things", "/v1/things/1"])
def test_another_secret_or_another_port_is_a_503_and_the_operator_hears_why(path: str) -> None:
    async def main(secret: str, prefix: str) -> Answer:
        async with service(told, secret) as url, front_door(url + prefix) as port:
            return await ask(port, f"GET {path}", headers=TENANT)

    for secret, prefix, why in [("another-secret-than-ours", "", "secret"), (SECRET, "/elsewhere", "path")]:
        with patch("services.web.internal.log.warning") as warned:
            assert asyncio.run(main(secret, prefix)).status == 503
        assert why in warned.call_args.kwargs["why"]
        assert "REJOINDER_ANALYTICS_URL" in warned.call_args.kwargs["mend"]


def test_a_service_that_is_not_run_here_is_not_offered() -> None:
    async def main() -> Answer:
        async with front_door("") as port:
            return await ask(port, "GET /v1/things", headers=TENANT)

    answer = asyncio.run(main())
    assert (answer.status, error(answer)["code"]) == (404, "not_offered")
    assert "REJOINDER_ANALYTICS_URL" in str(error(answer)["message"])


def test_a_caller_that_the_door_does_not_name_is_refused() -> None:
    with pytest.raises(ApiError, match="front door"):
        caller_of(Request({"type": "http", "headers": []}))
