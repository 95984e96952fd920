"""Counts the values of a JSON text before it is decoded: they say what its decoding costs.

    bytes, a slice at a time → escapes and strings taken out → commas and brackets counted → values

Decoding costs by the value, in time and in memory, and nothing interrupts a decoder: one call holds the whole
process. So a text is counted first, in slices, each of which takes well below a millisecond. The count is
exact for JSON: a container with n members has n - 1 commas and a bracket. Commas within strings do not count,
so neither does a picture or a long text. A *number* that costs as much as many values counts as many.
"""

import re
from collections.abc import Mapping
from heapq import nlargest

import msgspec
from msgspec import Struct

from schemas.steps import Steps

SLICE_BYTES = 128 << 10
"""Bytes that are counted in one go: 0.1 ms of a string, 4 ms of nothing but brackets, quotes and escapes."""
PLAIN_NUMBER = 32
"""Characters up to which a number counts as one value: no double has more in an ordinary notation."""
HARD_NUMBER = 32
"""Values that a longer number, or one with an exponent of three digits, counts as: its decoder leaves the
fast path, and takes up to 14 microseconds for it instead of 0.03 (msgspec 0.22, best of three)."""
NUMBER_BYTES = 16
"""Bytes of a longer number that count as one more value: integers are read in quadratic time."""
MANY_FIELDS = 100_000
"""Members up to which an object is split by their names: 0.35 microseconds each, in one call."""
LONGEST_FIELDS = 16
"""Fields that are counted when the one that holds most is looked for: the longest ones."""

PASSES = 32
"""Levels of containers within one slice that are looked through; deeper ones are taken for more members."""

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_EXPONENT = re.compile(rb"[eE][-+]?[0-9]{3}")
_WHITE = b" \t\r\n"
_STRUCTURE = bytes.maketrans(b'[]{},:"', b"       ")


class Tally:
    """Counts the values of one JSON text, fed in order and in pieces of any size."""

    def __init__(self) -> None:
        self.values = 1
        """Values so far; a hard number counts as many. Means nothing for a text that is not JSON."""
        self._in_string = False
        self._escape = b""
        self._last = b""

    def feed(self, piece: bytes) -> None:
        """Count the next piece."""
        structure = self.structure(piece)
        opened = structure.count(b"[") + structure.count(b"{")
        seam = self._last + structure
        empty = seam.count(b"[]") + seam.count(b"{}")
        self._last = seam[-1:]
        self.values += structure.count(b",") + opened - empty + _hard(structure)

    def structure(self, piece: bytes) -> bytes:
        """What is left of the next piece without white space, and with one quote for each string."""
        piece, self._escape = self._escape + piece, b""
        if b"\\" in piece:
            # Backslashes stand within strings only, and pair off from the left.
            piece = piece.replace(b"\\\\", b"")
            if piece.endswith(b"\\"):
                piece, self._escape = piece[:-1], b"\\"
            piece = piece.replace(b'\\"', b"")
        parts = piece.split(b'"')
        begun = b'"' if self._in_string else b""
        outside = begun + b'"'.join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        return outside.translate(None, _WHITE)


def _hard(structure: bytes) -> int:
    """What the hard numbers in `structure` count beyond one value each. A number that lies across two
    slices may count as two shorter ones: there is at most one for each slice.
    """
    numbers = structure.translate(_STRUCTURE).split()
    long = [len(number) for number in numbers if len(number) > PLAIN_NUMBER]
    exponents = len(_EXPONENT.findall(structure)) if b"e" in structure or b"E" in structure else 0
    return HARD_NUMBER * (len(long) + exponents) + sum(long) // NUMBER_BYTES


def counting(text: bytes, most: int) -> Steps[int]:
    """The values in `text`; once there are more than `most`, any number above that."""
    if len(text) // NUMBER_BYTES <= most:
        # Nearly every text is small, and what it can hold at most is within the bound.
        marks = text.count(b",") + text.count(b"[") + text.count(b"{")
        if HARD_NUMBER * (marks + 1) + len(text) // NUMBER_BYTES <= most:
            return marks + 1
    tally = Tally()
    yield from _feeding(tally, text, most)
    return tally.values


def largest_field(text: bytes, known: type[Struct]) -> Steps[str | None]:
    """The field of the JSON object `text` that holds most values, judged by the beginnings of the longest.

    `known` has the usual fields, as `msgspec.Raw`. Unknown fields are compared only if there are no more than
    MANY_FIELDS; None if one of too many may hold most. Raises msgspec's errors for what is not JSON.
    """
    usual = msgspec.structs.asdict(msgspec.json.decode(text, type=known))
    yield
    found, most = yield from _fullest(usual)
    if most >= len(text) - sum(map(len, usual.values())):
        return found  # the rest cannot hold as many
    if text.count(b":") > MANY_FIELDS and (yield from _members(text)) > MANY_FIELDS:
        return None
    every = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    yield
    found, _ = yield from _fullest(every)
    return found


def _members(text: bytes) -> Steps[int]:
    """How many members the object `text` itself has, at most: it counts slices that reach its own level."""
    tally, depth, members = Tally(), 0, 0
    for start in range(0, len(text), SLICE_BYTES):
        structure = tally.structure(text[start : start + SLICE_BYTES])
        left = structure.translate(None, _NO_BRACKETS)
        for _ in range(PASSES):
            size, left = len(left), left.replace(b"[]", b"").replace(b"{}", b"")
            if len(left) == size:
                break
        closed = left.count(b"]") + left.count(b"}")
        if depth - closed < 2:
            members += structure.count(b":")
        depth += len(left) - 2 * closed
        yield
    return members


def _fullest(fields: Mapping[str, msgspec.Raw]) -> Steps[tuple[str | None, float]]:
    """The field that holds most, and about how many."""
    held: dict[str, float] = {}
    for name in nlargest(LONGEST_FIELDS, fields, key=lambda name: len(fields[name])):
        whole = bytes(fields[name])
        tally = Tally()
        tally.feed(whole[:SLICE_BYTES])
        held[name] = tally.values * len(whole) / max(1, min(len(whole), SLICE_BYTES))
        yield
    found = max(held, key=held.__getitem__, default=None)
    return found, 0 if found is None else held[found]


def _feeding(tally: Tally, text: bytes, most: float = float("inf")) -> Steps[None]:
    for start in range(0, len(text), SLICE_BYTES):
        tally.feed(text[start : start + SLICE_BYTES])
        if tally.values > most:
            return
        yield
