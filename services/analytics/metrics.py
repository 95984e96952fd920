"""What an operator of analytics watches."""

from prometheus_client import Counter, Gauge

COUNTED = Counter(
    "rejoinder_analytics_closings", "Closings that were counted, or known to be counted already"
)
LAG = Gauge("rejoinder_analytics_lag", "Closings of the owned partitions that are not counted yet")
LOST = Counter("rejoinder_analytics_lost", "Offsets of closings that were removed before they were counted")
POISON = Counter("rejoinder_analytics_poison", "Records that could not be read, by topic", ["topic"])
OVERTAKEN = Counter("rejoinder_analytics_overtaken", "Records that an earlier owner wrote late")
OWNED = Gauge("rejoinder_analytics_partitions_owned", "Partitions that this process counts")
