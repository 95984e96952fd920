"""Cases that are too many for every change: without `REJOINDER_SOAK=1` a part of each kind runs."""

import os
from collections.abc import Mapping
from typing import Any

import pytest
from _pytest.mark import ParameterSet

SOAK = "REJOINDER_SOAK" in os.environ
"""Whether to take minutes where seconds show nearly as much."""


def some(cases: Mapping[str, Any], every: int) -> list[ParameterSet]:
    """Parameters by their names: all cases when soaking, else the first of each `every`, in their order."""
    chosen = list(cases.items())[:: 1 if SOAK else every]
    return [pytest.param(case, id=name) for name, case in chosen]


def seeds(many: int, few: int) -> range:
    """Seeds of a simulation: `many` when soaking, else `few`."""
    return range(many if SOAK else few)


def examples(many: int) -> int:
    """How many examples a property is tried on: `many` when soaking, else a quarter."""
    return many if SOAK else many // 4
