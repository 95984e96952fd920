"""The built-in backend: streams the words of the last user input back.

For development, tests and benchmarks. Its events are a function of the request alone, so a run can go on at
any event, byte for byte as if nothing had happened (`Resume.counted`). `EchoScript` is that function;
`ScriptedBackend` adds the pauses. A run may have a million events: a delta costs one dict and one tuple
(0.4 µs), and nothing is kept per event. The text may be a conversation of 64 MiB, so it is never split in one
go (`words`).
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from schemas.errors import ApiError
from schemas.events import Event
from schemas.ids import item_id
from schemas.steps import Steps
from services.echo import EchoSteering, steering
from services.executor.backend import Resume, RunRequest, UpstreamError, UpstreamEvent
from services.executor.backends.words import Words, counting_words, splitting
from services.loops import in_turns, wake

BATCH = 256
"""Events per batch when no pause is asked for."""
BATCH_CHARACTERS = 1 << 20
"""Characters of words per batch, unless one word has more: the executor encodes a batch in one go."""


class EchoScript:
    """The event sequence of one echo run, which can start at any event."""

    def __init__(self, request: RunRequest, asked: EchoSteering, words: Words, input_words: int) -> None:
        self._response = request.response
        self._input_words = input_words
        self._words = words
        self._count = words.count if asked.tokens is None or not words.count else asked.tokens
        self._fail_after = asked.fail_after
        self._item_id = item_id("msg", request.id, 0)
        self._at = {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    @property
    def batch(self) -> int:
        """Events per batch when no pause is asked for."""
        return min(BATCH, 1 + BATCH_CHARACTERS // (self._words.longest + 1))

    def events(self, start: int = 0) -> Iterator[Event]:
        """The events from number `start` on (0 is `response.in_progress`).

        Raises UpstreamError at the failure that the request asks for.
        """
        opening = self._opening()
        yield from opening[start:]
        words = max(start - len(opening), 0)
        yield from self._deltas(words)
        yield from islice(self._closing(), max(start - len(opening) - self._count, 0), None)

    def _opening(self) -> list[Event]:
        item = self._item("in_progress", [])
        return [
            {"type": "response.in_progress", "response": self._response | {"status": "in_progress"}},
            {"type": "response.output_item.added", "output_index": 0, "item": item},
            {"type": "response.content_part.added", **self._at, "part": _part("")},
        ]

    def _deltas(self, start: int) -> Iterator[Event]:
        fails = self._fail_after is not None and self._fail_after < self._count
        end = self._fail_after if fails and self._fail_after is not None else self._count
        delta = {"type": "response.output_text.delta", **self._at, "delta": "", "logprobs": []}
        for word in islice(self._words.round(start), max(min(end, self._count - 1) - start, 0)):
            yield {**delta, "delta": word}
        if fails:
            raise UpstreamError(f"Model echo failed after {end} words, as echo.fail_after asked.")
        if start < self._count:
            yield {**delta, "delta": next(self._words.round(self._count - 1))[:-1]}

    def _closing(self) -> Iterator[Event]:
        text = self._words.text(self._count)
        item = self._item("completed", [_part(text)])
        yield {"type": "response.output_text.done", **self._at, "text": text, "logprobs": []}
        yield {"type": "response.content_part.done", **self._at, "part": _part(text)}
        yield {"type": "response.output_item.done", "output_index": 0, "item": item}
        final = {"status": "completed", "output": [item], "usage": self._usage()}
        yield {"type": "response.completed", "response": self._response | final}

    def _item(self, status: str, content: list[Any]) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def _usage(self) -> dict[str, Any]:
        return {
            "input_tokens": self._input_words,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self._input_words + self._count,
        }


def scripting(request: RunRequest, asked: EchoSteering) -> Steps[EchoScript]:
    """The script of a run, made in steps because its input may be long."""
    input_words = yield from counting_words(_texts(request.input))
    words = yield from splitting(last_user_text(request.input))
    return EchoScript(request, asked, words, input_words)


class ScriptedBackend:
    """Serves model `echo`."""

    repeatable = True
    resumable = True
    pass_extensions = False

    async def stream(
        self, request: RunRequest, resume: Resume | None = None
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        """The batches of the run, from event `resume.counted` on. Raises UpstreamError when asked to fail."""
        try:
            asked = steering(request.body)
        except ApiError as error:
            raise UpstreamError(error.message, type="invalid_request") from error
        request.calling()
        script = await in_turns(scripting(request, asked))
        events = script.events(resume.counted if resume else 0)
        size = 1 if asked.interval_ms else script.batch
        pause = pausing(asked.interval_ms / 1000) if asked.interval_ms else None
        for batch in _batches(events, size):
            if pause is not None and batch[0].event["type"] == "response.output_text.delta":
                await pause()
            if asked.stamp:
                _stamp(batch)
            yield batch

    async def stop(self, upstream_id: str) -> None:
        """Do nothing: this upstream runs only within a run."""

    async def close(self) -> None:
        """Do nothing: no connection is kept."""


def pausing(seconds: float) -> Callable[[], asyncio.Future[None]]:
    """Makes futures that are done after a pause, without the system call that `asyncio.sleep` makes on
    Python 3.11.
    """
    loop = asyncio.get_running_loop()

    def pause() -> asyncio.Future[None]:
        future = loop.create_future()
        loop.call_later(seconds, wake, future)
        return future

    return pause


def last_user_text(input: Sequence[dict[str, Any]]) -> str:
    """The text of the user's last item in `input` (Responses input items), or "" without one."""
    said = [item for item in input if item.get("role") == "user"]
    return " ".join(_texts(said[-1:]))


def _texts(items: Iterable[dict[str, Any]]) -> Iterator[str]:
    for item in items:
        content = item.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            yield from (part["text"] for part in content if isinstance(part.get("text"), str))


def _batches(events: Iterator[Event], size: int) -> Iterator[list[UpstreamEvent]]:
    """`events` in batches of `size`. Events before a failure are yielded before it is raised."""
    while True:
        batch: list[UpstreamEvent] = []
        try:
            batch.extend(map(_upstream, islice(events, size)))
        except UpstreamError:
            if batch:
                yield batch
            raise
        if not batch:
            return
        yield batch


def _stamp(batch: Sequence[UpstreamEvent]) -> None:
    now = time.time_ns()
    for upstream in batch:
        upstream.event["stamp"] = now


_NO_CURSOR = (None, None)


def _upstream(event: Event) -> UpstreamEvent:
    """`UpstreamEvent(event)` at a third of the price: the class's own `__new__` is Python code."""
    return tuple.__new__(UpstreamEvent, (event, *_NO_CURSOR))


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
