"""Ids of items: each says where its item lies, and nothing else is taken for one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import (
    ENTROPY_BYTES,
    MAX_ITEMS,
    ItemPlace,
    ResponseId,
    item_id,
    item_prefix,
    parse_item_id,
    response_id,
)

RESPONSES = st.builds(
    response_id, st.integers(0, 0xFFFF), st.binary(min_size=ENTROPY_BYTES, max_size=ENTROPY_BYTES)
)
PREFIXES = st.from_regex(r"[a-z][a-z0-9]{0,17}", fullmatch=True)
POSITIONS = st.integers(0, MAX_ITEMS - 1) | st.integers(0, 20)
ID = ResponseId("resp_" + "0a" * 18)


@given(PREFIXES, RESPONSES, POSITIONS, st.booleans())
def test_an_id_says_where_its_item_lies(
    prefix: str, response: ResponseId, position: int, given: bool
) -> None:
    id = item_id(prefix, response, position, given=given)

    assert parse_item_id(id) == ItemPlace(response, position, given)
    assert len(id) <= 64
    assert re.fullmatch(r"[A-Za-z0-9_-]+", id)
    assert id.startswith(f"{prefix}_")


@given(
    st.from_regex(r"[a-z]{1,4}_[0-9a-f]{36}i?[0-9a-f]{4}", fullmatch=True)
    | st.from_regex(r"[a-z]{1,4}_[0-9a-f]{36}i?[0-9a-f]{3,8}", fullmatch=True)
    | st.text()
)
def test_every_text_is_the_one_id_of_its_place_or_none(text: str) -> None:
    place = parse_item_id(text)
    assert place is None or text == item_id(
        text.partition("_")[0], place.response, place.position, given=place.given
    )


@pytest.mark.parametrize(
    "text",
    ["", "msg_1", ID, f"msg_{ID[5:]}", f"msg_{ID[5:]}000", f"msg_{ID[5:]}00000", f"msg_{ID[5:]}o0000",
     f"MSG_{ID[5:]}0000", f"_{ID[5:]}0000", f"msg_{ID[5:].upper()}0000", f"msg_{ID[5:]}0000\n",
     f"msg_{ID[5:]}{MAX_ITEMS:x}", "x" * 19 + f"_{ID[5:]}0000"],
)  # fmt: skip
def test_what_is_no_id_of_ours_is_none(text: str) -> None:
    assert parse_item_id(text) is None


@given(st.text(), st.text() | st.none() | st.integers())
def test_any_type_and_any_name_give_a_prefix_that_an_id_takes(type: str, theirs: object) -> None:
    assert parse_item_id(item_id(item_prefix(type, theirs), ID, 3)) == ItemPlace(ID, 3, given=False)


@pytest.mark.parametrize(
    ("type", "theirs", "prefix"),
    [
        ("message", None, "msg"),
        ("message", "item_1", "msg"),
        ("function_call", "chatcmpl-tool-1", "fc"),
        ("reasoning", "rs_1", "rs"),
        ("acme:search", "acme_1", "acme"),
        ("acme:search", "Acme-1", "item"),
        ("acme:search", "x" * 19 + "_1", "item"),
        ("acme:search", None, "item"),
        ("acme:search", 7, "item"),
    ],
)
def test_the_prefix_is_that_of_the_type_or_the_upstreams(type: str, theirs: object, prefix: str) -> None:
    assert item_prefix(type, theirs) == prefix


@pytest.mark.parametrize(
    ("prefix", "position"), [("msg", -1), ("msg", MAX_ITEMS), ("", 0), ("Msg", 0), ("a_b", 0)]
)
def test_what_cannot_be_in_an_id_is_refused(prefix: str, position: int) -> None:
    with pytest.raises(ValueError, match="item"):
        item_id(prefix, ID, position)
