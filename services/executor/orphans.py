"""Responses that were cancelled or deleted with no run here that would stop their upstream (P-101). Pure.

When the executor of one is gone, the partition's owner tells its upstream (`stopper.py`).
"""

from msgspec import Struct

from schemas.fold import CANCELLED, State
from schemas.ids import ExecutorId, ResponseId
from schemas.records import OPEN_STATUSES
from services.executor.liveness import Liveness


class Orphan(Struct, frozen=True):
    """A response that was cancelled or deleted with no run here.

    `start` is the offset of its `accepted`, `end` that of the record that closed it. `executor` ran it last.
    `beats` is how many of its own beats this executor had read back when it read the close.
    """

    id: ResponseId
    start: int
    end: int
    executor: ExecutorId
    beats: int


class Orphans:
    """The orphans of one partition that were accepted at offset `floor` or later."""

    def __init__(self, floor: int) -> None:
        self._floor = floor
        self._known: dict[ResponseId, Orphan] = {}

    def __repr__(self) -> str:
        return f"<Orphans {len(self._known)}>"

    def __contains__(self, id: ResponseId) -> bool:
        return id in self._known

    def add(self, state: State, end: int, beats: int) -> None:
        """A response was closed from outside, at offset `end`, and no run here stops its upstream."""
        running = state.status in OPEN_STATUSES or (state.status == CANCELLED and not state.deleted)
        if running and state.executor is not None and state.offset >= self._floor:
            self._known[state.id] = Orphan(state.id, state.offset, end, state.executor, beats)

    def forget(self, id: ResponseId) -> None:
        """The fold has forgotten the response."""
        self._known.pop(id, None)

    def take(self, liveness: Liveness) -> list[Orphan]:
        """The orphans whose upstreams are to be told now, once each.

        An executor that has shown life since the close reads it and stops its upstream itself.
        """
        due: list[Orphan] = []
        for orphan in list(self._known.values()):
            lost = orphan.executor == liveness.me or liveness.gone(orphan.executor)
            if lost or liveness.heard(orphan.executor) > orphan.beats:
                del self._known[orphan.id]
            if lost:
                due.append(orphan)
        return due
