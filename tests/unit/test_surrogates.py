"""Halves of surrogate pairs: joined where they meet, else U+FFFD, and never in what is encoded."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.mending.surrogates import Seam, loads, mended

HIGH, LOW, EMOJI, LOST = "\ud83d", "\ude00", "\U0001f600", "\ufffd"


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b'{"delta": "\\ud83d"}', {"delta": HIGH}),
        (b'{"delta": "\\uDE00x", "n": 7}', {"delta": LOW + "x", "n": 7}),
        (b'["\xed\xa0\xbd"]', [HIGH]),
        (b'["\\ud83d\\ude00"]', [EMOJI]),
        (b'["a\xff\xe2\x82", "\xc3\xa9"]', ["a\ufffd\ufffd", "\xe9"]),
        (b'["\xff", "\xed\xa0\xbd"]', ["\ufffd", "\ufffd" * 3]),
        (b'{"logprob": -Infinity, "a": [NaN, Infinity, 1]}', {"logprob": None, "a": [None, None, 1]}),
        (b'[1e999, -1E+400, 1e308, "NaN 1e999"]', [None, None, 1e308, "NaN 1e999"]),
        (b'{"a": 1e-999, "b": 1' + b"0" * 5000 + b"}", {"a": 0.0, "b": None}),
        (b'["\\ud83d", 123456789012345678901234567890]', [HIGH, 123456789012345678901234567890.0]),
    ],
)
def test_halves_and_numbers_that_are_none_are_let_in(data: bytes, value: object) -> None:
    assert loads(data) == value
    msgspec.json.encode(mended(loads(data)))


@pytest.mark.parametrize(
    "data",
    [
        b'["\xff"',
        b"\xff",
        b'["\\ud83d", Nan]',
        b"[NaN",
        b"[1e9999",
        b'["\\ud83d"',
        b'"\\ud83d" x',
        b'"\\ud8"',
        b"\\ud83d",
        b"\xed",
    ],
)
def test_what_is_no_json_stays_none(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        loads(data)


def test_too_deep_a_nesting_beside_a_half_is_refused_as_elsewhere() -> None:
    with pytest.raises(RecursionError):
        loads(b'["\\ud83d",' + b"[" * 100_000)


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        (["a", "b"], ["a", "b", ""]),
        ([HIGH, LOW], ["", EMOJI, ""]),
        (["a" + HIGH, LOW + "b"], ["a", EMOJI + "b", ""]),
        ([HIGH, "x"], ["", LOST + "x", ""]),
        ([LOW], [LOST, ""]),
        ([HIGH], ["", LOST]),
        ([HIGH, "", LOW], ["", "", EMOJI, ""]),
        ([HIGH, HIGH, LOW], ["", LOST, EMOJI, ""]),
        (["ä", EMOJI], ["ä", EMOJI, ""]),
    ],
)
def test_halves_are_joined_where_they_meet(pieces: list[str], said: list[str]) -> None:
    seam = Seam()
    assert [*(seam.add(piece) for piece in pieces), seam.end()] == said


units = st.lists(st.sampled_from(["a", "ä", EMOJI, HIGH, LOW, ""]), max_size=8)


@given(units)
def test_pieces_say_together_what_the_whole_text_says(pieces: list[str]) -> None:
    seam = Seam()
    said = "".join([*(seam.add(piece) for piece in pieces), seam.end()])
    assert said == mended("".join(pieces))
    assert json.loads(msgspec.json.encode(said)) == said


def test_everything_in_a_value_is_mended() -> None:
    assert mended({HIGH: [LOW, {"a": HIGH + LOW}], "n": 1, "x": None}) == {
        LOST: [LOST, {"a": EMOJI}],
        "n": 1,
        "x": None,
    }
