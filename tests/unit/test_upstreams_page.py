"""docs/upstreams.md says what the code does: its keys, and tests that exist."""

import re
from pathlib import Path

import pytest

from services import echo
from services.config import KEYS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/upstreams.md").read_text()
ROWS = re.findall(r"`(test_\w+)`(?: \(`([\w/.]+)`\))? \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("key", sorted(KEYS.keys() - {"models", "agents", "tenants", "prices"}))
def test_every_key_is_in_the_table_with_what_it_takes(key: str) -> None:
    assert re.search(rf"^\| `{key}` \|.*\| {re.escape(KEYS[key])} \|$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("key", sorted(echo.BOUNDS))
def test_every_key_of_echo_is_in_the_table(key: str) -> None:
    assert f"| `{key}` |" in PAGE


def test_the_page_names_tests() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize(("test", "file"), sorted(set(ROWS)))
def test_every_named_test_exists(test: str, file: str) -> None:
    source = (ROOT / (file or "tests/integration/test_backend_responses.py")).read_text()
    assert f"def {test}(" in source
