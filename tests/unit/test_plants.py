"""Plants stand in code that is there: what they take away has not moved."""

import pytest

from tests.simulation.planted import RULES


@pytest.mark.parametrize("name", RULES)
def test_a_rule_can_be_taken_away_and_given_back(name: str) -> None:
    with RULES[name].plant():
        pass
