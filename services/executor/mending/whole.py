"""The stage that makes every upstream's stream whole (docs/upstreams.md, U-1 to U-18).

    event of the upstream → its item → its turn → the events that it presupposes → the event, in its place
    terminal event        → the events that were not streamed yet → the terminal event, with all streamed text

Pure, and lazy: the caller folds each event that comes out into `output` before it asks for the next one. So
the stage remembers texts only in `output`. An executor that takes a response over starts from the output as
it was when nothing was held back (U-11). An ordinary delta takes the short way (`passes`).
"""

from collections.abc import Generator, Iterator, Mapping
from typing import Any

from schemas.events import ITEM_ADDED, ITEM_DONE, KNOWN_EVENTS, LIFECYCLE, NAMED, TERMINAL_EVENTS, Event
from schemas.output import DELTAS, DONES, PARTS, Item, Output, are_items
from schemas.steps import Steps, each
from services.executor.backend import UpstreamError
from services.executor.mending import items
from services.executor.mending.annotations import annotation_of
from services.executor.mending.identity import Mint, NamedItem, Table, index_of, kind_of_event
from services.executor.mending.lanes import Named
from services.executor.mending.order import ItemOrder
from services.executor.mending.places import NO_INDEX, Indexes, begun_by
from services.executor.mending.texts import Text, Texts
from services.web.internal import Name

_ANNOTATION = "response.output_text.annotation.added"
_COUNTED = {
    "response.image_generation_call.partial_image": "partial_image_index",
    "response.shell_call_command.added": "command_index",
    "response.shell_call_command.delta": "command_index",
    "response.shell_call_command.done": "command_index",
    "response.shell_call_output_content.delta": "command_index",
    "response.shell_call_output_content.done": "command_index",
}
"""By type of event, the index that only such events have; 0 if it is missing."""
_WORST_FIRST = ("cancelled", "failed", "incomplete", "completed")


def end_of(type: str, event: Event) -> str:
    """The status of a terminal event. If the event and its object disagree the worse one counts, and the end
    has it in both: a failure is never told as completed.
    """
    response = event.get("response")
    said = response.get("status") if isinstance(response, dict) else None
    return next(end for end in _WORST_FIRST if end in (TERMINAL_EVENTS[type], said))


class Whole:
    """One run's stage. `output` is the output so far, which the caller folds. `mint` gives items their ids.
    `names` are the items' names at the upstream `names_at` (None: the upstream gives no names), `indexes` its
    indexes of items and parts.
    """

    def __init__(
        self,
        output: Output,
        mint: Mint,
        names: Mapping[str, Name],
        names_at: str | None,
        indexes: Indexes,
    ) -> None:
        self._output = output
        self._table = Table(mint, output, names, indexes)
        self._names_at = names_at
        self._texts = Texts(output)
        self._order = ItemOrder(self._texts)
        self._ahead: set[NamedItem] = set()
        """Items under way that came with more than their beginning tells, such as their whole text."""
        self._finals: dict[int, Item] = {}
        """By our index, the items of the final object."""
        self._last: tuple[str, str, int, Text] | None = None
        """The upstream's type, item id and index of the last delta, and the text of that."""
        for entry in self._table.entries:
            self._texts.take_over(entry, indexes)
            self._order.begun(entry)

    def passes(self, type: str, event: Event) -> bool:
        """The hot path: whether `event` is a further delta of the text of the last one. Then it gets its
        place here, and no other event is needed.
        """
        last, delta = self._last, event.get("delta")
        if last is None or type != last[0] or event.get("item_id") != last[1] or delta.__class__ is not str:
            return False
        text = last[3]
        entry, name = text.entry, text.index_name
        if event.get("output_index") != entry.theirs:
            return False
        if name:
            if event.get(name) != last[2]:
                return False
            event[name] = text.at
            if text.kind == "output_text" and event.get("logprobs").__class__ is not list:
                event["logprobs"] = []
        event["item_id"], event["output_index"] = entry.id, entry.index
        if not delta.isascii() or text.seam.holds:
            event["delta"] = self._texts.joined(text, delta)
        return True

    @property
    def holds_back(self) -> bool:
        """Whether some input of the upstream was not told yet: it waits for its turn (U-16), for a name
        (U-1), for the other half of a surrogate pair (U-12), or for the end of its item, since an end that
        says more overrules it (U-6).
        """
        return bool(self._order.lanes or self._table.unopened or self._texts.halved or self._ahead)

    def other_index(self, event: Event) -> int | None:
        """The upstream's index of the item, or of the part, that `event` begins, the last one that the stage
        told; NO_INDEX if the upstream gave none. None if it is ours, or if the event begins neither.
        """
        place = begun_by(event)
        if place is None:
            return None
        if place.parts:
            theirs, mine = self._texts.index_of(place), place.at
        else:
            given, mine = self._table.entries[-1].theirs, place.item
            theirs = NO_INDEX if given is None else given
        return None if theirs == mine else theirs

    def events(self, type: str, event: Event) -> Iterator[Event]:
        """The events that `event` becomes: those that it presupposes, itself in its place, and those that
        waited for it. None if it waits for its turn, or says nothing new. Raises UpstreamError.
        """
        self._last = None
        if type in TERMINAL_EVENTS:
            yield from self._all_that_waits()
            yield from self._end(type, event)
        elif type in LIFECYCLE:
            yield event
        elif type not in KNOWN_EVENTS:
            yield self._table.renamed(event)
        elif kind_of_event(type) is None and type not in (ITEM_ADDED, ITEM_DONE):
            yield event
        else:
            yield from self._in_order(type, event)

    def _in_order(self, type: str, event: Event) -> Iterator[Event]:
        """Tell the event, or let it wait while another item is told (U-16)."""
        order, named = self._order, Named.by(type, event)
        entry = self._entry(type, event, named)
        if order.waits(named, entry):
            order.lanes.put(named, entry, type, event)
            if order.lanes.are_full:
                order.is_kept = False
                yield from self._all_that_waits()
                return
        else:
            yield from self._told(type, event, entry)
        # Also if the event waits: the call before it may have ended by the short way.
        while (lane := order.next()) is not None:
            for waiting in lane.events:
                yield from self._told(*waiting, self._entry(*waiting, Named.by(*waiting)))

    def _entry(self, type: str, event: Event, named: Named) -> NamedItem | None:
        """The item that an event is about, if it has begun or was named."""
        item = items.understood(event["item"]) if isinstance(event.get("item"), dict) else {}
        if type == ITEM_ADDED:
            return self._table.announced(item, event) if item else None
        if type == ITEM_DONE:
            return self._table.ended(item, event)
        if type in PARTS:
            return self._table.about(
                self._table.kind_of_part(event.get("part"), PARTS[type][0], event), event
            )
        return self._table.about(named.kind or "", event)

    def _all_that_waits(self) -> Iterator[Event]:
        """Tell all waiting events, item by item, whosever turn it is: the stream ends, or too many wait."""
        for lane in self._order.lanes.all():
            for waiting in lane.events:
                yield from self._told(*waiting, None)

    def _told(self, type: str, event: Event, entry: NamedItem | None) -> Iterator[Event]:
        if (call := self._order.whole_call(entry)) is not None:
            yield from self._texts.closed(call, call.item)
        if type == ITEM_ADDED:
            yield from self._added(event)
        elif type == ITEM_DONE:
            yield from self._done(event)
        elif type in DELTAS:
            yield from self._delta(type, event)
        elif type in DONES:
            yield from self._text_done(type, event)
        elif type in PARTS:
            yield from self._part(type, event)
        elif (kind := kind_of_event(type)) is not None:
            yield from self._about(type, kind, event)
        else:
            yield event

    def cut(self) -> Iterator[Event]:
        """The events that were held back, when the response ends before its upstream (U-6, U-16)."""
        yield from self._all_that_waits()
        for entry in self._table.entries:
            if not self._is_done(entry):
                yield from self._texts.cut(entry)

    def final(self) -> Steps[list[Item]]:
        """The final object's output: every item as streamed, with the fields that only the final one has."""
        said = zip(sorted(self._output.held()), self._output.items(), strict=True)
        yield
        finals, whole = self._finals, []
        for (at, item), pause in each(said):
            whole.append(items.completed_by(item, finals[at]) if at in finals else item)
            if pause:
                yield
        yield
        return whole

    # Items.

    def _added(self, event: Event) -> Iterator[Event]:
        item = event.get("item")
        if not isinstance(item, dict):
            return  # a later event about the item will open it
        item = items.understood(item)
        entry = self._table.announced(item, event) or self._table.new(item, event)
        entry.implied = False
        self._table.learn(entry, item)
        yield from self._open(entry, event)
        under_way = entry.opened and not self._is_done(entry)
        if under_way and items.tells_more(entry.item, self._texts.held(entry).item):
            self._ahead.add(entry)

    def _open(self, entry: NamedItem, event: Event) -> Iterator[Event]:
        """Begin an item once all fields are known that cannot be invented (U-1), then tell the deltas that
        waited for that.
        """
        if not entry.may_open:
            return
        item = self._table.open(entry)
        self._order.begun(entry)
        rest = event if event.get("type") == ITEM_ADDED else {}
        rest.pop(NAMED, None)  # set by another Rejoinder, whose upstream is not known here
        named = {NAMED: {"id": entry.named, "at": self._names_at}} if self._names_at and entry.named else {}
        yield {**rest, "type": ITEM_ADDED, "output_index": entry.index, "item": items.as_added(item), **named}
        if entry.waiting and not self._is_done(entry):
            text = self._texts.field(entry)
            yield from self._texts.delta(text, f"{text.stem}.delta", {}, "".join(entry.waiting))

    def _opened(self, kind: str, event: Event) -> Generator[Event, None, NamedItem]:
        """The item of `kind` that `event` is about. Begins it if needed and possible."""
        entry = self._table.about(kind, event)
        if entry is None:
            entry = self._table.new({"type": kind, "id": event.get("item_id")}, event, implied=True)
        name = event.get("name")
        if isinstance(name, str) and name:
            self._table.learn(entry, {"name": name})
        yield from self._open(entry, event)
        return entry

    def _done(self, event: Event) -> Iterator[Event]:
        said = event.get("item")
        item = items.understood(said) if isinstance(said, dict) else {}
        entry = self._table.ended(item, event)
        if entry is None:
            if not item:
                return
            entry = self._table.new(item, event)
        elif self._is_done(entry):
            return
        self._table.learn(entry, item)
        yield from self._open(entry, event)
        if entry.opened and not self._is_done(entry):
            yield from self._close(entry, item, "completed", event)

    def _close(self, entry: NamedItem, said: Item, status: str, event: Event) -> Iterator[Event]:
        """The events that end an item: the rest of its texts, their ends, and its own (U-5, U-6)."""
        told = items.overridden(entry.item, {k: v for k, v in said.items() if k not in ("id", "call_id")})
        if status == "completed" and told.get("status") != "incomplete":
            told = items.with_arguments(told, self._texts.has_said(entry))
        yield from self._texts.closed(entry, told)
        streamed = self._texts.held(entry).item
        kept = {name: streamed[name] for name in items.streamed_names(entry.kind) if name in streamed}
        item = items.as_done({**told, **kept, **entry.identity()}, status)
        self._ahead.discard(entry)
        yield {**event, "type": ITEM_DONE, "output_index": entry.index, "item": item}

    def _is_done(self, entry: NamedItem) -> bool:
        return entry.opened and self._texts.is_done(entry)

    # Texts, and what else is told of an item.

    def _delta(self, type: str, event: Event) -> Iterator[Event]:
        delta = event.get("delta")
        if isinstance(delta, dict):
            delta = delta.get("text") if DELTAS[type][0] else items.as_text(delta)
        if not isinstance(delta, str):
            return
        id, at = event.get("item_id"), event.get(DELTAS[type][1] or "output_index")
        entry = yield from self._opened(kind_of_event(type) or "", event)
        if not entry.opened:
            entry.waiting.append(delta)
        elif self._is_done(entry):
            yield from self._again(entry, type, event, delta)
        else:
            text = yield from self._texts.opened(entry, type, event)
            yield from self._texts.delta(text, type, event, delta)
            placed = event.get("output_index") == entry.theirs and not self._texts.is_over(text)
            if isinstance(id, str) and isinstance(at, int) and placed:
                self._last = (type, id, at, text)

    def _again(self, entry: NamedItem, type: str, event: Event, late: object) -> Iterator[Event]:
        """Tell a text that goes on after its item is done in another item, unless the item has it (U-6). Not
        the text of a call: the call would be made twice.
        """
        if not isinstance(late, str) or entry.kind not in (items.MESSAGE, items.REASONING):
            return
        if any(late in self._texts.said(text) for text in self._texts.of(entry)):
            return
        again = self._table.new({"type": entry.kind}, event, implied=True)
        yield from self._open(again, {})
        text = yield from self._texts.opened(again, type, event)
        yield from self._texts.delta(text, f"{text.stem}.delta", text.place(), late)

    def _text_done(self, type: str, event: Event) -> Iterator[Event]:
        said = event.get(DONES[type][1])
        said = items.as_text(said) if isinstance(said, dict | list) else said
        entry = yield from self._opened(kind_of_event(type) or "", event)
        if not entry.opened:
            self._table.learn(entry, {DONES[type][1]: said})
        elif self._is_done(entry):
            yield from self._again(entry, type, event, said)
        else:
            text = yield from self._texts.opened(entry, type, event)
            whole = items.with_arguments({"type": entry.kind, text.field: said}, self._texts.has_said(entry))
            yield from self._texts.ended(text, event, whole[text.field])

    def _part(self, type: str, event: Event) -> Iterator[Event]:
        (parts, name), part = PARTS[type], event.get("part")
        kind = self._table.kind_of_part(part, parts, event)
        (part,) = items.whole_parts({"type": kind, parts: [part if isinstance(part, dict) else {}]}, parts)
        entry = yield from self._opened(kind, event)
        if not self._is_done(entry):
            text = yield from self._texts.part(entry, parts, part, index_of(event.get(name)), event)
            if type.endswith(".done"):
                yield from self._texts.part_ended(text, part, event)
            elif text.told:
                self._ahead.add(entry)

    def _about(self, type: str, kind: str, event: Event) -> Iterator[Event]:
        """Tell an event about an item: its progress, a preview, an annotation."""
        entry = yield from self._opened(kind, event)
        if not entry.opened or self._is_done(entry):
            return
        more: dict[str, Any] = {"item_id": entry.id, "output_index": entry.index}
        if type == _ANNOTATION:
            annotation = annotation_of(event.get("annotation"))
            if annotation is None:
                return
            text = yield from self._texts.opened(entry, "response.output_text.delta", event)
            known = self._texts.shown(text).get("annotations")
            more = {**text.place(), "annotation": annotation}
            more["annotation_index"] = len(known) if isinstance(known, list) else 0
        elif (name := _COUNTED.get(type)) is not None:
            more[name] = index_of(event.get(name)) or 0
        yield {**event, **more}

    # The end.

    def _end(self, type: str, event: Event) -> Iterator[Event]:
        """Stream the items that only the final object has, then end (U-7). Raises UpstreamError."""
        response = event.get("response")
        output = response.get("output") if isinstance(response, dict) else None
        if output and not are_items(output):
            # Responses that follow this one get the output as input, so it must consist of items.
            what = f"the upstream sent {type} whose response.output is not a list of objects"
            raise UpstreamError(what, type="upstream_malformed")
        end = end_of(type, event)
        if end != "cancelled":
            said = [items.understood(item) for item in output or []]
            for entry, item in self._table.matched(said, self._meets):
                yield from self._told_at_the_end(entry, item, end)
        if end == "completed":
            yield from self._close_all()
        yield event

    def _told_at_the_end(self, entry: NamedItem, item: Item, end: str) -> Iterator[Event]:
        self._table.learn(entry, item)
        was_streamed = entry.opened
        yield from self._open(entry, {})
        if entry.opened:
            if not self._is_done(entry):
                yield from self._close(entry, item, "completed" if end == "completed" else "incomplete", {})
            if was_streamed:
                self._finals[entry.index] = item

    def _close_all(self) -> Iterator[Event]:
        if self._table.unopened:
            what = "the upstream completed with a call that it never named"
            raise UpstreamError(what, type="upstream_malformed")
        for entry in list(self._table.entries):
            if not self._is_done(entry):
                yield from self._close(entry, {}, "completed", {})

    def _meets(self, entry: NamedItem, item: Item) -> bool:
        """Whether an item of the final object without a known id can be the streamed one: the text of one
        begins with that of the other.
        """
        streamed = "".join(self._texts.said(text) for text in self._texts.of(entry))
        final = "".join(items.texts(item))
        return final.startswith(streamed) or streamed.startswith(final)
