"""From Chat Completions chunks to the events of the Responses API. Pure: chunks in, events out.

    reasoning_content → a reasoning item      content, refusal → a message item and its parts
    tool_calls[i]     → a function_call item each, side by side; function_call, their forerunner, is one
    finish_reason, usage → the terminal event, made when the stream is over (`end`)

One of reasoning and message is open at a time; when something else begins, it is done. Function calls stay
open to the end, for their pieces may come interleaved. A `length` or `content_filter` finish leaves what is
open then `incomplete`. What is said in a form that no event has (sound, images) is refused, never left out.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from schemas.events import Event
from schemas.ids import ResponseId, item_id
from services.executor.backends.compose import Item, text_part

Chunk = dict[str, Any]
"""A decoded `chat.completion.chunk`."""

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_BROKEN = frozenset({"error", "abort"})
"""Finish reasons by which servers admit that they did not finish."""
_TEXTS = ("text", "output_text")
_BESIDE = ("reference", "redacted_thinking")
"""Parts that say nothing themselves: where the words beside them are from, thoughts that nobody may read."""
_UNSAID = "sent content that is neither text, a refusal nor thoughts."


class MalformedChunkError(Exception):
    """A chunk is not what Chat Completions says: the text begins with a verb, the server is its subject."""


class _Open:
    """An output item under way."""

    def __init__(self, prefix: str, response: ResponseId, index: int) -> None:
        self.place = Item(index, item_id(prefix, response, index))

    def begin(self) -> Iterator[Event]:
        """The event that adds it."""
        yield self.place.added(self.item("in_progress"))

    def end(self, status: str) -> Iterator[Event]:
        """The events that it is done with `status`."""
        yield self.place.done(self.item(status))

    def item(self, status: str) -> dict[str, Any]:
        """The item as far as it has come."""
        raise NotImplementedError


class _Parts(_Open):
    """An item of content parts: a message, or reasoning."""

    def __init__(self, prefix: str, response: ResponseId, index: int) -> None:
        super().__init__(prefix, response, index)
        self._parts: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        self._logprobs: list[Any] = []

    def add(self, kind: str, delta: str, logprobs: list[Any]) -> Iterator[Event]:
        """More of a part of type `kind`; a new part when the last one is of another type."""
        if not self._parts or self._parts[-1]["type"] != kind:
            yield from self._end_part()
            self._parts.append(_empty_part(kind))
            yield self.place.part_added(len(self._parts) - 1, _empty_part(kind))
        self._pieces.append(delta)
        self._logprobs += logprobs
        more = {"logprobs": logprobs} if kind == "output_text" else {}
        yield self.place.delta(kind, len(self._parts) - 1, delta, **more)

    def end(self, status: str) -> Iterator[Event]:
        yield from self._end_part()
        yield from super().end(status)

    def _end_part(self) -> Iterator[Event]:
        if self._parts:
            part = self._parts[-1]
            part["refusal" if part["type"] == "refusal" else "text"] = "".join(self._pieces)
            if part["type"] == "output_text":
                part["logprobs"] = self._logprobs
            self._pieces, self._logprobs = [], []
            yield from self.place.part_events(len(self._parts) - 1, dict(part))


class _Message(_Parts):
    def __init__(self, response: ResponseId, index: int) -> None:
        super().__init__("msg", response, index)

    def item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else self._parts
        return {
            "id": self.place.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


class _Reasoning(_Parts):
    def __init__(self, response: ResponseId, index: int) -> None:
        super().__init__("rs", response, index)

    def item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else self._parts
        return {
            "id": self.place.id,
            "type": "reasoning",
            "status": status,
            "summary": [],
            "content": content,
        }


class _Call(_Open):
    """A function call. Its name must have come before it can be added."""

    def __init__(self, response: ResponseId, index: int, call_id: str, name: str) -> None:
        super().__init__("fc", response, index)
        self.call_id = call_id or item_id("call", response, index)
        self._name = name
        self._pieces: list[str] = []

    def add(self, delta: str) -> Iterator[Event]:
        """More of the arguments."""
        if delta:
            self._pieces.append(delta)
            yield self.place.arguments_delta(delta)

    def end(self, status: str) -> Iterator[Event]:
        if not self._pieces and status == "completed":
            yield from self.add("{}")  # No arguments, as JSON: clients decode the string.
        yield self.place.arguments_done(self._name, "".join(self._pieces))
        yield from super().end(status)

    def item(self, status: str) -> dict[str, Any]:
        return {
            "id": self.place.id,
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self._name,
            "arguments": "".join(self._pieces),
        }


class ChatTranslator:
    """Translates one stream. `response` is the id that item ids are derived from."""

    def __init__(self, response: ResponseId) -> None:
        self._response = response
        self._items: list[_Open] = []
        self._open: _Parts | None = None
        self._calls: dict[int, _Call] = {}
        self._usage: dict[str, Any] | None = None
        self._model: str | None = None
        self._finish: str | None = None

    @property
    def finished(self) -> bool:
        """Whether the server has said why it stopped; only then the stream may end."""
        return self._finish is not None

    def chunk(self, chunk: Chunk) -> list[Event]:
        """The events of one chunk. Raises MalformedChunkError."""
        usage, model = chunk.get("usage"), chunk.get("model")
        if isinstance(usage, dict):
            self._usage = usage
        if isinstance(model, str) and model:
            self._model = model
        choices = chunk.get("choices")
        if choices is None and ("choices" in chunk or isinstance(usage, dict)):
            return []
        if not isinstance(choices, list):
            raise MalformedChunkError("sent a chunk without choices.")
        try:
            return [event for choice in choices for event in self._choice(choice)]
        except Exception:
            self._finish = None  # what a bad choice began is never told, and would be in the end's output
            raise

    def end(self) -> list[Event]:
        """The events that close what is open, and the terminal event. Only when `finished`."""
        reason = _INCOMPLETE.get(self._finish or "")
        status = "incomplete" if reason else "completed"
        events = [*self._close_open(status)]
        for call in self._calls.values():
            events += call.end(status)
        output = [item.item(self._status(item, status)) for item in self._items]
        final = {
            "status": status,
            "model": self._model,
            "output": output,
            "usage": _usage(self._usage),
            "incomplete_details": {"reason": reason} if reason else None,
        }
        return [*events, {"type": f"response.{status}", "response": final}]

    def _status(self, item: _Open, status: str) -> str:
        """Only what the finish found open is cut short by it."""
        return status if item is self._open or isinstance(item, _Call) else "completed"

    def _choice(self, choice: Any) -> Iterator[Event]:
        if not isinstance(choice, dict):
            raise MalformedChunkError("sent a choice that is not an object.")
        if choice.get("index"):
            return  # an alternative to the first one
        delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        if not isinstance(delta, dict):
            raise MalformedChunkError("sent a chunk whose delta is not an object.")
        yield from self._delta(delta, _logprobs(choice))
        finish = choice.get("finish_reason")
        if not isinstance(finish, str | None):
            raise MalformedChunkError("sent a finish_reason that is not a string.")
        if finish in _BROKEN:
            raise MalformedChunkError(f"broke the generation off ({finish}).")
        if finish:
            self._finish = finish

    def _delta(self, delta: dict[str, Any], logprobs: list[Any]) -> Iterator[Event]:
        if delta.get("audio") or delta.get("images"):
            raise MalformedChunkError(_UNSAID)
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        for kind, said in (
            ("reasoning_text", thought),
            ("output_text", delta.get("content")),
            ("refusal", delta.get("refusal")),
        ):
            for part, text in _parts_of(said, kind) if said else ():
                yield from self._say(part, text, logprobs if part == "output_text" else [])
                logprobs = [] if part == "output_text" else logprobs
        calls = delta.get("tool_calls") or _forerunner(delta.get("function_call"))
        if not isinstance(calls, list):
            raise MalformedChunkError("sent tool_calls that are not a list.")
        for number, call in enumerate(calls):
            yield from self._call(number, call)

    def _say(self, part: str, text: str, logprobs: list[Any]) -> Iterator[Event]:
        kind: type[_Message] | type[_Reasoning] = _Reasoning if part == "reasoning_text" else _Message
        item = self._open
        if not isinstance(item, kind):
            yield from self._close_open("completed")
            item = kind(self._response, len(self._items))
            self._open = item
            self._items.append(item)
            yield from item.begin()
        yield from item.add(part, text, logprobs)

    def _call(self, number: int, piece: Any) -> Iterator[Event]:
        function = piece.get("function") if isinstance(piece, dict) else None
        if not isinstance(function, dict):
            raise MalformedChunkError("sent a tool call that is not a function's.")
        slot, name, call_id = self._slot(number, piece), function.get("name"), piece.get("id")
        call = self._calls.get(slot)
        if call is None:
            if not isinstance(name, str) or not name:
                raise MalformedChunkError("sent a tool call without a name.")
            yield from self._close_open("completed")
            given = call_id if isinstance(call_id, str) else ""
            call = _Call(self._response, len(self._items), given, name)
            self._calls[slot] = call
            self._items.append(call)
            yield from call.begin()
        yield from call.add(_arguments(function.get("arguments")))

    def _slot(self, number: int, piece: dict[str, Any]) -> int:
        """Where a call's pieces meet: its index, unless a server leaves it out or gives it to two calls."""
        index, call_id = piece.get("index"), piece.get("id")
        if not isinstance(index, int) and not call_id and self._calls:
            return max(self._calls)
        slot = index if isinstance(index, int) else number
        known = self._calls.get(slot)
        if known and call_id and call_id != known.call_id:
            return next(
                (at for at, call in self._calls.items() if call.call_id == call_id), max(self._calls) + 1
            )
        return slot

    def _close_open(self, status: str) -> Iterator[Event]:
        if self._open:
            yield from self._open.end(status)
            if status == "completed":
                self._open = None


def _empty_part(kind: str) -> dict[str, Any]:
    match kind:
        case "output_text":
            return text_part("")
        case "refusal":
            return {"type": "refusal", "refusal": ""}
        case _:
            return {"type": kind, "text": ""}


def _parts_of(said: Any, kind: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each part of the Responses API that a field stands for: one of `kind` where it is
    text; some servers send a list, of refusals and thoughts too. Raises MalformedChunkError.
    """
    match said:
        case None | "":
            pass
        case str():
            yield kind, said
        case list():
            for part in said:
                yield from _parts_of(part, kind)
        case {"type": "refusal", "refusal": refused}:
            yield from _parts_of(refused, "refusal")
        case {"type": "thinking", "thinking": thought}:
            yield from _parts_of(thought, "reasoning_text")
        case {"text": text} if kind == "reasoning_text" or said.get("type", "text") in _TEXTS:
            yield from _parts_of(text, kind)
        case {"type": type} if type in _BESIDE:
            pass
        case _:
            raise MalformedChunkError(_UNSAID)


def _forerunner(function: Any) -> list[Any]:
    """The tool calls that a `function_call` stands for: one, which takes no other's place."""
    return [{"index": -1, "function": function}] if function else []


def _arguments(given: Any) -> str:
    """A piece of the arguments' JSON; some servers send the object that it stands for, whole."""
    match given:
        case None:
            return ""
        case str():
            return given
        case dict():
            return msgspec.json.encode(given).decode()
    raise MalformedChunkError("sent a tool call whose arguments are neither a string nor an object.")


def _logprobs(choice: Chunk) -> list[Any]:
    """The tokens' log probabilities, with every field that the Responses API requires."""
    logprobs = choice.get("logprobs") or {}
    given = (logprobs.get("content") or []) if isinstance(logprobs, dict) else None
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise MalformedChunkError("sent logprobs that are not an object with a list of objects.")
    return [{"bytes": [], "top_logprobs": [], **_present(entry)} for entry in given]


def _present(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _usage(usage: dict[str, Any] | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    read, wrote = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": _count(prompt, "cached_tokens"),
            "cache_write_tokens": _count(prompt, "cache_write_tokens"),
        },
        "output_tokens": wrote,
        "output_tokens_details": {"reasoning_tokens": _count(completion, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or read + wrote,
    }


def _count(counts: Any, key: str) -> int:
    value = counts.get(key) if isinstance(counts, dict) else None
    return value if type(value) is int else 0
