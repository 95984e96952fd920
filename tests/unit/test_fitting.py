"""Costs from measurements: `bench.scaling.fitting` finds what the measurements were made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.scaling.fitting import solved

ROWS = ((10.0, 25_400.0, 50.0), (10.0, 100_800.0, 100.0), (10.0, 29_000.0, 500.0), (1.0, 500.0, 1.0))


def used(costs: list[float]) -> list[float]:
    return [sum(many * cost for many, cost in zip(row, costs, strict=True)) for row in ROWS]


@given(st.lists(st.floats(0.001, 1), min_size=3, max_size=3))
def test_costs_come_out_as_they_went_in(parts: list[float]) -> None:
    costs = [parts[0], parts[1] * 1e-4, parts[2] * 1e-2]
    assert solved(ROWS, used(costs)) == pytest.approx(costs, rel=1e-4)


def test_noise_makes_no_cost_below_nothing() -> None:
    costs = solved(ROWS, used([0.2, 40e-6, -1e-4]))
    assert costs[2] == 0
    assert costs[0] == pytest.approx(0.2, rel=0.05)


def test_measurements_that_tell_nothing_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="do not tell"):
        solved([(1.0, 2.0), (2.0, 4.0)], [3.0, 6.0])
