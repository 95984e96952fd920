"""Puts tool calls together from the pieces that Chat Completions servers send. Pure.

    tool_calls of a delta → `Calls.take` → steps: this call begins, this is more of its arguments

A piece has an index, an id, a name and some arguments. Servers leave out each of these, repeat it, number it
anew or send it late (U-40 to U-44), so none of them alone says which call a piece belongs to. All of them
together do, with how far the arguments of the calls have come:

1. Its id is a call's: it is more of that call, if its arguments can go on there.
2. Its index is a call's: the same, unless it names another function, or has a new id beside the name. In a
   list without indices the position counts.
3. It has no index: it is more of the latest call that can go on with it.
4. Otherwise it begins a call.

A call begins for the client when its name is sure: names come in fragments, and the request's tools tell a
fragment from a name. Until then its arguments wait.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

from services.config import SIGNATURES
from services.executor.backends.chat.pieces import MalformedCallError, Piece, listed, piece_of
from services.executor.mending.arguments import Arguments, is_json, same_json
from services.executor.mending.surrogates import Seam

MAX_CALLS = 512
"""Most calls of one answer: the call of a piece may be searched among all of them."""


class Call:
    """A call as far as it has come."""

    def __init__(self, index: int | None, position: int) -> None:
        self.index = index
        self.position = position
        """The call's place in the list in which it came."""
        self.id = ""
        self.ids: set[str] = set()
        self.name = ""
        self.arguments = Arguments()
        self.instead: Arguments | None = None
        """The arguments if the last piece repeated them from the start; None unless that is still unclear."""
        self.seam = Seam()
        self.extras: dict[str, Any] = {}
        self.begun = False
        self.waiting: list[str] = []
        """Pieces of the arguments that were not told yet."""
        self.told = 0
        """Characters of the arguments that were told."""
        self.headless = False
        """Whether arguments came before the name: then more of the name may come behind them."""
        self.doubtful = False
        """Whether this may be no call, but a name that is repeated behind whole arguments."""

    def take_instead(self, instead: Arguments) -> None:
        """Take `instead` for the arguments: its beginning is what was told."""
        self.arguments = instead
        self.waiting = [instead.text[self.told :]]

    def __repr__(self) -> str:
        return f"<Call {self.id} {self.name}({self.arguments.text})>"


class CallStep(NamedTuple):
    """A step to tell: `call` begins (`arguments` is None), or these are more of its arguments."""

    call: Call
    arguments: str | None


class Calls:
    """The calls of one stream. `names` are the functions that the request offers. `keep` are the fields of a
    call that its server wants back (U-58).
    """

    def __init__(self, names: Collection[str] = (), keep: Collection[str] = SIGNATURES) -> None:
        self._names = frozenset(names)
        self._keep = frozenset(keep)
        self._calls: list[Call] = []
        self._current: Call | None = None
        """The call of the last piece, if a piece like it can belong to no other call."""

    def take(self, pieces: Any, *, last: bool = False) -> list[CallStep]:
        """The steps in the `tool_calls` of one delta. `last`: the server stops with them.

        Raises MalformedCallError.
        """
        if (step := self._usual(pieces)) is not None:
            return [step]
        read = [piece_of(piece, self._keep) for piece in listed(pieces)]
        known = list(self._calls)
        again = self._repeated(read, last)
        for call, piece in zip(known, read[:again], strict=False):
            self._note(call, piece)
        several = len(read) > 1
        return [
            step
            for number, piece in enumerate(read[again:], again)
            for step in self._take(piece, number, several, known)
        ]

    def snapshot(self, pieces: Any) -> list[CallStep]:
        """The new steps in a list of whole calls: those of a message that was streamed before.

        Raises MalformedCallError.
        """
        known, steps = list(self._calls), []
        for number, given in enumerate(listed(pieces)):
            piece = piece_of(given, self._keep)
            call = self._by_id(piece.id) or (known[number] if number < len(known) else None)
            if call and piece.name and call.name and self._joined(call, piece.name) is None:
                call = next((one for one in known if _is_same(one, piece)), None)
            if call is None:
                call = self._new(piece, number)
            elif not piece.arguments.startswith(call.arguments.text):
                piece.arguments = ""  # the client has seen the streamed ones, so they stand
            steps += self._add(call, piece)
        return steps

    def end(self, *, cut: bool) -> tuple[list[CallStep], str]:
        """The steps that waited, and what is bad about the calls ("": nothing).

        `cut`: the server was cut short. A call without a name is then left out, and not bad.
        """
        steps: list[CallStep] = []
        for call in self._calls:
            if not call.begun and call.name and not call.doubtful and (call.arguments.begun or not cut):
                steps += self._begin(call)
            if half := call.seam.end():
                call.arguments.add(half)
                call.waiting.append(half)
            if call.begun:
                steps += self._rest(call)
        lost = [call for call in self._calls if not call.name]
        bad = any(call.arguments.begun for call in lost) or (lost and len(lost) == len(self._calls))
        return steps, "sent a tool call without a name." if bad and not cut else ""

    @property
    def any(self) -> bool:
        """Whether there are calls."""
        return bool(self._calls)

    @property
    def are_whole(self) -> bool:
        """Whether no call waits for more arguments, or for its name."""
        return all(
            call.name and is_json((call.instead or call.arguments).text)
            for call in self._calls
            if call.arguments.begun
        )

    @property
    def are_cut(self) -> bool:
        """Whether the arguments of a call stop within their object."""
        return any(call.arguments.cut for call in self._calls)

    def _take(self, piece: Piece, number: int, several: bool, known: Sequence[Call]) -> Iterator[CallStep]:
        if not (piece.id or piece.name or piece.extras or piece.arguments):
            return
        call = self._of(piece, number, several, known)
        if call is None:
            call = self._new(piece, number)
        yield from self._add(call, piece)
        mine = (one for one in reversed(self._calls) if piece.index is None or one.index == piece.index)
        usual = call.told and piece.arguments.isascii() and call is next(mine, None)
        self._current = call if usual else None

    def _usual(self, pieces: Any) -> CallStep | None:
        """The hot path: the step of a delta that only has more arguments for the call of the last piece.
        None for any other delta.
        """
        call = self._current
        if call is None or pieces.__class__ is not list or len(pieces) != 1 or call.instead:
            return None
        piece = pieces[0]
        function = piece.get("function") if piece.__class__ is dict else None
        if function.__class__ is not dict or piece.get("id") or function.get("name"):
            return None
        text = function.get("arguments")
        if (
            text.__class__ is not str
            or not text.isascii()
            or not text
            or text[0] in "{["
            or call.arguments.whole
        ):
            return None
        if piece.get("index") != call.index or not (
            self._keep.isdisjoint(piece) and self._keep.isdisjoint(function)
        ):
            return None
        call.arguments.add(text)
        call.told += len(text)
        return CallStep(call, text)

    def _of(self, piece: Piece, number: int, several: bool, known: Sequence[Call]) -> Call | None:
        """The call that a piece belongs to; None if it begins one."""
        mine = self._by_id(piece.id)
        if mine and self._goes_on(mine, piece, same_id=True):
            return mine
        if piece.index is not None:
            there = [call for call in self._calls if call.index == piece.index]
            if there:
                return self._latest(there, piece)
            return None if piece.name or mine else self._unnumbered(piece)
        if several:
            there = [call for call in known if call.position == number]
            if call := self._latest(there, piece):
                return call
            if piece.name or piece.id:
                return None
        return self._latest(self._calls, piece)

    def _latest(self, calls: Sequence[Call], piece: Piece) -> Call | None:
        return next((call for call in reversed(calls) if self._goes_on(call, piece)), None)

    def _unnumbered(self, piece: Piece) -> Call | None:
        """The call of a piece without a name and with an index that no call has: one that came without an
        index, or the latest one, if the server counts pieces instead of calls.
        """
        without = [call for call in self._calls if call.index is None]
        if without and piece.index is not None:
            at = min(piece.index, len(without) - 1)
            if self._goes_on(without[at], piece):
                without[at].index = piece.index
                return without[at]
        if piece.id:
            return None
        # A piece that begins an object belongs to a call that waits for one, or begins a call.
        latest = self._calls[-1:] if piece.begins else self._calls
        found = self._latest(latest, piece)
        return None if piece.begins and found and (found.arguments.begun or not found.name) else found

    def _goes_on(self, call: Call, piece: Piece, *, same_id: bool = False) -> bool:
        """Whether `piece` can be more of `call`; `same_id`: it has an id of that call."""
        named, held = bool(piece.name and call.name), call.arguments
        foreign = bool(piece.id and call.id and not same_id)
        if named:
            joined = self._joined(call, piece.name)
            if joined is None:
                return False
            if joined != call.name:  # a name in fragments; not if the ids change, unless the tools' names fit
                return (not foreign or bool(self._names)) and held.takes(piece.arguments)
        # A name with another id or index begins another call of the same function.
        apart = named and (foreign or _is_renumbered(call, piece))
        if piece.is_blank:
            if named and not same_id:
                return not foreign and not held.whole
            return not (foreign and held.whole) and not (apart and (held.whole or not held.begun))
        if same_id and not apart and _is_again(held, piece.arguments):
            return True
        if call.instead and not apart and _repeats(call.instead, piece.arguments):
            return True
        if held.empty and call.told == 0 and not foreign and (same_id or not named):
            return not apart and piece.begins
        if apart and piece.begins:
            return False
        return _grown(held, piece.arguments) or held.takes(piece.arguments)

    def _add(self, call: Call, piece: Piece) -> list[CallStep]:
        self._note(call, piece)
        if not piece.is_blank:
            call.doubtful = False
        repeated = piece.name == call.name and call.arguments.begun
        call.headless = call.headless or (not call.name and call.arguments.begun)
        if piece.name and not call.begun:
            joined = self._joined(call, piece.name)
            call.name = piece.name if joined is None else joined
        self._extend(call, piece.arguments)
        if not call.begun and self._is_settled(call, repeated or not piece.name):
            return self._begin(call) + self._more(call)
        return self._more(call) if call.begun else []

    def _extend(self, call: Call, text: str) -> None:
        instead, call.instead = call.instead, None
        if instead and _repeats(instead, text):
            call.take_instead(instead)
        held, text = call.arguments, call.seam.add(text)
        if _is_again(held, text):
            return
        if _grown(held, text):
            if held.takes(text):  # {"a": and {"a":1} are an object in an object, or one object twice
                call.instead = _read(text)
            else:
                text = text[len(held.text) :]
        elif held.empty and call.told == 0 and text.strip():
            call.arguments = held = Arguments()  # arguments replace an empty object ahead of them
            call.waiting.clear()
        if text:
            held.add(text)
            call.waiting.append(text)
        if call.instead and (held.whole or held.broken or call.instead.broken):
            if not is_json(held.text) and not call.instead.broken:
                call.take_instead(call.instead)
            call.instead = None

    def _begin(self, call: Call) -> list[CallStep]:
        call.begun = True
        return [CallStep(call, None)]

    def _more(self, call: Call) -> list[CallStep]:
        """The arguments that were not told yet; not an empty object, which others may replace."""
        return [] if call.instead or (call.told == 0 and call.arguments.empty) else self._rest(call)

    def _rest(self, call: Call) -> list[CallStep]:
        if call.instead and call.instead.whole:
            call.take_instead(call.instead)
        text = "".join(call.waiting)
        call.waiting.clear()
        call.told += len(text)
        return [CallStep(call, text)] if text else []

    def _note(self, call: Call, piece: Piece) -> None:
        if piece.id:
            call.ids.add(piece.id)
            if not call.id and not any(piece.id in one.ids for one in self._calls if one is not call):
                call.id = piece.id  # not an id of another call: clients would mix up their outputs
        call.extras |= piece.extras
        if call.index is None:
            call.index = piece.index

    def _new(self, piece: Piece, number: int) -> Call:
        if len(self._calls) >= MAX_CALLS:
            raise MalformedCallError(f"sent more than {MAX_CALLS} tool calls.")
        self._current, call = None, Call(piece.index, number)
        before = self._calls[-1] if self._calls else None
        if before and piece.name == before.name and piece.index == before.index:
            call.doubtful = piece.is_blank and not piece.id
        self._calls.append(call)
        return call

    def _by_id(self, id: str) -> Call | None:
        return next((call for call in reversed(self._calls) if id in call.ids), None) if id else None

    def _is_settled(self, call: Call, goes_on: bool) -> bool:
        """Whether the name of `call` is sure. `goes_on`: the last piece had no more of the name.

        Models write a name before its arguments, so it is whole when these begin.
        """
        name = call.name
        if not name:
            return False
        longer = any(known != name and known.startswith(name) for known in self._names)
        if name in self._names and not longer:
            return True
        if name not in self._names and longer:
            return False
        return call.arguments.whole or (call.arguments.begun and (goes_on or not call.headless))

    def _joined(self, call: Call, name: str) -> str | None:
        """The name of `call` if a piece of it has `name`; None if that is another function's."""
        old = call.name
        if not old:
            return name
        if call.begun:
            return old if name == old else None
        both = old + name
        if self._names:
            if old in self._names and name in self._names:
                return (
                    old
                    if name == old
                    else name
                    if name.startswith(old) and not call.arguments.begun
                    else None
                )
            if self._begins_a_name(both):
                return both
            if name.startswith(old) and self._begins_a_name(name):
                return name
        if name == old:
            return old
        if old in self._names or name in self._names:
            return None
        if name.startswith(old):
            return name
        return None if call.arguments.begun else both

    def _begins_a_name(self, text: str) -> bool:
        return any(known.startswith(text) for known in self._names)

    def _repeated(self, pieces: Sequence[Piece], last: bool) -> int:
        """How many pieces repeat the calls so far: as many as there are calls, or none. A repetition has all
        calls, whole, in the last delta, or ahead of new calls that have an index of their own.
        """
        count = len(self._calls)
        if not count or len(pieces) < count or not all(map(_is_repeated, self._calls, pieces)):
            return 0
        indices = [piece.index for piece in pieces]
        numbered = None not in indices and len({*indices}) == len(indices)
        return count if last or (len(pieces) > count and numbered) else 0


def _is_repeated(call: Call, piece: Piece) -> bool:
    """Whether a piece repeats a whole call. A piece with another id or index is another call."""
    apart = (piece.id and call.id and piece.id not in call.ids) or _is_renumbered(call, piece)
    return not apart and _is_same(call, piece)


def _is_renumbered(call: Call, piece: Piece) -> bool:
    return piece.index is not None and call.index is not None and piece.index != call.index


def _is_same(call: Call, piece: Piece) -> bool:
    """Whether a piece has the name and all arguments of a whole call."""
    if piece.name != call.name or not call.arguments.whole or piece.is_blank:
        return False
    return same_json(call.arguments.text, piece.arguments)


def _is_again(held: Arguments, text: str) -> bool:
    """Whether `text` repeats `held`: all of it if it is whole, else the same beginning."""
    if not held.begun or not text.strip():
        return False
    if held.whole:
        return same_json(held.text, text)
    return len(text) == held.size and text == held.text and text[:1] in ("{", "[") and not held.takes(text)


def _grown(held: Arguments, text: str) -> bool:
    """Whether `text` is all of `held` and more: some servers send all arguments so far each time."""
    if len(text) <= held.size or not held.begun or held.whole or text[:1] not in ("{", "["):
        return False  # the usual case, decided before the text is joined
    return text.startswith(held.text)


def _repeats(held: Arguments, text: str) -> bool:
    return _is_again(held, text) or _grown(held, text)


def _read(text: str) -> Arguments:
    arguments = Arguments()
    arguments.add(text)
    return arguments
