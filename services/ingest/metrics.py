"""Metrics of ingest."""

from collections.abc import Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.ingest.admission import Admission
from services.web.room import Room

BUSIEST = 20
"""How many tenants are shown by name: each name is a time series."""

COMMANDS = Counter(
    "rejoinder_ingest_commands_total",
    "Commands by kind and outcome (ok, or the status of the refusal)",
    ["command", "outcome"],
)
APPEND_SECONDS = Histogram(
    "rejoinder_ingest_append_seconds",
    "Seconds from the append of a command's record to its acknowledgement",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 3, 10),
)
APPENDS_SETTLED = Counter(
    "rejoinder_ingest_appends_settled_total",
    "Appends in doubt, by what the fold said: counts, void, or unknown",
    ["how"],
)
_MAX_QUEUE = Gauge(
    "rejoinder_ingest_max_queue", "Open responses above which those of a tenant over its share are refused"
)
_OPEN = Gauge(
    "rejoinder_ingest_open_responses", "Responses that wait or run, of everybody, as the admission knows it"
)
_BYTES = Gauge("rejoinder_ingest_body_bytes", "Bytes of request bodies, and of creates, under way")
_CREATES = Gauge("rejoinder_ingest_creates_under_way", "Creates that are not answered yet")


class _Tenants(Collector):
    """The tenants with most open responses. A Gauge would keep every tenant that ever had one."""

    admission: Admission | None = None

    def collect(self) -> Iterable[Metric]:
        """Called when Prometheus asks, in another thread."""
        name = "rejoinder_ingest_tenant_open_responses"
        family = GaugeMetricFamily(name, f"The same of the {BUSIEST} busiest tenants", labels=["tenant"])
        if self.admission is not None:
            for tenant, count in self.admission.by_tenant().most_common(BUSIEST):
                family.add_metric([tenant], count)
        yield family


_tenants = _Tenants()
REGISTRY.register(_tenants)


def show(admission: Admission, room: Room, max_queue: int) -> None:
    """Let the gauges read `admission`, `room` and `max_queue` from now on."""
    _tenants.admission = admission
    _OPEN.set_function(lambda: admission.open)
    _BYTES.set_function(lambda: room.taken)
    _CREATES.set_function(lambda: room.creates)
    _MAX_QUEUE.set(max_queue)
