"""Metrics of the HTTP servers of one process, on all of its ports."""

from typing import Any
from weakref import WeakSet

from prometheus_client import Counter, Gauge, Histogram

from services.labels import Names
from services.web.crowd import Crowd

SECONDS = Histogram(
    "rejoinder_http_request_seconds",
    "Seconds from the head of a request to the head of its answer, by route and class of its status",
    ["method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
TENANT_REFUSED = Counter(
    "rejoinder_http_tenant_refused_total",
    "Requests of a tenant that were refused with 429, because it, or everybody, has too much",
    ["tenant"],
)
TENANTS = Names()
"""The tenants that TENANT_REFUSED names."""
REFUSED = Counter(
    "rejoinder_http_refused_total", "Requests refused, by status and reason", ["status", "reason"]
)
OPEN_STREAMS = Gauge("rejoinder_http_open_streams", "Streams of events that are open")
STREAMS_ENDED = Counter(
    "rejoinder_http_streams_ended_total",
    "Streams of events ended: complete, disconnected, stalled or cut",
    ["how"],
)
ABANDONED = Counter(
    "rejoinder_http_abandoned_total",
    "Responses cancelled because the client that waited for them went away",
)
REPLAYS_SILENT = Gauge(
    "rejoinder_replays_silent", "Replays that this process asks, and that did not answer when last asked"
)
READY = Gauge("rejoinder_ready", "Whether the service is ready, as /readyz says")

CROWDS: WeakSet[Crowd[Any]] = WeakSet()
"""The connections of each server of this process."""
CONNECTIONS = Gauge("rejoinder_http_connections", "Connections that are open")
CONNECTIONS.set_function(lambda: sum(len(crowd) for crowd in list(CROWDS)))
UNFINISHED_HEADS = Gauge("rejoinder_http_unfinished_heads", "Connections that have sent a part of a head")
UNFINISHED_HEADS.set_function(lambda: sum(crowd.unfinished for crowd in list(CROWDS)))
TURNED_OUT = Counter(
    "rejoinder_http_turned_out_total",
    "Connections closed because there were too many: connections, heads or address",
    ["why"],
)
