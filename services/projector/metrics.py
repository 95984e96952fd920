"""What a projector's operator watches."""

from prometheus_client import Counter, Gauge

LAG = Gauge("rejoinder_projector_lag", "Records in the log that are not folded yet")
OPEN = Gauge("rejoinder_projector_open_responses", "Open responses in the owned partitions")
HELD = Gauge("rejoinder_projector_held_bytes", "Bytes of accepted values and frames held for open responses")
PENDING = Gauge("rejoinder_projector_pending_writes", "Closed or deleted responses not acknowledged yet")
CLOSED = Counter("rejoinder_projector_closed", "Closed responses written to the views")
ERASED = Counter("rejoinder_projector_erased", "Deleted responses erased from the views")
MENDED = Counter(
    "rejoinder_projector_mended",
    "Closed responses written or erased again, because their entry did not name the last copies",
)
RETRIES = Counter("rejoinder_projector_retries", "Appends that failed and were tried again")
LISTENER_FAILURES = Counter(
    "rejoinder_projector_listener_failures",
    "Times that a listener raised, or work for the views did, and was begun again",
    ["listener"],
)
RESTING = Gauge(
    "rejoinder_projector_resting_partitions",
    "Partitions that it reads no further, because too much of them is not acknowledged",
)
ANNOUNCED = Counter("rejoinder_projector_announced", "Closings announced in the topic closings")
ANNOUNCEMENTS_FAILED = Counter(
    "rejoinder_projector_announcements_failed",
    "Times that closings could not be announced and were tried again",
)
UNANNOUNCED = Gauge("rejoinder_projector_unannounced", "Closings that are not announced yet")
ANNOUNCEMENT_LAG = Gauge(
    "rejoinder_projector_announcement_lag_seconds", "Seconds for which the oldest of them waits"
)
LET_GO = Counter(
    "rejoinder_projector_let_go", "Open responses whose frames were let go to keep the memory's bound"
)
POISON = Counter("rejoinder_projector_poison", "Records passed over or not projected, by topic", ["topic"])
EVENTS = Counter("rejoinder_projector_records", "Records folded")
OWNED = Gauge("rejoinder_projector_partitions_owned", "Partitions that this projector owns")
