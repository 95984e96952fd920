"""Every rule of the protocol, taken away: the simulation notices."""

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.simulation.planted import ELSEWHERE, RULES, found

TESTS = Path(__file__).parents[1]
PROTOCOL = TESTS.parent / "schemas" / "protocol.md"


Noticed = Mapping[str, "Future[int | None]"]
"""The seed that notices the absence of each rule."""


@pytest.fixture(scope="module")
def noticed() -> Iterator[Noticed]:
    """Sought on every core at once, in the order of the tests."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        yield {name: pool.submit(seed_that_notices, name) for name in RULES}
        pool.shutdown(cancel_futures=True)


def seed_that_notices(name: str) -> int | None:
    seen = found(RULES[name])
    return None if seen is None else seen[0]


@pytest.mark.parametrize("name", RULES)
def test_the_absence_of_a_rule_is_found(name: str, noticed: Noticed) -> None:
    rule = RULES[name]
    assert noticed[name].result() is not None, f"{rule.number}: {rule.seeds} seeds noticed nothing"


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
