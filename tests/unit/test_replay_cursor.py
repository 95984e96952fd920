"""Cursors as clients send them."""

import pytest

from schemas.errors import ApiError
from services.replay.cursor import parse_cursor, wants_stream


@pytest.mark.parametrize(
    ("starting_after", "last_event_id", "cursor"),
    [
        (None, None, -1),
        ("0", None, 0),
        ("-1", None, -1),
        ("-7", None, -1),
        ("12", None, 12),
        ("007", None, 7),
        (None, "4", 4),
        ("2", "6", 6),
        ("6", "2", 6),
        ("3", "", 3),
        ("3", "not ours", 3),
    ],
)
def test_the_larger_of_both_is_what_the_client_has(
    starting_after: str | None, last_event_id: str | None, cursor: int
) -> None:
    assert parse_cursor(starting_after, last_event_id) == cursor


@pytest.mark.parametrize(
    "text", ["", " ", "abc", "1.5", "1e3", "0x1", "+1", "--1", "1 ", "\u0661", "1_0", "null"]
)
def test_what_is_no_integer_is_refused_by_name(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_cursor(text, None)
    assert (refused.value.status, refused.value.param) == (400, "starting_after")
    assert refused.value.message == "starting_after must be an integer"


def test_a_cursor_of_thousands_of_digits_is_past_every_event() -> None:
    assert parse_cursor("9" * 10_000, None) > 1 << 60
    assert parse_cursor("-" + "9" * 10_000, None) == -1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [(None, False), ("", False), ("false", False), ("0", False), ("true", True), ("1", True), ("True", True)],
)
def test_stream_is_a_boolean(text: str | None, wanted: bool) -> None:
    assert wants_stream(text) is wanted


def test_stream_that_is_neither_is_refused_by_name() -> None:
    with pytest.raises(ApiError) as refused:
        wants_stream("maybe")
    assert (refused.value.status, refused.value.param) == (400, "stream")
    assert refused.value.message == "stream must be true or false"
