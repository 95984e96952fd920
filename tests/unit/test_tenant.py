"""Whose request it is, where a gateway says so in a header."""

import pytest
from starlette.requests import Request

from schemas.errors import ApiError
from services.settings import Settings
from services.web.tenant import DEFAULT_TENANT, tenant_of

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
