"""services/executor/backends/words.py: the words of a text, in pieces."""

from itertools import cycle, islice

from hypothesis import given
from hypothesis import strategies as st

from schemas.steps import finished
from services.executor.backends.words import PIECE_CHARACTERS, counting_words, splitting

BLANKS = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u2003\u2028\u3000"
LONG = st.builds(
    lambda word, blank, times: (word + blank) * times,
    st.text(max_size=9),
    st.sampled_from(BLANKS),
    st.integers(0, 40_000),
)


@given(st.lists(st.one_of(st.text(), LONG), max_size=4), st.integers(0, 100_000), st.integers(0, 300_000))
def test_pieces_hold_the_words_that_a_split_finds(parts: list[str], start: int, told: int) -> None:
    text = "".join(parts)
    naive = text.split()
    found = finished(splitting(text))

    assert found.count == len(naive) == finished(counting_words([text]))
    assert found.longest == max(map(len, naive), default=0)
    start %= len(naive) or 1
    expected = [f"{word} " for word in islice(cycle(naive), start, start + 100)]
    assert list(islice(found.round(start), 100)) == expected
    assert found.text(told) == " ".join(islice(cycle(naive), told))


def test_a_word_that_is_longer_than_a_piece_stays_whole() -> None:
    long = "x" * (2 * PIECE_CHARACTERS + 1)
    found = finished(splitting(f"a {long} b {long}"))
    assert list(islice(found.round(1), 4)) == [f"{long} ", "b ", f"{long} ", "a "]
    assert found.text(3) == f"a {long} b"


def test_many_texts_are_counted_with_turns_between_them() -> None:
    steps = counting_words(["a b"] * 10_000)
    assert sum(1 for _ in steps) == 10
