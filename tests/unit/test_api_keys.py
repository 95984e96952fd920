"""The file of API keys: what its lines may be, and whose a key is."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from services.web.api_keys import ApiKey, KeysBroken, digest_of, granted, parse_keys

KEY = "rj_a-key-that-nobody-else-has"


def line(key: str = KEY, **fields: Any) -> dict[str, Any]:
    usual = {"sha256": digest_of(key).hex(), "name": "ci", "tenant": "acme"}
    return {name: value for name, value in {**usual, **fields}.items() if value is not None}


def content(*lines: dict[str, Any]) -> bytes:
    return "".join(f"{json.dumps(each)}\n" for each in lines).encode()


def test_a_key_is_found_by_its_hash_and_no_other_is() -> None:
    keys = granted(parse_keys(content(line(), line("another", name="two", tenant="blue"))))
    found = keys.find(KEY)
    assert found is not None
    assert (found.tenant, found.name, found.admin, found.expires) == ("acme", "ci", False, None)
    assert [keys.find(other) for other in ("", KEY[:-1], KEY + "x", digest_of(KEY).hex(), "ü")] == [None] * 5


def test_comments_and_empty_lines_are_passed_over_and_an_empty_file_has_no_key() -> None:
    assert len(list(parse_keys(b"# whose\n\n  # and why\n" + content(line()) + b"\n"))) == 1
    assert list(parse_keys(b"")) == []


def test_an_admin_needs_no_tenant_and_may_have_one() -> None:
    alone, both = parse_keys(content(line(tenant=None, admin=True), line("b", name="two", admin=True)))
    assert (alone.tenant, alone.admin) == (None, True)
    assert (both.tenant, both.admin) == ("acme", True)


def test_a_time_has_a_zone() -> None:
    [key] = parse_keys(content(line(expires="2027-01-01T01:00:00+01:00")))
    assert key.expires == datetime(2027, 1, 1, tzinfo=UTC)


BROKEN: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"acme=" + KEY.encode(), "line 1: this is no JSON"),
    "half a line": (content(line())[:-9], "line 1: this is no JSON"),
    "a list": (b"[]", "line 1: this is no JSON object"),
    "no UTF-8": (b'{"sha256": "\xff"}', "line 1"),
    "no hash": (content(line(sha256=None)), "lacks sha256 or name"),
    "the key itself": (content(line(sha256=KEY)), "sha256 is not as it must be"),
    "a hash and a line break": (content(line(sha256=digest_of(KEY).hex() + "\n")), "sha256 is not"),
    "capitals": (content(line(sha256=digest_of(KEY).hex().upper())), "sha256 is not"),
    "no name": (content(line(name=None)), "lacks sha256 or name"),
    "an odd name": (content(line(name="a b")), "name is not"),
    "an odd tenant": (content(line(tenant="a/b")), "tenant is not"),
    "nobody's": (content(line(tenant=None)), "neither a tenant nor admin"),
    "nobody's, and no admin": (content(line(tenant=None, admin=False)), "neither a tenant nor admin"),
    "admin is no yes": (content(line(admin="false")), "admin is not"),
    "a time without a zone": (content(line(expires="2027-01-01T00:00:00")), "expires is not"),
    "a misspelt field": (content(line(expiry="2027-01-01T00:00:00Z")), "a field that is none of"),
    "one hash twice": (content(line(), line(name="two")), "line 2: it has the sha256 of line 1"),
    "one name twice": (content(line(), line("b")), "line 2: it has the name of line 1"),
}


@pytest.mark.parametrize("raw, why", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_says_in_which_line_and_shows_nothing_of_it(raw: bytes, why: str) -> None:
    with pytest.raises(KeysBroken, match=r"^line ") as caught:
        granted(parse_keys(raw))
    assert why in str(caught.value)
    assert KEY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_line_is_written_as_it_is_read() -> None:
    [key] = parse_keys(content(line(expires="2027-01-01T00:00:00Z")))
    assert isinstance(key, ApiKey)
    assert KEY not in repr(granted([key]))
