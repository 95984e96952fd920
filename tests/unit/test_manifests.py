"""The chart of deploy/helm: clusters take what it renders, and what is not safe needs to be named. The
manifests in deploy/kubernetes are what it renders with the values of deploy/helm/plain.yaml.
"""

import re
from collections.abc import Iterable
from typing import Any

import kubernetes_validate
import pytest
import yaml

from services.eventlog.topics import topics
from services.settings import SETTINGS
from tests import crds
from tests.chart import CHART, PLAIN, VALUES, ChartError, helm, lint, plain, render, run_helm, taken_from_code

needs_helm = pytest.mark.skipif(helm() is None, reason="no helm: `make chart` builds one where there is Go")
KUBERNETES = ("1.30", kubernetes_validate.latest_version())
"""The oldest that the chart takes, and the newest that the validator knows."""
CUSTOM = {path.stem for path in crds.FOLDER.glob("*.json")}
KEYS = "apiKeys.secret=keys"
FILES = sorted(PLAIN.glob("*.yaml"))
ELSEWHERE = ("kafka.strimzi.enabled=false", "kafka.bootstrap=kafka.example:9093")
UNSAFE = {
    "withoutApiKeys": ("apiKeys.secret=",),
    "plaintextKafka": (*ELSEWHERE, "kafka.security=PLAINTEXT"),
    "withoutNetworkPolicies": ("networkPolicy.enabled=false",),
}
"""By switch, values that the chart refuses without it."""


def rendered(*chosen: str) -> list[dict[str, Any]]:
    """What the chart renders with these values (`--set`)."""
    flags = [flag for value in chosen for flag in ("--set", value)]
    return [found for found in yaml.safe_load_all(render(*flags)) if found]


def refused(manifest: dict[str, Any]) -> Iterable[str]:
    """What a cluster would refuse of a manifest: an unknown field, too."""
    name = f"{manifest['kind']} {manifest['metadata']['name']}"
    if manifest["kind"] in CUSTOM:
        yield from (f"{name}: {fault}" for fault in crds.faults(manifest))
        return
    for version in KUBERNETES:
        try:
            kubernetes_validate.validate(manifest, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{name}, Kubernetes {version}: {error.json_path}: {error.message}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_committed_manifests_are_what_clusters_take(path: Any) -> None:
    manifests = list(yaml.safe_load_all(path.read_text()))
    assert manifests
    assert [fault for manifest in manifests for fault in refused(manifest)] == []


@pytest.mark.parametrize("kind", ["Kafka", "Deployment"])
def test_a_fault_is_seen(kind: str) -> None:
    """The validators would say nothing of a manifest for which they know no schema."""
    found = next(
        manifest
        for path in FILES
        for manifest in yaml.safe_load_all(path.read_text())
        if manifest["kind"] == kind
    )
    found["spec"]["replicsa"] = 3
    assert any("replicsa" in fault for fault in refused(found))


def test_each_schema_says_which_definition_it_was_taken_from() -> None:
    used = {manifest["kind"] for path in FILES for manifest in yaml.safe_load_all(path.read_text())}
    assert used >= CUSTOM
    for text in (path.read_text() for path in crds.FOLDER.glob("*.json")):
        assert re.search(r'"origin": "[A-Z][\w ]+ v?\d+\.\d+\.\d+', text)
        assert re.search(r'"sha256": "[0-9a-f]{64}"', text)


def test_the_chart_says_what_the_code_says() -> None:
    for name, text in taken_from_code().items():
        assert (CHART / "files" / name).read_text() == text, "run make chart"


def test_every_setting_that_the_chart_names_is_one() -> None:
    known = {setting.variable for setting in SETTINGS.values()}
    for path in CHART.rglob("*"):
        if path.is_file():
            named = re.findall(r"REJOINDER_[A-Z_]+[A-Z]", path.read_text())
            assert set(named) <= known, path


@needs_helm
def test_the_committed_manifests_are_the_charts() -> None:
    made = plain(render("--values", str(VALUES)))
    assert {path.name: path.read_text() for path in FILES} == made, "run make chart"


@needs_helm
def test_helm_finds_no_fault() -> None:
    lint()


@needs_helm
@pytest.mark.parametrize(
    "chosen",
    [
        (KEYS,),
        (KEYS, *ELSEWHERE, "kafka.credentialsSecret=kafka-{service}", "kafka.caSecret=ca"),
        (
            KEYS,
            *ELSEWHERE,
            "kafka.security=SSL",
            "kafka.certSecret=kafka-{service}",
            "kafka.createTopics=false",
        ),
        (KEYS, "analytics.enabled=false", "webhooks.enabled=false", "autoscaling.enabled=false"),
        (KEYS, "ingest.public=true", "kafka.topicPrefix=one.", "settings.REJOINDER_SLOTS=100"),
        ("unsafe.withoutApiKeys=true", "unsafe.believeTenantHeader=true", "unsafe.privateWebhooks=true"),
    ],
    ids=["least", "kafka elsewhere", "by certificates", "least services", "more", "unsafe"],
)
def test_whatever_is_chosen_clusters_take(chosen: tuple[str, ...]) -> None:
    assert [fault for manifest in rendered(*chosen) for fault in refused(manifest)] == []


@needs_helm
@pytest.mark.parametrize("switch", UNSAFE)
def test_what_is_not_safe_needs_to_be_named(switch: str) -> None:
    chosen = (KEYS, *UNSAFE[switch])
    with pytest.raises(ChartError, match=rf"unsafe\.{switch}=true"):
        rendered(*chosen)
    assert rendered(*chosen, f"unsafe.{switch}=true")


@needs_helm
def test_keys_are_asked_for() -> None:
    with pytest.raises(ChartError, match=r"apiKeys\.secret: name a Secret whose REJOINDER_API_KEYS"):
        rendered()
    with pytest.raises(ChartError, match="choose one"):
        rendered(KEYS, "unsafe.withoutApiKeys=true")


@needs_helm
def test_a_file_of_keys_is_where_the_services_look_for_it() -> None:
    made = rendered("apiKeys.fileSecret=hashed")
    for found in (found for found in made if found["kind"] in {"Deployment", "StatefulSet"}):
        pod = found["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        told = {own["name"]: own.get("value") for own in container["env"]}
        volumes = [volume["name"] for volume in pod.get("volumes", ()) if "secret" in volume]
        if container["name"] in {"replay", "ingest"}:
            (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] in volumes)
            assert told["REJOINDER_API_KEYS_FILE"] == f"{mount['mountPath']}/api-keys"
        else:
            assert "REJOINDER_API_KEYS_FILE" not in told
            assert not volumes


@needs_helm
@pytest.mark.parametrize("claim", [True, False])
def test_replay_keeps_its_store_where_it_looks_for_it(claim: bool) -> None:
    made = rendered(KEYS, f"replay.store.claim={str(claim).lower()}", "replay.store.storageClass=fast")
    assert [fault for manifest in made for fault in refused(manifest)] == []
    for found in (found for found in made if found["kind"] in {"Deployment", "StatefulSet"}):
        pod = found["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        told = {own["name"]: own.get("value") for own in container["env"]}
        claims = [made["metadata"]["name"] for made in found["spec"].get("volumeClaimTemplates", ())]
        volumes = [volume["name"] for volume in pod["volumes"] if "emptyDir" in volume]
        mounted = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "store"]
        if container["name"] == "replay":
            assert mounted == [told["REJOINDER_STORE_DIR"]]
            assert (claims, volumes) == ((["store"], []) if claim else ([], ["store"]))
        else:
            assert (mounted, claims, volumes) == ([], [], [])
            assert "REJOINDER_STORE_DIR" not in told


@needs_helm
def test_internal_ports_may_speak_tls() -> None:
    made = rendered(KEYS, "internalTls.secret=tls-{service}", "podMonitor.enabled=true")
    assert [fault for manifest in made for fault in refused(manifest)] == []
    (settings,) = (
        found["data"] for found in made if found["kind"] == "ConfigMap" and "REJOINDER_KAFKA" in found["data"]
    )
    urls = {name: value for name, value in settings.items() if name.endswith("_URL")}
    assert len(urls) == 4
    assert all(url.startswith("https://") for url in urls.values())
    for found in (found for found in made if found["kind"] in {"Deployment", "StatefulSet"}):
        pod = found["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        told = {own["name"]: own.get("value") for own in container["env"]}
        files = {told[f"REJOINDER_INTERNAL_{kind}_FILE"] for kind in ("CERT", "KEY", "CA")}
        (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "internal-tls")
        assert files == {f"{mount['mountPath']}/{name}" for name in ("tls.crt", "tls.key", "ca.crt")}
        (volume,) = (volume for volume in pod["volumes"] if volume["name"] == "internal-tls")
        assert volume["secret"]["secretName"] == f"tls-{container['name']}"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            at = container[probe]["httpGet"]
            assert at.get("scheme", "HTTP") == ("HTTPS" if at["port"] == "internal" else "HTTP")


@needs_helm
def test_who_takes_tokens_may_ask_their_issuer_for_its_keys() -> None:
    made = rendered(
        r"settings.REJOINDER_JWT_ISSUER=https://issuer.example", "settings.REJOINDER_JWT_AUDIENCE=api"
    )
    opened = {
        found["metadata"]["name"]
        for found in made
        if found["kind"] == "NetworkPolicy"
        and {"port": 443} in [port for rule in found["spec"]["egress"] for port in rule.get("ports", ())]
    }
    assert opened == {"rejoinder-replay", "rejoinder-ingest", "rejoinder-executor"}


@needs_helm
@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (("kafka.strimzi.enabled=false",), r"kafka\.bootstrap: name the brokers"),
        (("kafka.bootstrap=kafka.example:9092",), r"set kafka\.strimzi\.enabled=false"),
        (("keda.enabled=true",), r"keda\.prometheus"),
        (("executor.replicas=33",), r"executor: 33 replicas, but kafka\.partitions is 32"),
        (("executor.replica=3",), "replica"),
        (("settings.rejoinder_slots=3",), "rejoinder_slots"),
    ],
)
def test_what_cannot_work_is_refused(chosen: tuple[str, ...], said: str) -> None:
    with pytest.raises(ChartError, match=said):
        rendered(KEYS, *chosen)


@needs_helm
def test_the_header_stays_only_where_that_was_named() -> None:
    def filters(*chosen: str) -> Any:
        (route,) = (
            found for found in rendered(KEYS, "gateway.enabled=true", *chosen) if found["kind"] == "HTTPRoute"
        )
        return route["spec"]["rules"][0].get("filters")

    (change,) = filters("settings.REJOINDER_TENANT_HEADER=x-team")
    assert change["requestHeaderModifier"] == {"remove": ["x-team"]}
    assert filters("unsafe.believeTenantHeader=true") is None


@needs_helm
def test_a_prefix_is_before_every_topic_and_group() -> None:
    made = rendered(KEYS, "kafka.topicPrefix=one.")
    named = {found["spec"]["topicName"] for found in made if found["kind"] == "KafkaTopic"}
    names = topics("one.")
    assert named == {getattr(names, field) for field in names.__struct_fields__}
    for user in (found for found in made if found["kind"] == "KafkaUser"):
        for acl in user["spec"]["authorization"]["acls"]:
            assert acl["resource"]["name"].startswith("one.")


@needs_helm
def test_each_service_may_be_a_user_of_its_own_in_a_kafka_elsewhere() -> None:
    made = rendered(KEYS, *ELSEWHERE, "kafka.credentialsSecret=kafka-{service}")
    for found in made:
        if found["kind"] in {"Deployment", "StatefulSet", "Job"}:
            (container,) = found["spec"]["template"]["spec"]["containers"]
            secret = {"secretRef": {"name": f"kafka-{container['name']}"}}
            assert secret in container["envFrom"]
    assert not [found for found in made if found["apiVersion"].startswith("kafka.strimzi.io/")]


@needs_helm
@pytest.mark.parametrize("switch", [*UNSAFE, "believeTenantHeader", "privateWebhooks"])
def test_what_is_not_safe_is_told_at_every_install(switch: str) -> None:
    values = [*([KEYS] if switch != "withoutApiKeys" else []), f"unsafe.{switch}=true"]
    flags = [flag for value in values for flag in ("--set", value)]
    said = run_helm("install", "rejoinder", str(CHART), "--dry-run=client", *flags)
    assert said.count("NOT SAFE") == 1
    notes = said.partition("NOT SAFE")[2].partition("Pods wait")[0]
    assert notes.count("\n- ") == 1
