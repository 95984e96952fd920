"""Every rule of the protocol, taken away: the simulation notices."""

import pytest

from tests.simulation.planted import RULES, found


@pytest.mark.parametrize("name", RULES)
def test_the_absence_of_a_rule_is_found(name: str) -> None:
    rule = RULES[name]
    assert found(rule) is not None, f"{rule.number}: {rule.seeds} seeds noticed nothing"
