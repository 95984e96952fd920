"""The page for contributors leads to places that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = re.compile(r"`((?:services|schemas|tests|docs|bench|deploy)/[\w/.-]*|pyproject\.toml)`")


def test_every_place_that_the_page_names_is_there() -> None:
    named = PLACE.findall((ROOT / "docs" / "contributing.md").read_text())

    assert len(named) > 30
    assert not [place for place in named if not (ROOT / place).exists()]
