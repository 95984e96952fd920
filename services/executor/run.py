"""One run: from a winning claim to a terminal event that is read back.

What comes in: the upstream's events, and what the engine reads back of the log. In which order:

    begin → take a batch from the upstream → scribe → post under the claim → (read back) → … → terminal → read
    back: over

A post is not acceptance (P-30): drafts stay in `unread` until the fold shows them. On an append error or a
rejected event the run claims the next attempt and, when that is read back, posts what is unread under the new
claim (P-32); the upstream stream goes on meanwhile. Taking from the upstream stops while too much is unread,
or anything for too long (P-33): that is the back-pressure, and how a broker that is away holds everything
back in bounded memory.

The engine calls the synchronous methods; `work` is the task. Cancelling the task stops the upstream.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import structlog
from msgspec import Struct

from schemas.events import ITEM_DONE, TERMINAL_EVENTS
from schemas.fold import State
from schemas.ids import ClaimId
from schemas.records import ONE_HEADER, EventHeaders, NewRecord, upstream_headers
from schemas.steps import Steps, finished
from services import points
from services.executor.backend import Lapsed, UpstreamError, UpstreamEvent
from services.executor.fairness import Queue
from services.executor.scribe import Draft, Ending, Scribe
from services.loops import in_turns

log = structlog.get_logger()

UNREAD_BYTES = 1 << 20
UNREAD_EVENTS = 512
"""Bounds of what a run has posted and not read back: enough to fill a round trip, little enough that hundreds
of runs at once leave room for each other in the writer's queue."""


_LONG = frozenset((*TERMINAL_EVENTS, ITEM_DONE))
"""Events that may come to thousands: what they have, and nobody streamed."""
MAX_FRUITLESS = 20
"""Claims in a row that bring no event that counts: then the run is given up, and told anew from the log."""


class Outlet(Struct, frozen=True):
    """What a run needs of the engine: `post` queues a record for its partition, `claim` sends a claim of
    `attempt`.
    """

    post: Callable[[NewRecord], None]
    claim: Callable[[int], None]
    clock: Callable[[], float]
    """Wall clock, seconds: dates completions, decides nothing."""
    unbroken: Callable[[float], bool]
    """Whether nobody can have counted this executor out since a loop time, seconds."""
    form: int = ONE_HEADER
    """Of event records (P-15)."""


class Unread(Struct, gc=False):
    """A draft that is posted, or waits for the next claim, and is not read back. `at` is loop time,
    seconds.
    """

    draft: Draft
    at: float


class Run:
    """The running of one response by this executor, across its claims."""

    def __init__(self, state: State, outlet: Outlet, queue: Queue, *, lease: float, sent_at: float) -> None:
        assert state.claim is not None
        self.id = state.id
        self.tenant = state.tenant
        self.queue = queue
        """In which it stood until it was claimed."""
        self.attempt = state.attempt
        self.claim: ClaimId = state.claim
        self.task: asyncio.Task[None] | None = None
        self.over = asyncio.Event()
        """Set when the fold shows the response closed."""
        self._outlet = outlet
        # Asked for once: on Python 3.11 every `get_running_loop` is a system call (getpid), a tenth of the
        # executor's CPU when each event asks for it twice.
        self._clock = asyncio.get_running_loop().time
        self._headers = EventHeaders(self.id, self.claim, self.attempt, self.tenant, self._outlet.form)
        self._patience = lease / 2
        self._lease = lease
        self.sent_at = sent_at
        self.unread: deque[Unread] = deque()
        """Posted and not read back, oldest first."""
        self._unread_bytes = 0
        self._fruitless = 0
        self.posted = -1
        """The last number that was posted."""
        self._room = asyncio.Event()
        self.reclaiming = False
        self.abandoned = False
        """Whether the run stops here and another executor may go on with its upstream."""
        self.called = False
        """Whether its upstream was called: from then on it is the backend that stops it."""
        self.heard = False
        """Whether its upstream has said anything."""

    def __repr__(self) -> str:
        flag = " reclaiming" if self.reclaiming else ""
        return f"<Run {self.id} attempt={self.attempt}{flag} unread={len(self.unread)}>"

    # What the engine reads back.

    def read_back(self, number: int) -> None:
        """The event `number` of this run counts."""
        unread = self.unread
        while unread and (unread[0].draft.extension or unread[0].draft.number <= number):
            self._unread_bytes -= len(unread.popleft().draft.value)
        self._fruitless = 0
        self._room.set()
        if points.watch:
            points.watch("event read back", self)

    def extension_read_back(self, n: int) -> None:
        """The extension `n` of this run is in the log, behind every event that was posted before it."""
        unread = self.unread
        while unread and unread[0].draft.extension and unread[0].draft.number <= n:
            self._unread_bytes -= len(unread.popleft().draft.value)
        self._room.set()

    def rejected(self) -> bool:
        """An event of this run does not count, or an append of it failed: claim the next attempt (P-32).

        False when that was done so often without an event that counts that it is of no use.
        """
        if not self.reclaiming and not self.over.is_set():
            self._fruitless += 1
            if self._fruitless > MAX_FRUITLESS:
                return False
            self.reclaiming = True
            self._outlet.claim(self.attempt + 1)
        return True

    def reclaimed(self, state: State) -> None:
        """A later claim of this executor won: go on from the last number that counts."""
        assert state.claim is not None
        self.attempt, self.claim = state.attempt, state.claim
        self._headers = EventHeaders(self.id, self.claim, self.attempt, self.tenant, self._outlet.form)
        self.reclaiming = False
        self.read_back(state.last)
        now = self._clock()
        for unread in self.unread:
            unread.at = now
            self._outlet.post(unread.draft.record(self._headers))

    def lapsed(self) -> bool:
        """Whether this executor may have been counted out since it sent its claim (P-42)."""
        recent = self._clock() - self.sent_at < self._lease
        return not (recent or self._outlet.unbroken(self.sent_at))

    def calling(self) -> None:
        """The upstream is about to be called. Raises Lapsed when it must not be: then the next attempt is
        claimed, and this run ends here, for another one to go on (P-42).
        """
        if self.abandoned:
            raise Lapsed
        if self.lapsed():
            self.abandoned = True
            self._outlet.claim(self.attempt + 1)
            raise Lapsed
        self.called = True

    def closed(self) -> None:
        """The fold shows the response closed."""
        self.over.set()

    # The task.

    async def narrate(
        self, scribe: Scribe, upstream: AsyncGenerator[Sequence[UpstreamEvent]], timeout: float
    ) -> bool:
        """Pass the upstream's events on until it ends, fails or `timeout` seconds are over. False when the
        claim lapsed: the run is to end here, without an end of the response.
        """
        points.at("upstream wanted", self)
        try:
            async with asyncio.timeout(timeout), aclosing(upstream):
                async for batch in upstream:
                    self.heard = True
                    await self._write(scribe, batch)
                    if scribe.ended:
                        break
                    await self._room_for_more()
            ending = Ending("the upstream ended without a terminal event", type="upstream_truncated")
        except UpstreamError as error:
            ending = Ending.of(error)
        except TimeoutError:
            ending = Ending("the response's deadline is over", type="deadline")
        except Lapsed:
            return False
        await self.finish(scribe, ending)
        return True

    def begin(self, scribe: Scribe) -> None:
        """Say `response.in_progress`, once in the response's life."""
        self._post(scribe.begin())

    async def finish(self, scribe: Scribe, ending: Ending) -> None:
        """End the response so, unless the upstream has ended it."""
        if not scribe.ended:
            log.warning("response ended by us", id=self.id, type=ending.type, message=ending.message)
            points.at("end made", self, ending)
            await self._post_all(scribe.ending(ending))
            points.at("end queued", self, ending)

    async def _write(self, scribe: Scribe, batch: Sequence[UpstreamEvent]) -> None:
        points.at("upstream heard", self)
        now = self._outlet.clock()
        for event, upstream_id, cursor in batch:
            headers = () if upstream_id is None else upstream_headers(upstream_id, cursor)
            if event.get("type") not in _LONG:
                self._post(scribe.write(event, headers, now=now))
                continue
            await self._post_all(scribe.writing(event, headers, now=now))
        points.at("upstream written", self)

    async def _post_all(self, steps: Steps[list[Draft]]) -> None:
        try:
            drafts = await in_turns(steps)
        except asyncio.CancelledError:
            self._post(finished(steps))  # their numbers are taken: what ends the response comes behind
            raise
        self._post(drafts)

    def _post(self, drafts: Sequence[Draft]) -> None:
        if points.watch:
            points.watch("events made", self, drafts)
        at = self._clock()
        for draft in drafts:
            self.unread.append(Unread(draft, at))
            self._unread_bytes += len(draft.value)
            if not draft.extension:
                self.posted = draft.number
            if not self.reclaiming:
                self._outlet.post(draft.record(self._headers))
        if points.watch:
            points.watch("events queued", self, drafts)

    async def _room_for_more(self) -> None:
        while self.unread and self.too_much(self._clock()):
            self._room.clear()
            await self._room.wait()

    def too_much(self, now: float) -> bool:
        """Whether too much is unread, or anything for too long, at loop time `now` (P-33)."""
        return (
            self._unread_bytes > UNREAD_BYTES
            or len(self.unread) > UNREAD_EVENTS
            or now - self.unread[0].at > self._patience
        )
