"""Metrics of the log's adapter on Kafka. Readiness does not depend on what they show."""

from prometheus_client import Counter, Gauge

SILENT_BROKERS = Gauge("rejoinder_kafka_silent_brokers", "Brokers of Kafka that answer nothing now")
SILENCES = Counter("rejoinder_kafka_silences_total", "Times that a broker of Kafka fell silent")
METADATA_AGE = Gauge(
    "rejoinder_kafka_metadata_age_seconds",
    "Age of the oldest metadata of Kafka that a client of this process goes by",
)
READS_FAILING = Gauge(
    "rejoinder_log_reads_failing",
    "1 while nothing of what is followed of a topic can be read, else 0",
    ["topic"],
)
