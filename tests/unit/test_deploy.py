"""What deploy/ says, held against what the services take. There is no container engine here to run it.

The manifests are those that are committed; tests/unit/test_manifests.py says that they are the chart's.
"""

import re
import tomllib
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.broker.jars import KAFKA_VERSION
from services.config import parse
from services.connect import topic_names
from services.eventlog.topics import DAY, ActualTopic, check_all, specs
from services.settings import SETTINGS, Settings, load
from services.topic_setup import kept_for

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
MANIFESTS = [
    found
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for found in yaml.safe_load_all(path.read_text())
]
ECHO = "<model 'echo' scripted>"


def manifests(kind: str) -> dict[str, Any]:
    """By name, without the release's, the manifests of a kind."""
    return {
        found["metadata"]["name"].removeprefix("rejoinder-"): found
        for found in MANIFESTS
        if found["kind"] == kind
    }


def pods() -> Iterator[tuple[str, Any]]:
    for kind in ("Deployment", "StatefulSet"):
        for name, found in manifests(kind).items():
            yield name, found["spec"]["template"]["spec"]


def port_of(container: dict[str, Any], name: str) -> int:
    return next(int(port["containerPort"]) for port in container["ports"] if port["name"] == name)


def environment(container: dict[str, Any]) -> dict[str, str]:
    """What a container is told: the maps that are there, and its own."""
    maps = manifests("ConfigMap")
    refs = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
    told = {
        name: value for ref in refs for name, value in maps[ref.removeprefix("rejoinder-")]["data"].items()
    }
    return told | {own["name"]: own.get("value", "") for own in container.get("env", ())}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_a_setting(path: Path) -> None:
    named = set(re.findall(r"REJOINDER_[A-Z_]+[A-Z]", path.read_text()))
    assert named <= VARIABLES


def test_every_service_is_deployed() -> None:
    assert {
        service["command"][0] for name, service in COMPOSE["services"].items() if name != "kafka"
    } == COMMANDS
    assert {pod["containers"][0]["args"][0] for _, pod in pods()} == SERVICES


def test_the_image_is_that_of_this_version() -> None:
    images = {service["image"] for name, service in COMPOSE["services"].items() if name != "kafka"}
    images |= {pod["containers"][0]["image"] for _, pod in pods()}
    assert images == {IMAGE}
    chart = yaml.safe_load((DEPLOY / "helm" / "rejoinder" / "Chart.yaml").read_text())
    assert {f"rejoinder:{chart[field]}" for field in ("version", "appVersion")} == {IMAGE}
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
    asked = {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    for probe, path in asked.items():
        at = container[probe]["httpGet"]
        assert (at["path"], port_of(container, at["port"])) == (path, port)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_a_service_has_more_time_to_stop_than_it_takes(name: str) -> None:
    pod = dict(pods())[name]
    container = pod["containers"][0]
    told = environment(container).get("REJOINDER_GRACE_S", Settings().grace_s)
    leaves = container["lifecycle"]["preStop"]["sleep"]["seconds"] if "lifecycle" in container else 0
    assert pod["terminationGracePeriodSeconds"] >= leaves + float(told) + 10
    # Whoever is called by others is called on until they have heard that it goes.
    assert (leaves > 0) == (name in {"ingest", "replay", "analytics", "webhooks"})
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
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert pod["containers"][0]["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_no_route_bounds_how_long_an_answer_takes() -> None:
    (route,) = manifests("HTTPRoute").values()
    (rule,) = route["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}


def test_the_route_removes_the_tenants_header() -> None:
    (route,) = manifests("HTTPRoute").values()
    (rule,) = route["spec"]["rules"]
    (change,) = rule["filters"]
    assert change["requestHeaderModifier"] == {"remove": [Settings().tenant_header]}


def test_clients_need_keys() -> None:
    for name in ("replay", "ingest"):
        sources = dict(pods())[name]["containers"][0]["envFrom"]
        assert {"secretRef": {"name": "rejoinder-api-keys"}} in sources


def test_services_meet_kafka_with_certificates_of_their_own() -> None:
    for name, pod in pods():
        told = environment(pod["containers"][0])
        assert told["REJOINDER_KAFKA_SECURITY"] == "SSL"
        files = {told[f"REJOINDER_KAFKA_{kind}_FILE"] for kind in ("CA", "CERT", "KEY")}
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "kafka")
        (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "kafka")
        sources = [source["secret"] for source in volume["projected"]["sources"]]
        there = {f"{mount['mountPath']}/{item['path']}" for source in sources for item in source["items"]}
        assert files == there
        user = f"{name}-kafka"
        assert [source["name"] for source in sources] == ["rejoinder-cluster-ca-cert", f"rejoinder-{user}"]
        assert user in manifests("KafkaUser")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_only_who_asks_a_service_reaches_its_internal_port(name: str) -> None:
    """What a service calls by its URL settings is what the policies let out of it and into the other."""
    policies = manifests("NetworkPolicy")
    asks = {"ingest": {"replay"}, "executor": {"replay"}, "replay": {"ingest", "analytics", "webhooks"}}
    policy = policies[name]["spec"]
    out = {
        peer["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        for rule in policy["egress"]
        if rule.get("ports") == [{"port": 8001}]
        for peer in rule["to"]
    }
    assert out == asks.get(name, set())
    into = {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in policy["ingress"]
        if rule["ports"] == [{"port": 8001}]
        for peer in rule["from"]
        if "podSelector" in peer
    }
    assert into == {asker for asker, asked in asks.items() if name in asked}
    opened = {port["port"] for rule in policy["ingress"] for port in rule["ports"]}
    assert opened <= {8000, 8001, 8002}
    assert (8000 in opened) == (name == "replay")


def test_webhooks_reach_nothing_private() -> None:
    rules = [rule for rule in manifests("NetworkPolicy")["webhooks"]["spec"]["egress"] if "ports" not in rule]
    blocks = [peer["ipBlock"] for rule in rules for peer in rule["to"]]
    refused = [ip_network(text) for block in blocks for text in block["except"]]
    private = ("10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1")
    for text in (*private, "::1", "fd00::1", "fe80::1", "64:ff9b::a01:203"):
        address = ip_address(text)
        assert any(address in network for network in refused if network.version == address.version)


def test_replicas_are_asked_for_by_metrics_that_there_are() -> None:
    known = set(re.findall(r"`(rejoinder_[a-z_]+)", (ROOT / "docs" / "metrics.md").read_text()))
    scaled = manifests("ScaledObject")
    assert scaled.keys() == {"executor", "projector", "analytics", "webhooks"}
    for name, found in scaled.items():
        assert found["spec"]["scaleTargetRef"]["name"] == f"rejoinder-{name}"
        queries = [trigger["metadata"]["query"] for trigger in found["spec"]["triggers"]]
        named = {metric for query in queries for metric in re.findall(r"rejoinder_[a-z_]+", query)}
        assert named
        assert named <= known


def test_kafka_is_one_that_the_tests_run_on() -> None:
    (kafka,) = manifests("Kafka").values()
    assert kafka["spec"]["kafka"]["version"] == KAFKA_VERSION
    assert COMPOSE["services"]["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_kafka_leaves_a_dead_broker_soon_and_loses_nothing_acknowledged() -> None:
    (kafka,) = manifests("Kafka").values()
    told = kafka["spec"]["kafka"]["config"]
    assert told["broker.session.timeout.ms"] == 3000
    assert told["broker.heartbeat.interval.ms"] * 3 <= told["broker.session.timeout.ms"]
    assert told["default.replication.factor"] == 3
    assert told["min.insync.replicas"] == 2
    assert told["auto.create.topics.enable"] is False


def test_kafkas_topics_are_what_the_services_need() -> None:
    asked = load(
        {
            variable: value
            for variable, value in environment(dict(pods())["replay"]["containers"][0]).items()
            if value
        }
    )
    found = {
        topic["spec"]["topicName"]: ActualTopic(
            topic["spec"]["partitions"], topic["spec"]["replicas"], topic["spec"]["config"]
        )
        for topic in manifests("KafkaTopic").values()
    }
    wanted = specs(
        topic_names(asked),
        asked.max_record_bytes,
        kept_for(asked),
        asked.closings_days * DAY,
        asked.usage_days * DAY,
    )
    assert check_all(wanted, found) == [], "run make chart"
    assert found.keys() == {spec.name for spec in wanted}, "run make chart"
    assert found[wanted[0].name].partitions == asked.partitions


def test_upstreams_can_be_named_where_they_are_read() -> None:
    data = manifests("ConfigMap")["upstreams"]["data"]
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
        assert "/etc/rejoinder" in [mount["mountPath"] for mount in container["volumeMounts"]]
