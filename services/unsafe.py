"""What is not safe in an operator's settings: right on one machine, and a fault on a network.

A service says each at its start. Nothing is refused: something in front may authorise, or the network be
private.
"""

from collections.abc import Iterator

from msgspec import Struct

from services.fits import is_loopback
from services.settings import PREFIX, Settings


class Unsafe(Struct, frozen=True):
    """A setting that is not safe: its variable, what follows, and how to mend it."""

    setting: str
    what: str
    mend: str


def unsafe(name: str, settings: Settings) -> Iterator[Unsafe]:
    """What is not safe for the service `name`."""
    public = name in ("replay", "ingest") and not is_loopback(settings.host)
    asks = settings.api_keys or settings.api_keys_file or settings.jwt_issuer
    if public and not asks:
        what = (
            f"no client is asked for a key: whoever reaches {settings.host}:{settings.port} is served, as "
            f"the tenant that {settings.tenant_header} names"
        )
        mend = "give keys, or let a proxy alone reach it that authorises and sets that header"
        yield Unsafe(f"{PREFIX}API_KEYS", what, mend)
    hosts = [address.strip().rpartition(":")[0].strip("[]") for address in settings.kafka.split(",")]
    if settings.kafka_security in ("PLAINTEXT", "SASL_PLAINTEXT") and not all(map(is_loopback, hosts)):
        what = "what clients say and credentials cross the network to Kafka in the clear"
        yield Unsafe(f"{PREFIX}KAFKA_SECURITY", what, "use SSL or SASL_SSL")
    if name == "webhooks" and settings.webhooks_allow_private and not is_loopback(settings.internal_host):
        what = "tenants' webhooks may call private addresses, those of your own services too"
        yield Unsafe(f"{PREFIX}WEBHOOKS_ALLOW_PRIVATE", what, "leave it at 0, except for development")
