"""Halves of surrogate pairs, which servers in JavaScript send when they cut a text between two UTF-16 units.

JSON can say half a pair, as an escape; UTF-8 cannot, so no record and no frame can hold one. `loads` lets
halves in, a `Seam` joins two that meet in one text across its deltas, and `mended` makes whatever is left
U+FFFD (U-12), as bytes that are no UTF-8 become. Pure. Text without halves, nearly all of it, costs one look.
"""

import json
import re
from math import isfinite
from typing import Any

import msgspec

_HALF = re.compile("[\ud800-\udfff]")
_LONGEST_INT = 18
"""Digits that certainly fit into 64 bits: msgspec encodes no longer integer."""


def loads(data: bytes) -> Any:
    """The JSON value in `data`; its strings may hold halves, and have U+FFFD for bytes that are no UTF-8, and
    numbers that no double holds are None.

    Raises msgspec.DecodeError or RecursionError when it is no JSON.
    """
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if data.isascii() and not _read_all_the_same(data, str(error)):
            raise
        return _lenient(data)


def mended(value: Any) -> Any:
    """`value` with the halves in all its strings joined where they meet, else replaced by U+FFFD."""
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
        """Whether a half waits for its other one."""
        return self._held != ""

    def add(self, text: str) -> str:
        """What can be said of the text's next piece now; may be empty."""
        if not self._held and (text.isascii() or not _HALF.search(text)):
            return text
        text = self._held + text
        self._held = text[-1] if "\ud800" <= text[-1:] <= "\udbff" else ""
        return whole(text.removesuffix(self._held))

    def end(self) -> str:
        """What is left when the text is over: U+FFFD for a half that was held back, else nothing."""
        held, self._held = self._held, ""
        return "\ufffd" if held else ""


def whole(text: str) -> str:
    """`text` with its halves joined where they meet, else replaced by U+FFFD."""
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
    """NaN and the infinities, as servers in Python write them: JSON has no word for them but null (U-18)."""


def _number(digits: str) -> int | float | None:
    return int(digits) if len(digits) <= _LONGEST_INT else _finite(digits)


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if isfinite(number) else None
