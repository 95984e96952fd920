"""A run's written state: what it says, what is read back, and how it ends."""

import pytest

from schemas.fold import Fold, State
from schemas.ids import ClaimId, ExecutorId, response_id
from schemas.records import Accepted, Claimed, Entry
from services.executor.fairness import Queue
from services.executor.run import UNREAD_EVENTS, End, Phase, Run
from services.executor.scribe import Draft
from tests.executing import FAR, TENANT

ID, ME = response_id(0, bytes(16)), ExecutorId("exec_me")


def state(attempts: int = 1) -> State:
    """A response that I have claimed so often."""
    fold = Fold()
    entries: list[Entry] = [Accepted(ID, "n", TENANT, "sha", FAR, FAR, background=True, store=True)]
    entries += [Claimed(ID, n, ClaimId(f"c{n:016}"), ME, TENANT) for n in range(1, attempts + 1)]
    for offset, entry in enumerate(entries):
        fold.apply(offset, offset, entry)
    return fold.responses[ID]


def begun() -> Run:
    return Run(state(), Queue(TENANT, None), lease=10, sent_at=0)


def draft(number: int) -> Draft:
    return Draft(number, "response.output_text.delta", b"{}")


def test_what_is_said_is_posted_and_kept_until_it_is_read_back() -> None:
    run = begun()
    records = run.say([draft(2), draft(3)], at=0)
    assert [record.value for record in records] == [b"{}", b"{}"]
    run.read_back(2)
    assert [unread.draft.number for unread in run.unread] == [3]


def test_what_a_rejected_run_says_is_kept_and_posted_under_its_next_claim() -> None:
    run = begun()
    run.say([draft(2)], at=0)
    assert run.rejected()
    reclaiming = run.reclaiming
    assert run.say([draft(3)], at=0) == []
    records = run.reclaimed(state(2), now=1)
    assert (reclaiming, run.reclaiming) == (True, False)
    assert [record.key.split(b"/")[1] for record in records] == [b"c0000000000000002"] * 2


def test_a_rejection_is_news_once() -> None:
    run = begun()
    assert (run.rejected(), run.rejected()) == (True, False)
    assert run.fruitless == 1


def test_a_run_stops_taking_when_too_much_is_unread_or_something_for_too_long() -> None:
    run = begun()
    run.say([draft(2)], at=0)
    assert not run.too_much(now=5)
    assert run.too_much(now=5.1)
    run.say([draft(3 + n) for n in range(UNREAD_EVENTS)], at=5)
    assert run.too_much(now=5)


@pytest.mark.parametrize("why", End)
def test_a_run_that_has_ended_says_nothing_more(why: End) -> None:
    run = begun()
    run.say([draft(2)], at=0)
    run.end(why)
    assert run.over.is_set()
    assert run.handed_over is (why not in (End.CLOSED, End.STOPPED))
    assert run.say([draft(3)], at=0) == []
    assert not run.rejected()
    assert run.reclaimed(state(2), now=1) == []


def test_the_first_end_is_the_end() -> None:
    run = begun()
    run.end(End.FENCED)
    run.end(End.STOPPED)
    assert (run.ended, run.phase) == (End.FENCED, Phase.HANDED_OVER)


def test_a_claim_is_good_for_a_lease_or_as_long_as_nobody_can_have_counted_me_out() -> None:
    run = begun()
    assert not run.lapsed(9, lambda _: False)
    assert run.lapsed(10, lambda _: False)
    assert not run.lapsed(10, lambda _: True)
