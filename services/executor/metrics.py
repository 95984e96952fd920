"""What an executor's operator watches."""

from prometheus_client import Counter, Gauge

RUNS = Gauge("rejoinder_executor_runs", "Responses that this executor runs now")
ENDED = Counter("rejoinder_executor_runs_ended_total", "Runs ended, by how", ["how"])
CLAIMS = Counter("rejoinder_executor_claims_total", "Claims sent, by why", ["why"])
UNREADABLE = Counter(
    "rejoinder_executor_unreadable_total", "Records that could not be read and were passed over"
)
ERASED = Counter("rejoinder_executor_erased_total", "Responses erased from the log")
OWNED = Gauge("rejoinder_executor_partitions_owned", "Partitions that this executor owns")
