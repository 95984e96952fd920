"""The decisions' pages have numbers of their own, one after the other."""

import re
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs" / "decisions"


def test_each_decision_has_the_next_number() -> None:
    numbers = sorted(int(page.name[:4]) for page in PAGES.glob("0*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_the_list_has_each_decision_under_its_number() -> None:
    listed = re.findall(r"^(\d+)\. \[(.+)\]\((.+?)\)", (PAGES / "README.md").read_text(), flags=re.MULTILINE)
    titles = {page.name: page.read_text().splitlines()[0] for page in PAGES.glob("0*.md")}
    assert [file for _, _, file in listed] == sorted(titles)
    for number, title, file in listed:
        assert int(file[:4]) == int(number)
        assert titles[file].removeprefix("# ") == title
