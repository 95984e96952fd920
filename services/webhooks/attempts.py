"""Decides what comes of an attempt, and when the next one is due. Pure.

Pauses double from FIRST_PAUSE_MS to LONGEST_PAUSE_MS, each cut at random by up to half: endpoints that failed
together are not called together again. The last attempt is made 72 h after the event became due.
"""

from msgspec import Struct
from msgspec.structs import replace

from schemas.webhooks import DeliveryRecord, Outcome

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 5_000, 8 * 3600 * 1000
GIVE_UP_MS = 72 * 3600 * 1000
"""Milliseconds for which a delivery is tried."""
JITTER = 0.5
"""The part of a pause that chance may take away."""


class AttemptResult(Struct, frozen=True):
    """What came of an attempt; `status` if the endpoint answered."""

    outcome: Outcome
    status: int | None = None


def pause_ms(attempts: int, chance: float) -> int:
    """Milliseconds to wait after so many `attempts`, at least 1. `chance` is from 0 to 1."""
    whole = min(FIRST_PAUSE_MS << min(attempts - 1, 32), LONGEST_PAUSE_MS)
    return int(whole * (1 - JITTER * chance))


def after(delivery: DeliveryRecord, result: AttemptResult, now_ms: int, chance: float) -> DeliveryRecord:
    """The delivery after an attempt that ended at `now_ms` (P-126)."""
    attempts, last = delivery.attempts + 1, delivery.since + GIVE_UP_MS
    if result.outcome == "delivered":
        state, next_at = "delivered", now_ms
    elif now_ms >= last:
        state, next_at = "failed", now_ms
    else:
        state, next_at = "pending", min(now_ms + pause_ms(attempts, chance), last)
    return replace(
        delivery,
        attempts=attempts,
        outcome=result.outcome,
        status=result.status,
        state=state,
        next_at=next_at,
    )


def again(delivery: DeliveryRecord, now_ms: int) -> DeliveryRecord:
    """The delivery when an operator asks for another attempt: due now, and for 72 h."""
    return replace(delivery, state="pending", since=now_ms, next_at=now_ms)


def overflowed(delivery: DeliveryRecord) -> DeliveryRecord:
    """A delivery for which there is no room: too many wait for its endpoint."""
    return replace(delivery, state="failed", outcome="too_many")
