"""How to reach the cluster beside its addresses: TLS and credentials."""

import ssl
from typing import Any, Literal

from msgspec import Struct

from services.eventlog.kafka_borrowed import AbstractTokenProvider


class KafkaSettings(Struct, frozen=True):
    """How to reach the cluster beside its addresses. Files are paths of PEM files."""

    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "PLAIN"
    username: str | None = None
    password: str | None = None
    tokens: AbstractTokenProvider | None = None
    """For OAUTHBEARER."""

    def options(self) -> dict[str, Any]:
        """These settings as keyword arguments of an aiokafka client."""
        return {
            "security_protocol": self.security,
            "ssl_context": self._ssl_context() if "SSL" in self.security.split("_")[-1] else None,
            "sasl_mechanism": self.sasl_mechanism,
            "sasl_plain_username": self.username,
            "sasl_plain_password": self.password,
            "sasl_oauth_token_provider": self.tokens,
        }

    def _ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


PLAINTEXT = KafkaSettings()
