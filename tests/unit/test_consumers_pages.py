"""docs/consumers: the index names every page and real tests, and what is not run here names real fields."""

import json
import re
from pathlib import Path

import pytest

from schemas.closings import ClosingRecord, TokenCounts

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "consumers"
FIELDS = {*ClosingRecord.__struct_fields__, *TokenCounts.__struct_fields__}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)


def test_the_index_names_every_page_and_tests_that_exist() -> None:
    index = (PAGES / "README.md").read_text()
    others = {page.name for page in PAGES.glob("*.md")} - {"README.md"}
    assert others == set(re.findall(r"\]\((\w+\.md)\)", index))
    tests = re.findall(r"`(?:tests/integration/)?(test_\w+\.py)`", index)
    assert tests
    assert all((ROOT / "tests" / "integration" / test).exists() for test in tests)


def test_clickhouse_takes_fields_that_there_are() -> None:
    clickhouse = blocks("pipelines.md", "sql")[0]
    extracted = re.findall(r"JSONExtract\w*\(value, '(\w+)'(?:, '([a-z]\w+)')?", clickhouse)
    named = {name for names in extracted for name in names if name}
    assert {"log", "closed_offset", "usage", "total_tokens"} <= named <= FIELDS


def test_flink_takes_fields_that_there_are() -> None:
    declared = blocks("pipelines.md", "sql")[1].split("`kafka_partition`")[0]
    named = set(re.findall(r"`(\w+)` (?:STRING|BIGINT|ROW)", declared))
    assert {"log", "closed_offset", "usage", "total_tokens"} <= named <= FIELDS


@pytest.mark.parametrize("text", blocks("pipelines.md", "json"))
def test_a_connector_is_json(text: str) -> None:
    config = json.loads(text)["config"]
    assert config["topics"] == "closings"
    assert all(isinstance(value, str) for value in config.values())
