"""Appends to `responses.events`, and what a client is told when one fails.

    too large           413, nothing was appended
    surely not appended 503 with Retry-After
    outcome unknown     503, and `x-should-retry: false` where a repetition could do it twice (A-10)

While the log is known to be away, and for a moment after a partition failed, requests are refused at once
instead of each waiting for its own timeout.
"""

import math
import time
from collections.abc import Callable

import structlog

from schemas.errors import NO_RETRY, ApiError, AppendUnknown, LogUnavailable, RecordTooLarge, unavailable
from schemas.ids import ResponseId, partition_of
from schemas.records import NewRecord
from services.eventlog.port import Ack, Writer
from services.ingest.metrics import APPEND_SECONDS

DELIVERY_S = 3.0
"""Seconds that an append may take: with the look-ups before it, an answer comes within 5 s (A-10)."""
PAUSE_S = 1.0
"""Seconds for which a partition is not tried again after a failure."""

log = structlog.get_logger()


class Appends:
    """Appends one record at a time, each acknowledged by all in-sync replicas."""

    def __init__(self, writer: Writer, topic: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._writer = writer
        self._topic = topic
        self._clock = clock
        self._away_until: dict[int, float] = {}
        self._acked_at = -math.inf
        self.away = False
        """Whether the log is known to be away as a whole; set by whoever watches it."""

    async def append(self, id: ResponseId, record: NewRecord, *, repeatable: bool) -> Ack:
        """Append a record of response `id`.

        `repeatable`: the client may send the request again without harm, even if this append did happen.
        Raises ApiError, 413 or 503.
        """
        partition = partition_of(id)
        if self.away or self._away_until.get(partition, 0) > self._clock():
            raise _away()
        try:
            with APPEND_SECONDS.time():
                ack = await self._writer.append(self._topic, partition, record)
        except RecordTooLarge as error:
            raise _too_large(error) from error
        except (LogUnavailable, AppendUnknown) as error:
            self._away_until[partition] = self._clock() + PAUSE_S
            raise _told(error, repeatable) from error
        self._away_until.pop(partition, None)
        self._acked_at = self._clock()
        return ack

    def acked_within(self, seconds: float) -> bool:
        """Whether the log acknowledged something in the last so many seconds: then it is not away."""
        return self._clock() - self._acked_at < seconds


def _too_large(error: RecordTooLarge) -> ApiError:
    what = (
        "The request is too large: it is stored together with the response's object, which repeats most "
        f"of its fields beside the input. Both make {error.size} bytes; the bound is {error.bound}."
    )
    return ApiError(413, what, code="request_too_large", headers=NO_RETRY)


def _told(error: LogUnavailable | AppendUnknown, repeatable: bool) -> ApiError:
    if isinstance(error, LogUnavailable):
        return _away()
    log.warning("append outcome unknown", error=str(error))
    what = "The log did not confirm the request in time."
    return unavailable(what, outcome_unknown=not repeatable, reason="append_unknown")


def _away() -> ApiError:
    return unavailable("The log cannot be reached; nothing was stored.", reason="log_away")
