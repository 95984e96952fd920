"""Joins halves of surrogate pairs, which JavaScript servers send if they cut a text between two UTF-16 units.

JSON can hold half a pair, as an escape. UTF-8 cannot, so no record and no frame can. `loads` lets halves in,
a `Seam` joins two that meet across the deltas of a text, and `mended` replaces the rest by U+FFFD (U-12),
like bytes that are no UTF-8. Pure. Nearly every text has no halves, and costs one look.
"""

import json
import re
from math import isfinite
from typing import Any

import msgspec

_HALF = re.compile("[\ud800-\udfff]")
_LONGEST_INT = 18
"""Digits that surely fit into 64 bits: msgspec encodes no larger integer."""


def loads(data: bytes) -> Any:
    """The JSON value in `data`. Its strings may hold halves, and have U+FFFD for bytes that are no UTF-8.
    Numbers that no double holds are None.

    Raises msgspec.DecodeError or RecursionError if `data` is no JSON.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if data.isascii() and not _read_all_the_same(data, str(error)):
            raise
        return _lenient(data)


def mended(value: Any) -> Any:
    """`value` with the halves in all its strings joined if they meet, else replaced by U+FFFD."""
    match value:
        case str():
            return whole(value)
        case list():
            return [mended(part) for part in value]
        case dict():
            return {whole(name): mended(part) for name, part in value.items()}
    return value


class Seam:
    """Joins one text's pieces. A half that ends a piece is held back until the next piece, or `end`."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def __repr__(self) -> str:
        return f"<Seam held={self._held!a}>"

    @property
    def holds(self) -> bool:
        """Whether a half waits for the other one."""
        return self._held != ""

    def add(self, text: str) -> str:
        """Take the text's next piece. Returns the part that can be told now; may be empty."""
        if not self._held and (text.isascii() or not _HALF.search(text)):
            return text
        text = self._held + text
        self._held = text[-1] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return whole(text.removesuffix(self._held))

    def end(self) -> str:
        """The rest at the end of the text: U+FFFD for a half that was held back, else ""."""
        held, self._held = self._held, ""
        return "\ufffd" if held else ""


def whole(text: str) -> str:
    """`text` with its halves joined if they meet, else replaced by U+FFFD."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_all_the_same(data: bytes, why: str) -> bool:
    """Whether ASCII that is no JSON may hold half a pair, or a number that is none.

    Other bytes may have half a pair encoded like a character (WTF-8). The letters are sought before the
    escape: a search for that takes 7 ms a MB where there is nothing but backslashes.
    """
    half = (b"ud" in data and b"\\ud" in data) or (b"uD" in data and b"\\uD" in data)
    return half or "out of range" in why or b"NaN" in data or b"Infinity" in data


def _lenient(data: bytes) -> Any:
    try:
        text = data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
    try:
        return json.loads(text, parse_constant=_nothing, parse_int=_number, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise msgspec.DecodeError(str(error)) from error


def _nothing(_: str) -> None:
    """None for NaN and the infinities, which servers in Python write: JSON only has null for them (U-18)."""


def _number(digits: str) -> int | float | None:
    return int(digits) if len(digits) <= _LONGEST_INT else _finite(digits)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if isfinite(number) else None
