"""The soak in small: `make soak` is the same with thousands of responses and dozens of deaths."""

from pathlib import Path

import pytest

from tests.reliability.soak import Plan, soak

RESPONSES = 60


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_while_everything_is_killed(tmp_path: Path) -> None:
    plan = Plan(responses=RESPONSES, events=50, kills=3, broker_kills=1, pace_s=2.5, at_once=24)

    figures = soak(plan, tmp_path)

    print(figures)
    assert figures["ends"] == {"completed": RESPONSES}
    assert figures["events"] == RESPONSES * 50
