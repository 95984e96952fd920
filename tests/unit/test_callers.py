"""Whose request it is: by a key, a token, or the header of a gateway in front."""

from hashlib import sha256

import pytest
from starlette.requests import Request

from schemas.errors import ApiError
from schemas.ids import Tenant
from services.settings import Settings
from services.web.callers import DEFAULT_TENANT, Callers
from services.web.forwarded import Caller
from services.web.tokens import MOST_BYTES

HEADER = Settings().tenant_header
OPEN = Callers(Settings())


def request(*given: str) -> Request:
    headers = [(HEADER.encode(), value.encode()) for value in given]
    return Request({"type": "http", "headers": headers})


async def test_the_header_names_the_tenant_and_without_it_there_is_one() -> None:
    assert await OPEN.tenant(request("acme")) == "acme"
    assert await OPEN.tenant(request()) == DEFAULT_TENANT


@pytest.mark.parametrize("given", [("",), ("a b",), ("x" * 129,), ("acme", "acme"), ("mallory", "acme")])
async def test_a_header_that_does_not_name_one_tenant_is_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(ApiError, match=HEADER) as refused:
        await OPEN.tenant(request(*given))
    assert refused.value.status == 400


TENANTS_KEY, ADMINS_KEY = "a-key-of-a-tenant", "a-key-of-an-admin"
KEYED = Callers(Settings(api_keys=(f"acme={TENANTS_KEY}",), admin_keys=(ADMINS_KEY,)))


def keyed(key: str, *given: str, scheme: str = "Bearer") -> Request:
    asked = request(*given)
    asked.scope["headers"].append((b"authorization", f"{scheme} {key}".encode("latin-1")))
    return asked


async def test_a_key_says_whether_a_tenant_or_an_admin_calls() -> None:
    ours, admins = (sha256(key.encode()).hexdigest()[:8] for key in (TENANTS_KEY, ADMINS_KEY))
    assert await KEYED.who(keyed(TENANTS_KEY)) == Caller(Tenant("acme"), admin=False, name=ours)
    assert await KEYED.who(keyed(ADMINS_KEY, "acme")) == Caller(None, admin=True, name=admins)


async def test_the_header_has_no_effect_where_keys_are_asked_for() -> None:
    assert await KEYED.tenant(keyed(TENANTS_KEY, "blue")) == "acme"
    with pytest.raises(ApiError) as refused:
        await KEYED.who(request("acme"))
    assert refused.value.status == 401


async def test_an_admins_key_is_no_tenants() -> None:
    with pytest.raises(ApiError, match="no tenant") as refused:
        await KEYED.tenant(keyed(ADMINS_KEY))
    assert (refused.value.status, refused.value.code) == (403, "admin_key")


WRONG = ["", "a-key-of-nobody-here", TENANTS_KEY + "x", ADMINS_KEY[:-1], "ü", "a.b.c", "x" * (MOST_BYTES + 1)]


@pytest.mark.parametrize("key", WRONG, ids=lambda key: ascii(key[:20]))
async def test_any_other_key_is_refused_in_the_same_words(key: str) -> None:
    with pytest.raises(ApiError) as refused:
        await KEYED.who(keyed(key))
    assert (refused.value.status, refused.value.code) == (401, "invalid_api_key")
    assert refused.value.message == "Incorrect API key provided."
    assert refused.value.headers == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("scheme", ["Basic", "Token", ""])
async def test_a_key_by_another_scheme_is_none(scheme: str) -> None:
    with pytest.raises(ApiError) as refused:
        await KEYED.who(keyed(TENANTS_KEY, scheme=scheme))
    assert refused.value.reason == "key_missing"


async def test_without_any_keys_who_names_no_tenant_is_an_admin() -> None:
    assert await OPEN.who(request()) == Caller(DEFAULT_TENANT, admin=True)
    assert await OPEN.who(request("acme")) == Caller(Tenant("acme"), admin=False)


async def test_what_a_gateway_in_front_has_checked_is_not_looked_at() -> None:
    assert await OPEN.tenant(keyed("x" * (MOST_BYTES + 1), "acme")) == "acme"


async def test_where_admins_have_keys_nobody_else_is_one() -> None:
    assert not (await Callers(Settings(admin_keys=(ADMINS_KEY,))).who(request())).admin
