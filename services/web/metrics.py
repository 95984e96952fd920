"""Metrics of the HTTP servers of one process, on all of its ports."""

from typing import Any
from weakref import WeakSet

from prometheus_client import Counter, Gauge

from services.web.crowd import Crowd

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
