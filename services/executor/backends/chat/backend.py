"""The backend for servers that speak Chat Completions: vLLM, llama.cpp, Ollama, LiteLLM, …

    POST {base}/chat/completions, stream → chunks → `ChatTranslator` → events

`request` and `translate` do the translation, which is pure; this module makes the call. Such a server keeps
nothing, so a run cannot be resumed. Closing the connection cancels it.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from urllib.parse import urlsplit

from schemas.events import Event
from schemas.output import objects_of
from services.config import Model
from services.executor.backend import Resume, RunRequest, UpstreamError, UpstreamEvent
from services.executor.backends.chat.request import Dialect, chat_body, toolbox
from services.executor.backends.chat.tools import Object, Toolbox, UntranslatableError
from services.executor.backends.chat.translate import ChatTranslator, Chunk, MalformedChunkError
from services.executor.backends.failures import UNFIT
from services.executor.backends.sse_parser import ServerSentEvent, is_whole_object, says_nothing
from services.executor.backends.told import refuses, words_in
from services.executor.backends.upstream import Upstream

_OPENAI_HOSTS = (".openai.com", ".azure.com")


class ChatBackend:
    """Serves one model server."""

    resumable = False

    def __init__(self, model: Model, upstream: Upstream) -> None:
        self.repeatable = model.repeatable
        self.pass_extensions = model.extensions == "pass"
        is_openai = (urlsplit(model.base_url).hostname or "").endswith(_OPENAI_HOSTS)
        self._dialect = Dialect(is_openai, model.give_back, model.drop)
        self._vendor_tools = model.vendor_tools
        self._upstream = upstream
        self._words = upstream.words

    async def stream(
        self, request: RunRequest, resume: Resume | None = None
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        """The translated events, in batches; see the module. Raises UpstreamError."""
        if resume:
            raise self._words.failed(
                "cannot resume a call of an executor that is gone.", type="executor_lost"
            )
        tools, body = await asyncio.to_thread(self._asked, request)  # in a thread: a conversation may be long
        translator = ChatTranslator(request.id, tools, self._dialect.give_back)
        failure: UpstreamError = self._words.lost("ended its stream without a finish reason.")
        try:
            async with aclosing(self._batches(request, body, translator)) as batches:
                async for batch in batches:
                    yield batch
        except UpstreamError as error:
            failure = error
        if rest := translator.flush():  # the events before a failure are kept
            yield _batch(rest)
        # With the finish reason the answer is whole: a failure of the connection after that does not matter.
        if not translator.finished:
            raise failure
        if translator.failure:
            raise self._words.malformed(translator.failure)
        yield _batch(translator.end())

    async def stop(self, upstream_id: str) -> None:
        """Do nothing: such a server runs nothing without a connection."""

    async def close(self) -> None:
        """Close the upstream's session."""
        await self._upstream.close()

    async def _batches(
        self, request: RunRequest, body: Object, translator: ChatTranslator
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        async with (
            self._upstream.post("/chat/completions", body, request) as answer,
            aclosing(self._upstream.events(answer)) as arrivals,
        ):
            async for arrived in arrivals:
                events, failure, done = self._take(arrived, translator)
                if events:
                    yield _batch(events)
                if failure:
                    raise failure
                if done:
                    return

    def _asked(self, request: RunRequest) -> tuple[Toolbox, Object]:
        """The request's tools, and the body that asks the server. Raises UpstreamError."""
        try:
            tools = toolbox(request.body, request.input, self._vendor_tools)
            return tools, chat_body(request.body, request.input, tools, self._dialect)
        except UntranslatableError as error:
            what = f"speaks Chat Completions, which has no {error}."
            raise self._words.failed(what, type="unsupported") from error
        except UNFIT as error:
            what = "was not asked: a field of the request or of an item is not of the Responses API's type."
            raise self._words.failed(what, type="unsupported") from error

    def _take(
        self, arrived: Sequence[ServerSentEvent], translator: ChatTranslator
    ) -> tuple[list[Event], UpstreamError | None, bool]:
        """The events up to the first bad chunk, the error of that, and whether the stream is over."""
        events: list[Event] = []
        try:
            for one in arrived:
                if one.data.strip(b'" ') == b"[DONE]":
                    events += translator.over()
                    return events, None, True
                for chunk in self._decode(one):
                    events += translator.chunk(chunk)
        except MalformedChunkError as error:
            return events, self._words.malformed(str(error)), False
        except UpstreamError as failure:
            return events, failure, False
        except UNFIT:
            return events, self._words.malformed("sent a chunk whose fields do not fit."), False
        return events, None, False

    def _decode(self, one: ServerSentEvent) -> list[Chunk]:
        """The chunks in an event: one, none in a sign of life (U-56), or several in a list of errors.

        Raises UpstreamError if the event tells of an error.
        """
        if one.event == "error" and not is_whole_object(one.data):
            said, code = words_in(one.data)
            raise self._words.reported({"error": {"message": said, "code": code}})
        if says_nothing(one):
            chunks = []
        elif one.data.lstrip().startswith(b"["):
            chunks = objects_of(self._upstream.decode(b'{"chunks":%b}' % one.data)["chunks"])
        else:
            chunks = [self._upstream.decode(one.data)]
        for chunk in chunks:
            if (told := _error_in(chunk)) is not None:
                raise self._words.reported(told)
        if one.event == "error":
            raise self._words.reported(chunks[0] if chunks else {})
        return chunks


def _error_in(chunk: Chunk) -> Chunk | None:
    """The error in a chunk, which may be the chunk itself, in a choice, or in a list (U-57); None without."""
    if chunk.get("error") or "error" in (chunk.get("type"), chunk.get("object"), chunk.get("status")):
        return chunk
    choices, errors = objects_of(chunk.get("choices")), chunk.get("errors")
    if errors and not choices:
        return {"error": errors[0] if isinstance(errors, list) else errors}
    if not choices and (chunk.get("detail") or refuses(chunk)):
        return chunk
    return next((choice for choice in choices if choice.get("error")), None)


def _batch(events: Sequence[Event]) -> list[UpstreamEvent]:
    return [UpstreamEvent(event) for event in events]
