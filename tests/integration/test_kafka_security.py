"""Kafka behind TLS, credentials and ACLs: what Rejoinder needs is enough, and what is missing is said so."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.helpers import create_ssl_context
from anyio.from_thread import BlockingPortal, start_blocking_portal

from services.settings import Settings
from services.topic_setup import make_topics
from tests.api import Api, insisting, numbers
from tests.process import REJOINDER, ServerProcess
from tests.reliability.rig import until
from tests.secured import GROUP, PASSWORD, TOPIC, USER, Acl, Secured, secured, token
from tests.system import LEAN

NEEDED: list[Acl] = [
    *((TOPIC, "", operation) for operation in ("Read", "Write", "Describe", "DescribeConfigs")),
    (GROUP, "", "Read"),
]
"""What the user of all services needs, for a prefix (docs/security.md). `test_acls` has the rights of
each service alone."""


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal() as running:
        yield running


@pytest.fixture(scope="module")
def kafka(portal: BlockingPortal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    with portal.wrap_async_context_manager(secured(folder)) as running:
        for prefix in ("mtls.", "oauth.", "none.", "some.", "reads.", "billing."):
            portal.call(make_topics, Settings(kafka=running.bootstrap["PLAINTEXT"], topic_prefix=prefix))
        yield running


def rejoinder(*command: str, environ: dict[str, str], prefix: str) -> subprocess.CompletedProcess[str]:
    """One command, to its end."""
    return subprocess.run(
        [REJOINDER, *command],
        env={**os.environ, **environ, "REJOINDER_TOPIC_PREFIX": prefix},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def within(prefix: str, *acls: Acl) -> list[Acl]:
    return [(kind, prefix + name, operation) for kind, name, operation in acls]


def system(environ: dict[str, str], prefix: str, folder: Path) -> ServerProcess:
    command = [REJOINDER, "dev", "--kafka", environ["REJOINDER_KAFKA"], "--port", "0", *LEAN]
    return ServerProcess(command, folder / "log", {**environ, "REJOINDER_TOPIC_PREFIX": prefix})


def runs_whole(base_url: str, seconds: float = 1) -> None:
    api = Api(base_url)
    id = api.create("one two", tokens=20, interval_ms=int(seconds * 50))
    frames = api.events(id)
    assert numbers(frames) == list(range(29))
    assert frames[-1].type == "response.completed"
    assert insisting(lambda: api.delete(id)).status == 200


def test_a_client_certificate_is_enough(kafka: Secured, portal: BlockingPortal, tmp_path: Path) -> None:
    portal.call(kafka.allow, "User:client", *within("mtls.", *NEEDED))
    with system(kafka.environ("MTLS"), "mtls.", tmp_path) as running:
        runs_whole(running.base_url)


@pytest.mark.slow
def test_tokens_that_end_are_exchanged_for_new_ones_and_no_stream_notices(
    kafka: Secured, portal: BlockingPortal, tmp_path: Path
) -> None:
    """The broker ends every connection after three seconds, so it is served by several of them."""
    portal.call(kafka.allow, "User:service", *within("oauth.", *NEEDED))
    (tmp_path / "token").write_text(token("service"))
    environ = kafka.environ("OAUTH", oauth_token_file=str(tmp_path / "token"))
    with system(environ, "oauth.", tmp_path) as running:
        runs_whole(running.base_url, seconds=10)


Case = tuple[str, dict[str, str], str]
REFUSED: dict[str, Case] = {
    "a wrong password": ("SCRAM", {"password": "wrong"}, r"does not know user rejoinder with this password"),
    "an unknown user": ("SCRAM", {"username": "nobody"}, r"not know user nobody .*REJOINDER_KAFKA_USERNAME"),
    "another mechanism": ("SCRAM", {"sasl_mechanism": "PLAIN"}, r"does not offer PLAIN: .*_SASL_MECHANISM"),
    "another authority": ("SCRAM", {"ca_file": "{other_ca_file}"}, r"signed its certificate .*KAFKA_CA_FILE"),
    "no authority": ("SCRAM", {"ca_file": ""}, r"nobody in the system's authorities signed its certificate"),
    "no certificate": (
        "MTLS",
        {"cert_file": "", "key_file": ""},
        r"(asks for|want) a client's certificate.*REJOINDER_KAFKA_CERT_FILE",
    ),
    "a stranger's certificate": (
        "MTLS",
        {"cert_file": "{other_cert_file}", "key_file": "{other_key_file}"},
        r"does not accept the certificate in REJOINDER_KAFKA_CERT_FILE",
    ),
    "a token that has ended": (
        "OAUTH",
        {"oauth_token_file": "{ended}"},
        r"not accept our token .*_OAUTH_TOKEN_FILE",
    ),
    "no token": ("OAUTH", {"oauth_token_file": "/nope"}, r"REJOINDER_KAFKA_OAUTH_TOKEN_FILE: cannot read"),
    "no TLS where it is wanted": ("SCRAM", {"security": "PLAINTEXT"}, r"does its port want TLS or SASL"),
    "SASL without TLS": ("SCRAM", {"security": "SASL_PLAINTEXT"}, r"does its port want TLS .*SASL_SSL"),
    "TLS without SASL": ("SCRAM", {"security": "SSL"}, r"does it want .* SASL.*REJOINDER_KAFKA_SECURITY"),
    "TLS where there is none": (
        "PLAINTEXT",
        {"security": "SSL", "ca_file": "{ca_file}"},
        r"(does it want .* no TLS|does not speak TLS).*REJOINDER_KAFKA_SECURITY",
    ),
    "SASL where there is none": (
        "PLAINTEXT",
        {"security": "SASL_PLAINTEXT", "username": "a", "password": "b"},
        r"its port wants no SASL",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_who_is_not_let_in_hears_why_in_one_line(kafka: Secured, tmp_path: Path, case: Case) -> None:
    way, changes, why = case
    (tmp_path / "ended").write_text(token("service", lasts_s=-60))
    files = {**vars(kafka), "ended": tmp_path / "ended"}
    environ = kafka.environ(way, **{name: value.format(**files) for name, value in changes.items()})
    said = rejoinder("executor", environ=environ, prefix="none.")
    assert said.returncode == 1
    [line] = said.stderr.strip().splitlines()
    assert re.match(rf"rejoinder: Kafka at 127\.0\.0\.1:\d+: .*{why}", line), line


def test_a_certificate_of_another_name_is_told_as_that(kafka: Secured) -> None:
    environ = kafka.environ("SCRAM")
    environ["REJOINDER_KAFKA"] = environ["REJOINDER_KAFKA"].replace("127.0.0.1", "localhost")
    said = rejoinder("executor", environ=environ, prefix="none.")
    assert "its certificate is another's" in said.stderr
    assert "REJOINDER_KAFKA by a name that it has" in said.stderr


def test_a_missing_acl_is_no_missing_topic(kafka: Secured, portal: BlockingPortal) -> None:
    said = rejoinder("executor", environ=kafka.environ("SCRAM"), prefix="none.")
    [line] = said.stderr.strip().splitlines()
    assert "its ACLs keep User:rejoinder from topic none." in line
    assert "--create" not in line
    portal.call(kafka.allow, f"User:{USER}", *within("none.", (TOPIC, "", "Describe")))
    said = rejoinder("executor", environ=kafka.environ("SCRAM"), prefix="none.")
    assert "its ACLs keep User:rejoinder from topic none." in said.stderr


@pytest.mark.parametrize(
    "prefix, lacking, said",
    [
        ("some.", (GROUP, "", "Read"), "its ACLs keep User:rejoinder from the consumer groups"),
        ("reads.", (TOPIC, "", "Write"), r"its ACLs keep User:rejoinder from"),
    ],
)
def test_an_acl_that_is_missed_later_is_told_in_the_log(
    kafka: Secured, portal: BlockingPortal, tmp_path: Path, prefix: str, lacking: Acl, said: str
) -> None:
    portal.call(kafka.allow, f"User:{USER}", *within(prefix, *(acl for acl in NEEDED if acl != lacking)))
    environ = {**os.environ, **kafka.environ("SCRAM"), "REJOINDER_TOPIC_PREFIX": prefix}
    log = tmp_path / "log"
    with log.open("wb") as sink:
        running = subprocess.Popen([REJOINDER, "executor"], env=environ, stdout=sink, stderr=sink)
        try:
            until(lambda: re.search(said, log.read_text()))
        finally:
            running.terminate()
            running.wait(timeout=30)


def test_who_reads_closings_needs_no_right_on_any_content(kafka: Secured, portal: BlockingPortal) -> None:
    """The ACLs of docs/consumers/closings.md and docs/consumers/usage.md."""
    topics = [
        (TOPIC, name, operation) for name in ("closings", "usage") for operation in ("Read", "Describe")
    ]
    wanted = [*topics, (GROUP, "reader", "Read")]
    portal.call(kafka.allow, f"User:{USER}", *within("billing.", *wanted))
    portal.call(_reads, kafka, "billing.closings")
    portal.call(_reads, kafka, "billing.usage")
    for topic in ("responses.events", "responses", "transcripts"):
        with pytest.raises(TopicAuthorizationFailedError):
            portal.call(_reads, kafka, f"billing.{topic}")


async def _reads(kafka: Secured, topic: str) -> None:
    """Read a topic to its end, as a member of a group."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka.bootstrap["SCRAM"],
        group_id="billing.reader",
        security_protocol="SASL_SSL",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_plain_username=USER,
        sasl_plain_password=PASSWORD,
        ssl_context=create_ssl_context(cafile=str(kafka.ca_file)),
    )
    try:
        await consumer.start()
        await consumer.getmany(timeout_ms=100)
        assert consumer.assignment()
    finally:
        await consumer.stop()
