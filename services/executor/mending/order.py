"""Decides whose turn it is: one item is told after the other (U-16). Pure.

Clients that put a call together from its deltas put each delta under the item that began last. So while the
arguments of a call are told, all other events wait. A text waits for a later one of its kind, until that is
done. If an upstream never says that a call is over, the JSON of its arguments shows it.
"""

from services.executor.mending.arguments import Arguments
from services.executor.mending.identity import NamedItem
from services.executor.mending.lanes import TEXTS, ItemLane, Lanes, Named, turn_of
from services.executor.mending.texts import Texts

_CALLS = ("function_call", "custom_tool_call")
"""Calls that the client answers, and puts together from their deltas."""


class ItemOrder:
    """Whose turn it is among the items of one response, and the events that wait."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self.lanes = Lanes()
        self.is_kept = True
        """False once too many events waited: after that events come as the upstream sends them."""
        self._call: NamedItem | None = None
        """The call that began last, until it is over."""
        self._arguments = Arguments()
        self._read = 0
        """Pieces of the text of `_call` that were read into `_arguments`."""
        self._is_told = False
        """Whether the arguments came with the beginning of the call, and not in deltas."""
        self._latest: dict[str, NamedItem] = {}
        """By kind, the text that began last."""

    def begun(self, entry: NamedItem) -> None:
        """Note that an item begins for the client."""
        if entry.kind in _CALLS:
            self._call, self._arguments, self._read = entry, Arguments(), 0
        elif entry.kind in TEXTS:
            self._latest[entry.kind] = entry

    def waits(self, named: Named, entry: NamedItem | None) -> bool:
        """Whether an event about `entry`, or about an item that has not begun (None), has to wait."""
        if not self.is_kept:
            return False
        return self.lanes.of(named, entry) is not None or not self.may_be_told(entry)

    def may_be_told(self, entry: NamedItem | None) -> bool:
        """Whether it is the turn of `entry`, or of an item that has not begun (None)."""
        if self._call is not None and entry is not self._call and not self._is_over(self._call):
            return False
        turn = turn_of(entry)
        return not turn or self._latest.get(turn) is entry or self._is_spoken(turn)

    def whole_call(self, entry: NamedItem | None) -> NamedItem | None:
        """The call whose turn is over now that `entry` comes, if the end of its arguments was not told."""
        call, ended = self._call, None
        if call is None or entry is call or not self._is_over(call):
            return None
        if not self._has_ended(call) and self._arguments.whole:
            ended = call
        self._call = None
        return ended

    def next(self) -> ItemLane | None:
        """Take out the lane that has its turn now; None without one."""
        lanes = self.lanes
        if not lanes:
            return None
        if self._call is not None and not self._is_over(self._call):
            waiting = [lanes.about(self._call)]
        else:
            turns = ["", *(kind for kind in TEXTS if self._is_spoken(kind))]
            waiting = [lanes.first(turn) for turn in turns]
            waiting += [lanes.about(entry) for entry in self._latest.values()]
        ready = [lane for lane in waiting if lane is not None]
        return lanes.take(min(ready, key=lambda lane: lane.number)) if ready else None

    def _is_spoken(self, kind: str) -> bool:
        """Whether the latest text of a kind holds up no other. One that has no text yet does not: some
        upstreams announce all their items first.
        """
        latest = self._latest.get(kind)
        return latest is None or not self._texts.of(latest) or self._texts.is_done(latest)

    def _has_ended(self, call: NamedItem) -> bool:
        return self._texts.is_done(call) or self._texts.is_over(self._texts.field(call))

    def _is_over(self, call: NamedItem) -> bool:
        """Whether all arguments of a call were told. Arguments that are no JSON have no known end: they are
        over when the next item comes. An empty object is not over: others may follow and replace it.
        """
        if self._has_ended(call):
            return True
        if call.kind != "function_call":
            return False
        self._read_on(call)
        read = self._arguments
        return (read.whole and not read.empty) or read.broken

    def _read_on(self, call: NamedItem) -> None:
        """Read what came of its arguments since. What its beginning told counts if nothing else comes."""
        text, held = self._texts.field(call), self._texts.held(call)
        pieces = held.texts.get((None, 0, text.field), [])
        if self._read == 0 and self._arguments.size == 0:
            shown = held.item.get(text.field)
            self._is_told = not shown and not pieces
            self._arguments.add(text.told if self._is_told else str(shown or ""))
        elif self._is_told and pieces:
            self._arguments, self._is_told = Arguments(), False
        for piece in pieces[self._read :]:
            self._arguments.add(piece)
        self._read = len(pieces)
