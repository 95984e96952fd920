"""Counts and yields the words of a text of any length in pieces, for model `echo`.

    a text → pieces of about 64 Ki characters, cut between words → each with its words one blank apart

A list of the words of 8 MB takes up to 250 MB and half a second, so only the words of one piece are split at
a time. Nearly all texts are one piece, which is split once.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain

from schemas.steps import Steps, each

PIECE_CHARACTERS = 1 << 16
"""Characters that are split at once, which takes 0.4 ms; more only if a word is longer."""

_BLANK = re.compile(r"\s")
"""A character at which `str.split` splits."""


class Words:
    """Words in their order. `longest`: how many characters the longest one has."""

    def __init__(self, pieces: Sequence[str], counts: Sequence[int], longest: int) -> None:
        self._pieces = pieces
        self._ends = list(accumulate(counts))
        self.count = self._ends[-1] if counts else 0
        self.longest = longest
        self._only = _spaced(pieces[0]) if len(pieces) == 1 else None

    def round(self, start: int) -> Iterator[str]:
        """The words from number `start` on, each with a blank behind it, round and round."""
        if self.count == 0:
            return
        start %= self.count
        piece = bisect_right(self._ends, start)
        begun = start - (self._ends[piece - 1] if piece else 0)
        while True:
            yield from self._words(piece)[begun:] if begun else self._words(piece)
            piece, begun = (piece + 1) % len(self._pieces), 0

    def text(self, count: int) -> str:
        """The first `count` words of the round, with a blank between any two."""
        if count == 0 or self.count == 0:
            return ""
        rounds, rest = divmod(count, self.count)
        whole = bisect_right(self._ends, rest)
        begun = rest - (self._ends[whole - 1] if whole else 0)
        last = [self._pieces[whole].split(" ", begun)[:begun]] if begun else []
        return " ".join(chain(list(self._pieces) * rounds, self._pieces[:whole], *last))

    def _words(self, piece: int) -> Sequence[str]:
        return self._only or _spaced(self._pieces[piece])


def splitting(text: str) -> Steps[Words]:
    """The words of `text`, as `str.split` finds them."""
    pieces: list[str] = []
    counts: list[int] = []
    longest = 0
    for words in _pieces(text):
        if words:
            pieces.append(" ".join(words))
            counts.append(len(words))
            longest = max(longest, *map(len, words))
        yield
    return Words(pieces, counts, longest)


def counting_words(texts: Iterable[str]) -> Steps[int]:
    """How many words the texts have."""
    count = 0
    for text, pause in each(texts):
        for number, words in enumerate(_pieces(text)):
            count += len(words)
            if number:
                yield
        if pause:
            yield
    return count


def _pieces(text: str) -> Iterator[list[str]]:
    at = 0
    while at < len(text):
        blank = _BLANK.search(text, at + PIECE_CHARACTERS)
        end = blank.start() if blank else len(text)
        yield text[at:end].split()
        at = end


def _spaced(piece: str) -> list[str]:
    return [word + " " for word in piece.split(" ")]
