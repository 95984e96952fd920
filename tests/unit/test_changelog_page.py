"""CHANGELOG.md has this version, and leads to pages that there are."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CHANGELOG.md").read_text()
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
"""Those of Keep a Changelog."""


def anchors(page: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_this_version_is_in_it() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.findall(r"^## \[([^\]]+)\] - (?:\d{4}-\d\d-\d\d|not released yet)$", TEXT, re.MULTILINE)[0]
    assert newest == version


def test_changes_are_of_the_usual_kinds() -> None:
    found = re.findall(r"^### (.+)$", TEXT, re.MULTILINE)
    assert found
    assert set(found) <= KINDS


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https://)([^)#]+)(?:#([^)]+))?\)", TEXT)
    assert links
    for path, anchor in links:
        page = (ROOT / path).read_text()
        assert not anchor or anchor in anchors(page), (path, anchor)
