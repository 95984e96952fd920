"""Appends to `responses.events`, and what a client is told when one fails.

    too large           413, nothing was appended
    surely not appended 503 with Retry-After, within `UNSENT_S`; or `Unsent`, where it may go elsewhere
    in doubt            the same batch is repeated for `DELIVERY_S`; then the fold is asked (AppendUnknown)

While no leader answers, and for a moment after a partition failed, requests are refused at once instead of
each waiting for its own timeout.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable

import structlog

from schemas.errors import (
    NO_RETRY,
    ApiError,
    AppendUnknown,
    LogUnavailable,
    RecordTooLarge,
    Unsent,
    unavailable,
)
from schemas.ids import ResponseId, partition_of
from schemas.records import NewRecord
from services.eventlog.port import Ack, Leader, Writer
from services.ingest.metrics import APPEND_SECONDS
from services.placement import place

UNSENT_S = 3.0
"""Seconds that a record waits to be sent."""
DELIVERY_S = 16.0
"""Seconds that an append may be in doubt: a failover of Kafka takes 9 to 12."""
REFUSED_S = 4.5
"""Seconds from its arrival until a request is refused that was not sent: 5 for its client (A-10)."""
DOUBT_S = 17.5
"""Seconds from its arrival from which an append of a request that is not confirmed is in doubt."""
ANSWERED_S = 19.5
"""Seconds from its arrival in which the fold has told what became of that: 20 for its client (A-10)."""
PAUSE_S = 1.0
"""Seconds for which a partition is not tried again after a failure."""
LOOK_S = 0.1
"""Seconds for which it is remembered who leads: a look at 1,000 partitions takes longer than a POST."""

log = structlog.get_logger()


class Patience:
    """What is left of the time of one request, which begins now."""

    def __init__(self) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock()

    @property
    def unsent_s(self) -> float:
        """Seconds that a record of it may wait to be sent."""
        return max(0.0, min(UNSENT_S, self._began + REFUSED_S - self._clock()))

    @property
    def in_doubt_by(self) -> float:
        """The loop time from which its append is in doubt."""
        return self._began + DOUBT_S

    @property
    def look_up_s(self) -> float:
        """Seconds that a look-up after its append may take."""
        return max(0.0, self._began + ANSWERED_S - self._clock())


class Appends:
    """Appends one record at a time, each acknowledged by all in-sync replicas.

    `leader` says who leads a partition of the topic, as far as is known.
    """

    def __init__(
        self,
        writer: Writer,
        topic: str,
        partitions: int,
        leader: Callable[[int], Leader | None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._writer = writer
        self._topic = topic
        self._partitions = partitions
        self._leader = leader
        self._clock = clock
        self._away_until: dict[int, float] = {}
        self._under_way: Counter[int] = Counter()
        self._looked_at = -math.inf
        self._openings: list[bool] = []
        """By partition, as of that time: whether it can be appended to."""

    def place(self, draw: float) -> int:
        """The partition for a response that may go anywhere; see `services.placement`."""
        return place(self._look(), [self._under_way[p] for p in range(self._partitions)], draw)

    def led(self) -> bool:
        """Whether some partition can be appended to now, as far as is known."""
        return any(self._look())

    async def append(
        self,
        id: ResponseId,
        record: NewRecord,
        patience: Patience,
        *,
        unsent_s: float = UNSENT_S,
        movable: bool = False,
    ) -> Ack:
        """Append a record of response `id`: given up when it is not sent in `unsent_s` seconds, and in doubt
        when it is not confirmed in the time of its request.

        `movable`: the response may as well have an id in another partition. Raises ApiError (413, or 503 when
        nothing was stored), Unsent (only what is movable), AppendUnknown.
        """
        partition = partition_of(id)
        if self._away_until.get(partition, 0) > self._clock() or not (self._healthy(partition) or self.led()):
            raise away()
        self._under_way[partition] += 1
        try:
            async with asyncio.timeout_at(patience.in_doubt_by):
                with APPEND_SECONDS.time():
                    ack = await self._writer.append(
                        self._topic, partition, record, unsent_s=unsent_s, movable=movable
                    )
        except RecordTooLarge as error:
            raise _too_large(error) from error
        except Unsent:
            self._looked_at = -math.inf
            raise
        except LogUnavailable as error:
            self._failed(partition)
            raise away() from error
        except (AppendUnknown, TimeoutError) as error:
            self._failed(partition)
            why = str(error) or "not confirmed within the time of its request"
            log.warning("append in doubt, the fold is asked", id=id, error=why)
            raise AppendUnknown(why) from error
        finally:
            self._under_way[partition] -= 1
        self._away_until.pop(partition, None)
        return ack

    def _failed(self, partition: int) -> None:
        self._away_until[partition] = self._clock() + PAUSE_S
        self._looked_at = -math.inf

    def _look(self) -> list[bool]:
        """Which partitions can be appended to, as of `LOOK_S` ago at most."""
        now = self._clock()
        if now >= self._looked_at + LOOK_S:
            self._looked_at = now
            self._openings = [
                self._healthy(partition) and self._away_until.get(partition, 0) <= now
                for partition in range(self._partitions)
            ]
        return self._openings

    def _healthy(self, partition: int) -> bool:
        leader = self._leader(partition)
        return leader is not None and leader.healthy


def _too_large(error: RecordTooLarge) -> ApiError:
    what = (
        "The request is too large: it is stored together with the response's object, which repeats most "
        f"of its fields beside the input. Both make {error.size} bytes; the bound is {error.bound}."
    )
    return ApiError(413, what, code="request_too_large", headers=NO_RETRY)


def away() -> ApiError:
    """503: nothing was stored."""
    return unavailable("The log cannot be reached; nothing was stored.", reason="log_away")


def unconfirmed(*, repeatable: bool) -> ApiError:
    """503: nobody knows whether the record is in the log. `repeatable`: to send it again is safe."""
    what = "The log did not confirm the request in time."
    return unavailable(what, outcome_unknown=not repeatable, reason="append_unknown")
