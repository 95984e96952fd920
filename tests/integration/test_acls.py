"""Every service runs as a Kafka user of its own, with the rights of `services.acls` alone, and uses each."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from anyio.from_thread import BlockingPortal, start_blocking_portal
from msgspec.structs import replace

from schemas.ids import ResponseId, partition_of
from services.acls import WHO, acls
from services.broker.tcp import free_port
from services.dev.child import service_command
from services.dev.system import plan_of
from services.settings import Settings, environment
from tests.api import Api, insisting, request
from tests.process import REJOINDER
from tests.reliability.rig import Service, until
from tests.secured import AUDIT, GROUP, LITERAL, TOPIC, Secured, secured

pytest.importorskip("faust", reason="analytics is not installed")

PREFIX = "least."
LITTLE = 1024
"""Bytes of events that replay holds: what has closed it reads from its transcript."""
SETTINGS = Settings(
    topic_prefix=PREFIX, partitions=2, grace_s=5, webhooks_allow_private=1, replay_memory_bytes=LITTLE
)
SEAL = "test=" + "A" * 43 + "="
NOWHERE = "http://127.0.0.1:9/hook"
SAID = re.compile(
    r"Principal = User:(?P<who>\S+) is (?P<verdict>Allowed|Denied) operation = (?P<operation>\w+) "
    r"from host = \S+ on resource = (?P<resource>\w+):LITERAL:(?P<name>\S+) "
)
Use = tuple[str, str, str, str]
"""Who, the kind of resource, its name, the operation."""


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as running:
        yield running


@pytest.fixture(scope="module")
def kafka(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("JDK_JAVA_OPTIONS", f"{os.environ.get('JDK_JAVA_OPTIONS', '')} {AUDIT}")
        broker = secured(tmp_path_factory.mktemp("least"), WHO)
        with portal.wrap_async_context_manager(broker) as running:
            for acl in acls(SETTINGS):
                kind = TOPIC if acl.resource == "topic" else GROUP
                rights = [(kind, acl.name, operation) for operation in acl.operations]
                portal.call(partial(running.allow, f"User:{acl.who}", *rights, pattern=LITERAL))
            yield running


def rejoinder(kafka: Secured, who: str, *command: str, **settings: object) -> str:
    """What a command prints, run by the user `who`; it succeeds."""
    own = environment({"topic_prefix": PREFIX, **settings})
    environ = {**os.environ, **kafka.environ("SCRAM", username=who), **own}
    said = subprocess.run(
        [REJOINDER, *command], env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert said.returncode == 0, said
    return said.stdout


async def without(bootstrap: str, topic: str) -> None:
    """Delete a topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.delete_topics([topic])
        while topic in await admin.list_topics():
            pass
    finally:
        await admin.close()


def topics_are_made(kafka: Secured, portal: BlockingPortal) -> None:
    """Made, made anew and mended."""
    small = 1 << 20
    rejoinder(kafka, "topics", "topics", "--create", partitions=2, max_record_bytes=small)
    portal.call(without, kafka.bootstrap["PLAINTEXT"], f"{PREFIX}responses")
    rejoinder(kafka, "topics", "topics", "--create", partitions=2, max_record_bytes=small)
    rejoinder(kafka, "topics", "topics", "--fix", partitions=2)


def everything_is_done(api: Api) -> str:
    """Returns a response that has closed."""
    hook = {"name": "nowhere", "url": NOWHERE, "event_types": ["response.completed"]}
    made = insisting(lambda: api.ask("POST", "/v1/webhook_endpoints", hook))
    assert made.status == 200, made
    first = api.closed("one two")
    api.closed("three", previous_response_id=first)
    api.cancel(api.open())
    assert insisting(lambda: api.post(request("once"), {"idempotency-key": "once"})).status == 200
    ephemeral = api.create("not kept", store=False)
    assert insisting(lambda: api.delete(ephemeral)).status == 200
    assert insisting(lambda: api.delete(api.closed("four"))).status == 200
    assert insisting(lambda: api.ask("GET", "/v1/models")).status == 200
    usage = f"/v1/organization/usage/completions?start_time={int(time.time()) - 60}&bucket_width=1d"
    until(lambda: any(day["results"] for day in insisting(lambda: api.ask("GET", usage)).json["data"]))
    return first


def the_operator_looks(kafka: Secured, folder: Path) -> None:
    assert "echo" in rejoinder(kafka, "operator", "usage", "--last", "1h")
    deliveries = until(lambda: re.findall(r"wh_\w+", rejoinder(kafka, "operator", "webhooks", "list")))
    assert "1 to be tried again" in rejoinder(kafka, "operator", "webhooks", "retry", deliveries[0])
    environ = {**os.environ, **kafka.environ("SCRAM", username="operator"), "REJOINDER_TOPIC_PREFIX": PREFIX}
    said = folder / "tail"
    with said.open("wb") as sink:
        tail = subprocess.Popen([REJOINDER, "tail", "--last", "1h"], env=environ, stdout=sink, stderr=sink)
        try:
            until(lambda: "completed" in said.read_text())
        finally:
            tail.send_signal(signal.SIGTERM)
            tail.wait(timeout=30)


def audited(log: str) -> tuple[set[Use], set[Use]]:
    """What our users were allowed, and what they were denied."""
    found: dict[str, set[Use]] = {"Allowed": set(), "Denied": set()}
    for said in SAID.finditer(log):
        if said["who"] in WHO:
            operation = said["operation"].title().replace("_", "")
            use = (said["who"], said["resource"].lower(), said["name"], operation)
            found[said["verdict"]].add(use)
    return found["Allowed"], found["Denied"]


def test_the_rights_of_each_service_are_enough_and_each_of_them_is_used(
    kafka: Secured, portal: BlockingPortal, tmp_path: Path
) -> None:
    topics_are_made(kafka, portal)
    settings = replace(SETTINGS, port=free_port(), webhooks_keys=(SEAL,))
    plan = plan_of(settings, {}, colors=False)
    services = []
    try:
        for name, environ, url in plan:
            own = {**environ, **kafka.environ("SCRAM", username=name), "ADMIN_URL": url}
            services.append(Service(name, service_command(name), own, tmp_path / name))
        for service in services:
            until(service.ready)
        api = Api(f"http://127.0.0.1:{settings.port}")
        closed = everything_is_done(api)
        rejoinder(kafka, "topics", "topics", "--partitions", "3")
        until(lambda: partition_of(ResponseId(api.closed("in a new partition"))) == 2)
        the_operator_looks(kafka, tmp_path)
        assert insisting(lambda: api.ask("GET", f"/v1/responses/{closed}")).status == 200
    finally:
        for service in services:
            service.terminate()
        for service in services:
            service.wait()
    used, denied = audited(kafka.log_path.read_text())
    given = {(a.who, a.resource, a.name, operation) for a in acls(SETTINGS) for operation in a.operations}
    assert not denied
    assert given - used == set()
    assert {use for use in used - given if use[3] != "Describe"} == set()
