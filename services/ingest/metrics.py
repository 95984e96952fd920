"""What ingest counts."""

from prometheus_client import Counter, Histogram

COMMANDS = Counter(
    "rejoinder_ingest_commands_total",
    "Commands by kind and outcome (ok, or the status of the refusal)",
    ["command", "outcome"],
)
APPEND_SECONDS = Histogram(
    "rejoinder_ingest_append_seconds",
    "Seconds from the append of a command's record to its acknowledgement",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 3),
)
ABANDONED = Counter(
    "rejoinder_ingest_abandoned_total",
    "Responses cancelled because the client that waited for them went away",
)
