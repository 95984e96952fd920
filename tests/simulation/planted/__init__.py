"""Takes the protocol's rules away one by one, to show that the simulation would notice.

    python -m tests.simulation.planted                 every rule: the first seed that finds its absence
    python -m tests.simulation.planted forgotten-gone  one of them

Each plant patches the real code so that one MUST does not hold, and names the promises by which its absence
shows. If no seed finds a plant, the simulation is too weak, or the rule superfluous. Rules that the
simulation cannot take away are in `elsewhere`, with the test that holds them. Every rule is in one of the
two.
"""

from tests.simulation.planted import (
    calling,
    closings,
    counting,
    door,
    ephemeral,
    erasing,
    folds,
    growing,
    ingest,
    reading,
    running,
    shelving,
    views,
)
from tests.simulation.planted.elsewhere import ELSEWHERE
from tests.simulation.planted.registry import RULES, Rule, found

__all__ = [
    "ELSEWHERE",
    "RULES",
    "Rule",
    "calling",
    "closings",
    "counting",
    "door",
    "ephemeral",
    "erasing",
    "folds",
    "found",
    "growing",
    "ingest",
    "reading",
    "running",
    "shelving",
    "views",
]
