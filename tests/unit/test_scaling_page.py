"""docs/scaling.md shows what the command prints today."""

import re

from services.planning.costs import MEANINGS, measured_costs
from services.planning.demand import TAKES, option
from tests.scaling_page import LOADS, PAGE, made

TEXT = PAGE.read_text()


def test_the_page_is_what_the_code_says() -> None:
    assert made(TEXT, measured_costs()) == TEXT, "run python -m tests.scaling_page"


def test_every_load_of_the_table_is_on_the_page_as_a_command() -> None:
    assert all(f"rejoinder plan {load}" in TEXT for load in LOADS)


def test_every_constant_is_on_the_page_and_every_option_exists() -> None:
    assert all(f"| `{name}` |" in TEXT for name in MEANINGS)
    flags = set(re.findall(r"(?<=[ `])--[a-z-]+", TEXT)) - {"--help", "--json", "--write", "--check"}
    assert flags <= {option(name) for name in TAKES}
    assert "| machine |" not in TEXT
