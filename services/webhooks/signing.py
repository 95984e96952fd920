"""What is sent to an endpoint: the event as JSON, and the headers that sign it (Standard Webhooks).

webhook-id         the same for all attempts of a delivery
webhook-timestamp  of this attempt, in seconds
webhook-signature  v1,BASE64(HMAC-SHA256(secret, id.timestamp.body)), one for each secret that holds
"""

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from msgspec import Struct

from schemas.ids import ResponseId
from schemas.webhooks import DeliveryRecord, SealedSecret, event_id

SECRET_BYTES = 32
PREFIX = "whsec_"
SHOWN_LAST = 4
"""Characters of a secret that its hint shows."""
KEPT_MS = 24 * 3600 * 1000
"""Milliseconds for which the secret before signs on, if its owner wants that."""
MOST_SECRETS = 4
"""Secrets that sign at once: who rotates more often within 24 h loses the oldest."""


class EventData(Struct, frozen=True):
    """What an event is about."""

    id: ResponseId


class WebhookEvent(Struct, frozen=True):
    """The body of a delivery: that a response in the background has ended, and how. No content of it."""

    id: str
    type: str
    created_at: int
    """When it ended, in seconds since the epoch."""
    data: EventData
    object: str = "event"


def event_body(response: ResponseId, type: str, closed_at: int) -> bytes:
    """The event that `response` ended at `closed_at` (ms), as JSON: the same bytes for every attempt."""
    return msgspec.json.encode(
        WebhookEvent(event_id(response, type), type, closed_at // 1000, EventData(response))
    )


def body_of(delivery: DeliveryRecord) -> bytes:
    """The body of a delivery."""
    return event_body(delivery.response, delivery.type, delivery.closed_at)


def signed(secrets: Iterable[bytes], id: str, now_s: int, body: bytes) -> Mapping[str, str]:
    """The headers of an attempt at `now_s` (seconds since the epoch)."""
    payload = f"{id}.{now_s}.".encode() + body
    signatures = (b64encode(hmac.digest(secret, payload, hashlib.sha256)).decode() for secret in secrets)
    return {
        "webhook-id": id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        "content-type": "application/json",
    }


def secret_text(secret: bytes) -> str:
    """A secret as its owner gets it, once."""
    return PREFIX + b64encode(secret).decode()


def secret_hint(text: str) -> str:
    """By what its owner tells a secret from another."""
    return f"{PREFIX}…{text.rstrip('=')[-SHOWN_LAST:]}"


def holding(secrets: Sequence[SealedSecret], now_ms: int) -> list[SealedSecret]:
    """Those of `secrets` that sign at `now_ms`."""
    return [secret for secret in secrets if secret.until is None or secret.until > now_ms]


def rotated(
    secrets: Sequence[SealedSecret], new: SealedSecret, now_ms: int, *, keep: bool
) -> tuple[SealedSecret, ...]:
    """The secrets after a rotation at `now_ms`: `new`, and with `keep` those that hold, for KEPT_MS more at
    most.
    """
    if not keep:
        return (new,)
    until = now_ms + KEPT_MS
    kept = [
        msgspec.structs.replace(secret, until=min(secret.until or until, until))
        for secret in holding(secrets, now_ms)
    ]
    return (new, *kept)[:MOST_SECRETS]
