"""The header `traceparent`: what is read of it, and that nothing else gets through."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.trace_context import parse_traceparent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WHOLE = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("flags", ["00", "01", "ff"])
def test_a_header_of_this_version_is_read_as_it_is(flags: str) -> None:
    header = f"00-{TRACE}-{SPAN}-{flags}"
    assert parse_traceparent(header) == header


@pytest.mark.parametrize("more", ["", "-what-is-to-come"])
def test_a_header_of_a_later_version_is_read_as_one_of_this(more: str) -> None:
    assert parse_traceparent(f"cc-{TRACE}-{SPAN}-01{more}") == WHOLE


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        WHOLE.upper(),
        f" {WHOLE}",
        f"{WHOLE}\n",
        WHOLE[:-1],
        f"00-{TRACE}-{SPAN}",
    ],
)
def test_what_is_no_context_is_none(header: str) -> None:
    assert parse_traceparent(header) == ""


@given(st.text())
def test_whatever_comes_is_a_context_or_none(header: str) -> None:
    found = parse_traceparent(header)
    assert found == "" or parse_traceparent(found) == found
