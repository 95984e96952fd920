"""Makes the log's adapter from the operator's settings."""

import ssl
from pathlib import Path

from schemas.errors import SettingsError
from services.eventlog.kafka import KafkaLog, KafkaSettings
from services.eventlog.kafka_tokens import ClientCredentials, EndpointTokens, FileTokens
from services.eventlog.topics import Topics, topics
from services.settings import SETTINGS, Settings

RECORD_OVERHEAD = 2_048
"""Bytes of `max_record_bytes` that key, headers and framing of a record may take."""

_TLS_FILES = ("kafka_ca_file", "kafka_cert_file", "kafka_key_file")


def connect(settings: Settings, service: str) -> KafkaLog:
    """The log on the cluster of `settings`, for the client `rejoinder-{service}`. Call it inside a running
    loop.
    """
    return KafkaLog(
        settings.kafka,
        f"rejoinder-{service}",
        kafka_settings(settings),
        max_record_bytes=settings.max_record_bytes,
    )


def kafka_settings(settings: Settings) -> KafkaSettings:
    """How to talk to the brokers. Raises SettingsError if a file for TLS cannot be used."""
    chosen = KafkaSettings(
        security=settings.kafka_security,
        ca_file=settings.kafka_ca_file or None,
        cert_file=settings.kafka_cert_file or None,
        key_file=settings.kafka_key_file or None,
        sasl_mechanism=settings.kafka_sasl_mechanism,
        username=settings.kafka_username or None,
        password=settings.kafka_password or None,
        tokens=_tokens(settings),
    )
    files = {name: path for name in _TLS_FILES if (path := getattr(settings, name))}
    for name, path in files.items():
        try:
            Path(path).read_bytes()
        except OSError as error:
            raise SettingsError(f"{SETTINGS[name].variable}: cannot read {path}: {error.strerror}") from error
    try:
        chosen.options()
    except ssl.SSLError as error:
        variables = ", ".join(SETTINGS[name].variable for name in files)
        what = "it takes PEM files, and a key that is the certificate's"
        raise SettingsError(f"{variables}: cannot be used for TLS ({error}); {what}") from error
    return chosen


def _tokens(settings: Settings) -> FileTokens | EndpointTokens | None:
    if settings.kafka_sasl_mechanism != "OAUTHBEARER":
        return None
    if settings.kafka_oauth_token_file:
        return FileTokens(Path(settings.kafka_oauth_token_file))
    return EndpointTokens(
        ClientCredentials(
            settings.kafka_oauth_url,
            settings.kafka_oauth_client_id,
            settings.kafka_oauth_client_secret,
            settings.kafka_oauth_scope,
        )
    )


def topic_names(settings: Settings) -> Topics:
    """The topics, under the prefix of `settings`."""
    return topics(settings.topic_prefix)


def executors_group(settings: Settings) -> str:
    """The consumer group of the executors: it assigns partitions, and keeps their low watermarks."""
    return f"{settings.topic_prefix}rejoinder-executors"


def webhooks_group(settings: Settings) -> str:
    """The consumer group of the webhooks' workers: it assigns partitions of `closings`, and keeps
    checkpoints.
    """
    return f"{settings.topic_prefix}rejoinder-webhooks"


def projector_group(settings: Settings) -> str:
    """The consumer group of the projectors. A starting replay begins at its watermark (P-75)."""
    return f"{settings.topic_prefix}rejoinder-projector"


def analytics_group(settings: Settings) -> str:
    """The consumer group of the processes that count `closings`."""
    return f"{settings.topic_prefix}rejoinder-analytics"
