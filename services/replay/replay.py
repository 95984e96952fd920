"""Answers each question of a client or of ingest from what this process knows of every response.

    find → barrier (P-80) → the window, open or closed → else the transcript → else, once `transcripts` was
           read to its end as well, no such response
         → an ephemeral response that has closed: found until log time says that its time is over (P-85)
         → a partition that another shard serves: 503 `misrouted`
         → a partition that was added since the start (P-1): it is read from now on. A shard does not know
           whose it is: 503, until it is started again

`find` returns a `Window` or `Packed`; `chunks`, `object` and `request` answer from either.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterable
from contextlib import suppress

import msgspec
import structlog
from msgspec import Struct
from msgspec.structs import replace

from schemas.errors import ApiError, LogError, misrouted, not_found, outgrown, unavailable, unreachable
from schemas.events import UNDECODABLE, initial_object
from schemas.fold import State
from schemas.ids import ResponseId, Tenant, partition_of
from services.eventlog.known_partitions import KnownPartitions
from services.eventlog.shelf import Shelved
from services.replay.beats import LastBeat
from services.replay.cursor import START
from services.replay.disk import StoreFailed
from services.replay.folding import Foldings
from services.replay.library import Library, TranscriptLost
from services.replay.objects import UNREADABLE, begun, final_object, first_object
from services.replay.reader import chunks_so_far, live_chunks, never, packed_chunks
from services.replay.seek import Seeker
from services.replay.snapshot import Snapshots, status_of
from services.replay.window import Push, Window
from services.web.barrier import Barrier
from services.web.internal import Load, PartitionLoad, ResponseView

log = structlog.get_logger()


class Packed(Struct, frozen=True):
    """A closed response that is served from its transcript."""

    id: ResponseId
    entry: Shelved
    visible = stored = True

    @property
    def tenant(self) -> Tenant:
        """The response's tenant."""
        return self.entry.tenant


class Deleted(Struct, frozen=True):
    """A response that was deleted, or was not stored and is not kept any longer. `state` is that of the fold,
    if the fold still knows it.
    """

    id: ResponseId
    state: State | None


Found = Window | Packed | Deleted | None
Stored = Window | Packed


class Replay:
    """Answers from folds, windows, transcripts and the log."""

    def __init__(
        self,
        foldings: Foldings,
        library: Library,
        seeker: Seeker,
        snapshots: Snapshots,
        events_barrier: Barrier,
        transcripts_barrier: Barrier,
        beats: LastBeat,
        count: KnownPartitions,
    ) -> None:
        self._foldings = foldings
        self._library = library
        self._seeker = seeker
        self._events = events_barrier
        self._transcripts = transcripts_barrier
        self._beats = beats
        self._snapshots = snapshots
        self._count = count
        self._outgrown = False

    async def find(self, id: ResponseId, offset: int | None = None) -> Found:
        """The response `id`, from a fold past `offset` (None: past the log's end on arrival).

        Raises ApiError 503 if the fold does not get there in time.
        """
        partition = partition_of(id)
        if not await self.reads(partition):
            return None
        await self._events.reach(partition, offset)
        found = self._known(id)
        if found is None:
            await self._transcripts.reach(partition)
            found = self._known(id)
        return await self._unless_over(found)

    async def visible(self, id: ResponseId, tenant: Tenant) -> Stored | None:
        """The response `id`, if `tenant` may see it. Raises ApiError 503."""
        return _seen_by(tenant, await self.find(id))

    async def reach(self, ids: Iterable[ResponseId]) -> None:
        """Wait until the folds have all that is in the log by now of `ids`; then ask `reached`. One look-up
        of ends serves all of them. Raises ApiError 503.
        """
        partitions = {partition_of(id) for id in ids}
        await asyncio.gather(*map(self.reads, partitions))
        here = [partition for partition in partitions if partition in self._foldings]
        topics = (self._events, self._transcripts)
        await asyncio.gather(*(topic.reach(partition) for topic in topics for partition in here))

    async def reached(self, id: ResponseId, tenant: Tenant) -> Stored | None:
        """As `visible`, as of the last `reach` of `id` or later."""
        if partition_of(id) not in self._foldings:
            return None
        return _seen_by(tenant, await self._unless_over(self._known(id)))

    async def _unless_over(self, found: Found) -> Found:
        if isinstance(found, Window) and await self._is_over(found.state):
            return Deleted(found.id, found.state)
        return found

    async def _is_over(self, state: State) -> bool:
        """Whether log time says that the response is not seen any more (P-85). Raises ApiError 503 (P-88).

        In an idle partition log time stands still; then the last beat tells it (P-86).
        """
        if not (state.ephemeral and state.closed):
            return False
        folding = self._foldings[partition_of(state.id)]
        until = folding.kept_until(state)
        return folding.time > until or await self._beats.time() > until

    def is_far(self, partition: int) -> bool:
        """Whether another shard serves the partition; see `Foldings.is_far`."""
        return self._foldings.is_far(partition)

    async def reads(self, partition: int) -> bool:
        """Whether the log has the partition. One that was added is read from now on (P-144).

        Raises ApiError 503, also if another shard serves it, or will when the shards are started again.
        """
        if partition in self._foldings:
            return True
        if self._foldings.is_far(partition):
            raise misrouted(partition)
        try:
            if not await self._count.includes(partition):
                return False
        except LogError as error:
            raise unreachable() from error
        if partition not in self._foldings:
            if not self._outgrown:
                self._outgrown = True
                known, there_are = self._foldings.count, self._count.value
                log.error(
                    "partitions were added: restart the shards of replay", known=known, there_are=there_are
                )
            raise outgrown()
        return True

    def closed(self, found: Stored) -> bool:
        """Whether the response has closed."""
        return isinstance(found, Packed) or found.state.closed

    def ended(self, found: Stored, cursor: int) -> bool:
        """Whether the response has closed and has no event after `cursor`."""
        if isinstance(found, Packed):
            return cursor >= found.entry.events - 1
        return found.state.closed and cursor >= found.last

    def load(self) -> Load:
        """How many responses are open, and how far each partition is folded."""
        at = self._events.positions()
        parts = {
            number: PartitionLoad(at[number], dict(each.open)) for number, each in self._foldings.items()
        }
        tenants: Counter[Tenant] = Counter()
        for folding in self._foldings.values():
            tenants.update(folding.open)
        every = [at.get(number, -1) for number in range(self._foldings.count)]
        return Load(tenants.total(), dict(tenants), every, parts)

    def serving(self) -> tuple[list[int], int]:
        """The partitions that this process serves, and how many it knows."""
        return list(self._foldings), self._foldings.count

    def chunks(self, found: Stored, cursor: int, push: Push = never) -> AsyncGenerator[bytes, None]:
        """The frames after `cursor` as they come, but for those that `push` takes. Raises Cut at any end but
        the terminal event.
        """
        if isinstance(found, Window):
            return live_chunks(found, cursor, self._seeker, self._library, push)
        return packed_chunks(found.id, cursor, self._library)

    def chunks_so_far(self, found: Stored) -> AsyncGenerator[bytes, None]:
        """The frames so far; all frames if the response has closed. Raises Cut."""
        if isinstance(found, Window) and not found.state.closed:
            return chunks_so_far(found, self._seeker)
        return self.chunks(found, START)

    async def object(self, found: Stored) -> bytes:
        """The response object as JSON; that of an open response has the output so far. Raises ApiError."""
        if isinstance(found, Window) and not found.state.closed:
            return await self._snapshots.object(found)
        final = final_object(await self._last(found))
        if final:
            return final
        status = found.state.status if isinstance(found, Window) else found.entry.status
        return begun(await self._initial(found), found.id, status, UNREADABLE)

    async def request(self, found: Stored) -> bytes:
        """The value of the `accepted` that won. Raises ApiError."""
        id = found.id
        try:
            if id in self._library:
                return await self._library.request(id)
            assert isinstance(found, Window)
            return (await self._seeker.record(partition_of(id), found.state.offset)).value or b""
        except LogError as error:
            raise self._refusal(id, error) from error

    async def result(self, window: Window) -> bytes | None:
        """Wait for the final object; None if the response was deleted. Raises ApiError 503."""
        window.readers += 1
        try:
            while not (window.dropped or window.state.closed):
                await window.changed()
            if window.state.deleted:
                return None
            if not window.state.closed:
                raise unavailable("The log is being read again.")
            return await self.object(window)
        finally:
            window.readers -= 1

    async def view(self, id: ResponseId, offset: int | None) -> ResponseView:
        """What the log says of `id`, for ingest. Raises ApiError 503."""
        # Before the look-up: if the id is not found, it was in nothing that was read by then (P-35).
        read_to = self.read_to(id)
        return replace(await self._view(id, await self.find(id, offset)), read_to=read_to)

    def read_to(self, id: ResponseId) -> int:
        """The log time (ms) of the last record of the partition of `id` that was folded; 0 before any."""
        partition = partition_of(id)
        return self._foldings[partition].time if partition in self._foldings else 0

    async def _view(self, id: ResponseId, found: Found) -> ResponseView:
        match found:
            case None:
                return ResponseView(id, found=False)
            case Deleted(state=state):
                view = _state_view(state, id) if state else ResponseView(id, found=True)
                return replace(view, deleted=True)
            case Window(state=state):
                return _state_view(state, id, await self._without_output(found))
            case Packed(entry=entry):
                return _entry_view(entry, id, await self.object(found))

    def _known(self, id: ResponseId) -> Found:
        folding = self._foldings[partition_of(id)]
        if (window := folding.windows.get(id)) is not None:
            return window
        state = folding.fold.get(id)
        try:
            if (state is not None and state.deleted) or self._library.gone(id):
                return Deleted(id, state)
            entry = self._library.entry(id)
        except LogError as error:
            raise unavailable("The store cannot be read.", reason="store_away") from error
        return None if entry is None else Packed(id, entry)

    async def _without_output(self, window: Window) -> bytes:
        """As `object`, without the output of an open response, which no command needs or waits for."""
        if not window.state.closed:
            first = await self._initial(window)
            if not window.state.closed:  # it may have closed while its first event was sought in the log
                return begun(first, window.id, status_of(window))
        return await self.object(window)

    async def _initial(self, found: Stored) -> bytes:
        """The initial object; b"" if it cannot be read."""
        if isinstance(found, Window):
            return first_object(await self._frames(found, 0))
        try:
            return initial_object(await self.request(found))
        except UNDECODABLE:
            return b""

    async def _last(self, found: Stored) -> bytes:
        """Frames that end with the terminal one."""
        if isinstance(found, Window) and not (found.page(found.last).evicted and found.id in self._library):
            return await self._frames(found, found.last)
        try:
            return (await self._library.last(found.id)).frames
        except LogError as error:
            raise self._refusal(found.id, error) from error

    async def _frames(self, window: Window, number: int) -> bytes:
        """Frames from `number` on, to the end of their page."""
        page = window.page(number)
        try:
            return page.read(number) or await self._seeker.read(window, page, number)
        except LogError as error:
            raise self._refusal(window.id, error) from error

    def _refusal(self, id: ResponseId, error: LogError) -> ApiError:
        """The error for a failed read: 404 if the response expired or was erased, else 503."""
        with suppress(StoreFailed):
            if isinstance(error, TranscriptLost) and id not in self._library:
                return not_found(id)
        return unavailable("The log cannot be read.", reason="log_away")


def _seen_by(tenant: Tenant, found: Found) -> Stored | None:
    if found is None or isinstance(found, Deleted) or found.tenant != tenant or not found.visible:
        return None
    return found


def _state_view(state: State, id: ResponseId, shown: bytes = b"null") -> ResponseView:
    accepted = state.accepted
    return ResponseView(
        id,
        found=True,
        deleted=state.deleted,
        tenant=state.tenant,
        accepted_offset=state.offset if accepted else -1,
        body_sha256=accepted.body_sha256 if accepted else "",
        background=accepted.background if accepted else False,
        store=accepted.store if accepted else True,
        status=state.status,
        object=msgspec.Raw(shown),
    )


def _entry_view(entry: Shelved, id: ResponseId, shown: bytes) -> ResponseView:
    return ResponseView(
        id,
        found=True,
        tenant=entry.tenant,
        accepted_offset=entry.accepted_offset,
        body_sha256=entry.body_sha256,
        background=entry.background,
        status=entry.status,
        object=msgspec.Raw(shown),
    )
