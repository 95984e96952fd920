"""What deploy/ says, held against what the services take. There is no container engine here to run it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.config import parse
from services.settings import SETTINGS, Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()]
VARIABLES = {setting.variable for setting in SETTINGS.values()}
PORTS = {
    "ingest": 8000,
    "replay": 8000,
    "executor": 8002,
    "projector": 8002,
    "analytics": 8001,
    "webhooks": 8001,
}
"""By service, where it says that it is alive."""
SERVICES = set(PORTS)
COMMANDS = SERVICES | {"topics"}
IMAGE = "rejoinder:" + tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "rejoinder.yaml").read_text()))
ECHO = "<model 'echo' scripted>"


def manifests(kind: str) -> dict[str, Any]:
    return {found["metadata"]["name"]: found for found in MANIFESTS if found["kind"] == kind}


def pods() -> Iterator[tuple[str, Any]]:
    for kind in ("Deployment", "StatefulSet", "Job"):
        for name, found in manifests(kind).items():
            yield name, found["spec"]["template"]["spec"]


def environment(container: dict[str, Any]) -> dict[str, str]:
    """What a container is told: the maps that are there, and its own."""
    maps = manifests("ConfigMap")
    refs = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
    told = {name: value for ref in refs for name, value in maps[ref]["data"].items()}
    return told | {own["name"]: own.get("value", "") for own in container.get("env", ())}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"REJOINDER_[A-Z_]+[A-Z]", path.read_text()))
    assert named <= VARIABLES


def test_every_service_is_deployed() -> None:
    assert {
        service["command"][0] for name, service in COMPOSE["services"].items() if name != "kafka"
    } == COMMANDS
    assert {pod["containers"][0]["args"][0] for _, pod in pods()} == COMMANDS


def test_the_image_is_that_of_this_version() -> None:
    images = {service["image"] for name, service in COMPOSE["services"].items() if name != "kafka"}
    images |= {pod["containers"][0]["image"] for _, pod in pods()}
    assert images == {IMAGE}
    assert f"-t {IMAGE} " in (DEPLOY / "Containerfile").read_text()


def test_kafka_writes_to_its_volume_and_comes_back() -> None:
    kafka = COMPOSE["services"]["kafka"]
    assert kafka["volumes"] == [f"kafka:{kafka['environment']['KAFKA_LOG_DIRS']}"]
    assert kafka["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_is_asked_whether_it_is_alive_where_it_listens(name: str) -> None:
    port = PORTS[name]
    assert f"http://127.0.0.1:{port}/livez" in COMPOSE["services"][name]["healthcheck"]["test"][-1]
    assert int(COMPOSE["services"][name]["environment"]["REJOINDER_ADMIN_PORT"]) == 8002
    container = dict(pods())[name]["containers"][0]
    assert int(environment(container)["REJOINDER_ADMIN_PORT"]) == 8002
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": port}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_more_time_to_stop_than_it_takes(name: str) -> None:
    pod = dict(pods())[name]
    told = environment(pod["containers"][0]).get("REJOINDER_GRACE_S", Settings().grace_s)
    assert pod["terminationGracePeriodSeconds"] >= float(told) + 10
    assert int(COMPOSE["services"][name]["stop_grace_period"].rstrip("s")) >= Settings().grace_s + 10


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_service_has_the_secret(name: str) -> None:
    variable = "REJOINDER_INTERNAL_SECRET"
    assert COMPOSE["services"][name]["environment"][variable].startswith(f"${{{variable}:?")
    sources = dict(pods())[name]["containers"][0]["envFrom"]
    assert {"secretRef": {"name": "rejoinder-internal"}} in sources


def test_no_pod_is_root() -> None:
    user = re.search(r"^USER (\d+)$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)
    assert user
    for _, pod in pods():
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] == int(user[1])


def test_no_route_bounds_how_long_an_answer_takes() -> None:
    (route,) = manifests("HTTPRoute").values()
    assert [rule["timeouts"] for rule in route["spec"]["rules"]] == [{"request": "0s"}]


def test_upstreams_can_be_named_where_they_are_read() -> None:
    data = manifests("ConfigMap")["rejoinder-upstreams"]["data"]
    for text in (data["rejoinder.toml"], (DEPLOY / "rejoinder.toml").read_text()):
        assert [repr(route) for route in parse(text, "as deployed").routes()] == [ECHO]
        uncommented = re.sub(r"^# (?=[\[a-z_]+( =|\]))", "", text, flags=re.MULTILINE)
        assert len(list(parse(uncommented, "uncommented").routes())) > 1
    for name in ("ingest", "executor", "analytics"):
        path = "/etc/rejoinder/rejoinder.toml"
        assert COMPOSE["services"][name]["environment"]["REJOINDER_CONFIG"] == path
        assert COMPOSE["services"][name]["volumes"] == [f"./rejoinder.toml:{path}:ro"]
        container = dict(pods())[name]["containers"][0]
        assert environment(container)["REJOINDER_CONFIG"] == path
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/etc/rejoinder"]
