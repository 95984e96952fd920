"""The front door: a client's POST becomes a response that ingest creates, and replay's own fold answers for.

    mint an id → hand the create to ingest → the fold, past the record's offset, says who won
               → the object, the stream or the final object, from that fold

The hop to ingest may break at any point. The id is known here, so the same create may be sent again, to
another ingest too: the first `accepted` counts (P-20). What came of it the fold alone decides (P-30, P-35):

    the id is there                                    it counts, whichever attempt it was
    not there, and all that was sent is in the log     void: nothing was started, the client may try again
    not there, and log time is past every `not_after`  void as well
    else                                               nobody knows, and the client hears so

What ingest says was never sent to the log goes elsewhere, under another id (P-36). Of a client that goes away
the create is finished all the same, and then abandoned (A-7). Nothing else abandons: no drain, no death.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from itertools import chain, repeat

import msgspec
import structlog
from msgspec import Struct

from schemas import ids
from schemas.errors import ApiError, away, not_found, unavailable, unconfirmed, void
from schemas.ids import ResponseId, Tenant, partition_of
from schemas.records import OPEN_STATUSES
from schemas.refusal import refusal
from services import points
from services.placement import Places
from services.replay.cursor import START
from services.replay.ingest_client import BrokenOff, IngestClient, Unheard
from services.replay.metrics import CREATES_MOVED, CREATES_REPEATED
from services.replay.replay import Deleted, Packed, Replay, Stored
from services.replay.turn import request_body
from services.replay.window import Window
from services.web.commands import ABANDON_PAUSES_S, Answer, Elsewhere, Made, Order

AGAIN_S = 3.0
"""Seconds from a POST's arrival in which its create is sent again: its client hears within 5 (A-10)."""
ANSWERED_S = 19.5
"""Seconds from a POST's arrival in which it is answered, whatever Kafka does: 20 for its client (A-10)."""
LEAST_S = 0.5
"""Seconds that the fold has at least to pass a record that ingest knows to be in the log."""
PAUSE_S = 0.25
"""Seconds between two tries."""
TRIES = 40
"""How often a fold that was lost is waited for, before who waits for a final object is told to look later."""

_PREDECESSOR = re.compile(rb'"previous_response_id"\s*:\s*"(resp_[0-9a-f]{36})"')

log = structlog.get_logger()


class _Status(Struct):
    status: str


_status = msgspec.json.Decoder(_Status).decode


class Terms(Struct, frozen=True):
    """The acceptance window and the skew, milliseconds."""

    window_ms: int
    skew_ms: int


class FrontDoor:
    """What the POSTs of one process share. `clock` is in milliseconds since the epoch."""

    def __init__(
        self,
        replay: Replay,
        ingest: IngestClient,
        places: Places,
        terms: Terms,
        *,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.replay = replay
        self.ingest = ingest
        self.places = places
        self.terms = terms
        self.clock = clock
        self.entropy = entropy

    def visit(self, tenant: Tenant, key: str | None) -> "Visit":
        """For one POST that has come now."""
        return Visit(self, tenant, key)

    def mint(self, tenant: Tenant, key: str | None, partition: int | None) -> ResponseId:
        """An id by the key (P-2), else a fresh one in `partition`, or, None, wherever a leader is healthy."""
        if key:
            return ids.idempotent_response_id(tenant, key, self.places.partitions)
        if partition is None:
            partition = self.places.place(int.from_bytes(self.entropy(4)) / (1 << 32))
        return ids.response_id(partition, self.entropy(ids.ENTROPY_BYTES))

    async def cancel(self, id: ResponseId, tenant: Tenant) -> bytes:
        """Cancel a response: its object, as JSON. Raises ApiError."""
        try:
            return await self.ingest.cancel(id, tenant)
        except (Unheard, BrokenOff) as error:
            raise _out_of_reach(error) from error

    async def delete(self, id: ResponseId, tenant: Tenant) -> None:
        """Delete a response. Raises ApiError."""
        try:
            await self.ingest.delete(id, tenant)
        except (Unheard, BrokenOff) as error:
            raise _out_of_reach(error) from error


class Visit:
    """One POST, from its arrival to its answer, and what is left to do when its client goes."""

    def __init__(self, door: FrontDoor, tenant: Tenant, key: str | None) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._came = self._loop.time()
        self._not_after = door.clock() + door.terms.window_ms
        self.tenant = tenant
        self.key = key
        self.id = ResponseId("")
        """The response's, once the create was handed over."""
        self.made: Made | None = None
        """What ingest said of it, or, where it could not, the fold."""
        self._in_doubt = False
        """Whether an attempt of this id may be on its way, which nobody has told the end of."""

    async def create(self, raw: bytes) -> Made:
        """Have the response created from the body `raw`. Raises ApiError."""
        partition = None if self.key else hinted(raw, self._door.places.partitions)
        while self.made is None:
            self.id = self._door.mint(self.tenant, self.key, partition)
            said = await self._handed_over(raw)
            if isinstance(said, Made):
                self.made = said
            elif said is None or self._in_doubt:
                self.made = await self._settled()
            elif said.partition is None:
                await self._move_on()
                partition = None
            else:
                partition = said.partition
        return self.made

    async def counted(self) -> Stored:
        """The response in a fold that is past its record. Raises ApiError: 404 when it was deleted, 503 when
        it does not count, or the fold does not get there in time.
        """
        made, replay = self.made, self._door.replay
        assert made is not None
        read_to = replay.read_to(self.id)
        try:
            found = await replay.find(self.id, None if made.offset < 0 else made.offset)
        except ApiError as error:
            raise self.detached("The log was not read up to now in time") from error
        if found is None:
            raise self.uncounted(read_to)
        if isinstance(found, Deleted):
            raise not_found(self.id)
        return found

    async def object(self) -> tuple[bytes, bool]:
        """The object as it stood, as JSON, but for the output of an open one; and whether it was open then.
        Raises as `counted`.
        """
        try:
            async with self._answered_in_time():
                shown = await self._shown(await self.counted())
        except TimeoutError as error:
            raise self.detached("The log was not read up to now in time") from error
        return shown, _status(shown).status in OPEN_STATUSES

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """All frames, as they come. Raises as `counted`, and Cut at any end but the terminal event."""
        found = await self.counted()
        async for chunk in self._door.replay.chunks(found, START):
            yield chunk

    async def result(self) -> bytes:
        """The final object, once there is one, as JSON. Raises ApiError, also for a failure that is to be an
        answer of its own (A-24).
        """
        final = await self._final()
        refused = refusal(final, keyed=self.key is not None)
        if refused is not None:
            raise refused
        return final

    def detached(self, why: str) -> ApiError:
        """503: the response goes on without this connection; a repeated POST would make another one, unless
        it has a key.
        """
        later = "can be retrieved"
        if self.made is None or not self.made.retrievable:
            later = "is not stored, so it cannot be retrieved"
        what = f"{why}; response '{self.id}' goes on and {later}."
        return unavailable(what, outcome_unknown=self.key is None, reason="detached")

    def uncounted(self, read_to: int) -> ApiError:
        """What to say when the id is unknown to a fold that has read to log time `read_to`, and past all that
        is known to be in the log: it is void, unless something may be on its way.
        """
        past = read_to > self._not_after + self._door.terms.skew_ms
        return unconfirmed(repeatable=self.key is not None) if self._in_doubt and not past else void()

    @property
    def cancels(self) -> bool:
        """Whether the response ends when its client goes: of one in doubt ingest finds that out."""
        return self.key is None and (self.made.cancels if self.made is not None else self._in_doubt)

    async def abandon(self) -> None:
        """Cancel the response, again and again until the fold shows its end. Raises nothing."""
        for pause in chain(ABANDON_PAUSES_S, repeat(ABANDON_PAUSES_S[-1])):
            await asyncio.sleep(pause)
            try:
                if await self._over():
                    return
                await self._door.ingest.abandon(self.id, self.tenant)
                if await self._over():
                    return
            except (ApiError, Unheard, BrokenOff) as error:
                log.warning("could not cancel an abandoned response", id=self.id, error=str(error))

    @property
    def _waited_s(self) -> float:
        return self._loop.time() - self._came

    def _answered_in_time(self) -> asyncio.Timeout:
        return asyncio.timeout(max(LEAST_S, ANSWERED_S - self._waited_s))

    async def _handed_over(self, raw: bytes) -> Made | Elsewhere | None:
        """What ingest says of the create, sent again while that may be; None when nobody can say what came of
        it. Raises ApiError when nothing was made.
        """
        door, again = self._door, False
        while True:
            CREATES_REPEATED.inc(again)
            order = Order(self.tenant, self.key is not None, self._not_after, self._waited_s)
            try:
                points.at("hop due", self)
                with door.places.under_way(partition_of(self.id)):
                    said = await door.ingest.create(self.id, order, raw)
                points.at("hop over", self)
                return said
            except BrokenOff as error:
                self._in_doubt, failed = True, str(error)
            except Unheard as error:
                if not self._in_doubt and self._waited_s >= AGAIN_S:
                    raise _out_of_reach(error) from error
                failed = str(error)
            except ApiError as error:
                if self._in_doubt and self.key is None:
                    return None  # this attempt made nothing: one before may have
                # Ingest cannot tell either: the record may count, so the response may have to be abandoned.
                self._in_doubt |= error.status == 503 and error.headers.get("x-should-retry") == "false"
                raise
            if self._waited_s >= AGAIN_S:
                log.warning("create in doubt, the fold is asked", id=self.id, error=failed)
                return None
            again = True
            await asyncio.sleep(PAUSE_S)

    async def _move_on(self) -> None:
        """No leader took it there, another one is to. Raises ApiError when there is no time for that."""
        places = self._door.places
        places.failed(partition_of(self.id))
        if not places.led():
            await asyncio.sleep(PAUSE_S)
        if self.key is not None or self._waited_s >= AGAIN_S:  # the id of a key is the same each time
            raise away()
        CREATES_MOVED.inc()

    async def _settled(self) -> Made:
        """What came of attempts in doubt, by the fold. Raises ApiError.

        What has the id of a key may be somebody else's doing, with another body, so a repetition must tell.
        """
        if self.key is not None:
            raise unconfirmed(repeatable=True)
        replay = self._door.replay
        read_to = replay.read_to(self.id)
        try:
            async with self._answered_in_time():
                found = await replay.find(self.id)
                if isinstance(found, Window | Packed):
                    return await _made(replay, found)
        except (ApiError, TimeoutError) as error:
            raise unconfirmed(repeatable=False) from error
        raise self.uncounted(read_to)

    async def _shown(self, found: Stored) -> bytes:
        """The object of the attempt that counts. Raises as `counted`."""
        made = self.made
        assert made is not None
        if not isinstance(found, Window) or found.state.offset == made.offset:
            return bytes(made.object)
        try:
            view = await self._door.replay.view(self.id, made.offset)  # another attempt was first
        except ApiError as error:
            raise self.detached("The log was not read up to now in time") from error
        if view.deleted or not view.found:
            raise not_found(self.id)
        return bytes(view.object)

    async def _final(self) -> bytes:
        for _ in range(TRIES):
            found = await self.counted()
            try:
                replay = self._door.replay
                final = await (replay.object(found) if isinstance(found, Packed) else replay.result(found))
            except ApiError as error:
                if error.status != 503:
                    raise
                await asyncio.sleep(PAUSE_S)  # the fold was lost (P-64), or the log is away
                continue
            if final is None:
                raise not_found(self.id)
            return final
        raise self.detached("The log is being read again")

    async def _over(self) -> bool:
        """Whether nothing can come of the response any more that ends with its client, as the fold shows: of
        one in doubt only the fold says that it is in the background. Raises ApiError (503).
        """
        found = await self._door.replay.find(self.id)
        if found is None:  # forgotten; or not there yet, as long as what is on its way may count
            late = self._not_after + 2 * self._door.terms.skew_ms
            return self.made is not None or self._door.clock() > late
        if isinstance(found, Deleted) or self._door.replay.closed(found):
            return True
        accepted = found.state.accepted if isinstance(found, Window) else None
        return accepted is not None and accepted.background


def hinted(raw: bytes, partitions: int) -> int | None:
    """The partition of what looks like the predecessor in a body; ingest, which parses it, has the last word.

    Without the hint every turn of a conversation would be handed over twice.
    """
    at = raw.rfind(b'"previous_response_id"')
    found = _PREDECESSOR.match(raw, at) if at >= 0 else None
    partition = partition_of(ResponseId(found[1].decode())) if found else partitions
    return partition if partition < partitions else None


async def _made(replay: Replay, found: Stored) -> Made:
    """What ingest would have said of a response without key that the fold knows. Raises ApiError (503)."""
    body = request_body(await replay.request(found))
    background, stream = body.get("background") is True, body.get("stream") is True
    answer: Answer = "stream" if stream else "object" if background else "result"
    offset = found.state.offset if isinstance(found, Window) else found.summary.accepted_offset
    shown = (await replay.view(found.id, offset)).object
    return Made(offset, answer, cancels=not background, retrievable=found.visible, object=shown)


def _out_of_reach(error: Unheard | BrokenOff) -> ApiError:
    """503 for a command that may be sent again: nothing was heard of it, or a repetition changes nothing."""
    reason = "ingest_away" if isinstance(error, Unheard) else "ingest_broke_off"
    return unavailable("A part of the server is away; try again.", reason=reason)
