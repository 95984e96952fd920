"""Rows of `usage` that change no more, packed. Pure.

Rows of one hour resemble each other: compressed together they take a tenth of the memory. They are packed in
parts, in the order of their minutes, so that whoever wants one minute opens few of them.
"""

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from schemas.usage import RowKey

PART = 150
"""Rows of a part at most: some milliseconds to open and to add up."""

Row = tuple[RowKey, int, bytes]
"""A row's key, how much it has counted, and its value as it stands in the topic."""
_of_part = msgspec.json.Decoder(list[tuple[RowKey, int, msgspec.Raw]]).decode


class PackedRows(NamedTuple):
    """At most PART rows, of the minutes from `first` to `last`."""

    first: int
    last: int
    data: bytes

    def rows(self) -> list[Row]:
        """The rows, opened."""
        found = _of_part(zlib.decompress(self.data))
        return [(key, counted, bytes(value)) for key, counted, value in found]


def packed(rows: Iterable[Row]) -> Iterator[PackedRows]:
    """The rows in packed parts, one after the other."""
    ordered = sorted(rows, key=lambda row: row[0].minute)
    for start in range(0, len(ordered), PART):
        part = ordered[start : start + PART]
        encoded = msgspec.json.encode([(key, counted, msgspec.Raw(value)) for key, counted, value in part])
        yield PackedRows(part[0][0].minute, part[-1][0].minute, zlib.compress(encoded, 1))
