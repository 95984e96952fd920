"""Appends to `responses.events`, and turns a failed append into what the client is told.

    too large           413: nothing was appended
    surely not appended 503 with Retry-After, within `UNSENT_S`; or `Unsent`, if it may go elsewhere
    in doubt            the writer repeats the same batch for `DELIVERY_S`; then AppendUnknown: ask the fold

While no leader answers, and for a moment after a partition failed, this module refuses requests at once: they
do not each wait for a timeout.
"""

import asyncio

import structlog

from schemas.errors import (
    NO_RETRY,
    ApiError,
    AppendUnknown,
    LogUnavailable,
    RecordTooLarge,
    Unsent,
    away,
)
from schemas.ids import ResponseId, partition_of
from schemas.records import NewRecord
from services import points
from services.eventlog.port import Ack, Writer
from services.ingest.metrics import APPEND_SECONDS
from services.placement import Places

UNSENT_S = 3.0
"""Seconds that a record may wait to be sent."""
DELIVERY_S = 16.0
"""Seconds that an append may be in doubt: a failover of Kafka takes 9 to 12."""
REFUSED_S = 4.5
"""Seconds after the arrival of a request at which it is refused if its record was not sent. Its client hears
so within 5 s (A-10)."""
DOUBT_S = 17.5
"""Seconds after the arrival of a request at which its append is in doubt, if it is not confirmed."""
ANSWERED_S = 19.5
"""Seconds after the arrival of a request by which the fold has told what became of an append in doubt. Its
client hears it within 20 s (A-10)."""

log = structlog.get_logger()


class Patience:
    """The time that is left for one request, which came `waited_s` seconds ago."""

    def __init__(self, waited_s: float = 0) -> None:
        self._clock = asyncio.get_running_loop().time
        self._began = self._clock() - waited_s

    @property
    def unsent_s(self) -> float:
        """Seconds for which its record may still wait to be sent."""
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
    """Appends one record at a time, each acknowledged by all in-sync replicas."""

    def __init__(self, writer: Writer, topic: str, places: Places) -> None:
        self._writer = writer
        self._topic = topic
        self._places = places

    async def append(
        self,
        id: ResponseId,
        record: NewRecord,
        patience: Patience,
        *,
        movable: bool = False,
    ) -> Ack:
        """Append a record of response `id` in the time that its request has left. Returns where it is.

        `movable`: the response may as well have an id in another partition. Raises ApiError (413, or 503 when
        nothing was stored), Unsent (only if `movable`), AppendUnknown when the append is in doubt.
        """
        partition = partition_of(id)
        if not self._places.worth_trying(partition):
            raise Unsent("the partition rests") if movable and self._places.led() else away()
        try:
            async with asyncio.timeout_at(patience.in_doubt_by):
                points.at("append due", id, record)
                with APPEND_SECONDS.time(), self._places.under_way(partition):
                    ack = await self._writer.append(
                        self._topic, partition, record, unsent_s=patience.unsent_s, movable=movable
                    )
        except RecordTooLarge as error:
            raise _too_large(error) from error
        except Unsent:
            self._places.look_again()
            raise
        except LogUnavailable as error:
            self._places.failed(partition)
            raise away() from error
        except (AppendUnknown, TimeoutError) as error:
            self._places.failed(partition)
            why = str(error) or "not confirmed within the time of its request"
            log.warning("append in doubt, the fold is asked", id=id, error=why)
            raise AppendUnknown(why) from error
        self._places.succeeded(partition)
        points.at("append acknowledged", id, record)
        return ack


def _too_large(error: RecordTooLarge) -> ApiError:
    what = (
        "The request is too large: it is stored together with the response's object, which repeats most "
        f"of its fields beside the input. Both make {error.size} bytes; the bound is {error.bound}."
    )
    return ApiError(413, what, code="request_too_large", headers=NO_RETRY)
