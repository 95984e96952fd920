"""services/executor/backends/chat/repeats.py: what repeats the text so far is told once (U-47)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.executor.backends.chat.repeats import Repeats


def told(*pieces: str, last: str = "") -> str:
    text = Repeats()
    said = [text.piece(piece) for piece in pieces]
    said.append(text.piece(last, last=True))
    return "".join([*said, text.flush()])


@pytest.mark.parametrize(
    ("pieces", "last", "text"),
    [
        (["He", "Hello", "Hello you"], "", "Hello you"),
        (["He", "Hello"], "", "Hello"),
        (["He", "Hello", "Hello you"], "Hello you", "Hello you"),
        (["He", "llo"], "Hello", "Hello"),
        (["He", "llo"], "Hello you", "Hello you"),
        (["He", "llo", "Hello"], "", "Hello"),
        (["He", "llo\n"], "Hello", "Hello\n"),
        (["Hello"], "Hello", "Hello"),
        ([" ", " the", " the cat"], "", " the cat"),
        (
            ["A text that is long enough not to be chance."] * 3,
            "",
            "A text that is long enough not to be chance.",
        ),
    ],
)
def test_a_text_that_is_sent_again_as_a_whole_is_told_once(pieces: list[str], last: str, text: str) -> None:
    assert told(*pieces, last=last) == text


@pytest.mark.parametrize(
    "pieces",
    [
        ["ha", "ha"],
        ["ha", "ha", "ha", "ha"],
        ["ha", "ha", "haha", "!"],
        ["ha", "haha"],
        ["`", "``", "python"],
        ["\n", "\n\n", "Hi"],
        ["no ", "no ", "no no "],
        ["ab", "c", "abc", "d"],
        ["I", "I mean", " you"],
        ["\n", "\n\n", "\n\nHi", " you"],
        [" ", "  ", "   x", " "],
    ],
)
def test_a_model_that_repeats_itself_loses_nothing(pieces: list[str]) -> None:
    assert told(*pieces) == "".join(pieces)


@pytest.mark.parametrize("pieces", [["Hell", "o"], ["Hello"], ["ha", "ha"], ["ha", "ha", "ha", "ha"]])
def test_a_message_beside_the_pieces_adds_what_they_left_out(pieces: list[str]) -> None:
    text, whole = Repeats(), "".join(pieces)
    said = [text.piece(piece) for piece in pieces]
    said += [text.snapshot(whole, alone=False), text.snapshot(f"{whole}!", alone=False)]
    assert "".join([*said, text.flush()]) == f"{whole}!"


def test_a_stream_that_turns_out_to_have_pieces_loses_none_of_them_from_then_on() -> None:
    assert told("a", "ab", "abc", "x", "a", "a") == "abcxaa"


def test_a_message_settles_whether_pieces_are_all_of_it() -> None:
    text = Repeats()
    said = [text.piece("ha"), text.piece("ha"), text.snapshot("ha", alone=False)]
    assert "".join([*said, text.flush()]) == "ha"


def test_a_message_that_says_something_else_than_the_pieces_changes_nothing() -> None:
    text = Repeats()
    assert [text.piece("Hello "), text.snapshot("hello", alone=False), text.flush()] == ["Hello ", "", ""]


def test_messages_alone_may_be_pieces() -> None:
    text = Repeats()
    said = [text.snapshot(piece, alone=True) for piece in ("Hell", "o", " you", "!")]
    assert "".join(said) == "Hello you!"


@given(st.text("abc d", min_size=1), st.data())
def test_a_text_that_grows_with_each_piece_is_told_once(text: str, data: st.DataObject) -> None:
    ends = sorted(data.draw(st.sets(st.integers(1, len(text)))) | {len(text)})
    grown = [text[:end] for end in ends]
    if len(grown) > 2 and grown[1] != grown[0] * 2 and grown[2][: len(grown[0]) * 3] != grown[0] * 3:
        assert told(*grown) == text


@given(st.lists(st.text("abc", min_size=1, max_size=3), max_size=9))
def test_pieces_that_show_at_once_to_be_pieces_are_told_as_they_come(pieces: list[str]) -> None:
    pieces = ["x", "y", *pieces]  # none of them begins with all that was said
    text = Repeats()
    assert [text.piece(piece) for piece in pieces] == pieces
