"""What a projector's operator watches."""

from prometheus_client import Counter, Gauge

LAG = Gauge("rejoinder_projector_lag", "Records in the log that are not folded yet")
OPEN = Gauge("rejoinder_projector_open_responses", "Open responses in the owned partitions")
HELD = Gauge("rejoinder_projector_held_bytes", "Bytes of accepted values and frames held for open responses")
PENDING = Gauge("rejoinder_projector_pending_writes", "Closed or deleted responses not acknowledged yet")
CLOSED = Counter("rejoinder_projector_closed", "Closed responses written to the views")
ERASED = Counter("rejoinder_projector_erased", "Deleted responses erased from the views")
RETRIES = Counter("rejoinder_projector_retries", "Appends that failed and were tried again")
LET_GO = Counter(
    "rejoinder_projector_let_go", "Open responses whose frames were let go to keep the memory's bound"
)
POISON = Counter("rejoinder_projector_poison", "Records passed over or not projected, by topic", ["topic"])
EVENTS = Counter("rejoinder_projector_records", "Records folded")
OWNED = Gauge("rejoinder_projector_partitions_owned", "Partitions that this projector owns")
