"""The soak in small: `make soak` is the same with thousands of responses and dozens of deaths."""

from pathlib import Path

import pytest

from tests.reliability.soak import Plan, soak


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_while_everything_is_killed(tmp_path: Path) -> None:
    plan = Plan(responses=300, events=50, kills=8, broker_kills=1, pace_s=2.5, at_once=24)

    figures = soak(plan, tmp_path)

    print(figures)
    assert figures["ends"] == {"completed": 300}
    assert figures["events"] == 300 * 50
