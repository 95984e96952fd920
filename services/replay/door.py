"""The front door: lets ingest create a response for a client's POST, and answers from replay's own fold.

    mint an id → hand the create to ingest → ask the fold, past the record's offset, which `accepted` won
               → the object, the stream or the final object, from that fold

The hop to ingest may break at any point. The front door knows the id, so it may send the same create again,
to another ingest too: the first `accepted` counts (P-20). Only the fold says what became of it (P-30, P-35):

    the id is there                                    it counts, whichever attempt made it
    not there, and all that was sent is in the log     void: nothing was started, the client may try again
    not there, and log time is past every `not_after`  void as well
    else                                               unknown, and the client hears so

Where a key, a predecessor or an item leads into another shard, the front door asks a replay of that, over its
internal port, what it asks its own fold else, and passes stream or object on: one hop more, and never two.

If ingest says that it never sent the create to the log, the front door makes it elsewhere, under another id
(P-36). If the client goes away, the create is finished all the same, and then the response is abandoned
(A-7). Nothing else abandons a response: no drain, no death of a process.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable
from itertools import chain, repeat

import aiohttp
import msgspec
import structlog
from msgspec import Struct

from schemas import ids
from schemas.errors import (
    ApiError,
    LogError,
    away,
    not_found,
    outgrown,
    unavailable,
    unconfirmed,
    unreachable,
    void,
)
from schemas.fold import TERMINAL_STATUSES
from schemas.ids import ResponseId, Tenant, partition_of
from schemas.records import OPEN_STATUSES
from schemas.refusal import refusal
from schemas.request import parsing
from services import points
from services.eventlog.installation import KeySpread
from services.loops import in_turns
from services.placement import Places
from services.replay.cursor import START
from services.replay.ingest_client import IngestClient
from services.replay.metrics import CREATES_FAR, CREATES_MOVED, CREATES_REPEATED
from services.replay.reader import never
from services.replay.replay import Deleted, Packed, Replay, Stored
from services.replay.shards import Shards
from services.replay.turn import request_body
from services.replay.window import Push, Window
from services.web.ask import BrokenOff, Unheard
from services.web.commands import ABANDON_PAUSES_S, Answer, Elsewhere, Made, Order
from services.web.internal import ResponseView
from services.web.peer import Peer
from services.web.replay_client import persistently

AGAIN_S = 3.0
"""Seconds after a POST's arrival until which its create is sent again. Its client hears within 5 s (A-10)."""
ANSWERED_S = 19.5
"""Seconds after a POST's arrival by which it is answered, whatever Kafka does. Its client hears within 20 s
(A-10)."""
LEAST_S = 0.5
"""Seconds that the fold has at least to pass a record that ingest knows in the log."""
PAUSE_S = 0.25
"""Seconds between two tries."""
TRIES = 40
"""How often to wait for a fold that was lost, before a client that waits for a final object is told to look
later."""

_PREDECESSOR = re.compile(rb'"previous_response_id"\s*:\s*"(resp_[0-9a-f]{36})"')

log = structlog.get_logger()


class _Status(Struct):
    status: str


_status = msgspec.json.Decoder(_Status).decode


class Terms(Struct, frozen=True):
    """The acceptance window and the skew, milliseconds."""

    acceptance_ms: int
    skew_ms: int


class FrontDoor:
    """What the POSTs of one process share. `clock` returns milliseconds since the epoch."""

    def __init__(
        self,
        replay: Replay,
        shards: Shards,
        ingest: IngestClient,
        places: Places,
        terms: Terms,
        keys: KeySpread,
        *,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self.replay = replay
        self.shards = shards
        self.ingest = ingest
        self.places = places
        self.terms = terms
        self.keys = keys
        self.clock = clock
        self.entropy = entropy

    def visit(self, tenant: Tenant, key: str | None) -> "Visit":
        """A visit for one POST that has come now."""
        return Visit(self, tenant, key)

    async def mint(self, tenant: Tenant, key: str | None, partition: int | None) -> ResponseId:
        """An id by the key (P-2), else a fresh one in `partition` (None: wherever a leader is healthy).
        Raises ApiError (503) if nobody can tell where the key leads.
        """
        if key:
            try:
                return ids.idempotent_response_id(tenant, key, await self.keys.partitions())
            except LogError as error:
                raise unreachable() from error
        if partition is None:
            partition = self.places.place(int.from_bytes(self.entropy(4)) / (1 << 32))
        return ids.response_id(partition, self.entropy(ids.ENTROPY_BYTES))

    async def cancel(self, id: ResponseId, tenant: Tenant) -> bytes:
        """Cancel a response. Returns its object, as JSON. Raises ApiError."""
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
    """One POST, from its arrival to its answer, and the work that is left when its client goes."""

    def __init__(self, door: FrontDoor, tenant: Tenant, key: str | None) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._came = self._loop.time()
        self._not_after = door.clock() + door.terms.acceptance_ms
        self.tenant = tenant
        self.key = key
        self.id = ResponseId("")
        """The response's id, once the create was handed over."""
        self.made: Made | None = None
        """What ingest said of the create, or the fold if ingest could not."""
        self._in_doubt = False
        """Whether an attempt under this id may be on its way, with an unknown end."""
        self._seen = False
        """Whether a fold has shown the response: then it was started, whatever a later fold knows of it."""

    async def create(self, raw: bytes) -> Made:
        """Let ingest create the response from the body `raw`. Raises ApiError."""
        partition = None if self.key else hinted(raw, self._door.places.partitions)
        while self.made is None:
            self.id = await self._door.mint(self.tenant, self.key, partition)
            await self._check_shown(partition_of(self.id))
            said = await self._handed_over(raw)
            if isinstance(said, Made):
                self.made = said
            elif said is None or self._in_doubt:
                self.made = await (self._settled_far(raw) if self.is_far else self._settled())
            elif said.partition is None:
                await self._move_on()
                partition = None
            elif self.key or said.partition == partition:
                raise outgrown()  # ingest does not know the partition that it named, or that the key leads to
            else:
                partition = said.partition
        CREATES_FAR.inc(self.is_far)
        return self.made

    @property
    def is_far(self) -> bool:
        """Whether another shard serves the response."""
        return bool(self.id) and self._door.shards.have(partition_of(self.id))

    async def _check_shown(self, partition: int) -> None:
        """Raises ApiError (503) for a partition of which no fold that can be asked would ever show it."""
        if not self._door.shards.know(partition):
            await self._door.replay.reads(partition)

    async def counted(self) -> Stored:
        """The response, from a fold that is past its record.

        Raises ApiError: 404 if it was deleted, 503 if it does not count or the fold does not get there in
        time.
        """
        made, replay = self.made, self._door.replay
        assert made is not None
        read_to = replay.read_to(self.id)
        try:
            found = await replay.find(self.id, None if made.offset < 0 else made.offset)
        except ApiError as error:
            raise self.detached("The log was not read up to now in time") from error
        if found is None:
            raise self._unshown(read_to)
        self._seen = True
        if isinstance(found, Deleted):
            raise not_found(self.id)
        return found

    async def counted_far(self) -> ResponseView:
        """As `counted`, for a response that another shard serves: what a replay of that says of it."""
        made = self.made
        assert made is not None
        try:
            view = await self._door.shards.client.view(self.id, None if made.offset < 0 else made.offset)
        except ApiError as error:
            raise self.detached("The log was not read up to now in time") from error
        if not view.found:
            raise self._unshown(view.read_to)
        self._seen = True
        if view.deleted:
            raise not_found(self.id)
        return view

    def _unshown(self, read_to: int) -> ApiError:
        """What is wrong if a fold that has read up to log time `read_to` (ms) does not show the response."""
        # A fold that was lost and read again does not know what was erased meanwhile (P-64, P-95).
        what = "The log was read again, and does not show the response any more"
        return self.detached(what) if self._seen else self.uncounted(read_to)

    async def object(self) -> tuple[bytes, bool]:
        """The object as JSON, without the output of an open response, and whether it is open. Raises as
        `counted`.
        """
        try:
            async with self._answered_in_time():
                shown = await (self._shown_far() if self.is_far else self._shown(await self.counted()))
        except TimeoutError as error:
            raise self.detached("The log was not read up to now in time") from error
        return shown, _status(shown).status in OPEN_STATUSES

    async def chunks(self, push: Push = never) -> AsyncGenerator[bytes, None]:
        """All frames, as they come, but for those that `push` takes. Raises as `counted`, and Cut at any end
        but the terminal event.
        """
        found = await self.counted()
        async for chunk in self._door.replay.chunks(found, START, push):
            yield chunk

    async def stream_far(self) -> tuple[Peer, aiohttp.ClientResponse]:
        """The stream of a response that another shard serves, from event 0, and the replay that sends it.
        Raises as `counted`.
        """
        offset = (await self.counted_far()).accepted_offset
        return await persistently(lambda: self._door.shards.client.stream(self.id, offset), self.detached)

    async def result(self) -> bytes:
        """Wait for the final object, as JSON. Raises ApiError, also for a failure that the client gets as an
        error (A-24).
        """
        final = await (self._final_far() if self.is_far else self._final())
        refused = refusal(final, keyed=self.key is not None)
        if refused is not None:
            raise refused
        return final

    def detached(self, why: str) -> ApiError:
        """The error 503: the response is not told on this connection. A repeated POST would make another
        response, unless it has a key.
        """
        later = "goes on and can be retrieved"
        if self.made is None or not self.made.retrievable:
            later = "is not stored, so it cannot be retrieved"
        what = f"{why}; response '{self.id}' {later}."
        return unavailable(what, outcome_unknown=self.key is None, reason="detached")

    def uncounted(self, read_to: int) -> ApiError:
        """The error if a fold that has read to log time `read_to` (ms), and past all records known to be in
        the log, does not know the id: the create is void, unless an attempt may be on its way.
        """
        past = read_to > self._not_after + self._door.terms.skew_ms
        return unconfirmed(repeatable=self.key is not None) if self._in_doubt and not past else void()

    @property
    def cancels(self) -> bool:
        """Whether the response ends when its client goes. If it is in doubt, ingest finds that out."""
        return self.key is None and (self.made.cancels if self.made is not None else self._in_doubt)

    def is_lost_by(self, error: ApiError) -> bool:
        """Whether a client that is answered with `error` can never have its response, which would end with
        its connection: the create's outcome is unknown, or the response is not stored.
        """
        unknown = error.status == 503 and error.headers.get("x-should-retry") == "false"
        return unknown and self.cancels and not (self.made is not None and self.made.retrievable)

    async def abandon(self) -> None:
        """Cancel the response, with repeats until the fold shows its end. Raises nothing."""
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
        """Ingest's answer to the create, which is sent again while there is time. None if its outcome is
        unknown. Raises ApiError if nothing was made.
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
                    return None  # this attempt made nothing, but an earlier one may have
                # If ingest cannot tell either, the record may count, and the response may need an abandon.
                self._in_doubt |= error.status == 503 and error.headers.get("x-should-retry") == "false"
                raise
            if self._waited_s >= AGAIN_S:
                log.warning("create in doubt, the fold is asked", id=self.id, error=failed)
                return None
            again = True
            await asyncio.sleep(PAUSE_S)

    async def _move_on(self) -> None:
        """Rest a partition whose leader did not take the create, before a try elsewhere. Raises ApiError if
        there is no time for one.
        """
        places = self._door.places
        places.failed(partition_of(self.id))
        if not places.led():
            await asyncio.sleep(PAUSE_S)
        if self.key is not None or self._waited_s >= AGAIN_S:  # the id of a key is the same each time
            raise away()
        CREATES_MOVED.inc()

    async def _settled(self) -> Made:
        """What became of attempts in doubt, by the fold. Raises ApiError.

        An id of a key is left in doubt: another POST with another body may have made it, so only a repetition
        can tell.
        """
        if self.key is not None:
            raise unconfirmed(repeatable=True)
        replay = self._door.replay
        read_to = replay.read_to(self.id)
        try:
            async with self._answered_in_time():
                found = await replay.find(self.id)
                self._seen = found is not None
                if isinstance(found, Window | Packed):
                    return await _made(replay, found)
        except (ApiError, TimeoutError) as error:
            raise unconfirmed(repeatable=False) from error
        raise self.uncounted(read_to)

    async def _settled_far(self, raw: bytes) -> Made:
        """As `_settled`, for an id in a partition that another shard serves, with the body `raw`."""
        if self.key is not None:
            raise unconfirmed(repeatable=True)
        try:
            async with self._answered_in_time():
                view = await self._door.shards.client.view(self.id)
                self._seen = view.found
        except (ApiError, TimeoutError) as error:
            raise unconfirmed(repeatable=False) from error
        if not view.found or view.deleted:
            raise self.uncounted(view.read_to)
        asked = await in_turns(parsing(raw, 32 * len(raw)))  # ingest has taken it: no bound
        retrievable, background = view.store or view.background, asked.background
        answer: Answer = "stream" if asked.stream else "object" if background else "result"
        return Made(view.accepted_offset, answer, not background, retrievable, view.object)

    async def _shown_far(self) -> bytes:
        view, made = await self.counted_far(), self.made
        assert made is not None
        # The object of another attempt, if that won; made's is what ingest answered, without any output.
        return bytes(made.object if view.accepted_offset == made.offset else view.object)

    async def _final_far(self) -> bytes:
        offset = (await self.counted_far()).accepted_offset
        return await persistently(lambda: self._door.shards.client.result(self.id, offset), self.detached)

    async def _shown(self, found: Stored) -> bytes:
        """The object of the attempt that counts. Raises as `counted`."""
        made = self.made
        assert made is not None
        if not isinstance(found, Window) or found.state.offset == made.offset:
            return bytes(made.object)
        try:
            view = await self._door.replay.view(self.id, made.offset)  # another attempt won
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
        """Whether the fold shows that no abandon is needed any more: the response has closed or cannot count,
        or it is in the background, which for one in doubt only the fold says. Raises ApiError (503).
        """
        if self.is_far:
            view = await self._door.shards.client.view(self.id)
            ended = view.deleted or view.status in TERMINAL_STATUSES or view.background
            return ended if view.found else self._is_late()
        found = await self._door.replay.find(self.id)
        if found is None:
            return self._is_late()
        if isinstance(found, Deleted) or self._door.replay.closed(found):
            return True
        accepted = found.state.accepted if isinstance(found, Window) else None
        return accepted is not None and accepted.background

    def _is_late(self) -> bool:
        """Whether an id that no fold knows is forgotten: else an attempt on its way may count still."""
        late = self._not_after + 2 * self._door.terms.skew_ms
        return self.made is not None or self._door.clock() > late


def hinted(raw: bytes, partitions: int) -> int | None:
    """The partition of what looks like the predecessor in a body. Ingest parses the body and decides.

    Without the hint the front door would hand over every turn of a conversation twice.
    """
    at = raw.rfind(b'"previous_response_id"')
    found = _PREDECESSOR.match(raw, at) if at >= 0 else None
    partition = partition_of(ResponseId(found[1].decode())) if found else partitions
    return partition if partition < partitions else None


async def _made(replay: Replay, found: Stored) -> Made:
    """What ingest would have said of a keyless response that the fold knows. Raises ApiError (503)."""
    body = request_body(await replay.request(found))
    background, stream = body.get("background") is True, body.get("stream") is True
    answer: Answer = "stream" if stream else "object" if background else "result"
    offset = found.state.offset if isinstance(found, Window) else found.entry.accepted_offset
    shown = (await replay.view(found.id, offset)).object
    return Made(offset, answer, cancels=not background, retrievable=found.visible, object=shown)


def _out_of_reach(error: Unheard | BrokenOff) -> ApiError:
    """The error 503 for a command that the client may repeat: ingest has not heard of it, or a repetition
    changes nothing.
    """
    reason = "ingest_away" if isinstance(error, Unheard) else "ingest_broke_off"
    return unavailable("A part of the server is away; try again.", reason=reason)
