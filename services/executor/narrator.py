"""The task's side of a run: the upstream's events go into the log until it ends, fails, or its time is up.

    begin → take a batch from the upstream → scribe → post under the claim → room for more? → … → terminal

The task stops taking from the upstream while too much is unread, or anything for too long (P-33). That is the
back-pressure: while a broker is away, memory stays bounded. Cancelling the task stops the upstream, unless
another run goes on with it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

import structlog
from msgspec import Struct

from schemas.events import ITEM_DONE, TERMINAL_EVENTS
from schemas.records import NewRecord
from schemas.steps import Steps, finished
from schemas.upstream_headers import upstream_headers
from services import points
from services.executor.backend import Lapsed, UpstreamError, UpstreamEvent
from services.executor.call import UpstreamCall, failure_kind
from services.executor.retelling import Retelling
from services.executor.run import End, Run
from services.executor.scribe import Draft, Ending, Scribe
from services.loops import in_turns

log = structlog.get_logger()

_LONG = frozenset((*TERMINAL_EVENTS, ITEM_DONE))
"""Events that may become thousands of ours, if they have content that was not streamed before."""


class Outlet(Struct, frozen=True):
    """What the tasks of runs need of their executor: `post` and `post_now` queue a record for a partition, by
    number. What is posted may wait for company, for milliseconds, unless it is to go now.
    """

    post: Callable[[int, NewRecord], None]
    post_now: Callable[[int, NewRecord], None]
    stir: Callable[[], None]
    """Something waits for what is read back next."""
    clock: Callable[[], float]
    """Wall clock, seconds: dates completions, decides nothing."""
    unbroken: Callable[[float], bool]
    """True if our beats had no gap longer than a lease since a loop time (seconds), so that no peer can have
    declared us dead.
    """


class Narrator:
    """Says what becomes of one run, in the words of its scribe, in partition `number`."""

    def __init__(self, run: Run, scribe: Scribe | Retelling, outlet: Outlet, number: int) -> None:
        self._run = run
        self._scribe = scribe
        self._outlet = outlet
        self._number = number
        # Asked for once: on Python 3.11 every `get_running_loop` is a system call (getpid), a tenth of the
        # executor's CPU when each event asks for it twice.
        self._now = asyncio.get_running_loop().time

    def __repr__(self) -> str:
        return f"<Narrator of {self._run!r}>"

    def calling(self, call: UpstreamCall, *, begins: bool) -> None:
        """The upstream is about to be called (P-53). Raises Lapsed when it must not be: the run ends here,
        and the next attempt is claimed, for another run to go on.

        `begins`: say `response.in_progress`. A resumable upstream's first event begins the response, and says
        where to rejoin (P-34).
        """
        run = self._run
        if run.ended is None and run.lapsed(self._now(), self._outlet.unbroken):
            run.end(End.LAPSED)
        if run.handed_over:
            raise Lapsed
        run.called = True
        call.begins()
        if begins:
            self._post(self._scribe.begin(), self._now())

    async def narrate(
        self, upstream: AsyncGenerator[Sequence[UpstreamEvent]], call: UpstreamCall, timeout: float
    ) -> bool:
        """Pass the upstream's events on until it ends, fails or `timeout` seconds are over. False when the
        claim lapsed: the run is to end here, without an end of the response.
        """
        points.at("upstream wanted", self._run)
        try:
            async with asyncio.timeout(timeout), aclosing(upstream):
                async for batch in upstream:
                    self._run.heard = True
                    await self._write(batch, call)
                    if self._scribe.ended:
                        break
                    await self._room_for_more()
            ending = Ending("the upstream ended without a terminal event", type="upstream_truncated")
            if not self._scribe.ended:
                call.failed(ending.type)
        except UpstreamError as error:
            ending = Ending.of(error)
            call.failed(failure_kind(error))
        except TimeoutError:
            ending = Ending("the response's deadline is over", type="deadline")
            call.failed(ending.type)
        except Lapsed:
            return False
        finally:
            call.span.end()
        await self.finish(ending)
        return True

    async def finish(self, ending: Ending) -> None:
        """End the response so, unless the upstream has ended it."""
        if not self._scribe.ended:
            run = self._run
            log.warning("response ended by us", id=run.id, type=ending.type, message=ending.message)
            points.at("end made", run, ending)
            await self._post_all(self._scribe.ending(ending))
            points.at("end queued", run, ending)

    async def _write(self, batch: Sequence[UpstreamEvent], call: UpstreamCall) -> None:
        points.at("upstream heard", self._run)
        now, at = self._outlet.clock(), self._now()
        call.heard(batch, at)
        for event, upstream_id, cursor in batch:
            headers = () if upstream_id is None else upstream_headers(upstream_id, cursor)
            if event.get("type") not in _LONG:
                self._post(self._scribe.write(event, headers, now=now), at)
                continue
            await self._post_all(self._scribe.writing(event, headers, now=now))
            at = self._now()
        if self._scribe.ended:
            call.over(batch[-1].event)
        points.at("upstream written", self._run)

    async def _post_all(self, steps: Steps[list[Draft]]) -> None:
        try:
            drafts = await in_turns(steps)
        except asyncio.CancelledError:
            # They have taken numbers: the end of the response comes behind.
            self._post(finished(steps), self._now())
            raise
        self._post(drafts, self._now())

    def _post(self, drafts: Sequence[Draft], at: float) -> None:
        """Say `drafts` at loop time `at`."""
        if points.watch:
            points.watch("events made", self._run, drafts)
        post = self._outlet.post_now if self._scribe.ended else self._outlet.post
        for record in self._run.say(drafts, at):
            post(self._number, record)
        if self._scribe.ended:
            self._outlet.stir()
        if points.watch:
            points.watch("events queued", self._run, drafts)

    async def _room_for_more(self) -> None:
        run = self._run
        while run.ended is None and run.unread and run.too_much(self._now()):
            run.room.clear()
            run.crowded = True
            self._outlet.stir()
            try:
                await run.room.wait()
            finally:
                run.crowded = False
