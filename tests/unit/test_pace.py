"""The pace: nothing waits at rest, and the more comes, the longer a request waits for company."""

import pytest

from services.eventlog.pace import WINDOW_S, Pace

LEAST, LONGEST, BUSY = 0.002, 0.008, 2_000


def after(rate: float, seconds: float = 1.0) -> Pace:
    """A pace that has seen `rate` records a second, in requests 10 ms apart."""
    pace = Pace(LEAST, LONGEST, BUSY)
    for n in range(int(seconds * 100)):
        pace.took(int(rate / 100), n / 100)
    return pace


@pytest.mark.parametrize(
    "rate, seconds", [(0, LEAST), (100, LEAST), (1_000, 0.004), (2_000, LONGEST), (50_000, LONGEST)]
)
def test_it_is_longer_the_more_records_come(rate: float, seconds: float) -> None:
    assert after(rate).seconds() == pytest.approx(seconds, rel=0.2)


def test_a_silence_ends_it() -> None:
    pace = after(BUSY)
    pace.took(1, 1.0 + 10 * WINDOW_S)
    assert pace.seconds() == LEAST


def test_who_is_in_a_hurry_does_not_wait_for_company() -> None:
    hurried = True
    pace = Pace(LEAST, LONGEST, hurry=lambda: hurried)
    assert pace.seconds() == LEAST
    hurried = False
    assert pace.seconds() == LONGEST


def test_without_a_load_it_is_always_the_longest() -> None:
    pace = Pace(0.0, 0.05)
    pace.took(1, 0.0)
    assert pace.seconds() == 0.05
