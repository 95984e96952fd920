"""The decisions' pages have numbers of their own, one after the other."""

from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "decisions"


def test_each_decision_has_the_next_number() -> None:
    numbers = sorted(int(page.name[:4]) for page in PAGES.glob("0*.md"))
    assert numbers == list(range(1, len(numbers) + 1))
