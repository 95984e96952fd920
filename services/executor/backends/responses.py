"""The backend for servers that speak the Responses API: model servers and hosted agents.

    POST {base}/responses, stream → events as they come → terminal event → connection closed

Events pass through with their unknown fields. The whole conversation is sent as `input`, so the upstream
needs no store and no `previous_response_id`. If an upstream cannot stream and answers with one object, the
stream is made from that.

A *resumable* upstream is started in the background and keeps its stream. Every event here then carries the
upstream's response id and cursor. After a lost connection this backend, or after a lost executor another one,
goes on there: GET {base}/responses/{id}?stream=true&starting_after=cursor. If the stream is gone, the backend
reads the object until it is final (U-13).

Closing the stream before its end cancels the upstream's response: by a call if it is resumable, else by the
cut connection. A run that is *abandoned* (fenced, or its executor leaves) leaves its upstream running:
another executor goes on with it.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from msgspec import Struct

from schemas.events import IN_PROGRESS, TERMINAL_EVENTS, Event
from schemas.output import objects_of
from schemas.pictures import PREVIEW
from services.backoff import Backoff
from services.config import Agent, Route
from services.executor.backend import Resume, RunRequest, UpstreamError, UpstreamEvent
from services.executor.backends.endings import RUNNING, final_event, is_object, named, tells_of_an_error
from services.executor.backends.failures import UNFIT, StreamGone, UpstreamLost
from services.executor.backends.pictures import may_leave_out, number_of, type_of, usage_of
from services.executor.backends.sse_parser import ServerSentEvent, is_alive, says_nothing
from services.executor.backends.told import words_in
from services.executor.backends.upstream import Upstream
from services.executor.mending.names import is_found, names_at, recalled, restored
from services.loops import apart

REJOINS = 5
"""How often in a row a lost stream is rejoined without a new event."""
REJOIN_PAUSE, LONGEST_REJOIN_PAUSE = 0.5, 2.5
"""Seconds before a stream is rejoined; longer each time in a row."""
POLL_PAUSE = 1.0
"""Seconds between two reads of the object of a response whose stream is gone, unless the upstream says
otherwise (`openai-poll-after-ms`)."""
LONGEST_POLL_PAUSE = 30.0
UNFINISHED = "answered with an object that is not a finished response."
POLL_AFTER = "openai-poll-after-ms"
CANCEL_TIMEOUT = 5.0
"""Seconds that the cancel of an upstream's response may take."""

_ID = re.compile(r"[!-~]{1,256}")
"""Upstream ids that are kept: they go into a header of an event, and into URLs."""
_AGENTS_OWN = frozenset({"response_id", "agent_reference"})
"""Fields that hosted agents add to every item."""

Batch = Sequence[UpstreamEvent]


class Progress(Struct):
    """How far a run has come with its upstream."""

    upstream_id: str | None = None
    cursor: int | None = None
    ended: bool = False
    begun: bool = False
    joining: bool = False
    """Whether the stream was rejoined, and no new event has come since."""
    by_object: bool = False
    """Whether the stream is gone, so that the object is read."""
    left_out: bool = False
    """Whether a result, or the end, was too large, so that the response must fail at its end."""

    @property
    def rejoinable(self) -> bool:
        """Whether the stream can go on without repeating an event."""
        return self.upstream_id is not None and (self.cursor is not None or not self.begun)


class ResponsesBackend:
    """Serves one model server or agent."""

    def __init__(self, route: Route, upstream: Upstream) -> None:
        self.repeatable = route.repeatable
        self.resumable = route.resumable
        self.pass_extensions = route.extensions == "pass"
        self._is_agent = isinstance(route, Agent)
        self._drop = frozenset(route.drop)
        self._patience = route.timeout
        self._reference = (
            {"type": "agent_reference", "name": route.name} if isinstance(route, Agent) else None
        )
        self._at = names_at(route)
        self._upstream = upstream
        self._words = upstream.words

    async def stream(self, request: RunRequest, resume: Resume | None = None) -> AsyncGenerator[Batch]:
        """The upstream's events, in batches; see the module. Raises UpstreamError."""
        progress = self._progress(resume) if resume else Progress()
        try:
            async with aclosing(self._batches(request, progress)) as batches:
                async for batch in batches:
                    yield batch
        finally:
            if not progress.ended and progress.upstream_id is not None and not request.abandoned():
                await self.stop(progress.upstream_id)

    async def stop(self, upstream_id: str) -> None:
        """Cancel the upstream's response. Raises nothing: if the cancel fails, the response has ended
        meanwhile, or the upstream is away and cannot be reached.
        """
        if not self.resumable:
            return  # the cut connection cancels it
        with suppress(UpstreamError, TimeoutError):
            async with asyncio.timeout(CANCEL_TIMEOUT):
                async with self._upstream.post(f"/responses/{quote(upstream_id, safe='')}/cancel", {}):
                    pass

    async def close(self) -> None:
        """Close the upstream's session."""
        await self._upstream.close()

    def _progress(self, resume: Resume) -> Progress:
        """Where to go on with the call of an executor that is gone: at its stream, or its object. If the log
        has no id of the upstream's response, start again, if that is declared safe and no output counted
        (P-44). Raises UpstreamError otherwise.
        """
        progress = Progress(resume.upstream_id, resume.cursor, begun=resume.counted > 1)
        if progress.upstream_id is not None:
            return progress
        if self.repeatable and not progress.begun:
            return Progress()
        raise self._words.failed("was called by an executor that is gone.", type="executor_lost")

    async def _batches(self, request: RunRequest, progress: Progress) -> AsyncGenerator[Batch]:
        """Start or rejoin the stream, rejoin it as long as new events come, and read the object once the
        stream is gone (U-13).
        """
        source = self._again(request, progress) if progress.upstream_id else self._start(request, progress)
        rejoins, polled, backoff = 0, progress.by_object, Backoff(REJOIN_PAUSE, LONGEST_REJOIN_PAUSE)
        lost: UpstreamError | None = None
        while True:
            try:
                async with aclosing(source):
                    async for batch in source:
                        rejoins = 0
                        backoff.succeeded()
                        yield batch
                        if progress.ended:
                            return
                raise self._words.lost("ended its stream without a terminal event.")
            except (UpstreamLost, StreamGone) as failure:
                if not self.resumable or progress.upstream_id is None:
                    raise
                if polled:  # the object is of no use either; the stream's failure says more
                    raise lost or failure from failure
                lost = failure
                progress.by_object |= isinstance(failure, StreamGone) or rejoins == REJOINS
            rejoins += 1
            if not progress.by_object:
                await backoff.wait()
            source, polled = self._again(request, progress), progress.by_object

    async def _start(self, request: RunRequest, progress: Progress) -> AsyncGenerator[Batch]:
        body = await apart(len(request.input), lambda: self._body(request))
        async with (
            self._upstream.post("/responses", body, request) as answer,
            aclosing(self._read(answer, request, progress)) as batches,
        ):
            async for batch in batches:
                yield batch

    def _again(self, request: RunRequest, progress: Progress) -> AsyncGenerator[Batch]:
        progress.by_object |= not progress.rejoinable
        return self._poll(request, progress) if progress.by_object else self._rejoin(request, progress)

    async def _rejoin(self, request: RunRequest, progress: Progress) -> AsyncGenerator[Batch]:
        progress.joining = progress.begun
        query: dict[str, Any] = {"stream": "true"}
        if progress.cursor is not None:
            query["starting_after"] = progress.cursor
        async with (
            self._upstream.get(f"{_path(progress)}?{urlencode(query)}", request) as answer,
            aclosing(self._read(answer, request, progress)) as batches,
        ):
            async for batch in batches:
                yield batch

    async def _poll(self, request: RunRequest, progress: Progress) -> AsyncGenerator[Batch]:
        """Read the object until it is final; a later stage makes from it what was not streamed yet (U-7).

        The run's deadline bounds that. So does the route's own `timeout`, if nothing in the object changes
        for so long: a server that lost the work may show the old object for ever.
        """
        lost, pause = 0, POLL_PAUSE
        clock = asyncio.get_running_loop().time
        seen, since = b"", clock()
        while True:
            try:
                async with self._upstream.get(_path(progress), request) as answer:
                    body = await self._upstream.body(answer)
                    whole = self._object(body)
                    pause = _poll_after(answer.headers.get(POLL_AFTER), pause)
            except (UpstreamLost, StreamGone):
                lost += 1
                if lost > REJOINS:
                    raise
            else:
                lost = 0
                if (event := final_event(whole)) is not None:
                    yield [self._closed(event, request, progress)]
                    return
                self._check_runs(whole)
                seen, since = (body, clock()) if body != seen else (seen, since)
                if self._patience is not None and clock() - since > self._patience:
                    raise self._words.gone(f"did not get on for {self._patience:g} s.")
            await asyncio.sleep(pause)

    def _object(self, body: bytes) -> dict[str, Any]:
        try:
            return self._upstream.decode(body)
        except UpstreamError as error:
            raise StreamGone(error.message, type=error.type) from error

    async def _read(
        self, answer: aiohttp.ClientResponse, request: RunRequest, progress: Progress
    ) -> AsyncGenerator[Batch]:
        async with aclosing(self._upstream.events(answer, may_leave_out)) as arrivals:
            async for arrived in arrivals:
                batch, failure = self._take(arrived, request, progress)
                if batch:
                    yield batch
                if failure:
                    raise failure

    def _take(
        self, arrived: Sequence[ServerSentEvent], request: RunRequest, progress: Progress
    ) -> tuple[list[UpstreamEvent], UpstreamError | None]:
        """The events of one arrival up to the terminal or the first bad one, and the error of a bad one."""
        batch: list[UpstreamEvent] = []
        try:
            for one in arrived:
                if one.data == b"[DONE]" or progress.ended or says_nothing(one):
                    continue  # too late, or a sign of life (U-9)
                if one.left_out:
                    self._leave_out(one, progress)
                    continue
                event = self._decode(one, progress)
                if is_alive(event.get("type")):
                    continue
                batch += self._heard(event, request, progress)
        except UpstreamError as failure:
            return batch, failure
        except UNFIT:
            return batch, self._words.malformed("sent an event whose fields do not fit its type.")
        return batch, None

    def _heard(self, event: Event, request: RunRequest, progress: Progress) -> Batch:
        """The event, if it is new. Raises UpstreamError."""
        if "type" not in event:
            return self._unstreamed(event, request, progress)
        theirs = event.get("response")
        self._check_whole(event["type"], progress, theirs.get("usage") if isinstance(theirs, dict) else None)
        return [self._progressed(event, request, progress)] if self._is_new(event, progress) else []

    def _leave_out(self, one: ServerSentEvent, progress: Progress) -> None:
        """Go on without a picture that fits into no record (U-90). If it was a result and no preview, the
        response fails at its end.
        """
        type = type_of(one)
        number = number_of(one)
        progress.begun, progress.joining = True, False
        progress.cursor = progress.cursor if number is None else number
        progress.left_out = progress.left_out or type != PREVIEW
        self._check_whole(type, progress, usage_of(one))

    def _check_whole(self, type: str, progress: Progress, usage: object) -> None:
        """Raise UpstreamError at the end of a response that lacks a result. The rest of it is kept."""
        if type in TERMINAL_EVENTS and progress.left_out:
            raise self._upstream.too_large(usage=usage)

    def _decode(self, one: ServerSentEvent, progress: Progress) -> Event:
        """The event by its name in the API, or without a type if it is a response's object. Raises
        UpstreamError.
        """
        if not one.data.lstrip().startswith(b"{"):
            self._check_words(one)
        event = named(self._upstream.decode(one.data), one.event)
        type = event.get("type")
        if one.event == "error" or tells_of_an_error(event):
            raise self._words.reported(event)
        if type is None and not is_object(event):
            what = "sent an event without a type." if progress.begun else UNFINISHED
            raise self._words.malformed(what)
        self._words.redact(event)
        if type in TERMINAL_EVENTS and not isinstance(event.get("response"), dict):
            raise self._words.malformed(f"sent {type} without a response.")
        return event

    def _check_words(self, one: ServerSentEvent) -> None:
        """Raises UpstreamError if an event that is a list or a text tells of an error."""
        said, code = words_in(one.data)
        if said and (one.event == "error" or b'"error"' in one.data):
            raise self._words.reported({"error": {"message": said, "code": code}})

    def _is_new(self, event: Event, progress: Progress) -> bool:
        """Whether the event did not come before, on a stream that may be rejoined.

        Raises UpstreamError if the stream has a gap, or if its numbers do not say where to rejoin it.
        """
        number, cursor = event.get("sequence_number"), progress.cursor
        if cursor is None or not progress.begun:
            return True
        if not progress.joining:
            if self.resumable and isinstance(number, int) and number <= cursor:
                raise self._words.gone("numbered an event no higher than the one before it.")
            return True
        if not isinstance(number, int) or number > cursor + 1:
            raise self._words.gone("rejoined its stream with a gap.")
        return number > cursor

    def _progressed(self, event: Event, request: RunRequest, progress: Progress) -> UpstreamEvent:
        """Note how far `event` brings the run, and give it our ids."""
        if progress.upstream_id is None:
            progress.upstream_id = _id_of(event.get("response"))
        number = event.get("sequence_number")
        progress.cursor = number if isinstance(number, int) else None
        progress.begun, progress.joining = True, False
        progress.ended = event["type"] in TERMINAL_EVENTS
        return self._ours(event, request, progress)

    def _ours(self, event: Event, request: RunRequest, progress: Progress) -> UpstreamEvent:
        _rename(event, progress.upstream_id, request)
        if request.names:
            recalled(event, request.names, self._at)
        if self.resumable and progress.upstream_id is not None:
            return UpstreamEvent(event, progress.upstream_id, progress.cursor)
        return UpstreamEvent(event)

    def _unstreamed(self, whole: dict[str, Any], request: RunRequest, progress: Progress) -> Batch:
        """The event that the object of a response stands for: its end, from which a later stage makes all
        events before it (U-7); or, of a resumable upstream, that it runs, and must be polled (U-13).
        """
        if (event := final_event(whole)) is not None:
            return [self._closed(event, request, progress)]
        self._check_runs(whole)
        if not self.resumable or progress.begun or progress.upstream_id is not None:
            raise self._words.gone(UNFINISHED)
        progress.upstream_id, progress.by_object = _id_of(whole), True
        return [self._ours({"type": IN_PROGRESS, "response": whole}, request, progress)]

    def _closed(self, event: Event, request: RunRequest, progress: Progress) -> UpstreamEvent:
        self._words.redact(event)
        if progress.upstream_id is None:
            progress.upstream_id = _id_of(event["response"])
        progress.begun = progress.ended = True
        return self._ours(event, request, progress)

    def _check_runs(self, whole: dict[str, Any]) -> None:
        """Raises UpstreamError unless the object is that of a running response."""
        if whole.get("error"):
            raise self._words.reported(whole)
        if not is_object(whole) or whole.get("status") not in RUNNING:
            raise self._words.malformed(UNFINISHED)

    def _body(self, request: RunRequest) -> dict[str, Any]:
        """The client's body with the whole input, so that it needs no predecessor. It is stored only to be
        rejoined.
        """
        body = request.body | {"input": self._input(request), "stream": True, "store": self.resumable}
        for ours in ("previous_response_id", "background", "background_options"):
            body.pop(ours, None)
        if self.resumable:
            body["background"] = True
        if self._reference is None:
            body.pop("agent_reference", None)
        elif body.get("agent_reference") is None:
            body["agent_reference"] = self._reference  # the client named the agent as its model
        return {name: value for name, value in body.items() if name not in self._drop}

    def _input(self, request: RunRequest) -> list[dict[str, Any]]:
        """The whole input, with items under the names that the upstream gave them.

        Model servers refuse the fields that hosted agents add to items. A server that stores nothing does not
        find its former thoughts by their ids, and refuses a request with them: thoughts without content are
        left out.
        """
        said = restored(request.input, request.names, self._at)
        if self._is_agent:
            return said
        said = [item for item in said if not _is_bare_thought(item) or (self.resumable and is_found(item))]
        return [{name: value for name, value in item.items() if name not in _AGENTS_OWN} for item in said]


def _is_bare_thought(item: dict[str, Any]) -> bool:
    carries = item.get("encrypted_content") or item.get("content")
    return item.get("type") == "reasoning" and not carries


def _path(progress: Progress) -> str:
    return f"/responses/{quote(str(progress.upstream_id), safe='')}"


def _poll_after(said: str | None, pause: float) -> float:
    """Seconds until the next read: `said` is the upstream's header, in ms; `pause` holds without it."""
    if said is not None and said.isascii() and said.isdigit() and len(said) < 10:
        return min(max(int(said) / 1000, POLL_PAUSE / 10), LONGEST_POLL_PAUSE)
    return pause


def _id_of(response: object) -> str | None:
    id = response.get("id") if isinstance(response, dict) else None
    return id if isinstance(id, str) and _ID.fullmatch(id) else None


def _rename(event: Event, upstream_id: str | None, request: RunRequest) -> None:
    """Put our id in `response_id`, where hosted agents repeat the response's id, in items too."""
    for key in ("item", "response"):
        carrier = event.get(key)
        if isinstance(carrier, dict) and upstream_id is not None:
            _rename_in(carrier, upstream_id, request)
            for item in objects_of(carrier.get("output")):
                _rename_in(item, upstream_id, request)


def _rename_in(carrier: dict[str, Any], upstream_id: str, request: RunRequest) -> None:
    if carrier.get("response_id") == upstream_id:
        carrier["response_id"] = request.id
