"""Keys and tokens at the front door (A-39, A-40): whose requests are answered, and what all others hear."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from schemas.errors import SettingsError
from schemas.ids import response_id
from services.settings import PREFIX
from services.settings import load as load_settings
from services.web.tokens import MOST_BYTES
from tests.conftest import eventually
from tests.ingesting import Ingesting, error_of, ingesting
from tests.issuer import AUDIENCE, TokenIssuer, issuing
from tests.serving import Answer, ask
from tests.unit.test_api_keys import content, line

KEY, OTHERS, OVER, ADMIN = (f"rj_{word}-open-sesame" for word in ("our", "another", "expired", "an-admins"))
UNKNOWN = response_id(0, bytes(16))
LINES: tuple[dict[str, Any], ...] = (
    line(KEY, name="ours"),
    line(OTHERS, name="theirs", tenant="blue"),
    line(OVER, name="over", expires="2020-01-01T00:00:00Z"),
    line(ADMIN, name="admin", tenant=None, admin=True),
)


def shown(key: str) -> str:
    return f"authorization: Bearer {key}"


def assert_refused(answer: Answer) -> None:
    """Every refusal is the same: nobody learns from it what is wrong."""
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert error_of(answer) == {
        "message": "Incorrect API key provided.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }


@asynccontextmanager
async def keyed(path: Path, *lines: dict[str, Any], **settings: Any) -> AsyncIterator[Ingesting]:
    """A front door that asks for the keys in a file at `path`."""
    await asyncio.to_thread(path.write_bytes, content(*(lines or LINES)))
    async with ingesting(api_keys_file=str(path), **settings) as running:
        yield running


async def everywhere(running: Ingesting, id: str, *headers: str) -> list[Answer]:
    """The answers to every kind of request about a response, at both public ports."""
    lines = [
        f"GET /v1/responses/{id}",
        f"GET /v1/responses/{id}?stream=true",
        f"GET /v1/responses/{id}/input_items",
    ]
    found = [await ask(running.public, each, headers=headers) for each in lines]
    for port in (running.public, running.port):
        found.append(await ask(port, f"POST /v1/responses/{id}/cancel", b"{}", headers))
        found.append(await ask(port, f"DELETE /v1/responses/{id}", b"", headers))
    return found


async def anything(running: Ingesting, *headers: str) -> list[Answer]:
    """The same, and to what is about no response."""
    body = json.dumps({"model": "echo", "input": "hi", "background": True}).encode()
    creates = [
        await ask(port, "POST /v1/responses", body, headers) for port in (running.public, running.port)
    ]
    reads = ("/v1/models", "/v1/models/echo", "/v1/organization/costs", "/v1/webhook_endpoints")
    others = [await ask(running.public, f"GET {path}", headers=headers) for path in reads]
    return [*creates, *others, *await everywhere(running, UNKNOWN, *headers)]


async def test_a39_a_key_of_the_file_opens_its_tenants_responses_and_no_others(tmp_path: Path) -> None:
    async with keyed(tmp_path / "keys") as running:
        made = await running.create(shown(KEY))
        [accepted] = running.accepted()
        assert accepted.tenant == "acme"
        assert (await running.get(made["id"], shown(KEY))).status == 200
        for answer in await everywhere(running, made["id"], shown(OTHERS)):
            assert (answer.status, error_of(answer)["code"]) == (404, "not_found")
        assert (await running.delete(made["id"], shown(KEY))).status == 200


WRONG: dict[str, tuple[str, ...]] = {
    "no key": (),
    "an empty one": (shown(""),),
    "an unknown one": (shown("rj_nobodys"),),
    "one that is over": (shown(OVER),),
    "a part of one": (shown(KEY[:-1]),),
    "its hash": (shown(str(LINES[0]["sha256"])),),
    "another scheme": (f"authorization: Basic {KEY}",),
    "another header": (f"x-api-key: {KEY}",),
    "a tenant's name": ("x-rejoinder-tenant: acme",),
    "too long a one": (shown("x" * (MOST_BYTES + 1)),),
    "letters of another script": (shown("ключ"),),
    "a token": (shown("eyJhbGciOiJub25lIn0.e30."),),
}


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ingesting]:
    async with keyed(tmp_path_factory.mktemp("door") / "keys") as running:
        yield running


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
async def test_a39_all_else_is_the_same_401_everywhere_and_nothing_is_stored(
    door: Ingesting, headers: tuple[str, ...]
) -> None:
    for answer in await anything(door, *headers):
        assert_refused(answer)
    assert not door.accepted()


async def test_a39_two_keys_in_a_request_are_none(door: Ingesting) -> None:
    """Two proxies might each believe another one of them."""
    for keys in ((KEY, OTHERS), (KEY, KEY), ("x", KEY)):
        answer = await ask(door.public, f"GET /v1/responses/{UNKNOWN}", headers=[shown(key) for key in keys])
        assert (answer.status, error_of(answer)["param"]) == (400, "authorization")


async def test_a39_the_tenants_header_has_no_effect_beside_a_key(door: Ingesting) -> None:
    answer = await door.get(UNKNOWN, shown(KEY), "x-rejoinder-tenant: blue", "x-rejoinder-tenant: a/b")
    assert answer.status == 404


async def test_a39_an_admins_key_is_refused_at_a_tenants_routes(door: Ingesting) -> None:
    answer = await door.get(UNKNOWN, shown(ADMIN))
    assert (answer.status, error_of(answer)["code"]) == (403, "admin_key")


async def test_a39_what_asks_for_no_key_is_answered_without_one(door: Ingesting) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/schemas", "/openapi.json"):
        assert (await ask(door.public, f"GET {path}")).status == 200


async def test_a39_a_revoked_key_is_refused_and_a_new_one_taken_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    async with keyed(path) as running:
        made = await running.create(shown(KEY))
        path.write_bytes(content(line("rj_the-next", name="next")))

        async def revoked() -> bool:
            answers = [
                await ask(port, f"DELETE /v1/responses/{UNKNOWN}", headers=[shown(KEY)]) for port in ports
            ]
            return {answer.status for answer in answers} == {401}

        ports = (running.public, running.port)
        await eventually(revoked)
        assert_refused(await running.get(made["id"], shown(KEY)))
        assert (await running.get(made["id"], shown("rj_the-next"))).status == 200


async def test_a39_a_broken_file_revokes_nobody(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    async with keyed(path) as running:
        path.write_bytes(b"{")

        async def said() -> bool:
            return b"rejoinder_api_keys_broken 1.0" in (await ask(running.public, "GET /metrics")).body

        await eventually(said)
        assert (await running.get(UNKNOWN, shown(KEY))).status == 404


@asynccontextmanager
async def tokened(**settings: Any) -> AsyncIterator[tuple[TokenIssuer, Ingesting]]:
    """A front door that takes the tokens of an issuer."""
    async with issuing() as issuer:
        own = {"jwt_issuer": issuer.url, "jwt_audience": AUDIENCE, "jwt_tenant_claim": "org.tenant"}
        async with ingesting(
            **own, jwt_admin_claim="roles", jwt_admin_value="operator", **settings
        ) as running:
            yield issuer, running


ACME: Mapping[str, Any] = {"org": {"tenant": "acme"}}


@pytest.fixture(scope="module")
async def with_issuer() -> AsyncIterator[tuple[TokenIssuer, Ingesting]]:
    async with tokened() as running:
        yield running


async def test_a40_a_token_opens_its_tenants_responses_and_no_others() -> None:
    async with tokened() as (issuer, running):
        made = await running.create(shown(issuer.token(**ACME)), "x-rejoinder-tenant: blue")
        assert running.accepted()[0].tenant == "acme"
        assert (await running.get(made["id"], shown(issuer.token(**ACME)))).status == 200
        blue = issuer.token(org={"tenant": "blue"})
        for answer in await everywhere(running, made["id"], shown(blue)):
            assert (answer.status, error_of(answer)["code"]) == (404, "not_found")


NOW = int(time.time())
NOT_TAKEN: dict[str, dict[str, Any] | str] = {
    "another issuer": {"iss": "https://id.example"},
    "another audience": {"aud": "another"},
    "over": {"exp": NOW - 3600},
    "not yet": {"nbf": NOW + 3600},
    "no tenant": {"org": None},
    "no end": {"exp": None},
    "a shared secret's algorithm": "eyJhbGciOiJIUzI1NiIsImtpZCI6ImZpcnN0In0.e30.AA",
    "no algorithm": "eyJhbGciOiJub25lIiwia2lkIjoiZmlyc3QifQ.e30.",
    "another type": {"header": {"typ": "logout+jwt"}},
    "an unknown key": {"header": {"kid": "nobody's"}},
}


@pytest.mark.parametrize("changes", NOT_TAKEN.values(), ids=NOT_TAKEN)
async def test_a40_a_token_that_is_not_believed_is_the_same_401_everywhere(
    with_issuer: tuple[TokenIssuer, Ingesting], changes: dict[str, Any] | str
) -> None:
    issuer, running = with_issuer
    token = changes if isinstance(changes, str) else issuer.token(**{**ACME, **changes})
    for answer in await anything(running, shown(token)):
        assert_refused(answer)
    assert not running.accepted()


async def test_a40_who_has_the_admins_value_is_an_admin(with_issuer: tuple[TokenIssuer, Ingesting]) -> None:
    issuer, running = with_issuer
    token = issuer.token(roles=["reader", "operator"])
    answer = await running.get(UNKNOWN, shown(token))
    assert (answer.status, error_of(answer)["code"]) == (403, "admin_key")
    assert_refused(await running.get(UNKNOWN, shown(issuer.token(roles=["reader"]))))


async def test_a40_a_rotated_key_is_taken_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.web.issuer.AGAIN_S", 0.1)
    async with tokened() as (issuer, running):
        assert (await running.get(UNKNOWN, shown(issuer.token(**ACME)))).status == 404
        issuer.rotate("second")

        async def taken() -> bool:
            return (await running.get(UNKNOWN, shown(issuer.token(**ACME)))).status == 404

        await eventually(taken)
        assert_refused(await running.get(UNKNOWN, shown(issuer.token("first", **ACME))))


async def test_a40_away_its_keys_hold_and_before_they_are_known_the_answer_is_a_503() -> None:
    async with tokened() as (issuer, running):
        assert (await running.get(UNKNOWN, shown(issuer.token(**ACME)))).status == 404
        issuer.away = True
        assert (await running.get(UNKNOWN, shown(issuer.token(**ACME)))).status == 404
        await running.stop("replay")
        await running.start_replay()
        await eventually(running.ready)
        answer = await running.get(UNKNOWN, shown(issuer.token(**ACME)))
        assert (answer.status, error_of(answer)["code"]) == (503, "service_unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert_refused(await running.get(UNKNOWN, shown("rj_no-token")))


async def test_keys_and_tokens_are_taken_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content(*LINES))
    async with tokened(api_keys_file=str(path), api_keys=(f"acme={KEY}-too",)) as (issuer, running):
        for key in (KEY, f"{KEY}-too", issuer.token(**ACME)):
            assert (await running.get(UNKNOWN, shown(key))).status == 404


async def test_no_log_and_no_metric_has_a_key_or_a_token(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(content(*LINES))
    with capture_logs() as logs:
        async with tokened(api_keys_file=str(path)) as (issuer, running):
            given = [KEY, OVER, "rj_nobodys", issuer.token(**ACME), issuer.token(**ACME, exp=1)]
            for key in given:
                await anything(running, shown(key))
            metrics = (await ask(running.public, "GET /metrics")).body.decode()
    for part in (part for key in given for part in key.split(".")):
        assert part not in metrics
        assert not [entry for entry in logs if part in repr(entry)]
    assert 'rejoinder_http_refused_total{reason="token_expired",status="401"}' in metrics
    assert 'rejoinder_http_refused_total{reason="key_expired",status="401"}' in metrics


BAD: dict[str, tuple[dict[str, str], str]] = {
    "no audience": ({"JWT_ISSUER": "https://id.example"}, "JWT_AUDIENCE: needed"),
    "no issuer": ({"JWT_AUDIENCE": "rejoinder"}, "JWT_ISSUER: needed"),
    "plain http": (
        {"JWT_ISSUER": "http://id.example", "JWT_AUDIENCE": "rejoinder"},
        "JWT_ISSUER: http://id.example is no https URL",
    ),
    "keys by plain http": (
        {
            "JWT_ISSUER": "https://id.example",
            "JWT_AUDIENCE": "rejoinder",
            "JWT_KEYS_URL": "http://id.example/k",
        },
        "JWT_KEYS_URL: http://id.example/k is no https URL",
    ),
    "an admin's claim without a value": (
        {"JWT_ISSUER": "https://id.example", "JWT_AUDIENCE": "rejoinder", "JWT_ADMIN_CLAIM": "roles"},
        "JWT_ADMIN_CLAIM: it and",
    ),
}


@pytest.mark.parametrize("given, why", BAD.values(), ids=BAD)
def test_settings_that_would_let_others_in_stop_the_start(given: Mapping[str, str], why: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({f"{PREFIX}{name}": value for name, value in given.items()})
    assert f"{PREFIX}{why}" in str(caught.value)
