"""The deliveries of one partition, folded from its records in `webhooks`. Pure.

What is pending is held whole, without a body: that is made anew for each attempt. Of what is over the latest
are kept for operators to see, HISTORY of each state; the rest is to be erased.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from msgspec import Struct

from schemas.records import LogRecord, Unreadable
from schemas.webhooks import (
    RETRY,
    DeliveryId,
    DeliveryRecord,
    EndpointId,
    EndpointRecord,
    ErasedKey,
    MarkRecord,
    RetryRecord,
    SecretRecord,
    SettingsRecord,
    State,
    parse_webhook,
)

HISTORY = 1_000
"""Deliveries of a partition that are over and kept, of each state."""
MOST_PENDING = 20_000
"""Deliveries of a partition that may wait for one endpoint, some 17 MB. What comes after these has failed,
and an operator may have it tried again."""


class Changed(Struct, frozen=True):
    """What a record changed: a delivery as it is now, or the id of one that is erased."""

    delivery: DeliveryRecord | None = None
    erased: DeliveryId | None = None


class Deliveries:
    """The deliveries of `partition`, as of the records that were applied."""

    def __init__(self, partition: int, history: int = HISTORY) -> None:
        self._partition = partition
        self._history = history
        self._by_state: Mapping[State, dict[DeliveryId, DeliveryRecord]] = {
            "pending": {},
            "delivered": {},
            "failed": {},
        }
        self._waiting: Counter[EndpointId] = Counter()
        """By endpoint, how many are pending."""
        self._retries: dict[DeliveryId, RetryRecord] = {}
        self.counted: dict[str, int] = {}
        """What the partition's marks say: by log, the last `closed_offset` that is counted."""

    def __repr__(self) -> str:
        counts = {state: len(found) for state, found in self._by_state.items()}
        return f"<deliveries of {self._partition}: {counts}>"

    @property
    def pending(self) -> Mapping[DeliveryId, DeliveryRecord]:
        """What is not over."""
        return self._by_state["pending"]

    def get(self, id: DeliveryId) -> DeliveryRecord | None:
        """A delivery, pending or over."""
        return next((found[id] for found in self._by_state.values() if id in found), None)

    def all(self) -> list[DeliveryRecord]:
        """Every delivery that is known."""
        return [delivery for found in self._by_state.values() for delivery in found.values()]

    def has_room(self, endpoint: EndpointId, coming: int = 0) -> bool:
        """Whether another delivery may wait for `endpoint`, beside `coming` that are on their way here."""
        return self._waiting[endpoint] + coming < MOST_PENDING

    def apply(self, record: LogRecord) -> Changed | None:
        """Apply the next record of the partition. None if it cannot be read; it changes nothing then."""
        said = parse_webhook(record, self._partition)
        match said:
            case Unreadable():
                return None
            case DeliveryRecord():
                self._forget(said.id)
                self._by_state[said.state][said.id] = said
                self._waiting[said.endpoint] += said.state == "pending"
                return Changed(delivery=said)
            case ErasedKey(key=key):
                self._retries.pop(DeliveryId(key.removesuffix(RETRY)), None)
                return Changed(erased=DeliveryId(key)) if self._forget(DeliveryId(key)) else Changed()
            case RetryRecord(id=id):
                self._retries[id] = said
                return Changed()
            case MarkRecord(counted=counted):
                for log, offset in counted.items():
                    self.counted[log] = max(offset, self.counted.get(log, -1))
                return Changed()
            case EndpointRecord() | SettingsRecord() | SecretRecord():
                return Changed()

    def wanted(self) -> Mapping[DeliveryId, DeliveryRecord | None]:
        """By the retries that operators asked for and nobody dealt with: the delivery that is to be tried
        again; None: it is delivered, gone, or was tried since.
        """
        found = dict[DeliveryId, DeliveryRecord | None]()
        for id, retry in self._retries.items():
            known = self.get(id)
            holds = known is not None and known.state != "delivered" and known.attempts == retry.attempts
            found[id] = known if holds else None
        return found

    def surplus(self) -> Sequence[DeliveryId]:
        """What is over and to be erased, the oldest first: there is more of it than is kept."""
        over = (self._by_state["delivered"], self._by_state["failed"])
        return [id for found in over for id in list(found)[: max(0, len(found) - self._history)]]

    def _forget(self, id: DeliveryId) -> bool:
        for state, found in self._by_state.items():
            if (delivery := found.pop(id, None)) is not None:
                self._waiting[delivery.endpoint] -= state == "pending"
                if not self._waiting[delivery.endpoint]:
                    del self._waiting[delivery.endpoint]
                return True
        return False
