"""What a load takes of disks, memory and the network."""

from collections.abc import Mapping

from msgspec import Struct

from services.planning.costs import Costs
from services.planning.demand import DAY_S, Demand
from services.planning.deployment import Deployment

CLOSINGS_DAYS, USAGE_DAYS = 30, 90
"""For how long what has ended can be read (`REJOINDER_CLOSINGS_DAYS`, `REJOINDER_USAGE_DAYS`)."""
REMEMBERED_S = 80.0
"""Seconds for which a replay keeps a closed response in its window: acceptance window, skew, a sweep."""
WINDOW_MIB = 512
"""MiB of a replay's windows, at most (`REJOINDER_REPLAY_MEMORY_BYTES`)."""
MIB = 1 << 20


def topic_bytes(demand: Demand, costs: Costs, partitions: int) -> Mapping[str, float]:
    """By topic, the bytes of one replica of all its partitions, once the first records are due to go."""
    kept, length = demand.kept, demand.length
    rows = min(demand.responses * 60, partitions * demand.groups)
    return {
        "responses.events": _log_bytes_s(demand, costs) * DAY_S * demand.events_days,
        "transcripts": kept * (costs.transcript_bytes + length * costs.transcript_event_bytes),
        "responses": kept * (costs.object_bytes + length * costs.object_event_bytes),
        "transcripts.index": kept * costs.index_bytes,
        "closings": demand.responses * DAY_S * CLOSINGS_DAYS * costs.closing_bytes,
        "usage": rows * 24 * 60 * USAGE_DAYS * costs.row_bytes,
    }


class Network(Struct, frozen=True):
    """Bytes a second."""

    clients: float
    """From replays to clients."""
    upstreams: float
    """From models and agents to executors."""
    written: float
    """From services to brokers."""
    read: float
    """From brokers to services."""
    copied: float
    """From broker to broker."""


def network(demand: Demand, costs: Costs, replicas: int) -> Network:
    """What goes over the network, with so many replicas of a shard."""
    frames = demand.events * (demand.event_bytes + costs.frame_bytes)
    length = demand.length
    views = costs.transcript_bytes + costs.object_bytes + costs.index_bytes + costs.closing_bytes
    views += length * (costs.transcript_event_bytes + costs.object_event_bytes)
    log = _log_bytes_s(demand, costs)
    written = log + demand.responses * views
    return Network(
        clients=frames * demand.readers,
        upstreams=0.0 if demand.upstream == "echo" else frames,
        written=written,
        read=log * (2 + replicas)
        + demand.responses * (costs.index_bytes * replicas + 2 * costs.closing_bytes),
        copied=written * (demand.replication - 1),
    )


def _log_bytes_s(demand: Demand, costs: Costs) -> float:
    """Bytes a second that `responses.events` grows by."""
    events = demand.events * (demand.event_bytes + costs.record_bytes)
    return events + demand.responses * (demand.request_bytes + costs.opening_bytes)


def memory_mib(demand: Demand, deployment: Deployment, costs: Costs) -> Mapping[str, float]:
    """By service, the resident MiB of one process, while one of its kind is away."""
    clients = demand.streams * demand.readers / deployment.shards / (deployment.replicas - 1 or 1)
    runs = demand.streams / (deployment.executors - 1 or 1)
    return {
        "ingest": costs.ingest_base_mib,
        "replay": costs.replay_base_mib
        + clients * costs.reader_kib / 1024
        + window_mib(demand, deployment, costs),
        "executor": costs.executor_base_mib + runs * costs.executor_stream_kib / 1024,
        "projector": costs.projector_base_mib,
        "analytics": costs.analytics_base_mib,
        "webhooks": costs.webhooks_base_mib,
    }


def window_mib(demand: Demand, deployment: Deployment, costs: Costs) -> float:
    """MiB of recent events in one replay: of half an open response, and of all that has just closed."""
    seconds = demand.response_s / 2 + REMEMBERED_S
    frames = demand.events * (demand.event_bytes + costs.frame_bytes) / deployment.shards
    return min(WINDOW_MIB, frames * seconds / MIB)


def store_bytes(demand: Demand, deployment: Deployment, costs: Costs) -> float:
    """Bytes of one replay's store."""
    return demand.kept / deployment.shards * costs.entry_bytes


def rebuild_s(demand: Demand, deployment: Deployment, costs: Costs) -> float:
    """Seconds that a replay with an empty store reads until it is ready, if Kafka is as fast."""
    return demand.kept / deployment.shards * costs.entry_us / 1e6
