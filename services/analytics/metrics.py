"""What an operator of analytics watches."""

from collections.abc import Iterable, Mapping

from prometheus_client import Counter, Gauge

from schemas.closings import ClosingRecord
from schemas.usage import TOKENS, UNIT

COUNTED = Counter(
    "rejoinder_analytics_closings", "Closings that were counted, or known to be counted already"
)
RESPONSES = Counter(
    "rejoinder_analytics_responses", "Responses that have ended, by route and status", ["route", "status"]
)
TOKENS_USED = Counter("rejoinder_analytics_tokens", "Their tokens, by route and kind", ["route", "kind"])
COST = Counter("rejoinder_analytics_cost", "What they cost, by route and currency", ["route", "currency"])
LAG = Gauge("rejoinder_analytics_lag", "Closings of the owned partitions that are not counted yet")
LOST = Counter("rejoinder_analytics_lost", "Offsets of closings that were removed before they were counted")
POISON = Counter("rejoinder_analytics_poison", "Records that could not be read, by topic", ["topic"])
OVERTAKEN = Counter("rejoinder_analytics_overtaken", "Records that an earlier owner wrote late")
OWNED = Gauge("rejoinder_analytics_partitions_owned", "Partitions that this process counts")


def count(counted: Iterable[tuple[ClosingRecord, Mapping[str, int]]]) -> None:
    """Count closings that are written, each with its cost. Routes are the operator's: they are few."""
    for closing, cost in counted:
        route = closing.route or ""
        RESPONSES.labels(route, closing.status).inc()
        for name in TOKENS if closing.usage is not None else ():
            TOKENS_USED.labels(route, name.removesuffix("_tokens")).inc(getattr(closing.usage, name))
        for currency, amount in cost.items():
            COST.labels(route, currency).inc(amount / UNIT)
