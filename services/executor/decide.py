"""What the owner of a partition does about a response: pure decisions (P-41 to P-47).

The steward asks `decide` about the open responses of owned, caught-up partitions. When a claim is read back,
the engine asks `meaning` what it is for this executor; its run asks `continuation` how to go on.
"""

from collections.abc import Callable
from enum import Enum

from msgspec import Struct

from schemas.fold import State
from schemas.ids import ExecutorId

DEADLINE_GRACE = 5_000
"""Log time in ms that a runner has to end an overdue response itself before the owner takes it over."""


class Step(Enum):
    """What to do about an open response now."""

    WAIT = "wait"
    CLAIM = "claim"


class Meaning(Enum):
    """What a claim that was read back is for this executor."""

    NOTHING = "nothing"
    """The claim does not count, or is another executor's and the response is not run here."""
    RECLAIMED = "reclaimed"
    """The claim is this executor's, of a response that it runs: the run goes on under it."""
    FENCED = "fenced"
    """The claim is another executor's, of a response that this one runs."""
    WON = "won"
    """The claim is this executor's, and it runs the response now."""
    UNKEPT = "unkept"
    """The claim is this executor's, but its append had seemed to fail, so its slot may be another run's by
    now (P-49). It leads to no run; the steward claims again when there is room (P-43).
    """


class Continuation(Enum):
    """What to do with a claim that won."""

    RUN = "run"
    RESUME = "resume"
    END_LOST = "executor_lost"
    END_OVERDUE = "deadline"
    END_ATTEMPTS = "attempts"

    @property
    def calls(self) -> bool:
        """Whether the upstream is called, and the run needs a place there (P-49)."""
        return self in (Continuation.RUN, Continuation.RESUME)


class View(Struct, frozen=True):
    """What the owner knows beside the fold. `now` is log time in ms; `running` says whether it runs the
    response itself.
    """

    me: ExecutorId
    now: int
    running: bool
    gone: Callable[[ExecutorId], bool]
    predecessor_open: bool


def overdue(state: State, now: int) -> bool:
    """Whether the response is past its deadline (P-47), at log time `now` in ms."""
    return state.accepted is not None and now > state.accepted.deadline


def too_old(sent_at: float, now: float, lease: float) -> bool:
    """Whether a claim that was sent at `sent_at` is good no longer (P-52): loop time and lease in seconds."""
    return now - sent_at >= lease


def time_left(state: State, now: int) -> float:
    """Seconds until the response's deadline, at log time `now` in ms."""
    assert state.accepted is not None
    return max(0.0, (state.accepted.deadline - now) / 1000)


def meaning(state: State, me: ExecutorId, *, counts: bool, running: bool, sent: bool, kept: bool) -> Meaning:
    """What a claim that was read back is for executor `me`; `state` is its response's after the claim.

    `counts`: whether the claim counts. `running`: `me` runs the response. `sent`: `me` remembers that it sent
    the claim, which it does for some minutes. `kept`: a slot and a place are kept for the response.
    """
    if not counts:
        return Meaning.NOTHING
    if running:
        return Meaning.RECLAIMED if state.executor == me else Meaning.FENCED
    if not sent:
        return Meaning.NOTHING
    return Meaning.WON if kept else Meaning.UNKEPT


def decide(state: State, view: View) -> Step:
    """Whether to claim the next attempt of an open response."""
    if view.running:
        return Step.WAIT
    if state.executor is None:
        waits = view.predecessor_open and not overdue(state, view.now)
        return Step.WAIT if waits else Step.CLAIM
    if state.executor == view.me or view.gone(state.executor):
        return Step.CLAIM  # P-43: its claim won without a run; P-44: its claimant is gone
    return Step.CLAIM if overdue(state, view.now - DEADLINE_GRACE) else Step.WAIT


def continuation(
    state: State,
    *,
    attempt: int,
    now: int,
    max_attempts: int,
    resumable: bool,
    repeatable: bool,
    uncalled: bool = False,
) -> Continuation:
    """What to do with this executor's winning claim of `attempt`, given what the backend can.

    `uncalled`: the attempts before were this executor's as well, and none came to call the upstream.
    """
    if overdue(state, now):
        return Continuation.END_OVERDUE
    if attempt > max_attempts:  # P-45
        return Continuation.END_ATTEMPTS
    if attempt == 1 or uncalled:
        return Continuation.RUN
    if resumable:
        return Continuation.RESUME
    if repeatable and not state.output_counted:
        return Continuation.RUN
    return Continuation.END_LOST
