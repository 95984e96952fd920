"""What an executor's operator watches."""

from prometheus_client import Counter, Gauge

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
QUEUED = Gauge(
    "rejoinder_executor_queued_responses",
    "Responses in the owned partitions that were never claimed, as of the last beat",
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
