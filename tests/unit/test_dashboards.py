"""The dashboards and the alerts in deploy/ ask for what the code shows, and each alert has a runbook."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.promql import parsed, result_labels, wrong
from tests.shown import Shown, all_shown

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "deploy" / "grafana").glob("*.json"))
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
RUNBOOKS = ROOT / "docs" / "runbooks" / "README.md"
ALERTS = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
LABEL = re.compile(r"\{\{\s*(\w+)\s*\}\}")
IN_A_SUMMARY = re.compile(r"\{\{ \$labels\.(\w+) \}\}")


@pytest.fixture(scope="module")
def shown() -> dict[str, Shown]:
    return all_shown()


def board(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def targets() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each query of a panel, with where it is."""
    for path in BOARDS:
        for panel in board(path)["panels"]:
            for target in panel.get("targets", ()):
                yield f"{path.stem}: {panel['title']}", target


def known(shown: dict[str, Shown]) -> dict[str, Shown]:
    return {name: one for one in shown.values() for name in one.samples}


@pytest.mark.parametrize(("where", "target"), [pytest.param(*each, id=each[0]) for each in targets()])
def test_a_panel_asks_for_what_the_code_shows(
    where: str, target: dict[str, Any], shown: dict[str, Shown]
) -> None:
    assert wrong(target["expr"], shown) == [], where


@pytest.mark.parametrize(("where", "target"), [pytest.param(*each, id=each[0]) for each in targets()])
def test_a_legend_names_labels_that_the_result_has(
    where: str, target: dict[str, Any], shown: dict[str, Shown]
) -> None:
    named = set(LABEL.findall(target["legendFormat"]))
    assert named <= result_labels(parsed(target["expr"]), known(shown)), where


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_imported_anywhere(path: Path, shown: dict[str, Shown]) -> None:
    found = board(path)
    variables = {variable["name"]: variable for variable in found["templating"]["list"]}
    used = set(re.findall(r"\$\{?(?!__)(\w+)", json.dumps(found["panels"])))
    assert used == variables.keys(), "each variable is used, and each that is used is there"
    sources = {json.dumps(panel["datasource"]) for panel in found["panels"] if "targets" in panel}
    assert sources == {json.dumps({"type": "prometheus", "uid": "${datasource}"})}
    for name, variable in variables.items():
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            assert label in known(shown)[metric].labels, name


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_no_panel_lies_on_another(path: Path) -> None:
    panels = board(path)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


def test_dashboards_have_names_of_their_own() -> None:
    assert len({board(path)["uid"] for path in BOARDS}) == len({board(path)["title"] for path in BOARDS}) == 4


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_asks_for_what_the_code_shows(alert: dict[str, Any], shown: dict[str, Shown]) -> None:
    assert wrong(alert["expr"], shown) == []
    named = set(IN_A_SUMMARY.findall(alert["annotations"]["summary"]))
    assert named <= result_labels(parsed(alert["expr"]), known(shown))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_has_a_runbook_that_says_what_to_look_at_and_do(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert ROOT / page == RUNBOOKS
    sections = {_anchor(title): text for title, text in _sections(RUNBOOKS.read_text())}
    assert "**Look**" in sections[anchor]
    assert "**Do**" in sections[anchor]
    assert alert["alert"].lower() == "rejoinder" + anchor.replace("-", "")
    assert alert["labels"]["severity"] in ("critical", "warning")


def test_each_runbook_is_for_an_alert() -> None:
    anchors = {alert["annotations"]["runbook"].partition("#")[2] for alert in ALERTS}
    assert {_anchor(title) for title, _ in _sections(RUNBOOKS.read_text())} == anchors


def test_the_metrics_and_alerts_that_a_runbook_names_exist(shown: dict[str, Shown]) -> None:
    page = RUNBOOKS.read_text()
    assert set(re.findall(r"`(rejoinder_\w+)", page)) <= shown.keys()
    titles = {title for title, _ in _sections(page)}
    assert set(re.findall(r"\*([A-Z][a-z ]+)\*(?!\*)", page.replace("**", ""))) <= titles


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not here"
)
def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", str(RULES)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout


def _sections(page: str) -> list[tuple[str, str]]:
    """The headings of a page, with the text below each."""
    parts = re.split(r"^## (.+)$", page, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")
