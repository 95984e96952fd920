import pytest

from schemas.fold import State
from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant, response_id
from schemas.records import Accepted
from services.executor.decide import (
    DEADLINE_GRACE,
    Continuation,
    Step,
    View,
    continuation,
    decide,
)

ME, OTHER = ExecutorId("exec_me"), ExecutorId("exec_other")
DEADLINE = 100_000
MAX_ATTEMPTS = 5
ID: ResponseId = response_id(0, bytes(16))


def state(executor: ExecutorId | None = None, attempt: int = 0, last: int = 1) -> State:
    held = State(ID, Tenant("t"), offset=7, time=1)
    held.accepted = Accepted(ID, "n", Tenant("t"), "sha", 60_000, DEADLINE, background=True, store=True)
    held.origin, held.last, held.attempt, held.executor = 1, last, attempt, executor
    held.claim = ClaimId("c1") if executor else None
    return held


def view(
    now: int = 0, *, running: bool = False, gone: frozenset[ExecutorId] = frozenset(), waits: bool = False
) -> View:
    return View(me=ME, now=now, running=running, gone=gone.__contains__, predecessor_open=waits)


@pytest.mark.parametrize(
    ("held", "seen", "step"),
    [
        pytest.param(state(), view(), Step.CLAIM, id="unclaimed"),
        pytest.param(state(), view(waits=True), Step.WAIT, id="predecessor-still-open"),
        pytest.param(state(), view(DEADLINE + 1, waits=True), Step.CLAIM, id="overdue-while-it-waits"),
        pytest.param(state(ME, 1), view(running=True), Step.WAIT, id="mine-and-running"),
        pytest.param(state(ME, 1), view(), Step.CLAIM, id="P-43-mine-without-a-run"),
        pytest.param(state(OTHER, 1), view(), Step.WAIT, id="another-runs-it"),
        pytest.param(state(OTHER, 1), view(gone=frozenset({OTHER})), Step.CLAIM, id="P-44-claimant-gone"),
        pytest.param(state(OTHER, 1), view(DEADLINE + 1), Step.WAIT, id="overdue-its-runner-comes-first"),
        pytest.param(
            state(OTHER, 1), view(DEADLINE + DEADLINE_GRACE + 1), Step.CLAIM, id="P-47-overdue-whatever-else"
        ),
    ],
)
def test_the_owner_decides(held: State, seen: View, step: Step) -> None:
    assert decide(held, seen) is step


@pytest.mark.parametrize(
    ("attempt", "last", "resumable", "repeatable", "how"),
    [
        (1, 1, False, False, Continuation.RUN),
        (2, 5, True, False, Continuation.RESUME),
        (
            2,
            2,
            False,
            True,
            Continuation.RUN,
        ),  # only response.in_progress counted: nothing would be said twice
        (2, 3, False, True, Continuation.END_LOST),
        (2, 2, False, False, Continuation.END_LOST),
        (MAX_ATTEMPTS + 1, 1, True, True, Continuation.END_ATTEMPTS),
    ],
)
def test_how_a_winning_claim_goes_on(
    attempt: int, last: int, resumable: bool, repeatable: bool, how: Continuation
) -> None:
    held = state(ME, attempt, last)
    assert (
        continuation(
            held,
            attempt=attempt,
            now=0,
            max_attempts=MAX_ATTEMPTS,
            resumable=resumable,
            repeatable=repeatable,
        )
        is how
    )


def test_past_its_deadline_a_response_is_only_ended() -> None:
    held = state(ME, 1)
    how = continuation(
        held, attempt=1, now=DEADLINE + 1, max_attempts=MAX_ATTEMPTS, resumable=True, repeatable=True
    )
    assert how is Continuation.END_OVERDUE
