import pytest

from schemas.errors import SettingsError
from schemas.ids import ExecutorId
from services.executor.liveness import BEAT_INTERVAL, BEATS_TO_GONE, Liveness
from services.settings import load

ME, X = ExecutorId("exec_me"), ExecutorId("exec_x")


def beaten(liveness: Liveness, times: int) -> Liveness:
    for _ in range(times):
        liveness.beat(ME)
    return liveness


def test_another_is_gone_after_enough_of_my_beats_follow_its_last() -> None:
    liveness = Liveness(ME)
    liveness.beat(X)
    assert not beaten(liveness, BEATS_TO_GONE - 1).gone(X)
    assert beaten(liveness, 1).gone(X)


def test_a_beat_of_the_other_starts_its_time_anew() -> None:
    liveness = Liveness(ME)
    liveness.beat(X)
    beaten(liveness, BEATS_TO_GONE - 1).beat(X)
    assert not beaten(liveness, BEATS_TO_GONE - 1).gone(X)


def test_an_unknown_executor_has_its_time_from_the_first_claim_that_is_read() -> None:
    liveness = beaten(Liveness(ME), 1000)
    assert not liveness.gone(X)
    liveness.met(X)
    assert not beaten(liveness, BEATS_TO_GONE - 1).gone(X)
    assert beaten(liveness, 1).gone(X)


def test_meeting_again_does_not_start_its_time_anew() -> None:
    liveness = Liveness(ME)
    liveness.met(X)
    beaten(liveness, BEATS_TO_GONE)
    liveness.met(X)
    assert liveness.gone(X)


def test_one_that_leaves_is_gone_at_once() -> None:
    liveness = Liveness(ME)
    liveness.beat(X, leaving=True)
    assert liveness.gone(X)


def test_i_am_never_gone() -> None:
    liveness = Liveness(ME)
    liveness.beat(X)
    assert not beaten(liveness, 100).gone(ME)


def test_nobody_can_have_counted_me_out_while_my_beats_follow_each_other() -> None:
    """A beat stands for when it was sent, not for when it came back: it may have been long on its way."""
    liveness = Liveness(ME)
    liveness.own_beat(10, now=12, within=20)
    assert liveness.unbroken(12, now=29, within=20)
    assert not liveness.unbroken(11, now=13, within=20), "before my first beat"
    assert not liveness.unbroken(12, now=30, within=20), "the next one is late"
    liveness.own_beat(14, now=29, within=20)
    assert liveness.unbroken(12, now=33, within=20)
    liveness.own_beat(30, now=34, within=20)
    assert not liveness.unbroken(12, now=35, within=20), "one was late meanwhile"
    assert liveness.unbroken(34, now=35, within=20)


def test_the_longest_lease_ends_before_its_executor_can_be_counted_out() -> None:
    """The first of a peer's beats may come right behind my last one (P-55)."""
    longest = (BEATS_TO_GONE - 1) * BEAT_INTERVAL
    assert load({"REJOINDER_LEASE_S": str(longest)}).lease_s == longest
    with pytest.raises(SettingsError):
        load({"REJOINDER_LEASE_S": str(longest + 0.1)})


@pytest.mark.parametrize("too_short", [0.0001, BEAT_INTERVAL, BEAT_INTERVAL + 0.9])
def test_the_shortest_lease_outlasts_a_beat_and_a_slow_way_through_the_log(too_short: float) -> None:
    """A shorter one is over before its claim is read back, or before the next beat is: it claims for ever."""
    shortest = BEAT_INTERVAL + 1
    assert load({"REJOINDER_LEASE_S": str(shortest)}).lease_s == shortest
    with pytest.raises(SettingsError, match=r"^REJOINDER_LEASE_S: .*more than a beat and its way"):
        load({"REJOINDER_LEASE_S": str(too_short)})
