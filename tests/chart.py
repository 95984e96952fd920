"""The Helm chart in deploy/helm: what it takes from the code, and the plain manifests that are made of it.

    python -m tests.chart     lints the chart and writes both anew; `make chart` calls it

A folder of templates is a file of deploy/kubernetes, so whoever has no KEDA, say, leaves that file out.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from services.acls import acls
from services.connect import topic_names
from services.eventlog.topics import DAY, config, specs
from services.settings import Settings
from services.topic_setup import kept_for

DEPLOY = Path(__file__).parents[1] / "deploy"
CHART = DEPLOY / "helm" / "rejoinder"
PLAIN = DEPLOY / "kubernetes"
VALUES = DEPLOY / "helm" / "plain.yaml"
"""The values of the plain manifests."""
REPLICAS = 3
"""Replicas for which a topic's settings are made: those of the chart's own Kafka."""
HEADER = "# Made of deploy/helm/rejoinder by `make chart`: change it there. Values: deploy/helm/plain.yaml.\n"


class ChartError(Exception):
    """Helm refused the chart with these values; the text is Helm's."""


def helm() -> str | None:
    """The helm that `make chart` builds, else that of the machine; None without one."""
    built = Path(sys.executable).with_name("helm")
    return str(built) if built.exists() else shutil.which("helm")


def run_helm(*arguments: str) -> str:
    """What a helm command prints. Raises ChartError."""
    found = helm()
    if found is None:
        raise ChartError("there is no helm on this machine, and no Go that could build one")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChartError(done.stdout + done.stderr)
    return done.stdout


def lint() -> None:
    """Raises ChartError if Helm finds a fault in the chart with the values of the plain manifests."""
    run_helm("lint", "--strict", str(CHART), "--values", str(VALUES))


def render(*arguments: str) -> str:
    """The manifests that Helm makes of the chart for a release `rejoinder`. Raises ChartError."""
    return run_helm("template", "rejoinder", str(CHART), "--namespace", "rejoinder", *arguments)


def plain(rendered: str) -> Mapping[str, str]:
    """By name, the files of deploy/kubernetes: one for each folder of templates."""
    files: dict[str, list[str]] = {}
    for document in rendered.split("---\n# Source: ")[1:]:
        source, _, text = document.partition("\n")
        files.setdefault(Path(source).parent.name, []).append(text.strip("\n"))
    return {f"{name}.yaml": HEADER + "\n---\n".join(texts) + "\n" for name, texts in sorted(files.items())}


def taken_from_code() -> Mapping[str, str]:
    """By name, the files of the chart that say what the code says."""
    settings = Settings()
    wanted = specs(
        topic_names(settings),
        settings.max_record_bytes,
        kept_for(settings),
        settings.closings_days * DAY,
        settings.usage_days * DAY,
    )
    topics = [
        {"name": spec.name, "partitions": spec.partitions, "config": config(spec, REPLICAS)}
        for spec in wanted
    ]
    users: dict[str, list[Mapping[str, object]]] = {}
    for acl in acls(settings):
        right = {"resource": acl.resource, "name": acl.name, "operations": acl.operations}
        users.setdefault(acl.who, []).append(right)
    return {"topics.json": _text(topics), "acls.json": _text(users)}


def _text(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def main() -> None:
    """Write the chart's files, lint it, then write the plain manifests. Raises ChartError."""
    for name, text in taken_from_code().items():
        (CHART / "files" / name).write_text(text)
    lint()
    for name, text in plain(render("--values", str(VALUES))).items():
        (PLAIN / name).write_text(text)


if __name__ == "__main__":
    main()
