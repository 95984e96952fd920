"""All webhook endpoints, folded from the records of the first partition of `webhooks`. Pure.

Of two changes of an endpoint the later one in log order holds, whichever replica wrote it. An endpoint is
there while its `endpoint`, `settings` and `secret` are (P-121).
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from schemas.closings import ClosingRecord
from schemas.ids import Tenant
from schemas.records import LogRecord, Unreadable
from schemas.webhooks import (
    HOME,
    RETRY,
    SECRET,
    SETTINGS,
    DeliveryRecord,
    EndpointId,
    EndpointRecord,
    ErasedKey,
    MarkRecord,
    RetryRecord,
    SealedSecret,
    SecretRecord,
    SettingsRecord,
    delivery_id,
    event_type,
    parse_webhook,
)


class Endpoint(Struct, frozen=True):
    """A webhook endpoint. Times are log time in milliseconds."""

    id: EndpointId
    tenant: Tenant
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: tuple[str, ...]
    secrets: tuple[SealedSecret, ...]
    hint: str


class _Pieces(Struct):
    """What is known of an endpoint, each with its log time. The first piece is there from the start."""

    born: EndpointRecord
    born_at: int
    settings: SettingsRecord | None = None
    settings_at: int = 0
    secret: SecretRecord | None = None
    secret_at: int = 0


class Endpoints:
    """The endpoints as of the records that were applied."""

    def __init__(self) -> None:
        self._pieces: dict[EndpointId, _Pieces] = {}
        """In the order in which they were made."""
        self._whole: dict[EndpointId, Endpoint] = {}
        self._of: dict[Tenant, dict[EndpointId, None]] = {}

    def __repr__(self) -> str:
        return f"<{len(self._whole)} endpoints>"

    def __len__(self) -> int:
        return len(self._whole)

    def get(self, id: str) -> Endpoint | None:
        """The endpoint with this id."""
        return self._whole.get(EndpointId(id))

    def all(self) -> list[Endpoint]:
        """Every endpoint, the oldest first."""
        return [self._whole[id] for id in self._pieces if id in self._whole]

    def of(self, tenant: Tenant) -> list[Endpoint]:
        """The endpoints of a tenant, the newest first."""
        return [self._whole[id] for id in reversed(self._of.get(tenant, {})) if id in self._whole]

    def apply(self, record: LogRecord) -> bool:
        """Apply the next record of the partition. False if it cannot be read; it changes nothing then."""
        said = parse_webhook(record, HOME)
        match said:
            case Unreadable():
                return False
            case ErasedKey(key=key):
                self._erased(key)
            case EndpointRecord(id=id):
                self._pieces.setdefault(id, _Pieces(said, record.timestamp))
                self._of.setdefault(said.tenant, {}).setdefault(id)
                self._put_together(id)
            case SettingsRecord(id=id) | SecretRecord(id=id):
                self._changed(id, said, record.timestamp)
            case DeliveryRecord() | RetryRecord() | MarkRecord():
                pass
        return True

    def _changed(self, id: EndpointId, said: SettingsRecord | SecretRecord, at: int) -> None:
        pieces = self._pieces.get(id)
        if pieces is None or pieces.born.tenant != said.tenant:
            return  # it was deleted before this change, or never made
        if isinstance(said, SettingsRecord):
            pieces.settings, pieces.settings_at = said, at
        else:
            pieces.secret, pieces.secret_at = said, at
        self._put_together(id)

    def _erased(self, key: str) -> None:
        id = EndpointId(key.partition("/")[0])
        pieces = self._pieces.get(id)
        if pieces is None:
            return
        if key == id:
            del self._pieces[id]
            del self._of[pieces.born.tenant][id]
        elif key == id + SETTINGS:
            pieces.settings = None
        elif key == id + SECRET:
            pieces.secret = None
        self._whole.pop(id, None)

    def _put_together(self, id: EndpointId) -> None:
        pieces = self._pieces[id]
        if pieces.settings is None or pieces.secret is None:
            return
        self._whole[id] = Endpoint(
            id,
            pieces.born.tenant,
            pieces.born_at,
            max(pieces.born_at, pieces.settings_at, pieces.secret_at),
            pieces.settings.name,
            pieces.settings.url,
            pieces.settings.event_types,
            pieces.secret.secrets,
            pieces.secret.hint,
        )

    def due(self, closing: ClosingRecord, now_ms: int, *, skew_ms: int) -> Sequence[DeliveryRecord]:
        """The deliveries that a closing asks for: to each endpoint of its tenant that asked for such events,
        and was there when the response closed (P-124). Brokers' clocks may differ by `skew_ms`.
        """
        type = event_type(closing)
        if type is None:
            return ()
        return [
            DeliveryRecord(
                id=delivery_id(endpoint.id, closing.id, type),
                endpoint=endpoint.id,
                tenant=closing.tenant,
                response=closing.id,
                type=type,
                closed_at=closing.closed_at,
                since=now_ms,
                next_at=now_ms,
            )
            for endpoint in self.of(closing.tenant)
            if type in endpoint.event_types and endpoint.created_at <= closing.closed_at + skew_ms
        ]


def made(endpoint: Endpoint) -> Iterable[EndpointRecord | SettingsRecord | SecretRecord]:
    """The records that make an endpoint, in the order in which they are appended."""
    id, tenant = endpoint.id, endpoint.tenant
    yield EndpointRecord(id, tenant)
    yield settings_of(endpoint)
    yield SecretRecord(id, tenant, endpoint.secrets, endpoint.hint)


def settings_of(endpoint: Endpoint) -> SettingsRecord:
    """The settings of an endpoint as its record has them."""
    return SettingsRecord(endpoint.id, endpoint.tenant, endpoint.name, endpoint.url, endpoint.event_types)


def endpoint_keys(id: EndpointId) -> tuple[str, ...]:
    """The keys of an endpoint's records. The first one's tombstone deletes the endpoint."""
    return (id, id + SETTINGS, id + SECRET)


def retry_key(id: str) -> str:
    """The key of the retry of a delivery."""
    return id + RETRY
