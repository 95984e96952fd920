"""The records of `webhooks`: who is to hear of which ends, and what has become of each telling.

    kind      key                      partition            value
    endpoint  {endpoint}               the first            tenant; written once, when the endpoint is made
    settings  {endpoint}/settings      the first            name, URL, types of events
    secret    {endpoint}/secret        the first            sealed secrets, a hint for people
    delivery  {delivery}               that of its closing  one event for one endpoint, and how far it got
    retry     {delivery}/retry         as above             an operator wants it tried again
    mark      mark                     as above             how far the closings of the partition are counted

An endpoint is there while all three of its records are (P-121). Each change writes one record, and the last
in log order holds. A change that comes after the delete finds no `endpoint` record: it brings nothing back.

The topic is compacted and nothing expires: what is over is erased by a tombstone.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, NewType, assert_never

import msgspec
from msgspec import Meta, Struct

from schemas.closings import ClosingRecord, Count, Time
from schemas.events import UNDECODABLE
from schemas.fold import TERMINAL_STATUSES
from schemas.ids import ENTROPY_BYTES, ResponseId, Tenant, parse_response_id
from schemas.records import MALFORMED, SHOWN, LogRecord, NewRecord, Unreadable

EndpointId = NewType("EndpointId", str)
DeliveryId = NewType("DeliveryId", str)

_HEX = f"[0-9a-f]{{{2 * ENTROPY_BYTES}}}"
ENDPOINT_ID, DELIVERY_ID = rf"we_{_HEX}", rf"wh_{_HEX}"
HOME = 0
"""The partition of all endpoints: one log order holds for them, and a worker reads one partition more."""
EVENT_TYPES = tuple(f"response.{status}" for status in ("completed", "failed", "cancelled", "incomplete"))
"""The types of events that an endpoint may ask for."""
MAX_NAME_LENGTH, MAX_URL_LENGTH = 256, 2_048
"""Characters of an endpoint's name and URL."""
MARK_KEY = "mark"
SETTINGS, SECRET, RETRY = "/settings", "/secret", "/retry"
"""What stands behind the id in a key."""

State = Literal["pending", "delivered", "failed"]
Outcome = Literal[
    "delivered", "refused", "redirected", "timeout", "unreachable", "private_address", "no_key", "too_many"
]
"""What came of an attempt, or why there is none."""


def endpoint_id(entropy: bytes) -> EndpointId:
    """An endpoint's id from `ENTROPY_BYTES` random bytes."""
    return EndpointId(f"we_{entropy[:ENTROPY_BYTES].hex()}")


def _digest(*parts: str) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).digest()[:ENTROPY_BYTES].hex()


def delivery_id(endpoint: EndpointId, response: ResponseId, type: str) -> DeliveryId:
    """The `webhook-id` of an event for an endpoint: the same whoever works it out, and whenever (P-123)."""
    return DeliveryId(f"wh_{_digest(endpoint, response, type)}")


def event_id(response: ResponseId, type: str) -> str:
    """The id of an event: the same for all endpoints."""
    return f"evt_{_digest(response, type)}"


def event_type(closing: ClosingRecord) -> str | None:
    """The type of event that a closing is; None: no endpoint hears of it (P-124)."""
    told = closing.background and closing.status in TERMINAL_STATUSES
    type = f"response.{closing.status}"
    return type if told and type in EVENT_TYPES else None


class EndpointRecord(Struct, frozen=True):
    """A webhook endpoint was made. Its log time is the time at which that was."""

    kind: ClassVar[bytes] = b"endpoint"
    id: EndpointId
    tenant: Tenant

    def new(self) -> NewRecord:
        """The record that says so."""
        return _new(self)


class SettingsRecord(Struct, frozen=True):
    """What an endpoint is to hear of, and where."""

    kind: ClassVar[bytes] = b"settings"
    id: EndpointId
    tenant: Tenant
    name: str
    url: str
    event_types: tuple[str, ...]

    def new(self) -> NewRecord:
        """The record that says so."""
        return _new(self)


class SealedSecret(Struct, frozen=True):
    """A signing secret that only who has the operator's key can read."""

    key: str
    """The id of the operator's key."""
    sealed: str
    """Base64 of nonce and ciphertext (AES-GCM; the endpoint's id is the associated data)."""
    until: Time | None = None
    """When it signs no longer, in milliseconds since the epoch; null: it is the current one."""


class SecretRecord(Struct, frozen=True):
    """The secrets that sign an endpoint's deliveries, the current one first."""

    kind: ClassVar[bytes] = b"secret"
    id: EndpointId
    tenant: Tenant
    secrets: tuple[SealedSecret, ...]
    hint: str

    def new(self) -> NewRecord:
        """The record that says so."""
        return _new(self)


class DeliveryRecord(Struct, frozen=True, kw_only=True):
    """An event that is due to an endpoint, and how far its delivery has come. The body is made of it."""

    kind: ClassVar[bytes] = b"delivery"
    id: DeliveryId
    """The `webhook-id` of every attempt."""
    endpoint: EndpointId
    tenant: Tenant
    response: ResponseId
    type: str
    closed_at: Time
    since: Time
    """When it became due; an operator's retry sets it anew. The 72 h begin here."""
    next_at: Time
    """When the next attempt is due, while it is pending."""
    state: State = "pending"
    attempts: Count = 0
    outcome: Outcome | None = None
    """What came of the last attempt."""
    status: Annotated[int, Meta(ge=100, le=999)] | None = None
    """The HTTP status that the endpoint answered last."""

    def new(self) -> NewRecord:
        """The record that says so."""
        return _new(self)


class RetryRecord(Struct, frozen=True):
    """An operator asks for another attempt. It holds as long as the delivery has had so many `attempts`."""

    kind: ClassVar[bytes] = b"retry"
    id: DeliveryId
    tenant: Tenant
    attempts: Count

    def new(self) -> NewRecord:
        """The record that says so."""
        return _new(self)


class MarkRecord(Struct, frozen=True):
    """The last closing of the partition that was counted, by the topic id of its log (P-108)."""

    kind: ClassVar[bytes] = b"mark"
    counted: dict[str, int]

    def new(self) -> NewRecord:
        """The record that says so."""
        return _new(self)


class ErasedKey(Struct, frozen=True):
    """A tombstone: the record with this key is erased."""

    key: str


WebhookRecord = EndpointRecord | SettingsRecord | SecretRecord | DeliveryRecord | RetryRecord | MarkRecord
_OF_ENDPOINTS = (EndpointRecord, SettingsRecord, SecretRecord)
_DECODERS: Mapping[bytes, msgspec.json.Decoder[WebhookRecord]] = {
    of.kind: msgspec.json.Decoder(of) for of in (*_OF_ENDPOINTS, DeliveryRecord, RetryRecord, MarkRecord)
}


def key_of(said: WebhookRecord) -> str:
    """The key of a record."""
    match said:
        case EndpointRecord() | DeliveryRecord():
            return said.id
        case SettingsRecord():
            return said.id + SETTINGS
        case SecretRecord():
            return said.id + SECRET
        case RetryRecord():
            return said.id + RETRY
        case MarkRecord():
            return MARK_KEY
        case _ as never:
            assert_never(never)


def _headers(said: WebhookRecord) -> dict[str, bytes]:
    tenant = {} if isinstance(said, MarkRecord) else {"tenant": said.tenant.encode()}
    return {"kind": said.kind, **tenant}


def _new(said: WebhookRecord) -> NewRecord:
    return NewRecord(key_of(said).encode(), msgspec.json.encode(said), list(_headers(said).items()))


def parse_webhook(record: LogRecord, partition: int) -> WebhookRecord | ErasedKey | Unreadable:
    """What a record in a `partition` of `webhooks` says. Never raises: what cannot be read is `Unreadable`
    (P-120).
    """
    try:
        return _parse(record, partition)
    except (*MALFORMED, *UNDECODABLE) as error:
        return Unreadable(f"{type(error).__name__}: {error}"[: 2 * SHOWN])


def _parse(record: LogRecord, partition: int) -> WebhookRecord | ErasedKey | Unreadable:
    if record.key is None:
        return Unreadable("no key")
    if record.value is None:
        return ErasedKey(record.key.decode())
    headers = dict(record.headers)
    decoder = _DECODERS.get(headers["kind"])
    if decoder is None:
        return Unreadable(f"unknown kind: {headers['kind'][:SHOWN]!r}")
    said = decoder.decode(record.value)
    if key_of(said).encode() != record.key or not _headers(said).items() <= headers.items():
        return Unreadable("key and headers say other than the value")
    if isinstance(said, _OF_ENDPOINTS) and partition != HOME:
        return Unreadable(f"an endpoint's record stands in partition {partition}")
    if isinstance(said, DeliveryRecord) and parse_response_id(said.response, partition) is None:
        return Unreadable(f"no response id of this partition: {said.response[:SHOWN]!r}")
    return said
