"""The turns of a partition's conversations that are kept between runs.

A turn is immutable until it is deleted, and an executor that follows the partition reads the delete. So turns
are kept with the followed partition that they belong to, and go with it: a deleted turn is never said again.
"""

from schemas.ids import ResponseId
from services.kept import Kept
from services.web.internal import Turn

KEPT_BYTES = 16 << 20
"""Bytes of JSON of the turns that are kept per partition, the latest used ones."""


class Turns:
    """Turns by id."""

    def __init__(self, bound: int = KEPT_BYTES) -> None:
        self._kept: Kept[ResponseId, tuple[Turn, int]] = Kept(bound)

    def __repr__(self) -> str:
        return f"<turns {self._kept!r}>"

    def get(self, id: ResponseId) -> tuple[Turn, int] | None:
        """The turn of `id` and its bytes, if it is kept."""
        return self._kept.get(id)

    def keep(self, turn: Turn, size: int) -> None:
        """Keep a turn of `size` bytes, at the expense of those that were not used for longest."""
        self._kept.put(turn.id, (turn, size), size)

    def forget(self, id: ResponseId) -> None:
        """Keep the turn of `id` no longer."""
        self._kept.pop(id)
