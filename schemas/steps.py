"""Work in pieces: a process has one loop, and nothing interrupts what runs on it.

A generator of `Steps` yields wherever other tasks may have their turn, and returns its result. A caller with
an event loop gives them their turn (`services.loops.in_turns`); one without runs it through (`finished`).
"""

from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work that yields between its pieces and returns its result."""

ENCODED_BYTES = 1 << 20
"""Bytes that are encoded in one go, unless one element is larger: 3 ms where every character is escaped."""
ENCODED_ELEMENTS = 1000
"""Elements that are encoded in one go: 1 ms of small ones."""


def finished(steps: Steps[T]) -> T:
    """The result of `steps`, run through in one go."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


def each(values: Iterable[T], pace: int = ENCODED_ELEMENTS) -> Iterator[tuple[T, bool]]:
    """Each of `values`, and whether it is time to yield after it: true once every `pace` of them."""
    for number, value in enumerate(values, 1):
        yield value, number % pace == 0


def encoding(fields: Mapping[str, Any]) -> Steps[bytes]:
    """`fields` as a JSON object, byte for byte as msgspec encodes it, an element of a list at a time."""
    pieces: list[bytes] = []
    separator = b"{"
    for name, value in fields.items():
        pieces += (separator, msgspec.json.encode(name), b":")
        separator = b","
        if isinstance(value, list) and value:
            yield from _elements(value, pieces)
        else:
            pieces.append(msgspec.json.encode(value))
            if len(pieces[-1]) > ENCODED_BYTES:
                yield
    return b"".join(pieces) + b"}" if pieces else b"{}"


def _elements(values: list[Any], pieces: list[bytes]) -> Steps[None]:
    size, separator = 0, b"["
    for value, pause in each(values):
        encoded = msgspec.json.encode(value)
        pieces += (separator, encoded)
        separator = b","
        size += len(encoded)
        if pause or size > ENCODED_BYTES:
            size = 0
            yield
    pieces.append(b"]")
