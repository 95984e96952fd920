"""What every HTTP server of ours counts, on all ports of its process."""

from prometheus_client import Counter, Gauge

REFUSED = Counter(
    "rejoinder_http_refused_total", "Requests refused, by status and reason", ["status", "reason"]
)
OPEN_STREAMS = Gauge("rejoinder_http_open_streams", "Streams of events that are open")
STREAMS_ENDED = Counter(
    "rejoinder_http_streams_ended_total",
    "Streams of events ended: complete, disconnected, stalled or cut",
    ["how"],
)
READY = Gauge("rejoinder_ready", "Whether the service is ready, as /readyz says")
