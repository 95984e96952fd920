"""What an executor's operator watches.

`route` is the `match` of a model's table, or an agent's name. `model` is the model asked for, "" if only an
agent was named; `services.labels` bounds how many are shown.
"""

from bisect import bisect_left
from collections.abc import Iterable

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.labels import Names

RUNS = Gauge("rejoinder_executor_runs", "Responses that this executor runs now")
ENDED = Counter("rejoinder_executor_runs_ended_total", "Runs ended, by how", ["how"])
CLAIMS = Counter("rejoinder_executor_claims_total", "Claims sent, by why", ["why"])
UNREADABLE = Counter(
    "rejoinder_executor_unreadable_total", "Records that could not be read and were passed over"
)
ERASED = Counter("rejoinder_executor_erased_total", "Responses erased from the log")
EPHEMERAL = Gauge(
    "rejoinder_executor_ephemeral_responses",
    "Ended responses in the owned partitions that are not stored and still seen, as of the last beat",
)
OWNED = Gauge("rejoinder_executor_partitions_owned", "Partitions that this executor owns")
LAG = Gauge(
    "rejoinder_executor_lag_records",
    "Records in the partitions that it follows that are not folded yet, as of the last beat",
)
QUEUED = Gauge(
    "rejoinder_executor_queued_responses",
    "Responses in the owned partitions that were never claimed, by route, as of the last beat",
    ["route"],
)
QUEUE_SECONDS = Histogram(
    "rejoinder_executor_queue_seconds",
    "Seconds of log time from a response's acceptance to its first claim, by route",
    ["route"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)
PLACES = Gauge("rejoinder_executor_places", "Places of a route in this executor (max_concurrency)", ["route"])
PLACES_TAKEN = Gauge(
    "rejoinder_executor_places_taken",
    "Places of a route with a run, or a claim that may become one, as of the last beat",
    ["route"],
)
OLDEST = Gauge(
    "rejoinder_executor_oldest_open_seconds",
    "Age of the oldest open response in the owned partitions, as of the last beat; 0 without one",
)
FREE_SLOTS = Gauge("rejoinder_executor_free_slots", "Slots without a run or a claim, as of the last beat")
FENCED = Counter("rejoinder_executor_runs_fenced_total", "Runs that another executor took over")
APPENDS_FAILED = Counter(
    "rejoinder_executor_appends_failed_total", "Records of runs and claims whose append was not acknowledged"
)

MODELS = Names()
"""The models that metrics name."""
_BY_CALL = ["route", "model"]
FIRST_BYTE = Histogram(
    "rejoinder_upstream_first_byte_seconds",
    "Seconds from the sending of a request to the head of the upstream's answer",
    _BY_CALL,
    buckets=(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
)
FIRST_OUTPUT = Histogram(
    "rejoinder_upstream_first_output_seconds",
    "Seconds from the sending of a request to the first output of the upstream",
    _BY_CALL,
    buckets=(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60),
)
UPSTREAM_ERRORS = Counter(
    "rejoinder_upstream_errors_total",
    "Responses that ended because their upstream failed, by kind",
    [*_BY_CALL, "kind"],
)
CALLS_REPEATED = Counter(
    "rejoinder_upstream_calls_repeated_total",
    "Calls made again, since the upstream was unreachable, or refused and said when to come again",
    ["route", "why"],
)
_MOST = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
GAP_BOUNDS = (0.001, 0.0025, 0.005, *_MOST, 10, 60)
"""Seconds: those of OpenTelemetry for the time per output token, and more at both ends."""


class Gaps:
    """The times between outputs of one route and model. The library's Histogram takes ten times as long."""

    def __init__(self) -> None:
        self.counts = [0] * (len(GAP_BOUNDS) + 1)
        """How many fell into each bucket: the last has what is above all bounds."""
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect_left(GAP_BOUNDS, seconds)] += 1
        self.sum += seconds


class GapsByCall(Collector):
    """The gaps of all calls, as a histogram."""

    def __init__(self) -> None:
        self._gaps: dict[tuple[str, str], Gaps] = {}

    def of(self, route: str, model: str) -> Gaps:
        """Those of one route and model."""
        return self._gaps.setdefault((route, model), Gaps())

    def collect(self) -> Iterable[Metric]:
        """Called when Prometheus asks, in another thread."""
        what = "Seconds from one arrival of events from the upstream to the next, from the first output on"
        family = HistogramMetricFamily("rejoinder_upstream_between_outputs_seconds", what, labels=_BY_CALL)
        for labels, gaps in list(self._gaps.items()):
            total, buckets = 0, []
            for bound, count in zip([*map(str, GAP_BOUNDS), "+Inf"], list(gaps.counts), strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric(labels, buckets, gaps.sum)
        yield family


GAPS = GapsByCall()
REGISTRY.register(GAPS)
