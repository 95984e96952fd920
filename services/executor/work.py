"""How a job is worked off: read what is needed, decide how to go on, narrate, wait for the end.

accepted value → (past, from the second attempt on) → continuation → conversation → upstream → terminal
read back
"""

import asyncio
from functools import partial
from typing import Any

import msgspec
import structlog

from schemas import response
from schemas.errors import RejoinderError
from schemas.events import accepted_value
from schemas.fold import State
from schemas.trace_context import TRACEPARENT
from services import points
from services.config import label_of
from services.executor import metrics
from services.executor.backend import Backend, Resume, RunRequest, UpstreamError
from services.executor.backends import Registry
from services.executor.call import UpstreamCall
from services.executor.conversation import Conversation
from services.executor.decide import Continuation, continuation, time_left
from services.executor.history import History
from services.executor.liveness import Liveness
from services.executor.mending.identity import ours
from services.executor.mending.names import names_at
from services.executor.narrator import Narrator, Outlet
from services.executor.partition import Partition
from services.executor.past import Past
from services.executor.retelling import Retelling
from services.executor.run import Job
from services.executor.run_spans import RunSpans
from services.executor.said import Said
from services.executor.scribe import Ending, Limits, Scribe
from services.loops import in_turns
from services.traces.port import OFF, Tracer

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


class _Asked(msgspec.Struct, frozen=True):
    """What a run has to do: the client's request (`body`), the `initial` object, and what counted before."""

    body: dict[str, Any]
    initial: dict[str, Any]
    past: Past


class Worker:
    """Works jobs off. `liveness` knows log time as of the last beat."""

    def __init__(
        self,
        history: History,
        registry: Registry,
        conversation: Conversation,
        outlet: Outlet,
        liveness: Liveness,
        limits: Limits,
        max_attempts: int,
        tracer: Tracer = OFF,
    ) -> None:
        self._history = history
        self._registry = registry
        self._conversation = conversation
        self._outlet = outlet
        self._liveness = liveness
        self._limits = limits
        self._max_attempts = max_attempts
        self._tracer = tracer

    def calls(self, partition: Partition, state: State) -> bool:
        """Whether the next claim of the response leads to a call of its upstream, or only to its end."""
        route, attempt = partition.waiting.route(state.id), state.attempt + 1
        if route is None:
            return False
        uncalled = partition.claims.first_call(state.id, attempt)
        return self._how(state, attempt, self._registry.backend(route), uncalled=uncalled).calls

    async def work(self, job: Job) -> None:
        """Run a response to its end. Any failure ends the response; cancelling stops the run without an end.
        Raises nothing: one run must not take the others with it.
        """
        spans = self._spans(job)
        with metrics.RUNS.track_inprogress():
            try:
                if await self._work(job, spans):
                    await job.run.over.wait()
                    if not job.run.handed_over:
                        metrics.ENDED.labels(job.state.status).inc()
            except Exception:  # the response is claimed again, and ended when its attempts are used up
                log.exception("run given up", id=job.run.id)
            finally:
                spans.over(job)

    def _spans(self, job: Job) -> RunSpans:
        claimed_s = asyncio.get_running_loop().time() - job.run.sent_at
        return RunSpans(self._tracer, job, now=self._outlet.clock(), claimed_s=max(0.0, claimed_s))

    async def _work(self, job: Job, spans: RunSpans) -> bool:
        """Whether the run waits for its end now; false: its claim has lapsed, the next one goes on."""
        narrator = None
        try:
            points.at("accepted wanted", job.run)
            accepted, past = await self._logged(job)
            value = accepted_value(accepted)
            initial: dict[str, Any] = msgspec.json.decode(value.response)
            narrator = self._narrator(job, await self._scribe(job, initial, past))
            await asyncio.sleep(0)  # each of them takes up to 20 ms (`schemas.steps`)
            asked = _Asked(msgspec.json.decode(value.request), initial, past)
            await asyncio.sleep(0)
            return await self._narrate(job, narrator, asked, spans)
        except _NotInTime:
            log.warning("the log cannot be read: its response ends without what is there", id=job.run.id)
            await self._end_anyhow(job, narrator, _ENDINGS[Continuation.END_OVERDUE])
            return True
        except Exception as error:
            log.exception("run failed", id=job.run.id)
            await self._end_anyhow(job, narrator, _internal(error))
            return True

    async def _end_anyhow(self, job: Job, narrator: Narrator | None, ending: Ending) -> None:
        """End the response with its output so far; without it when that cannot be put together."""
        if narrator is not None:
            try:
                await narrator.finish(ending)
            except Exception:
                log.exception("the output so far cannot be kept", id=job.run.id)
            else:
                return
        await self._narrator(job, self._blank(job)).finish(ending)

    async def _narrate(self, job: Job, narrator: Narrator, asked: _Asked, spans: RunSpans) -> bool:
        """Whether the run waits for its end now; false: its claim has lapsed, the next one goes on."""
        run, state, claims = job.run, job.state, job.partition.claims
        try:
            backend = self._registry.resolve(asked.body)
        except UpstreamError as error:
            await narrator.finish(Ending.of(error))
            return True
        uncalled = claims.first_call(state.id, state.attempt)
        how = self._how(state, state.attempt, backend, uncalled=uncalled)
        (log.debug if state.attempt == 1 else log.info)("run", id=run.id, attempt=run.attempt, how=how.value)
        input, ending = await self._input(job, asked.body, how)
        if ending is not None:
            await narrator.finish(ending)
            if asked.past.upstream_id is not None:  # it may be going on in its own background
                await backend.stop(asked.past.upstream_id)
            return True
        resumes = how is Continuation.RESUME
        call = self._call(job, asked, spans, resumes=resumes)
        context = call.span.context
        request = RunRequest(
            run.id,
            run.tenant,
            run.attempt,
            asked.body,
            input.items,
            asked.initial,
            names=input.names,
            abandoned=lambda: run.handed_over,
            calling=partial(narrator.calling, call, begins=not backend.resumable),
            headers={TRACEPARENT: context} if context else {},
            answered=call.answered,
        )
        resume = resume_at(state, asked.past) if resumes else None
        if await narrator.narrate(backend.stream(request, resume), call, self._time_left(state)):
            return True
        if uncalled and not run.heard:
            claims.not_called(state)
        return False

    def _call(self, job: Job, asked: _Asked, spans: RunSpans, *, resumes: bool) -> UpstreamCall:
        route, given = job.partition.waiting.route(job.state.id), asked.body.get("model")
        model = given if isinstance(given, str) else ""
        clock, span = asyncio.get_running_loop().time, spans.call(route, model)
        return UpstreamCall(label_of(route), model, clock, span=span, resumes=resumes)

    async def _input(self, job: Job, body: dict[str, Any], how: Continuation) -> tuple[Said, Ending | None]:
        """The whole input to call the upstream with, or how the response ends without a call."""
        if how in _ENDINGS:
            return Said([]), _ENDINGS[how]
        partition, state = job.partition, job.state
        try:
            async with asyncio.timeout(self._time_left(state)):
                named = names_at(partition.waiting.route(state.id)) is not None
                return await self._conversation.input(partition, state.tenant, body, named), None
        except UpstreamError as error:
            return Said([]), Ending.of(error)
        except TimeoutError:
            return Said([]), _ENDINGS[Continuation.END_OVERDUE]

    def _narrator(self, job: Job, scribe: Scribe | Retelling) -> Narrator:
        return Narrator(job.run, scribe, self._outlet, job.partition.number)

    async def _scribe(self, job: Job, initial: dict[str, Any], past: Past) -> Scribe | Retelling:
        """The scribe that goes on with what counted before."""
        at_rest = self._scribe_of(job, initial, past)
        if not past.ahead:
            return at_rest
        whole = await in_turns(past.whole())
        return Retelling(past, at_rest, self._scribe_of(job, initial, whole))

    def _scribe_of(self, job: Job, initial: dict[str, Any], past: Past) -> Scribe:
        """Whose last number is that of the point of rest in `past`."""
        state = job.state
        route = job.partition.waiting.route(state.id)
        at = names_at(route)
        return Scribe(
            past.response or initial,
            origin=state.origin,
            last=state.last - past.events_ahead,
            limits=self._limits,
            mint=ours(state.id) if at else None,
            output=past.output,
            extensions=past.extensions,
            written=past.bytes,
            pass_extensions=route is not None and self._registry.backend(route).pass_extensions,
            names=past.names,
            names_at=at,
            indexes=past.indexes,
        )

    def _blank(self, job: Job) -> Scribe:
        """A scribe for a response whose own records cannot be read: poison must not strand it (A-22)."""
        state = job.state
        initial = response.initial({}, state.id, state.accepted_at // 1000, "unknown")
        last = max(state.last, job.run.posted)
        return Scribe(initial, origin=state.origin, last=last, limits=self._limits)

    def _how(self, state: State, attempt: int, backend: Backend, *, uncalled: bool) -> Continuation:
        return continuation(
            state,
            attempt=attempt,
            now=self._liveness.now,
            max_attempts=self._max_attempts,
            resumable=backend.resumable,
            repeatable=backend.repeatable,
            uncalled=uncalled,
        )

    def _time_left(self, state: State) -> float:
        return time_left(state, self._liveness.now)

    async def _logged(self, job: Job) -> tuple[bytes, Past]:
        """The value of the `accepted` that won, and what counted since. Raises LookupError when retention
        took it, _NotInTime when a place that cannot be read holds the scan up until the deadline.
        """
        try:
            async with asyncio.timeout(max(self._time_left(job.state), LATE_S)):
                return await self._accepted(job), await self._past(job)
        except TimeoutError as error:
            raise _NotInTime from error

    async def _accepted(self, job: Job) -> bytes:
        """The value of the `accepted` that won. Raises LookupError when retention took it."""
        partition, state = job.partition, job.state
        value = partition.waiting.take_value(state.id)
        return value if value is not None else await self._history.accepted(partition.number, state.offset)

    async def _past(self, job: Job) -> Past:
        """What counted before; nothing for a first attempt, since no event can have counted."""
        state = job.state
        if state.attempt == 1:
            return Past()
        return await self._history.past(job.partition.number, state.id, state.offset, state.claimed_offset)


def resume_at(state: State, past: Past) -> Resume:
    """Where the upstream goes on: at the last point of rest (P-39)."""
    counted = state.last - past.events_ahead - state.origin
    return Resume(past.upstream_id, past.cursor, counted=max(0, counted))


def _internal(error: Exception) -> Ending:
    return Ending(f"internal error: {type(error).__name__}", type="internal_error")
