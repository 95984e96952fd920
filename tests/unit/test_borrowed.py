"""What is borrowed of aiokafka and of uvicorn without being documented: each name is still there.

A new version that takes one away fails here, by name, with what it was for and how to mend it, and not in the
middle of a stream. Names are looked up by path, not imported, so that all that are gone are told at once.
"""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest
from msgspec import Struct

SERVICES = Path(__file__).parents[2] / "services"
BORROWED = SERVICES / "eventlog" / "kafka_borrowed.py"


class Borrowed(Struct, frozen=True):
    """Attributes and methods of a class of theirs; `used_for` what, and how to `mend` it without them."""

    owner: str
    names: tuple[str, ...]
    used_for: str
    mend: str


ATTRIBUTES = [
    Borrowed(
        "aiokafka.client.AIOKafkaClient",
        (
            "_client_id", "_connections_max_idle_ms", "_conns", "_loop", "_request_timeout_ms",
            "_sasl_kerberos_domain_name", "_sasl_kerberos_service_name", "_sasl_mechanism",
            "_sasl_oauth_token_provider", "_sasl_plain_password", "_sasl_plain_username",
            "_security_protocol", "_ssl_context", "_sync_task", "cluster", "hosts",
        ),
        "services/eventlog/kafka_client.py makes its own connections, each within a bound",
        "read in the new `__init__` and `_get_conn` where the options and open connections are kept now",
    ),
    Borrowed(
        "aiokafka.client.AIOKafkaClient",
        ("_get_conn", "_md_synchronizer", "_metadata_update", "_on_connection_closed"),
        "kafka_client.py overrides the first and third, so that a silent broker holds nobody up",
        "override what `send` and the metadata task call now; tests/unit/test_kafka_client.py must pass",
    ),
    Borrowed(
        "aiokafka.client.AIOKafkaClient",
        ("bootstrap", "close", "coordinator_lookup", "force_metadata_update", "ready", "send"),
        "kafka_link.py, kafka_offsets.py and kafka_group.py ask brokers through it",
        "call what took their place, in kafka_link.py",
    ),
    Borrowed(
        "aiokafka.cluster.ClusterMetadata",
        (
            "broker_metadata", "brokers", "failed_update", "leader_for_partition",
            "partitions_for_topic", "update_metadata",
        ),
        "who leads which partition",
        "read the leaders out of the metadata answer ourselves, in `KafkaClient._take`",
    ),
    Borrowed(
        "aiokafka.conn.AIOKafkaConnection",
        ("authenticator_oauth", "close", "connect", "connected", "send"),
        "a connection of our own that raises when a broker refuses its token",
        "find where the SASL handshake chooses its authenticator now",
    ),
    Borrowed(
        "aiokafka.conn.OAuthAuthenticator",
        ("_token_sent", "step"),
        "telling a refused token from an accepted one",
        "drop `_Bearer` if aiokafka raises on a refusal by now (tests/integration/test_kafka_security.py)",
    ),
    Borrowed(
        "aiokafka.consumer.group_coordinator.GroupCoordinator",
        ("_do_commit_offsets", "_do_heartbeat", "check_errors", "close", "commit_offsets"),
        "membership of a group without a consumer",
        "see how AIOKafkaConsumer drives its coordinator now, and do so in kafka_group.py",
    ),
    Borrowed(
        "aiokafka.consumer.subscription_state.SubscriptionState",
        ("fetch_context", "subscribe", "subscription"),
        "what a coordinator is told to join",
        "see how AIOKafkaConsumer subscribes now, and do so in kafka_group.py",
    ),
    Borrowed(
        "aiokafka.coordinator.assignors.abstract.AbstractPartitionAssignor",
        ("assign", "metadata", "name", "on_assignment"),
        "our sticky assignment under Kafka's own protocol",
        "fit `_Sticky` in kafka_group.py to the new interface",
    ),
    Borrowed(
        "aiokafka.record.default_records.DefaultRecordBatchBuilder",
        ("append", "build", "size_of"),
        "building record batches in C",
        "find the builder under AIOKafkaProducer.create_batch, and use it in kafka_lane.py",
    ),
    Borrowed(
        "aiokafka.record.memory_records.MemoryRecords",
        ("has_next", "next_batch"),
        "reading record batches in C",
        "find what aiokafka's fetcher unpacks with, and use it in `read_records` of kafka_fetch.py",
    ),
    Borrowed(
        "aiokafka.record.default_records.DefaultRecordBatch",
        ("base_offset", "is_control_batch", "next_offset", "validate_crc"),
        "passing over control batches and what compaction took, and finding damage",
        "as for MemoryRecords",
    ),
    Borrowed(
        "aiokafka.admin.AIOKafkaAdminClient",
        ("_client", "_send_request"),
        "kafka_topics.py gives it our client, and asks what its methods do not tell",
        "pass a client to the new constructor, or send the requests through kafka_link.py",
    ),
    Borrowed(
        "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol",
        (
            "_start_asgi_task", "_unset_keepalive_if_required", "connection_lost", "connection_made",
            "data_received", "on_body", "on_header", "on_headers_complete", "on_message_begin",
            "on_message_complete", "send_400_response", "shutdown",
        ),
        "services/web/connection.py bounds what comes, and answers what is no HTTP by an envelope",
        "override what the new protocol calls; tests/integration/test_web_server.py must pass",
    ),
    Borrowed(
        "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol",
        (
            "client", "cycle", "flow", "headers", "loop", "parser", "pipeline", "scope", "server_state",
            "timeout_keep_alive", "timeout_keep_alive_handler", "timeout_keep_alive_task", "transport", "url",
        ),
        "what connection.py reads and sets of a connection",
        "find where the new protocol keeps it",
    ),
    Borrowed(
        "uvicorn.protocols.http.httptools_impl.RequestResponseCycle",
        (
            "chunked_encoding", "disconnected", "expected_content_length", "keep_alive", "message_event",
            "response_complete", "response_started", "scope",
        ),
        "answers to HTTP/1.0 go out without chunks, and a request under way hears of an abort",
        "find what the new `send` and `receive` look at",
    ),
    Borrowed(
        "uvicorn.protocols.http.flow_control.FlowControl",
        ("drain", "resume_reading", "write_paused"),
        "connection.py pushes events to a client only while it takes them, and waits until it does",
        "ask the transport how much it holds (`get_write_buffer_size`)",
    ),
    Borrowed(
        "uvicorn.server.ServerState",
        ("connections", "default_headers", "tasks", "total_requests"),
        "services/web/server.py drains connections and keeps the `date` header right",
        "keep the sets in `ConnectionState` of connection.py ourselves",
    ),
]  # fmt: skip


def found(path: str) -> object:
    """What has a dotted path: a class in a module, or LookupError."""
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise LookupError(path) from error


def has(owner: object, name: str) -> bool:
    """Whether a class has an attribute, or sets it on its instances."""
    if hasattr(owner, name):
        return True
    try:
        return f"self.{name}" in inspect.getsource(owner)  # type: ignore[arg-type]
    except (TypeError, OSError):  # in C
        return False


@pytest.mark.parametrize("borrowed", ATTRIBUTES, ids=lambda each: f"{each.owner}.{each.names[0]}")
def test_what_is_borrowed_of_a_class_is_there(borrowed: Borrowed) -> None:
    owner = found(borrowed.owner)
    gone = [name for name in borrowed.names if not has(owner, name)]
    assert not gone, (
        f"{borrowed.owner} has no {', '.join(gone)} any more. Used for: {borrowed.used_for}. "
        f"Mend it: {borrowed.mend}; then name here what is borrowed instead."
    )


def imports(path: Path, package: str) -> list[tuple[str, str]]:
    """What a module imports of a package: modules and names."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return [
        (node.module, alias.name)
        for node in nodes
        if node.module is not None and node.module.split(".")[0] == package
        for alias in node.names
    ]


IMPORTED = [
    *((*name, BORROWED.parent) for name in imports(BORROWED, "aiokafka")),
    *((*name, path.parent) for path in sorted(SERVICES.rglob("*.py")) for name in imports(path, "uvicorn")),
]


@pytest.mark.parametrize(("module", "name", "folder"), IMPORTED)
def test_each_name_that_is_imported_is_there(module: str, name: str, folder: Path) -> None:
    try:
        found(f"{module}.{name}")
    except LookupError:
        users = [path.name for path in folder.glob("*.py") if name in path.read_text()]
        pytest.fail(
            f"there is no {module}.{name} any more; used in {', '.join(sorted(users))}. Mend it: find in "
            "the package's change log what took its place, import that, or keep the version that is pinned."
        )


def test_private_names_of_aiokafka_are_named_above() -> None:
    """A private attribute that is asked of a client or an admin client of theirs."""
    named = {name for each in ATTRIBUTES for name in each.names}
    asked = {
        node.attr
        for path in BORROWED.parent.glob("kafka_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and isinstance(node.value, ast.Name)
        and node.value.id in ("admin", "client")
    }
    assert asked <= named


def test_one_module_imports_aiokafka() -> None:
    others = [path.name for path in SERVICES.rglob("*.py") if imports(path, "aiokafka") and path != BORROWED]
    assert not others, f"{others} import aiokafka: take it from services/eventlog/kafka_borrowed.py"


def test_all_of_aiokafka_is_there_whose_classes_are_extended() -> None:
    """A class of ours under one of theirs hangs on more than what it is called by: it is named above."""
    named = {each.owner.rpartition(".")[2] for each in ATTRIBUTES}
    theirs = {name for _, name in imports(BORROWED, "aiokafka") if not name.endswith(("Error", "Exception"))}
    extended = {
        base.id
        for path in BORROWED.parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name) and base.id in theirs
    }
    documented = {"AbstractTokenProvider", "ConsumerRebalanceListener"}
    assert extended - documented <= named
