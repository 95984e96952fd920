"""Every rule of the protocol, taken away: the simulation notices."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.long import SOAK
from tests.simulation.planted import ELSEWHERE, RULES

TESTS = Path(__file__).parents[1]
PROTOCOL = TESTS.parent / "schemas" / "protocol.md"
EVERY = 1 if SOAK else 3
"""One plant of so many is sought; that each still stands in the code, `tests.unit.test_plants` tests."""


@pytest.fixture(scope="module")
def noticed(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """What notices the absence of each rule that is asked for, by name; sought on every core at once."""
    mine = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    names = [name for item in mine if (name := item.callspec.params.get("name")) in RULES]
    command = [sys.executable, "-m", "tests.simulation.planted", *names]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return {what.partition(" ")[2]: seen for what, _, seen in (line.partition(": ") for line in lines)}


@pytest.mark.parametrize("name", list(RULES)[::EVERY])
def test_the_absence_of_a_rule_is_found(name: str, noticed: Mapping[str, str]) -> None:
    rule = RULES[name]
    assert noticed[name].startswith("seed "), f"{rule.number}, {rule.seeds} seeds: {noticed[name]}"


def test_every_rule_of_the_protocol_is_planted_or_held_by_another_test() -> None:
    stated = re.findall(r"^- \*\*(P-\d+)\*\*", PROTOCOL.read_text(), flags=re.MULTILINE)
    planted = {rule.number for rule in RULES.values() if rule.number.startswith("P-")}
    assert len(stated) > 50
    assert sorted(stated) == sorted(planted | ELSEWHERE.keys())
    assert not planted & ELSEWHERE.keys()


@pytest.mark.parametrize("number", ELSEWHERE)
def test_what_holds_a_rule_instead_exists(number: str) -> None:
    file, _, name = ELSEWHERE[number].test.partition("::")
    assert f"def {name}(" in (TESTS / file).read_text()
