"""A cache within a bound of bytes: the value used longest ago goes first."""

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key, each with the bytes that it counts for, `bound` bytes in all.

    With `spares_last` the value used last stays even if it alone is over the bound, because it is in use.
    """

    def __init__(self, bound: int, *, spares_last: bool = False) -> None:
        self._bound = bound
        self._least = int(spares_last)
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self.bytes = 0
        """The bytes of all values."""

    def __repr__(self) -> str:
        return f"<{len(self._values)} kept, {self.bytes} of {self._bound} bytes>"

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K) -> V | None:
        """The value of `key`, which becomes the one used last; None if it is not kept."""
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: K, value: V, size: int) -> None:
        """Keep `value`, of `size` bytes, under `key`, and drop others until all are within the bound."""
        self.pop(key)
        self._values[key] = value, size
        self.bytes += size
        while self.bytes > self._bound and len(self._values) > self._least:
            self.pop(next(iter(self._values)))

    def pop(self, key: K) -> V | None:
        """Drop `key`. Returns its value, None if it was not kept."""
        value, size = self._values.pop(key, (None, 0))
        self.bytes -= size
        return value
