"""Metrics of the webhooks service. No label names an endpoint or a tenant."""

from prometheus_client import Counter, Gauge, Histogram

ATTEMPTS = Counter("rejoinder_webhooks_attempts", "Attempts at a delivery, by what came of them", ["outcome"])
ATTEMPT_SECONDS = Histogram(
    "rejoinder_webhooks_attempt_seconds",
    "Seconds that an attempt took",
    buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
DUE = Counter("rejoinder_webhooks_due", "Deliveries that became due")
FAILED = Counter("rejoinder_webhooks_failed", "Deliveries that were given up")
DROPPED = Counter("rejoinder_webhooks_dropped", "Deliveries that ended because their endpoint was deleted")
PENDING = Gauge("rejoinder_webhooks_pending", "Deliveries that are not over, in the owned partitions")
UNDER_WAY = Gauge("rejoinder_webhooks_attempts_under_way", "Attempts under way")
DELIVERY_SECONDS = Histogram(
    "rejoinder_webhooks_delivery_seconds",
    "Seconds from the end of a response until an endpoint has taken its event",
    buckets=(0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600, 86_400, 259_200),
)
LAG = Gauge("rejoinder_webhooks_lag", "Records of the topic closings that are not dealt with yet")
LOST = Counter("rejoinder_webhooks_lost", "Records of the topic closings that retention removed unread")
RETRIES = Counter("rejoinder_webhooks_append_retries", "Appends that failed and were tried again")
POISON = Counter("rejoinder_webhooks_poison", "Records passed over, by topic", ["topic"])
ENDPOINTS = Gauge("rejoinder_webhooks_endpoints", "Webhook endpoints of all tenants")
OWNED = Gauge("rejoinder_webhooks_partitions_owned", "Partitions that this worker owns")
