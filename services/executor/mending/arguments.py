"""Reads the arguments of a tool call while they come: how far has their JSON come? Pure.

Often only the text of a piece shows which call it belongs to: nothing can follow whole arguments, and an
object can begin only in some places. Each character is read once.
"""

import re

import msgspec

_STRING = re.compile(r'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
"""The inside of a string up to its quote, or to the end of the text."""
_MARK = re.compile(r'["{}\[\]]')
_OPENS = {"{": "}", "[": "]"}


class Arguments:
    """A text that should be a JSON object."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.size = 0
        """Characters so far."""
        self._open: list[str] = []
        """The closing brackets that must come, the next one last."""
        self._in_string = False
        self._escaped = False
        """Whether the text so far ends in a backslash that escapes the next character."""
        self._last = ""
        """The last character outside strings that is no white space; "" before the first."""
        self.broken = False
        """Whether the text is neither an object nor the beginning of one."""

    @property
    def text(self) -> str:
        """The text so far."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    @property
    def begun(self) -> bool:
        """Whether anything but white space has come."""
        return bool(self._last) or self._in_string

    @property
    def whole(self) -> bool:
        """Whether an object, or a list, is at its end."""
        return bool(self._last) and not self._open and not self._in_string and not self.broken

    @property
    def cut(self) -> bool:
        """Whether the text stops within an object, or a list."""
        return self.begun and not self.whole and not self.broken

    @property
    def empty(self) -> bool:
        """Whether the text is an empty object, which some servers send ahead of the arguments."""
        return self.whole and self.size < 8 and "".join(self.text.split()) == "{}"

    def add(self, text: str) -> None:
        """Take more of the text."""
        self._pieces.append(text)
        self.size += len(text)
        if not self.begun and text.strip() and text.lstrip()[0] not in _OPENS:
            self.broken = True  # no object, so this scan cannot tell how far it has come
        at = 0
        while at < len(text):
            at = self._string(text, at) if self._in_string else self._structure(text, at)

    def takes(self, text: str) -> bool:
        """Whether the text can go on with `text`."""
        begins = text.lstrip()[:1]
        if not begins or self._in_string:
            return True
        if self.broken:
            return begins not in _OPENS
        if not self._last:
            return True
        if begins in _OPENS:
            return self._last in ":[" or (self._last == "," and self._open[-1:] == ["]"])
        return bool(self._open)

    def _string(self, text: str, at: int) -> int:
        """Read on from `at`, within a string. Returns where that ends."""
        if self._escaped:
            self._escaped = False
            at += 1
        run = _STRING.match(text, at)
        at = run.end() if run else at
        if at < len(text):
            self._escaped = text[at] == "\\"
            self._in_string = self._escaped
            self._last = self._last if self._escaped else '"'
            at += 1
        return at

    def _structure(self, text: str, at: int) -> int:
        """Read on from `at`, outside strings, past the next mark. Returns where."""
        mark = _MARK.search(text, at)
        end = mark.start() if mark else len(text)
        if between := text[at:end].rstrip()[-1:]:
            self._last = between
            self.broken = self.broken or not self._open
        if mark is None:
            return end
        match mark[0]:
            case '"':
                self._in_string = True
                self.broken = self.broken or not self._open
            case "{" | "[" as bracket:
                self.broken = self.broken or (bool(self._last) and not self._open)
                self._open.append(_OPENS[bracket])
                self._last = bracket
            case bracket:
                self.broken = self.broken or not self._open or self._open.pop() != bracket
                self._last = bracket
        return end + 1


def same_json(one: str, other: str) -> bool:
    """Whether two texts have the same JSON value; spaces and the order of members do not matter."""
    if one == other:
        return True
    try:
        return bool(msgspec.json.decode(one) == msgspec.json.decode(other))
    except (ValueError, RecursionError):
        return False


def is_json(text: str) -> bool:
    """Whether `text` is whole JSON. An empty text is: no arguments."""
    try:
        msgspec.json.decode(text or "{}")
    except (ValueError, RecursionError):
        return False
    return True
