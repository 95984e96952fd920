"""Standard output of the commands that print as things come.

A client, a model or a foreign writer chose what is printed. A character that the output's encoding lacks
becomes an escape, and ends no command. JSON is UTF-8 whatever the encoding, one line for each text.
"""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import msgspec

T = TypeVar("T")


class Enough(Exception):
    """Nobody reads the output any more: it goes to `head`, say. No OSError, since no connection broke."""


def say(text: str) -> None:
    """Print `text` at once. Raises Enough."""
    _print(text.encode(sys.stdout.encoding, errors="backslashreplace"))


def say_json(text: bytes) -> None:
    """Print a JSON text at once, as one line. Raises Enough."""
    line = msgspec.json.format(text, indent=-1)  # no line breaks of its own
    _print(line.decode(errors="replace").encode() + b"\n")


def until_enough(work: Callable[[], T]) -> T | None:
    """What `work` returns; None if it ended because nobody reads the output any more."""
    try:
        return work()
    except Enough:  # Python flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None


def _print(encoded: bytes) -> None:
    try:
        sys.stdout.buffer.write(encoded)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise Enough from error
