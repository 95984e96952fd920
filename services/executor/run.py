"""One run: what this executor has said of a response, from a winning claim on, and what of it counts. Pure.

A post is not acceptance (P-30): drafts stay in `unread` until the fold shows them. After an append error or a
rejected event the run claims the next attempt. When that claim is read back, the run posts again what is
unread, under the new claim (P-32). The upstream's stream goes on meanwhile.

    POSTING ──rejected──▶ RECLAIMING ──reclaimed──▶ POSTING
       └───────────┬───────────┘
                  end ──▶ OVER, or HANDED_OVER to the run that goes on with it

The engine tells it what is read back; `narrator.py` is the task that talks.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum

from msgspec import Struct

from schemas.fold import State
from schemas.ids import ClaimId
from schemas.records import ONE_HEADER, EventHeaders, NewRecord
from services import points
from services.executor.decide import too_old
from services.executor.fairness import Queue
from services.executor.partition import Partition
from services.executor.scribe import Draft

UNREAD_BYTES = 1 << 20
UNREAD_EVENTS = 512
"""Bounds of what a run has posted and not read back: enough to fill a round trip, little enough that hundreds
of runs at once leave room for each other in the writer's queue."""
MAX_FRUITLESS = 20
"""Claims in a row that bring no event that counts, after which a run is given up and told anew from the log.
"""


class Phase(Enum):
    """Where a run stands."""

    POSTING = "posting"
    """What it says is posted under its claim."""
    RECLAIMING = "reclaiming"
    """What it says is kept until its next claim is read back."""
    HANDED_OVER = "handed over"
    """The run appends nothing more, and leaves its upstream to the next run of the response."""
    OVER = "over"
    """The fold shows its response closed."""


_POSTING = Phase.POSTING
"""Asked for with each event: on Python 3.11 the attribute of an Enum takes 60 ns (`python -m timeit`)."""


class End(Enum):
    """Why a run ends."""

    CLOSED = "its terminal event was read back"
    STOPPED = "its response was cancelled or deleted"
    FENCED = "another executor took its response over"
    UNFOLLOWED = "its partition is not followed any more"
    USELESS = "nothing that it says counts, whatever it claims: it is told anew from what the log has"
    OVERDUE = "its response is long past its deadline, and is ended without it"
    LEAVING = "this executor leaves"
    LAPSED = "its claim is too old to call the upstream (P-52)"

    @property
    def hands_over(self) -> bool:
        """Whether another run may go on with the upstream, which is not to be stopped then."""
        return self not in (End.CLOSED, End.STOPPED)

    @property
    def stops(self) -> bool:
        """Whether the run's task is to be cancelled; otherwise it comes to its end by itself."""
        return self not in (End.CLOSED, End.LAPSED)


class Unread(Struct, gc=False):
    """A draft that is posted, or waits for the next claim, and is not read back. `at` is loop time,
    seconds.
    """

    draft: Draft
    at: float


class Run:
    """The running of one response by this executor, across its claims.

    `sent_at` is when the claim that won was sent, `lease` how long it is good for: loop time, in seconds.
    `queue` is the one in which the response stood until it was claimed. `form`: of its event records (P-15).
    """

    def __init__(
        self, state: State, queue: Queue, *, lease: float, sent_at: float, form: int = ONE_HEADER
    ) -> None:
        assert state.claim is not None
        self.id = state.id
        self.tenant = state.tenant
        self.queue = queue
        self.attempt = state.attempt
        self.claim: ClaimId = state.claim
        self.sent_at = sent_at
        self.phase = Phase.POSTING
        self.ended: End | None = None
        """Why it ended, if it has."""
        self.over = asyncio.Event()
        """Set when it has ended."""
        self.room = asyncio.Event()
        """Set when something was read back, or the run has ended."""
        self.unread: deque[Unread] = deque()
        """Posted and not read back, oldest first."""
        self.posted = -1
        """The last number that was posted."""
        self.called = False
        """Whether its upstream was called. From then on the backend stops it."""
        self.heard = False
        """Whether its upstream has said anything."""
        self.crowded = False
        """Whether its task waits for room."""
        self.fruitless = 0
        """Claims in a row that brought no event that counts."""
        self._lease = lease
        self._form = form
        self._headers = EventHeaders(self.id, self.claim, self.attempt, self.tenant, form)
        self._unread_bytes = 0

    def __repr__(self) -> str:
        return f"<Run {self.id} attempt={self.attempt} {self.phase.value} unread={len(self.unread)}>"

    # What the task says.

    def say(self, drafts: Sequence[Draft], at: float) -> list[NewRecord]:
        """Take `drafts` for said at loop time `at`. Returns the records to post for them now."""
        records: list[NewRecord] = []
        for draft in drafts:
            self.unread.append(Unread(draft, at))
            self._unread_bytes += len(draft.value)
            if not draft.extension:
                self.posted = draft.number
            if self.phase is _POSTING:
                records.append(draft.record(self._headers))
        return records

    def too_much(self, now: float) -> bool:
        """Whether too much is unread, or anything for too long, at loop time `now` (P-33)."""
        return (
            self._unread_bytes > UNREAD_BYTES
            or len(self.unread) > UNREAD_EVENTS
            or now - self.unread[0].at > self._lease / 2
        )

    def lapsed(self, now: float, unbroken: Callable[[float], bool]) -> bool:
        """Whether this executor may have been counted out since it sent its claim (P-52).

        `unbroken` is true of a loop time if its own beats had no gap as long as a lease since then.
        """
        return too_old(self.sent_at, now, self._lease) and not unbroken(self.sent_at)

    # What the engine reads back.

    def read_back(self, number: int) -> None:
        """The event `number` of this run counts."""
        unread = self.unread
        while unread and (unread[0].draft.extension or unread[0].draft.number <= number):
            self._unread_bytes -= len(unread.popleft().draft.value)
        self.fruitless = 0
        self.room.set()
        if points.watch:
            points.watch("event read back", self)

    def extension_read_back(self, n: int) -> None:
        """The extension `n` of this run is in the log, behind every event that was posted before it."""
        unread = self.unread
        while unread and unread[0].draft.extension and unread[0].draft.number <= n:
            self._unread_bytes -= len(unread.popleft().draft.value)
        self.room.set()

    def rejected(self) -> bool:
        """An event of this run does not count, or an append of it failed.

        Returns whether that is news to the run: the next attempt is then to be claimed (P-32), or the run is
        to be given up if it is `fruitless` for too long.
        """
        if self.phase is not Phase.POSTING:
            return False
        self.fruitless += 1
        self.phase = Phase.RECLAIMING
        return True

    def reclaimed(self, state: State, now: float) -> list[NewRecord]:
        """A later claim of this executor won: the records to post again, from the last number that counts."""
        assert state.claim is not None
        self.attempt, self.claim = state.attempt, state.claim
        self._headers = EventHeaders(self.id, self.claim, self.attempt, self.tenant, self._form)
        self.read_back(state.last)
        if self.phase in (Phase.HANDED_OVER, Phase.OVER):
            return []
        self.phase = Phase.POSTING
        for unread in self.unread:
            unread.at = now
        return [unread.draft.record(self._headers) for unread in self.unread]

    def end(self, why: End) -> None:
        """The run is over, or another run goes on. Only the first end counts."""
        if self.ended is not None:
            return
        self.ended = why
        self.phase = Phase.HANDED_OVER if why.hands_over else Phase.OVER
        self.over.set()
        self.room.set()

    @property
    def waits(self) -> bool:
        """Whether it waits for what is read back next: for its end, or for room."""
        return self.crowded or (bool(self.unread) and self.unread[-1].draft.terminal is not None)

    @property
    def reclaiming(self) -> bool:
        """Whether the run waits for its next claim."""
        return self.phase is Phase.RECLAIMING

    @property
    def handed_over(self) -> bool:
        """Whether the run stops here and another one may go on with its upstream."""
        return self.phase is Phase.HANDED_OVER


class Job(Struct, frozen=True, eq=False):
    """A response that is to be run, as the fold has it (`state`), and the run of it."""

    partition: Partition
    state: State
    run: Run
