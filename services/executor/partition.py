"""One partition as an executor sees it: the fold, who owns it, and what is kept beside the fold.

waiting    the open responses, and those that wait for their first claim
claims     the claims that were sent
erasures   the records that must be erased
orphans    the responses whose upstreams must be told to stop
turns      turns of conversations, kept between runs
"""

from schemas.fold import Fold, State
from services.executor.claims import Claims
from services.executor.erasures import Erasures
from services.executor.orphans import Orphans
from services.executor.turns import Turns
from services.executor.waiting import Waiting


class Partition:
    """A followed partition. Only its owner acts on it, and only past `acts_from` (P-41, P-56).

    Responses accepted before `floor` are known and not acted on (P-62). `floor_read`: how far the log was
    read when the floor was committed; None: unknown. `position` is the offset that is read next.
    """

    def __init__(self, number: int, *, floor: int, floor_read: int | None = None, position: int = 0) -> None:
        self.number = number
        self.floor = floor
        self.position = position
        self.end = position
        """The partition's end, as of the last batch."""
        self.fold = Fold()
        self.time = 0
        """Log time of the last record folded, ms. The fold forgets by it (P-63), so a tail that is behind
        forgets nothing too early.
        """
        self.owned = False
        self.acts_from = 0
        """The partition's end as of the assignment, or as of its beginning if it is not owned."""
        self.waiting = Waiting()
        self.claims = Claims()
        self.erasures = Erasures(floor, floor_read)
        self.orphans = Orphans(floor)
        self.turns = Turns()

    def __repr__(self) -> str:
        return f"<Partition {self.number} at {self.position} owned={self.owned}>"

    def acting(self) -> bool:
        """Whether its owner may act."""
        return self.owned and self.caught_up()

    def caught_up(self) -> bool:
        """Whether all records are folded that were there when the partition began, or was assigned."""
        return self.position >= self.acts_from

    def begin(self, acts_from: int, committed: int) -> None:
        """Note that the partition begins, or is assigned, with its end and committed watermark as of now."""
        self.acts_from = acts_from
        self.erasures.own(acts_from, committed)

    def read(self, next_offset: int, end: int, time: int | None) -> None:
        """Everything before `next_offset` is folded, and the partition ended at `end`; `time` is the log time
        (ms) of the last record.
        """
        self.position, self.end = next_offset, end
        if time is not None:
            self.time = time
        if next_offset >= self.acts_from:
            self.erasures.caught_up()

    def claimed(self, state: State) -> None:
        """Note that a claim of the response won."""
        self.waiting.claimed(state)
        self.claims.claimed(state.id)

    def closed(self, state: State) -> None:
        """Note that the response closed: nothing of it waits any more."""
        self.waiting.closed(state)
        self.claims.closed(state.id)

    def forget(self, memory_ms: int, ephemeral_ms: int) -> None:
        """Forget what closed longer than `memory_ms` ago (P-63), or is not seen any more."""
        for state in self.fold.forget(self.time - memory_ms, ephemeral_ms):
            self.orphans.forget(state.id)

    def oldest(self) -> State | None:
        """The oldest open response that is acted on."""
        return next((state for state in self.fold.open() if state.offset >= self.floor), None)

    def watermark(self, position: int) -> int:
        """The low watermark (P-61), erasures held, with everything before `position` folded."""
        return min(self.erasures.held(position), self.fold.low_watermark(position, self.floor))
