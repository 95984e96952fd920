"""Pages of lists."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ApiError
from services.web.paging import Paging, page, parse_paging


def items_of(count: int) -> list[dict[str, str]]:
    return [{"id": f"msg_{index}"} for index in range(count)]


@given(st.integers(0, 60), st.integers(1, 25), st.booleans())
def test_walking_the_pages_meets_every_item_once(count: int, limit: int, descending: bool) -> None:
    items, seen, after = items_of(count), [], None
    while True:
        found = page(items, Paging(limit, descending, after))
        seen += found["data"]
        assert found["first_id"] == (found["data"][0]["id"] if found["data"] else None)
        after = found["last_id"]
        if not found["has_more"]:
            break

    assert seen == (items[::-1] if descending else items)


def test_twenty_and_newest_first_by_default() -> None:
    assert parse_paging({}) == Paging(20, True, None)
    assert parse_paging({"order": "asc", "limit": "100", "after": "msg_1", "include[]": "x"}) == Paging(
        100, False, "msg_1"
    )


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *(({"limit": text}, "limit") for text in ["0", "101", "-1", "", "ten", "1.5", "9" * 5000, "\u0661"]),
        ({"order": "up"}, "order"),
        ({"order": ""}, "order"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(query: dict[str, str], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_paging(query)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_an_unknown_after_is_refused_by_name() -> None:
    with pytest.raises(ApiError) as refused:
        page(items_of(3), Paging(after="msg_9"))
    assert (refused.value.status, refused.value.param) == (400, "after")
