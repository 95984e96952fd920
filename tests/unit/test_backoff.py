"""Pauses between attempts."""

from services.backoff import Backoff


def test_each_pause_is_twice_the_last_up_to_a_bound() -> None:
    backoff = Backoff(0.2, 1)
    assert [backoff.pause() for _ in range(5)] == [0.2, 0.4, 0.8, 1, 1]


def test_a_success_begins_anew() -> None:
    backoff = Backoff(0.2, 1)
    told = [backoff.failing]
    for act in (backoff.pause, backoff.pause, backoff.succeeded):
        act()
        told.append(backoff.failing)
    assert told == [False, True, True, False]
    assert backoff.pause() == 0.2


def test_a_pause_is_bounded_however_often_it_was_asked_for() -> None:
    backoff = Backoff(0.1, 5)
    assert max(backoff.pause() for _ in range(5_000)) == 5
