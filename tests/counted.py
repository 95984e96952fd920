"""What metrics say."""

from prometheus_client.metrics import MetricWrapperBase


def value_of(metric: MetricWrapperBase) -> float:
    """The value of a gauge or a counter now; of one with labels, take `metric.labels(…)`."""
    (metric_now,) = metric.collect()
    return metric_now.samples[0].value
