"""The turns of a partition's conversations that are kept between runs.

A turn is immutable until it is deleted, and whoever follows the partition reads that. So turns are kept with
the followed partition that they belong to, and go with it: one that was deleted is never said again.
"""

from collections import OrderedDict

from schemas.ids import ResponseId
from services.web.internal import Turn

KEPT_BYTES = 16 << 20
"""Turns are kept up to so many bytes of JSON per partition, the latest used ones."""


class Turns:
    """Turns by id."""

    def __init__(self, bound: int = KEPT_BYTES) -> None:
        self._bound = bound
        self._kept: OrderedDict[ResponseId, tuple[Turn, int]] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<{len(self._kept)} turns, {self._bytes} bytes>"

    def get(self, id: ResponseId) -> tuple[Turn, int] | None:
        """The turn of `id` and its bytes, if it is kept."""
        kept = self._kept.get(id)
        if kept is not None:
            self._kept.move_to_end(id)
        return kept

    def keep(self, turn: Turn, size: int) -> None:
        """Keep a turn of `size` bytes, at the expense of those that were not used for longest."""
        self.forget(turn.id)
        self._kept[turn.id] = turn, size
        self._bytes += size
        while self._bytes > self._bound:
            self.forget(next(iter(self._kept)))

    def forget(self, id: ResponseId) -> None:
        """Keep the turn of `id` no longer."""
        _, size = self._kept.pop(id, (None, 0))
        self._bytes -= size
