"""How to reach the cluster: its addresses, TLS and credentials, and how its errors are told."""

import ssl
from typing import Any, Literal

from aiokafka.errors import CorruptRecordException, KafkaConnectionError, NodeNotReadyError, StaleMetadata
from msgspec import Struct

from schemas.errors import LogUnavailable


class KafkaSettings(Struct, frozen=True):
    """How to reach the cluster beside its addresses. Files are paths of PEM files."""

    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    username: str | None = None
    password: str | None = None

    def options(self) -> dict[str, Any]:
        """The keyword arguments that every aiokafka client takes for it."""
        return {
            "security_protocol": self.security,
            "ssl_context": self._ssl_context() if "SSL" in self.security.split("_")[-1] else None,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
        }

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


PLAINTEXT = KafkaSettings()


class KafkaAddress(Struct, frozen=True):
    """Where the cluster is and how to reach it: all that a client of its own needs."""

    bootstrap: str
    client_id: str = "rejoinder"
    settings: KafkaSettings = PLAINTEXT

    def away(self, error: BaseException) -> LogUnavailable:
        """`error` as the port's: names the address and how to mend it."""
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
