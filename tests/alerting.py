"""Plays what services showed through Prometheus's own rules: real scrapes, on a clock that the test moves.

A test scrapes living services at some moments of an incident and says at which minute each scrape is to have
been. Between two scrapes a series goes straight from one value to the other; one that is gone is stale. Then
`promtool` evaluates the rules over these minutes, `for` included, and says which alerts fire.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules.yaml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not here; Debian has it in the package prometheus"
)
GONE, NEVER = "stale", "_"


class Scrapes:
    """What was scraped, by minute, in the order of time."""

    def __init__(self) -> None:
        self._taken: dict[int, dict[str, float]] = {}

    def take(self, minute: int, pages: Mapping[str, str]) -> None:
        """Note what services show at `minute`: the text of `/metrics` by instance."""
        self._taken[minute] = {
            series: value for instance, page in pages.items() for series, value in _read(instance, page)
        }

    def check(self, firing: Mapping[int, Iterable[str]], folder: Path) -> None:
        """Fail unless exactly these alerts fire at each of these minutes."""
        assert PROMTOOL is not None
        tests = [
            {
                "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(names)],
            }
            for minute, names in firing.items()
        ]
        played = {"interval": "1m", "input_series": self._series(), "promql_expr_test": tests}
        whole = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [played]}
        path = folder / "incident.yaml"
        path.write_text(json.dumps(whole))  # JSON is YAML
        done = subprocess.run(
            [PROMTOOL, "test", "rules", str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _series(self) -> list[dict[str, str]]:
        names = {series for taken in self._taken.values() for series in taken}
        return [{"series": name, "values": " ".join(self._values(name))} for name in sorted(names)]

    def _values(self, series: str) -> list[str]:
        """The value of a series in each minute."""
        minutes = list(self._taken)
        values: list[float | None] = []
        for begin, end in pairwise(minutes):
            first, last = self._taken[begin].get(series), self._taken[end].get(series)
            steps = end - begin
            values += [_between(first, last, step / steps) for step in range(steps)]
        values.append(self._taken[minutes[-1]].get(series))
        begun = next(minute for minute, value in enumerate(values) if value is not None)
        return [NEVER] * begun + [GONE if value is None else _number(value) for value in values[begun:]]


def _read(instance: str, page: str) -> Iterable[tuple[str, float]]:
    for family in text_string_to_metric_families(page):
        for sample in family.samples if family.name.startswith("rejoinder_") else ():
            labels = {**sample.labels, "instance": instance}
            said = ", ".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
            yield f"{sample.name}{{{said}}}", sample.value


def _between(first: float | None, last: float | None, way: float) -> float | None:
    """The value of a series so far (0 to 1) on the way from one scrape to the next."""
    if first is None or (last is None and way > 0):
        return None
    return first if last is None else first + (last - first) * way


def _number(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")
