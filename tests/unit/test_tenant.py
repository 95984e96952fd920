"""Whose request it is, where a gateway says so in a header."""

import pytest
from starlette.requests import Request

from schemas.errors import ApiError
from schemas.ids import Tenant
from services.settings import Settings
from services.web.forwarded import Caller
from services.web.tenant import DEFAULT_TENANT, tenant_of, who_calls

HEADER = Settings().tenant_header


def request(*given: str) -> Request:
    headers = [(HEADER.encode(), value.encode()) for value in given]
    return Request({"type": "http", "headers": headers})


def test_the_header_names_the_tenant_and_without_it_there_is_one() -> None:
    assert tenant_of(request("acme"), Settings()) == "acme"
    assert tenant_of(request(), Settings()) == DEFAULT_TENANT


@pytest.mark.parametrize("given", [("",), ("a b",), ("x" * 129,), ("acme", "acme"), ("mallory", "acme")])
def test_a_header_that_does_not_name_one_tenant_is_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(ApiError, match=HEADER) as refused:
        tenant_of(request(*given), Settings())
    assert refused.value.status == 400


TENANTS_KEY, ADMINS_KEY = "a-key-of-a-tenant", "a-key-of-an-admin"
KEYED = Settings(api_keys=(f"acme={TENANTS_KEY}",), admin_keys=(ADMINS_KEY,))


def keyed(key: str, *given: str) -> Request:
    asked = request(*given)
    asked.scope["headers"].append((b"authorization", f"Bearer {key}".encode()))
    return asked


def test_a_key_says_whether_a_tenant_or_an_admin_calls() -> None:
    assert who_calls(keyed(TENANTS_KEY), KEYED) == Caller(Tenant("acme"), admin=False)
    assert who_calls(keyed(ADMINS_KEY, "acme"), KEYED) == Caller(None, admin=True)


def test_an_admins_key_is_no_tenants() -> None:
    with pytest.raises(ApiError, match="no tenant") as refused:
        tenant_of(keyed(ADMINS_KEY), KEYED)
    assert (refused.value.status, refused.value.code) == (403, "admin_key")


@pytest.mark.parametrize("key", ["", "a-key-of-nobody-here", TENANTS_KEY + "x", ADMINS_KEY[:-1]])
def test_any_other_key_is_refused(key: str) -> None:
    with pytest.raises(ApiError) as refused:
        who_calls(keyed(key), KEYED)
    assert refused.value.status == 401


def test_without_any_keys_who_names_no_tenant_is_an_admin() -> None:
    assert who_calls(request(), Settings()) == Caller(DEFAULT_TENANT, admin=True)
    assert who_calls(request("acme"), Settings()) == Caller(
        tenant_of(request("acme"), Settings()), admin=False
    )


def test_where_admins_have_keys_nobody_else_is_one() -> None:
    assert not who_calls(request(), Settings(admin_keys=(ADMINS_KEY,))).admin
