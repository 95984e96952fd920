"""Makes the messages that a Chat Completions server accepts. Pure; each pass takes the last one's result.

    entries   translate each item                             (items)
    hoisted   put the words of the system first               (U-62)
    paired    give calls their outputs, by id, not by place   (U-60)
    told      make text a string (U-61), outputs follow their call (U-60), pictures the user's (U-63)
    merged    join messages of the user in a row              (U-64)

OpenAI, DeepSeek, Mistral and Kimi refuse a conversation in which anything stands between a call and its
output. Chat templates refuse a second system message, and some refuse two messages of a user in a row. The
passes lose no text: text without a place of its own, such as an output without a call, becomes the user's.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from services.executor.backends.chat.items import (
    THOUGHTS,
    CallItem,
    Entry,
    Parts,
    SaidItem,
    Thought,
    ToolOutput,
    entries,
    texts_of,
)
from services.executor.backends.chat.tools import Object, Toolbox, UntranslatableError

UNANSWERED = "No output: this call was not answered."
"""The output of a call that has none: servers refuse a call without an output."""
SHOWN = "The output is in the user's next message."
"""The output of a call whose output has no text."""
UNTHOUGHT = " "
"""The thoughts of a turn without any: servers that want thoughts back refuse a missing or an empty text."""


class Answered(Struct):
    """A call of an exchange and its output; None as long as there is none."""

    call: CallItem
    output: Parts | None = None


class Exchange(Struct):
    """The texts, thoughts and calls of the assistant in one turn, and the outputs of the calls."""

    texts: list[str] = msgspec.field(default_factory=list)
    thoughts: list[str] = msgspec.field(default_factory=list)
    calls: list[Answered] = msgspec.field(default_factory=list)
    kept: Object = msgspec.field(default_factory=dict)


def messages(
    instructions: object, input: Iterable[Any], tools: Toolbox, give_back: Sequence[str]
) -> list[Object]:
    """The messages of a request. `give_back` names the fields that the server wants back with a turn (U-65).

    Raises UntranslatableError.
    """
    system, rest = hoisted([*_instructions(instructions, tools), *entries(input, tools, give_back)])
    said = [message for turn in paired(rest) for message in _told(turn, give_back)]
    return [*system, *merged(said)]


def _instructions(instructions: object, tools: Toolbox) -> Iterator[Entry]:
    if isinstance(instructions, str):
        yield SaidItem("system", [{"type": "text", "text": instructions}], {})
    elif isinstance(instructions, list):
        yield from entries(instructions, tools, ())


def hoisted(said: Iterable[Entry]) -> tuple[list[Object], list[Entry]]:
    """The system's message, if it has any text, and the other entries. Its pictures become the user's."""
    texts: list[str] = []
    rest: list[Entry] = []
    for entry in said:
        if not isinstance(entry, SaidItem) or entry.role != "system":
            rest.append(entry)
            continue
        texts += [part["text"] for part in entry.parts if part["type"] == "text" and part["text"]]
        if seen := [part for part in entry.parts if part["type"] != "text"]:
            rest.append(SaidItem("user", seen, {}))
    return ([{"role": "system", "content": "\n\n".join(texts)}] if texts else []), rest


def paired(said: Iterable[Entry]) -> list[SaidItem | Exchange]:
    """The turns of the user and of the assistant; calls have their outputs."""
    pairing = _Pairing()
    for entry in said:
        pairing.take(entry)
    return pairing.turns()


class _Pairing:
    """Pairs calls and outputs by id, wherever they stand. Ids may come again in later turns."""

    def __init__(self) -> None:
        self._turns: list[SaidItem | Exchange | None] = []
        self._open: Exchange | None = None
        self._unanswered: dict[str, list[tuple[Exchange, deque[Answered]]]] = {}
        """By id, for each exchange (latest last), the calls that wait for an output (earliest first)."""
        self._answered: dict[str, Answered] = {}
        self._early: dict[str, deque[tuple[int, Parts]]] = {}
        """By id, the outputs whose call has not come, with their places among the turns."""
        self._taken: set[str] = set()
        """The ids of calls in the open exchange."""

    def take(self, entry: Entry) -> None:
        """Take the next entry, in the order of the conversation."""
        match entry:
            case ToolOutput(call_id, parts):
                self._open = None
                self._put_out(call_id, parts)
            case CallItem():
                self._call(entry)
            case Thought(text, kept):
                exchange = self._exchange()
                exchange.thoughts.append(text)
                _keep(exchange.kept, kept)
            case SaidItem("assistant", parts, kept):
                exchange = self._exchange()
                exchange.texts.append(_spoken(parts))
                _keep(exchange.kept, kept)
            case SaidItem():
                self._open = None
                self._turns.append(entry)

    def turns(self) -> list[SaidItem | Exchange]:
        """All turns. An exchange without a call is joined with an exchange right behind it."""
        whole: list[SaidItem | Exchange] = []
        for turn in self._turns:
            if turn is None:
                continue
            before = whole[-1] if whole else None
            if isinstance(turn, Exchange) and isinstance(before, Exchange) and not before.calls:
                turn.texts[:0], turn.thoughts[:0] = before.texts, before.thoughts
                turn.kept = {**before.kept, **turn.kept}
                whole.pop()
            whole.append(turn)
        return whole

    def _exchange(self) -> Exchange:
        if self._open is None:
            self._open, self._taken = Exchange(), set()
            self._turns.append(self._open)
        return self._open

    def _call(self, call: CallItem) -> None:
        key, waiting = call.id, self._unanswered.get(call.id)
        if waiting and key and waiting[-1][1][-1].call.function == call.function:
            return  # the client sends a call again that the chain has
        exchange, answered = self._exchange(), Answered(call)
        call.id = self._unique(key)
        exchange.calls.append(answered)
        if early := self._early.get(key):
            place, answered.output = early.popleft()
            self._turns[place] = None
            self._answered[key] = answered
            return
        groups = self._unanswered.setdefault(key, [])
        if not groups or groups[-1][0] is not exchange:
            groups.append((exchange, deque()))
        groups[-1][1].append(answered)

    def _put_out(self, id: str, parts: Parts) -> None:
        if groups := self._unanswered.get(id):
            answered = groups[-1][1].popleft()
            if not groups[-1][1]:
                groups.pop()
            answered.output = parts
            self._answered[id] = answered
        elif (answered_before := self._answered.get(id)) is not None:
            if answered_before.output != parts:  # else the client sent the output twice
                answered_before.output = [*(answered_before.output or ()), *parts]
        else:
            self._early.setdefault(id, deque()).append((len(self._turns), parts))
            told = {"type": "text", "text": f"Output of a tool, whose call {id} is not in this conversation:"}
            self._turns.append(SaidItem("user", [told, *parts], {}))

    def _unique(self, id: str) -> str:
        """The id if no other call of the exchange has it, else another one; a call without an id gets one."""
        unique = id or "call"
        while not id or unique in self._taken:
            id = unique
            unique = f"{unique}_{len(self._taken)}"
        self._taken.add(unique)
        return unique


def _keep(kept: Object, more: Object) -> None:
    """Add the fields that a further item gives back. Lists are joined; of other fields the first stays."""
    for name, value in more.items():
        if isinstance(value, list) and isinstance(kept.get(name), list):
            kept[name] = [*kept[name], *value]
        else:
            kept.setdefault(name, value)


def _spoken(parts: Parts) -> str:
    for part in parts:
        if part["type"] != "text":
            raise UntranslatableError(f"{part['type']} parts of an assistant", "send them as the user's")
    return texts_of(parts, "")


def _told(turn: SaidItem | Exchange, give_back: Sequence[str]) -> Iterator[Object]:
    if isinstance(turn, SaidItem):
        yield {"role": turn.role, "content": _content(turn.parts)}
        return
    # A blank text is left out: a model's line break behind its call is no message.
    text = "\n".join(text for text in turn.texts if text.strip())
    if not text and not turn.calls:
        return
    message: Object = {"role": "assistant", "content": text or None, **turn.kept}
    for field in THOUGHTS:
        if field in give_back:
            message[field] = "\n\n".join(filter(None, turn.thoughts)) or UNTHOUGHT
    if turn.calls:
        message["tool_calls"] = [
            {"id": one.call.id, "type": "function", "function": one.call.function, **one.call.kept}
            for one in turn.calls
        ]
    yield message
    yield from map(_tool, turn.calls)
    yield from _shown(turn.calls)


def _tool(answered: Answered) -> Object:
    """The tool message of a call, as text: servers accept nothing else there."""
    output = answered.output
    said = UNANSWERED if output is None else texts_of(output)
    if output and not any(part["type"] == "text" for part in output):
        said = SHOWN
    return {"role": "tool", "tool_call_id": answered.call.id, "content": said}


def _shown(calls: Iterable[Answered]) -> Iterator[Object]:
    """The user's message with the outputs of calls that are no text; it comes behind all tool messages."""
    parts: Parts = []
    for answered in calls:
        seen = [part for part in answered.output or () if part["type"] != "text"]
        if seen:
            name, id = answered.call.function["name"], answered.call.id
            parts += [{"type": "text", "text": f"Output of {name} (call {id}):"}, *seen]
    if parts:
        yield {"role": "user", "content": parts}


def _content(parts: Parts) -> str | Parts:
    """The parts; as a string if they are all text, because every server accepts that."""
    return texts_of(parts) if all(part["type"] == "text" for part in parts) else parts


def merged(said: Iterable[Object]) -> Iterator[Object]:
    """The messages, with those of the user in a row joined."""
    before: list[Object] = []
    for message in said:
        if message["role"] == "user":
            before.append(message)
            continue
        yield from _one(before)
        before = []
        yield message
    yield from _one(before)


def _one(spoken: list[Object]) -> Iterator[Object]:
    if len(spoken) < 2:
        yield from spoken
    elif all(isinstance(message["content"], str) for message in spoken):
        texts = [message["content"] for message in spoken]
        yield {"role": "user", "content": "\n\n".join(filter(None, texts))}
    else:
        yield {"role": "user", "content": [part for message in spoken for part in _parts(message["content"])]}


def _parts(content: str | Parts) -> Parts:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content
