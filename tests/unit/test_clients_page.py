"""docs/clients says which clients were tried: the pinned versions, by tests that exist, each with a page."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/clients"
PAGE = (FOLDER / "README.md").read_text()
ROWS = re.findall(r"^\| ([^|]+) \| ([^|]+) \| `(tests/clients/test_\w+\.py)` \|$", PAGE, re.MULTILINE)
LOCK = json.loads((ROOT / "tests/clients/node/package-lock.json").read_text())["packages"]
PINS = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE))
NPM = {path.removeprefix("node_modules/"): package.get("version", "") for path, package in LOCK.items()}


def pinned(clients: str) -> list[str]:
    """The pinned versions of the packages that a row names; none: it comes from elsewhere."""
    names = clients.split(" (")[0].split(", ")
    pins = NPM if clients.endswith("(npm)") else PINS
    return [pins[name] for name in names if name in pins]


@pytest.mark.parametrize(("clients", "tried", "test"), ROWS, ids=[row[0] for row in ROWS])
def test_the_version_that_was_tried_is_the_pinned_one(clients: str, tried: str, test: str) -> None:
    assert tried.split(", ")[: len(pinned(clients))] == pinned(clients)


def test_most_clients_are_pinned() -> None:
    assert sum(bool(pinned(clients)) for clients, _, _ in ROWS) >= 6


def test_every_test_of_a_client_is_in_the_table() -> None:
    tests = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests/clients").glob("test_*.py")}
    assert {test for _, _, test in ROWS} == tests


def test_every_page_is_listed() -> None:
    pages = {path.name for path in FOLDER.glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", PAGE)) == pages


def test_the_lock_names_no_registry() -> None:
    assert not [path for path, package in LOCK.items() if "resolved" in package]
