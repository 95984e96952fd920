"""Makes the Responses API's events of Chat Completions chunks. Pure: chunks in, events out.

    thoughts (`reading`) → a reasoning item      content, refusal → a message item and its parts
    tool_calls (`calls`) → an item each, side by side; function_call, their forerunner, is one
    annotations and sources (`citations`) → annotations of the text
    finish_reason (`finish`), usage (`usage`) → the terminal event, when the stream is over (`end`)

`delta` is a piece and `message` is the whole text so far; a repeated text is told once (`repeats`). One of
reasoning and message is open at a time, and ends when another item begins. Calls stay open to the end:
their pieces may come interleaved. A cut leaves the open items `incomplete`. Content that no event can carry
(sound, images) is refused, never left out.
"""

from collections.abc import Collection, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

from schemas.events import Event
from schemas.ids import ResponseId
from services.config import SIGNATURES
from services.executor.backends.chat.calls import Call, Calls, CallStep
from services.executor.backends.chat.citations import Citations
from services.executor.backends.chat.finish import INCOMPLETE, Finish, verdict
from services.executor.backends.chat.items import THOUGHTS
from services.executor.backends.chat.output import Message, OutputItem, Reasoning, TextItem, ToolCall
from services.executor.backends.chat.pieces import MalformedCallError
from services.executor.backends.chat.reading import (
    END_TAG,
    KEPT,
    TAG,
    UNSAID,
    Thoughts,
    UnsaidError,
    parts_of,
    thoughts_of,
    usual_text,
)
from services.executor.backends.chat.repeats import Repeats
from services.executor.backends.chat.tools import Toolbox
from services.executor.backends.chat.turns import CallTurns, is_over
from services.executor.backends.chat.usage import Usage
from services.executor.mending.surrogates import Seam, whole

Chunk = dict[str, Any]
"""A decoded `chat.completion.chunk`."""

_KINDS = ("reasoning_text", "output_text", "refusal")
_LONGEST_WORD = 100
"""How many characters of a finish reason are told."""
MAX_CHOICES = 1000
"""Most choices in one chunk. Servers have bounds of about 100. One choice is told; each takes 5 µs."""
_SPEAKS = ("delta", "message", "content", "text", "response", "output", "tool_calls")
"""Fields that show that a chunk without choices has content of another protocol."""


class MalformedChunkError(Exception):
    """A chunk breaks the protocol. The message begins with a verb; the server is its subject."""


class _Text:
    """One kind of text of the stream: whole characters, each told once."""

    def __init__(self) -> None:
        self.repeats = Repeats()
        self.seam = Seam()
        self.logprobs: list[Any] = []
        """The log probabilities of the text that waits."""

    def flush(self, over: bool) -> str:
        """The text that waits. Half a character waits for its other half, unless the stream is `over`."""
        text = self.repeats.flush()
        return text + self.repeats.piece(self.seam.end()) + self.repeats.flush() if over else text


class ChatTranslator:
    """Translates one stream. Item ids are derived from the id `response`. `tools` are the request's.
    `give_back` names fields that the server wants back with its items (U-58).
    """

    def __init__(
        self, response: ResponseId, tools: Toolbox | None = None, give_back: Collection[str] = SIGNATURES
    ) -> None:
        self._response = response
        self._tools = tools or Toolbox(())
        self._items: list[OutputItem] = []
        self._open: TextItem | None = None
        self._texts = {kind: _Text() for kind in _KINDS}
        self._thoughts = Thoughts()
        self._in_tag = False
        """Whether thoughts began with a tag, and the end tag has not come."""
        self._citations = Citations()
        self._extras: dict[str, Any] = {}
        """Fields that the server wants back with the next message."""
        self._keep = frozenset(give_back) - {*THOUGHTS, *KEPT}
        self._calls = Calls([function["function"]["name"] for function in self._tools.functions], self._keep)
        self._turns = CallTurns()
        self._begun: dict[Call, ToolCall] = {}
        self._usage = Usage()
        self._model: str | None = None
        self._streamed = False
        """Whether a delta had content: then a message repeats it."""
        self._verdict: Finish | None = None
        self._word = ""
        """The finish reason of the verdict."""
        self._is_over = False
        self._bad = ""
        """What is bad about the calls, as only the end shows."""
        self._spoken = "output_text"
        """The kind of text that came last: no text of another kind waits."""
        self._index: int | None = None
        """The index of the choice that is told."""
        self._others: list[Any] = []
        """The pieces of another choice, kept while the server may be one that counts from 1."""
        self._is_spoilt = False
        """Whether events of a chunk were dropped because the rest of the chunk is bad."""

    @property
    def finished(self) -> bool:
        """Whether the server has said that, and how, it is done: only then the stream may end."""
        return self._verdict is not None or (self._is_over and bool(self._items or self._calls.any))

    @property
    def failure(self) -> str:
        """Why the finished stream is no answer, as a text that begins with a verb; "" if it is one."""
        match self._verdict:
            case Finish.BROKEN:
                return f"broke the generation off ({self._word})."
            case Finish.UNKNOWN:
                return f"stopped for a reason that is not known as success ({self._word})."
        return self._bad

    def chunk(self, chunk: Chunk) -> list[Event]:
        """The events of one chunk. Raises MalformedChunkError."""
        events = self._further(chunk)
        return self._chunk(chunk) if events is None else events

    def _further(self, chunk: Chunk) -> list[Event] | None:
        """The hot path: the events of a chunk that is only more of the open text; None of any other chunk."""
        item, held = self._open, self._texts["output_text"]
        if not isinstance(item, Message) or not item.has_text or self._spoken != "output_text":
            return None
        if self._index != 0 or self._in_tag or held.logprobs or self._citations.wait:
            return None
        text = usual_text(chunk, self._keep)
        if text is None:
            return None
        model = chunk.get("model")
        if isinstance(model, str) and model:
            self._model = model
        self._streamed = True
        new = held.repeats.piece(held.seam.add(text))
        return [item.more(new)] if new else []

    def _chunk(self, chunk: Chunk) -> list[Event]:
        counted, model = self._usage.take(chunk), chunk.get("model")
        if isinstance(model, str) and model:
            self._model = model
        choices = chunk.get("choices")
        if choices is None and (counted or "choices" in chunk or not any(map(chunk.get, _SPEAKS))):
            return []  # usage, or a sign of life
        if not isinstance(choices, list):
            raise MalformedChunkError("sent a chunk without choices.")
        if len(choices) > MAX_CHOICES:
            raise MalformedChunkError(f"sent a chunk of more than {MAX_CHOICES} choices.")
        self._citations.take(chunk)
        return self._all(choices)

    def over(self) -> list[Event]:
        """Note that the server says that the stream is over (U-48). Returns what waited for that.

        Raises MalformedChunkError.
        """
        self._is_over = True
        others, self._others = self._others, []
        self._index = others[0]["index"] if others else self._index
        return self._all(others)

    def _all(self, choices: Iterable[Any]) -> list[Event]:
        try:
            return [
                event for choice in choices for one in self._chosen(choice) for event in self._choice(one)
            ]
        except Exception as error:
            self._verdict, self._is_spoilt = None, True
            if isinstance(error, UnsaidError | MalformedCallError):
                raise MalformedChunkError(str(error)) from error
            raise

    def flush(self) -> list[Event]:
        """The events of all that waits: no chunk comes any more."""
        if self._is_spoilt:
            return []
        events = [event for kind in _KINDS for event in self._release(kind, over=True)]
        steps, self._bad = self._calls.end(cut=self._verdict is not Finish.DONE and not self._is_over)
        events += self._told(self._turns.take(steps))
        return [*events, *self._told(self._turns.end())]

    def end(self) -> list[Event]:
        """The events that close the open items, and the terminal event. Call it only when `finished`.

        Raises MalformedChunkError if there is a `failure`.
        """
        events = self.flush()
        if self.failure:
            raise MalformedChunkError(self.failure)
        reason = INCOMPLETE.get(self._verdict) if self._verdict else self._doubt()
        status = "incomplete" if reason else "completed"
        events += self._close_open(status)
        events += self._unheard("completed")
        for call in self._begun.values():
            events += call.end(status)
        output = [item.item(self._status(item, status)) for item in self._items]
        final = {
            "status": status,
            "model": self._model,
            "output": output,
            "usage": self._usage.told(),
            "incomplete_details": {"reason": reason} if reason else None,
        }
        return [*events, {"type": f"response.{status}", "response": final}]

    def _doubt(self) -> str | None:
        """Why the answer is not whole although the finish reason does not say so; None if it is whole. Half a
        call shows a cut, which a bound must have made. A text shows nothing: the server is believed (U-48).
        """
        doubtful = not self._calls.are_whole if self._verdict is None else self._calls.are_cut
        return "max_output_tokens" if doubtful else None

    def _status(self, item: OutputItem, status: str) -> str:
        """The status of an item at the end: only items that were still open have the response's `status`."""
        return status if item is self._open or isinstance(item, ToolCall) else "completed"

    def _chosen(self, choice: Any) -> list[Any]:
        """The choices to tell now that `choice` came. One choice is told; the others are alternatives to it.

        It is the one with index 0 or without an index. That a server counts from 1 shows at its end.
        """
        if not isinstance(choice, dict):
            raise MalformedChunkError("sent a choice that is not an object.")
        index = choice.get("index")
        if not index or index == self._index:
            self._index = self._index or 0
            self._others.clear()
            return [choice] if bool(index) == bool(self._index) else []
        if self._index is None and (not self._others or self._others[0]["index"] == index):
            self._others.append(choice)
            if choice.get("finish_reason"):
                self._index = index
                others, self._others = self._others, []
                return others
        return []

    def _choice(self, choice: dict[str, Any]) -> Iterator[Event]:
        self._usage.take(choice)
        self._citations.take(choice)
        last = self._finish(choice.get("finish_reason"))
        delta, message = choice.get("delta"), choice.get("message")
        if not delta and not message:
            delta = {"content": choice.get("text")}
        logprobs = _logprobs(choice)
        for said, is_whole in ((delta, False), (message, True)):
            if said and not isinstance(said, dict):
                raise MalformedChunkError("sent a chunk whose delta is not an object.")
            if said:
                yield from self._said(said, [] if is_whole and self._streamed else logprobs, last, is_whole)

    def _finish(self, reason: Any) -> bool:
        """Take a finish reason; the worst counts (U-46). Returns whether it is one."""
        if not isinstance(reason, str | None):
            raise MalformedChunkError("sent a finish_reason that is not a string.")
        said = verdict(reason) if reason else None
        if said is not None and (self._verdict is None or said > self._verdict):
            self._verdict, self._word = said, str(reason)[:_LONGEST_WORD]
        return said is not None

    def _said(
        self, delta: dict[str, Any], logprobs: list[Any], last: bool, is_whole: bool
    ) -> Iterator[Event]:
        """The events of a delta, or of a message that has the whole answer so far (`is_whole`)."""
        if delta.get("audio") or delta.get("images"):
            raise MalformedChunkError(UNSAID)
        thoughts, texts = _split(self._untagged(delta))
        repeats = is_whole and self._streamed
        thought = next(iter(thoughts.values()), "") if repeats else self._thoughts.take(thoughts)
        if not repeats:
            self._thoughts.keep(delta)
        if thought:
            yield from self._say("reasoning_text", thought, [], last, is_whole)
        self._citations.take(delta)
        if not self._keep.isdisjoint(delta) and _kind_of_content(delta) == "output_text":
            self._extras |= {name: delta[name] for name in self._keep if delta.get(name)}
        for kind, text in texts:
            yield from self._say(kind, text, logprobs if kind == "output_text" else [], last, is_whole)
            logprobs = [] if kind == "output_text" else logprobs
        if isinstance(self._open, Message) and self._open.has_text:
            for annotation in self._citations.waiting():
                yield from self._open.annotate(annotation)
        if calls := delta.get("tool_calls") or _forerunner(delta.get("function_call")):
            steps = self._calls.snapshot(calls) if repeats else self._calls.take(calls, last=last)
            yield from self._told(self._turns.take(steps))
        self._streamed = self._streamed or (not is_whole and bool(texts or thoughts or calls))

    def _untagged(self, delta: dict[str, Any]) -> dict[str, Any]:
        """The delta without the end tag of thoughts, which Gemini puts before its answer."""
        content = delta.get("content")
        if not isinstance(content, str):
            return delta
        if _kind_of_content(delta) == "reasoning_text":
            self._in_tag = (self._in_tag or content.startswith(TAG)) and END_TAG not in content
        elif self._in_tag and content:
            self._in_tag = False
            return {**delta, "content": content.removeprefix(END_TAG)}
        return delta

    def _say(self, kind: str, text: str, logprobs: list[Any], last: bool, is_whole: bool) -> Iterator[Event]:
        """The events of the new text in a piece of `kind`, or in the whole text so far (`is_whole`)."""
        held = self._texts[kind]
        if kind != self._spoken:
            yield from self._release(self._spoken)
            self._spoken = kind
        if is_whole:
            new = held.repeats.snapshot(whole(text), alone=not self._streamed)
        else:
            new = held.repeats.piece(held.seam.add(text), last=last)
        held.logprobs += logprobs
        if new:
            yield from self._grow(kind, new)
        elif not held.repeats.holding:
            held.logprobs = []

    def _release(self, kind: str, *, over: bool = False) -> Iterator[Event]:
        """The events of the text of `kind` that waits: another item begins, or the stream is `over`."""
        if text := self._texts[kind].flush(over):
            yield from self._grow(kind, text)

    def _grow(self, kind: str, text: str) -> Iterator[Event]:
        """The events of more text of type `kind`, in the open item or in a new one."""
        item, held = self._open, self._texts[kind]
        if not isinstance(item, Reasoning if kind == "reasoning_text" else Message):
            yield from self._close_open("completed")
            at = len(self._items)
            if kind == "reasoning_text":
                item = Reasoning(self._response, at)
            else:
                item = Message(self._response, at, self._citations.of)
            yield from self._begin(item)
            self._open = item
        assert item is not None
        logprobs, held.logprobs = held.logprobs, []
        yield from item.add(kind, text, logprobs if kind == "output_text" else [])

    def _told(self, steps: Iterable[CallStep]) -> Iterator[Event]:
        """The events of the steps of calls."""
        for call, arguments in steps:
            if arguments is None:
                yield from self._release(self._spoken)
                yield from self._close_open("completed")
                yield from self._unheard("completed")
                yield from self._end_of_the_last()
                item = ToolCall(self._response, len(self._items), call.id, self._tools.called(call.name))
                item.extras = call.extras
                self._begun[call] = item
                yield from self._begin(item)
            else:
                yield from self._begun[call].add(arguments)

    def _end_of_the_last(self) -> Iterator[Event]:
        """The events that end the input of the last call, if that is whole: another call begins."""
        last = next(reversed(self._begun), None)
        if last is not None and last.arguments.whole and is_over(last):
            yield from self._begun[last].end_text()

    def _begin(self, item: OutputItem) -> Iterator[Event]:
        self._items.append(item)
        yield from item.begin()

    def _close_open(self, status: str) -> Iterator[Event]:
        if self._open is None:
            return
        self._open.extras, self._extras = self._extras, {}
        if isinstance(self._open, Reasoning):
            self._open.extras |= self._thoughts.taken()
        yield from self._open.end(status)
        if status == "completed":
            self._open = None

    def _unheard(self, status: str) -> Iterator[Event]:
        """An item for thoughts without a text, encrypted or signed, which the server wants back."""
        if self._thoughts.are_sealed or self._extras:
            item = Reasoning(self._response, len(self._items))
            yield from self._begin(item)
            item.extras, self._extras = {**self._extras, **self._thoughts.taken()}, {}
            yield from item.end(status)


def _split(delta: dict[str, Any]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The thoughts of a delta by their field, and its other texts with their kinds. Raises UnsaidError."""
    thoughts, content, refusal = thoughts_of(delta), delta.get("content"), delta.get("refusal")
    kind = _kind_of_content(delta)
    if content.__class__ is str and not refusal and kind == "output_text":
        return thoughts, [(kind, content)] if content else []  # the usual case
    answer = None
    if kind == "reasoning_text" and isinstance(content, str):
        content, _, answer = content.removeprefix(TAG).partition(END_TAG)
    texts = [*parts_of(content, kind), *parts_of(answer, "output_text"), *parts_of(refusal, "refusal")]
    if thought := "".join(text for kind, text in texts if kind == "reasoning_text"):
        thoughts["content"] = thought
    said = groupby((part for part in texts if part[0] != "reasoning_text"), key=itemgetter(0))
    return thoughts, [(kind, "".join(text for _, text in pieces)) for kind, pieces in said]


def _kind_of_content(delta: dict[str, Any]) -> str:
    """The kind of a delta's content: Gemini sends thoughts as content, with a mark beside it."""
    match delta.get("extra_content"):
        case {"google": {"thought": True}}:
            return "reasoning_text"
    return "output_text"


def _forerunner(function: Any) -> list[Any]:
    """The list with the one tool call of a `function_call`; its index is no other call's."""
    return [{"index": -1, "function": function}] if function else []


def _logprobs(choice: Chunk) -> list[Any]:
    """The tokens' log probabilities, with every field that the Responses API requires."""
    logprobs = choice.get("logprobs") or {}
    given = (logprobs.get("content") or []) if isinstance(logprobs, dict) else None
    if not isinstance(given, list) or not all(isinstance(entry, dict) for entry in given):
        raise MalformedChunkError("sent logprobs that are not an object with a list of objects.")
    return [{**entry, "top_logprobs": _measured(entry.get("top_logprobs"))} for entry in _measured(given)]


def _measured(given: Any) -> list[dict[str, Any]]:
    """Those of `given` with a token and a number. vLLM writes null, and others a text, for no number."""
    entries = (one for one in given if isinstance(one, dict)) if isinstance(given, list) else ()
    present = (
        {"bytes": [], **{key: value for key, value in entry.items() if value is not None}}
        for entry in entries
    )
    return [
        one
        for one in present
        if isinstance(one.get("token"), str) and type(one.get("logprob")) in (int, float)
    ]
