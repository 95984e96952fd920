"""The embedded broker's configuration: broker and controller in one, loopback only. Pure."""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from services.broker.tcp import LOOPBACK


class ClusterNode(Struct, frozen=True):
    """One node of a cluster: its number, the id of the cluster, and where all controllers listen."""

    node: int
    cluster: str
    controller_ports: Mapping[int, int]
    """By node: the port of its controller."""


def server_properties(logs: Path, port: int, member: ClusterNode, extra: Mapping[str, str]) -> dict[str, str]:
    """Kafka's settings by their names; `extra` goes over ours.

    Everything replicated is on one replica, internal topics have one partition (50 would cost every start), a
    group's first member does not wait for others, and topics exist only when made on purpose.
    """
    controllers = member.controller_ports.items()
    controller_port = member.controller_ports[member.node]
    return {
        "process.roles": "broker,controller",
        "node.id": str(member.node),
        "controller.quorum.voters": ",".join(f"{node}@{LOOPBACK}:{at}" for node, at in controllers),
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": logs.as_posix(),
        "auto.create.topics.enable": "false",
        "group.initial.rebalance.delay.ms": "0",
        "group.min.session.timeout.ms": "500",
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        # A start after a SIGKILL waits until the controller gives up the old session (default: 9 s).
        "broker.heartbeat.interval.ms": "500",
        "broker.session.timeout.ms": "3000",
        # An idle controller writes a record that says nothing twice a second, and all its readers wake up.
        "metadata.max.idle.interval.ms": "5000",
        # Each thread looks for work three times a second; of the defaults, 3 and 8, most only do that here.
        "num.network.threads": "1",
        "num.io.threads": "3",
        # The cleaner's default of 128 MiB is a quarter of the default heap, reserved at start.
        "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
        **extra,
    }


def render(settings: Mapping[str, str]) -> str:
    r"""The text of a Java properties file: `name=value` lines, with `\` and line ends escaped."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in settings.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
