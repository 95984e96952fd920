"""How a winning claim is worked off: read what is needed, decide how to go on, narrate, wait for the end.

accepted value → (past, from the second attempt on) → continuation → conversation → upstream → terminal
read back
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from schemas import response
from schemas.errors import RejoinderError
from schemas.events import accepted_value
from schemas.fold import State
from services import points
from services.config import Route
from services.executor import metrics
from services.executor.backend import Backend, Resume, RunRequest, UpstreamError
from services.executor.backends import Registry
from services.executor.conversation import Conversation
from services.executor.decide import Continuation, continuation
from services.executor.history import History, Past
from services.executor.mending.identity import ours
from services.executor.mending.names import names_at
from services.executor.partition import Partition
from services.executor.run import Run
from services.executor.said import Said
from services.executor.scribe import Ending, Limits, Scribe

log = structlog.get_logger()

LATE_S = 1.0
"""Seconds for which the past of an overdue response is looked for (P-47): less than a beat, with which the
steward gives up what has not ended, and claims anew."""

_LOST = "the executor that ran this response is gone, and its upstream cannot be resumed"
_ENDINGS = {
    Continuation.END_LOST: Ending(_LOST, type="executor_lost"),
    Continuation.END_OVERDUE: Ending("the response's deadline is over", type="deadline"),
    Continuation.END_ATTEMPTS: Ending("the response was attempted too often", type="attempts_exhausted"),
}


class _NotInTime(RejoinderError):
    """The deadline came before the log could be read."""


class Worker:
    """Works runs off. `log_time` gives log time in ms, as of the last beat."""

    def __init__(
        self,
        history: History,
        registry: Registry,
        conversation: Conversation,
        limits: Limits,
        max_attempts: int,
        log_time: Callable[[], int],
    ) -> None:
        self._history = history
        self._registry = registry
        self._conversation = conversation
        self._limits = limits
        self._max_attempts = max_attempts
        self._log_time = log_time

    def calls(self, partition: Partition, state: State) -> bool:
        """Whether the next claim of the response leads to a call of its upstream, or only to its end."""
        route, attempt = partition.routes.get(state.id), state.attempt + 1
        if route is None:
            return False
        uncalled = partition.first_call(state.id, attempt)
        return self._how(state, attempt, self._registry.backend(route), uncalled=uncalled).calls

    async def work(self, partition: Partition, state: State, run: Run) -> None:
        """Run a response to its end. Whatever goes wrong ends the response; cancelling stops it without an
        end. Raises nothing: one run must not take the others with it.
        """
        with metrics.RUNS.track_inprogress():
            try:
                if await self._work(partition, state, run):
                    await run.over.wait()
                    metrics.ENDED.labels(state.status).inc()
            except Exception:  # the response is claimed again, and ended when its attempts are used up
                log.exception("run given up", id=run.id)

    async def _work(self, partition: Partition, state: State, run: Run) -> bool:
        """Whether the run waits for its end now; false: its claim has lapsed, the next one goes on."""
        scribe = None
        try:
            points.at("accepted wanted", run)
            accepted, past = await self._logged(partition, state)
            value = accepted_value(accepted)
            initial: dict[str, Any] = msgspec.json.decode(value.response)
            scribe = self._scribe(state, initial, past, partition.routes.get(state.id))
            await asyncio.sleep(0)  # each of them takes up to 20 ms (`schemas.steps`)
            body: dict[str, Any] = msgspec.json.decode(value.request)
            await asyncio.sleep(0)
            return await self._narrate(partition, state, run, scribe, past, body, initial)
        except _NotInTime:
            log.warning("the log cannot be read: its response ends without what is there", id=run.id)
            await self._end_anyhow(state, run, scribe, _ENDINGS[Continuation.END_OVERDUE])
            return True
        except Exception as error:
            log.exception("run failed", id=run.id)
            await self._end_anyhow(state, run, scribe, _internal(error))
            return True

    async def _end_anyhow(self, state: State, run: Run, scribe: Scribe | None, ending: Ending) -> None:
        """End the response as well as can be, also when it is its output so far that cannot be put
        together.
        """
        if scribe is not None:
            try:
                await run.finish(scribe, ending)
            except Exception:
                log.exception("the output so far cannot be kept", id=run.id)
            else:
                return
        await run.finish(self._blank(state, run), ending)

    async def _narrate(
        self,
        partition: Partition,
        state: State,
        run: Run,
        scribe: Scribe,
        past: Past,
        body: dict[str, Any],
        initial: dict[str, Any],
    ) -> bool:
        """Whether the run waits for its end now; false: its claim has lapsed, the next one goes on."""
        try:
            backend = self._registry.resolve(body)
        except UpstreamError as error:
            await run.finish(scribe, Ending.of(error))
            return True
        scribe.pass_extensions = backend.pass_extensions
        uncalled = partition.first_call(state.id, state.attempt)
        how = self._how(state, state.attempt, backend, uncalled=uncalled)
        (log.debug if state.attempt == 1 else log.info)("run", id=run.id, attempt=run.attempt, how=how.value)
        input, ending = await self._input(partition, state, body, how)
        if ending is not None:
            await run.finish(scribe, ending)
            if past.upstream_id is not None:  # it may be going on in its own background
                await backend.stop(past.upstream_id)
            return True

        def calling() -> None:
            run.calling()
            if not backend.resumable:  # else its first event begins it, and says where to rejoin (P-34)
                run.begin(scribe)

        request = RunRequest(
            run.id,
            run.tenant,
            run.attempt,
            body,
            input.items,
            initial,
            names=input.names,
            abandoned=lambda: run.abandoned,
            calling=calling,
        )
        resume = self._resume(state, past) if how is Continuation.RESUME else None
        if await run.narrate(scribe, backend.stream(request, resume), self._time_left(state)):
            return True
        if uncalled and not run.heard:
            partition.not_called(state)
        return False

    async def _input(
        self, partition: Partition, state: State, body: dict[str, Any], how: Continuation
    ) -> tuple[Said, Ending | None]:
        """The whole input to call the upstream with, or how the response ends without a call."""
        if how in _ENDINGS:
            return Said([]), _ENDINGS[how]
        try:
            async with asyncio.timeout(self._time_left(state)):
                named = names_at(partition.routes.get(state.id)) is not None
                return await self._conversation.input(partition, state.tenant, body, named), None
        except UpstreamError as error:
            return Said([]), Ending.of(error)
        except TimeoutError:
            return Said([]), _ENDINGS[Continuation.END_OVERDUE]

    def _scribe(self, state: State, initial: dict[str, Any], past: Past, route: Route | None) -> Scribe:
        at = names_at(route)
        return Scribe(
            past.response or initial,
            origin=state.origin,
            last=state.last,
            limits=self._limits,
            mint=ours(state.id) if at else None,
            output=past.output,
            extensions=past.extensions,
            written=past.bytes,
            names=past.names,
            names_at=at,
        )

    def _blank(self, state: State, run: Run) -> Scribe:
        """Ends a response whose own records cannot be read: poison must not strand it (A-22)."""
        initial = response.initial({}, state.id, state.accepted_at // 1000, "unknown")
        last = max(state.last, run.posted)
        return Scribe(initial, origin=state.origin, last=last, limits=self._limits)

    def _how(self, state: State, attempt: int, backend: Backend, *, uncalled: bool) -> Continuation:
        return continuation(
            state,
            attempt=attempt,
            now=self._log_time(),
            max_attempts=self._max_attempts,
            resumable=backend.resumable,
            repeatable=backend.repeatable,
            uncalled=uncalled,
        )

    def _time_left(self, state: State) -> float:
        assert state.accepted is not None
        return max(0.0, (state.accepted.deadline - self._log_time()) / 1000)

    @staticmethod
    def _resume(state: State, past: Past) -> Resume:
        return Resume(past.upstream_id, past.cursor, counted=max(0, state.last - state.origin))

    async def _logged(self, partition: Partition, state: State) -> tuple[bytes, Past]:
        """The value of the `accepted` that won, and what counted since. Raises LookupError when retention
        took it, _NotInTime when a place that cannot be read holds the scan up until the deadline.
        """
        try:
            async with asyncio.timeout(max(self._time_left(state), LATE_S)):
                return await self._accepted(partition, state), await self._past(partition, state)
        except TimeoutError as error:
            raise _NotInTime from error

    async def _accepted(self, partition: Partition, state: State) -> bytes:
        """The value of the `accepted` that won. Raises LookupError when retention took it."""
        value = partition.take_value(state.id)
        return value if value is not None else await self._history.accepted(partition.number, state.offset)

    async def _past(self, partition: Partition, state: State) -> Past:
        """Nothing for a first attempt: no event can have counted."""
        if state.attempt == 1:
            return Past()
        return await self._history.past(partition.number, state.id, state.offset, state.claimed_offset)


def _internal(error: Exception) -> Ending:
    return Ending(f"internal error: {type(error).__name__}", type="internal_error")
