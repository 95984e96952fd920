"""From settings to adapters: the one place that turns what the operator chose into a log."""

from services.eventlog.kafka import KafkaLog, KafkaSettings
from services.eventlog.topics import Topics, topics
from services.settings import Settings

RECORD_OVERHEAD = 2_048
"""Bytes that key, headers and framing of a record may take of `max_record_bytes`."""


def connect(settings: Settings, service: str) -> KafkaLog:
    """The cluster of `settings`, as `rejoinder-{service}`. Make it inside a running loop."""
    return KafkaLog(
        settings.kafka,
        f"rejoinder-{service}",
        kafka_settings(settings),
        max_record_bytes=settings.max_record_bytes,
    )


def kafka_settings(settings: Settings) -> KafkaSettings:
    """How to talk to the brokers."""
    return KafkaSettings(
        security=settings.kafka_security,
        ca_file=settings.kafka_ca_file or None,
        cert_file=settings.kafka_cert_file or None,
        key_file=settings.kafka_key_file or None,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_username or None,
        password=settings.kafka_password or None,
    )


def topic_names(settings: Settings) -> Topics:
    """The topics, under the prefix of `settings`."""
    return topics(settings.topic_prefix)


def executors_group(settings: Settings) -> str:
    """The consumer group of the executors: owns partitions, keeps their low watermarks."""
    return f"{settings.topic_prefix}rejoinder-executors"


def projector_group(settings: Settings) -> str:
    """The consumer group of the projectors, whose watermark starting readers begin from (P-75)."""
    return f"{settings.topic_prefix}rejoinder-projector"
