"""Where the cluster is, and how its errors become the port's."""

from msgspec import Struct

from schemas.errors import LogUnavailable
from services.eventlog.kafka_borrowed import (
    CorruptRecordException,
    KafkaConnectionError,
    NodeNotReadyError,
    StaleMetadata,
)
from services.eventlog.kafka_settings import PLAINTEXT, KafkaSettings
from services.eventlog.kafka_trouble import explain


class KafkaAddress(Struct, frozen=True):
    """Where the cluster is and how to reach it: all that a client needs to connect."""

    bootstrap: str
    client_id: str = "rejoinder"
    settings: KafkaSettings = PLAINTEXT

    def away(self, error: BaseException) -> LogUnavailable:
        """`error` as the port's LogUnavailable, which names the address and what to do."""
        if refusal := explain(error, self.settings):
            return LogUnavailable(f"Kafka at {self.bootstrap}: {refusal}")
        if isinstance(error, CorruptRecordException):
            return LogUnavailable(
                f"Kafka at {self.bootstrap}: {error}. Let a replica lead that is whole (docs/reliability.md)"
            )
        if isinstance(error, StaleMetadata):
            return LogUnavailable(
                f"Kafka at {self.bootstrap}: {error}. If it stays away: `rejoinder topics` says what is wrong"
            )
        no_broker = isinstance(error, KafkaConnectionError | NodeNotReadyError)
        reason = "no broker answers" if no_broker else str(error) or "it does not answer in time"
        return LogUnavailable(
            f"Kafka at {self.bootstrap} is away ({reason}): is it running, "
            "and is the address right (REJOINDER_KAFKA)?"
        )
