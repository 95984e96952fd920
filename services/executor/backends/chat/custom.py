r"""Reads the input of a call from the pieces of a function call's arguments. Pure.

    {"input": "*** Begin Patch\n…"} in pieces → `*** Begin Patch⏎…` in pieces

A custom tool takes a text. On a Chat Completions server it is a function with one string `input` (U-67): the
model writes the text as a JSON string. The client gets the text as the model meant it, while it comes.
"""

import json
import re

_HEAD = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_MOST_HEAD = 1000
"""Characters within which `input` must begin; else the arguments are read as a whole, at their end."""
_WHOLE_CHARACTERS = re.compile(
    r"""(?: [^"\\]
          | \\[^u]
          | \\u(?![dD][89abAB])[0-9a-fA-F]{4}
          | \\u[dD][89abAB][0-9a-fA-F]{2}(?: \\u[dD][c-fC-F][0-9a-fA-F]{2}
                                           | (?=[^\\]|\\[^u]|\\u[^dD]|\\u[dD][^c-fC-F]) )
        )*""",
    re.VERBOSE,
)
"""The inside of a JSON string up to its end, or to an escape, or a pair of them, that is not whole yet."""
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\", "/": "/", "'": "'"}


class PlainInput:
    """Arguments that are told as they come."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    @property
    def said(self) -> str:
        """All that was told so far."""
        return "".join(self._pieces)

    def add(self, piece: str) -> str:
        """Take a further piece of the arguments. Returns the input in it."""
        self._pieces.append(piece)
        return piece

    def end(self) -> str:
        """The rest of the input at the end of the arguments. Clients decode arguments as JSON, so without any
        they are an empty object.
        """
        return "" if any(self._pieces) else self.add("{}")


class CustomInput:
    """The string `input` of the arguments, told while it comes."""

    def __init__(self) -> None:
        self._arguments: list[str] = []
        self._begun = self._over = False
        self._rest = ""
        """What came and was not told yet: the head, or the beginning of an escape."""
        self._said: list[str] = []

    @property
    def said(self) -> str:
        """All that was told so far."""
        return "".join(self._said)

    def add(self, piece: str) -> str:
        """Take a further piece of the arguments. Returns the text in it; "" for JSON around the text."""
        self._arguments.append(piece)
        if self._over:
            return ""
        self._rest += piece
        if not self._begun:
            self._read_head()
        return self._tell(self._text()) if self._begun else ""

    def end(self) -> str:
        """The rest of the text when the arguments are whole, or break off."""
        if not self._begun:
            return self._tell(_whole("".join(self._arguments)))
        return "" if self._over else self._tell(_decoded(self._rest))

    def _read_head(self) -> None:
        head = _HEAD.match(self._rest)
        if head:
            self._begun, self._rest = True, self._rest[head.end() :]
        elif len(self._rest) > _MOST_HEAD:
            self._over, self._rest = True, ""

    def _text(self) -> str:
        run = _WHOLE_CHARACTERS.match(self._rest)
        end = run.end() if run else 0
        text = _decoded(self._rest[:end])
        self._over = self._rest[end : end + 1] == '"'
        self._rest = self._rest[end:]
        return text

    def _tell(self, text: str) -> str:
        self._said.append(text)
        return text


def _decoded(inside: str) -> str:
    """The text of a JSON string with this `inside`. Escapes that JSON does not know stay as they are: models
    write regular expressions and paths with them.
    """
    return _sound(_ESCAPE.sub(_character, inside))


def _character(escape: re.Match[str]) -> str:
    code, letter = escape.groups()
    return chr(int(code, 16)) if code else _ESCAPES.get(letter, escape[0])


def _sound(text: str) -> str:
    """The text with its surrogate pairs joined. A half without the other is replaced: it is no UTF-8."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _whole(arguments: str) -> str:
    """The text in whole `arguments` that do not begin with a string `input`: `input`, else their only string,
    else the arguments themselves.
    """
    try:
        given = json.loads(arguments, strict=False)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(given, dict):
        # A model that knows the tool from elsewhere may call its text `patch`, for example.
        given = given.get("input", next(iter(given.values()), "") if len(given) < 2 else None)
    return _sound(given) if isinstance(given, str) else arguments
