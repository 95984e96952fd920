"""The texts of output items, in parts and fields: opens them before use, and ends them before their item.

Each text comes three times: in its deltas, in its own end, and in the end of its part or item. Streamed text
is never taken back (U-6): if an end has more, the rest is streamed first; if it has less, it is overruled.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from itertools import islice
from typing import Any

from schemas.events import Event
from schemas.output import DELTAS, DONES, Held, Item, Output
from services.executor.mending import items
from services.executor.mending.identity import LOOKED_AT, NamedItem, index_of
from services.executor.mending.places import Indexes, OurPlace
from services.executor.mending.surrogates import Seam, whole

_PART_EVENTS = {"summary": "response.reasoning_summary_part", "content": "response.content_part"}
_INDEXES = {"summary": "summary_index", "content": "content_index"}


class Text:
    """A text of an item: the `at`th of the list `parts`, or, without a list, a `field` of the item itself.

    `kind` is the type of the part, or of the item. The types of its events begin with `stem`; "" if it has
    no events.
    """

    __slots__ = ("at", "entry", "field", "kind", "parts", "seam", "stem", "theirs", "told")

    def __init__(
        self, entry: NamedItem, stem: str, kind: str, parts: str | None, at: int, field: str
    ) -> None:
        self.entry = entry
        self.stem = stem
        self.kind = kind
        self.parts = parts
        self.at = at
        self.field = field
        self.theirs = at
        """The upstream's index of the part; ours if it gave none."""
        self.seam = Seam()
        self.told = ""
        """The text that came before its deltas: it counts only if nothing else comes."""

    def __repr__(self) -> str:
        return f"<Text {self.kind} {self.at} of {self.entry.id}>"

    @property
    def index_name(self) -> str:
        """The field of its events with its index in the item; "" for a field of the item itself."""
        return _INDEXES[self.parts] if self.parts is not None else ""

    def place(self) -> dict[str, Any]:
        """The fields of its events that name its place."""
        where: dict[str, Any] = {"item_id": self.entry.id, "output_index": self.entry.index}
        return where | {self.index_name: self.at} if self.parts is not None else where


class Texts:
    """The texts of one response, over its output so far."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lists: dict[tuple[int, str | None], list[Text]] = {}
        """By the item's index and the list (None: the item's field), the texts in their order."""
        self._places: dict[tuple[int, str, int, str], Text] = {}
        """By the item's index, the list, the upstream's index into it, and the part's type."""
        self.halved: set[Text] = set()
        """The texts of which half a surrogate pair is held back (U-12)."""

    def of(self, entry: NamedItem) -> list[Text]:
        """The texts of an item that are open or done."""
        lists = (self._lists.get((entry.index, name), ()) for name in (*items.PART_LISTS, None))
        return [text for listed in lists for text in listed]

    def held(self, entry: NamedItem) -> Held:
        """The item in the output so far."""
        return self._output.held()[entry.index]

    def is_done(self, entry: NamedItem) -> bool:
        """Whether an item that has begun is done, or was not told because its beginning broke a bound."""
        return not self._output.is_under_way(entry.index)

    def said(self, text: Text) -> str:
        """The streamed text."""
        return "".join(self._pieces(text))

    def has_said(self, entry: NamedItem) -> bool:
        """Whether any text of a call came."""
        return entry.kind in items.TEXT_FIELDS and bool(
            self.said(self.field(entry)) or self.field(entry).told
        )

    def is_over(self, text: Text) -> bool:
        """Whether the end of the text was told."""
        return (text.parts, text.at, text.field) in self.held(text.entry).over

    def shown(self, text: Text) -> dict[str, Any]:
        """The part as the output so far shows it; a copy."""
        listed = self.held(text.entry).item.get(text.parts or "")
        part = listed[text.at] if isinstance(listed, list) and text.at < len(listed) else None
        return dict(part) if isinstance(part, dict) else {}

    def take_over(self, entry: NamedItem, indexes: Indexes) -> None:
        """Learn the parts of an item that another executor streamed, and the upstream's indexes of them."""
        for name in items.streamed_lists(entry.kind):
            for at, part in enumerate(items.whole_parts(entry.item, name)):
                theirs = indexes.get(OurPlace(entry.index, name, at))
                self._new_part(entry, name, items.without_text(part), theirs)

    def index_of(self, place: OurPlace) -> int:
        """The upstream's index of the part at our `place`."""
        return self._lists[place.item, place.parts][place.at].theirs

    # Opened before they are used (U-1).

    def opened(self, entry: NamedItem, type: str, event: Event) -> Generator[Event, None, Text]:
        """The text that a delta, or an end of a text, is about. Begins it if needed."""
        parts, name, field = DELTAS.get(type) or DONES[type][0]
        if parts is None:
            return self.field(entry)
        kind = next(part for part, stem in items.PART_STEMS.items() if type.startswith(stem + "."))
        return (yield from self.part(entry, parts, {"type": kind, field: ""}, index_of(event.get(name)), {}))

    def part(
        self, entry: NamedItem, parts: str, part: dict[str, Any], theirs: int | None, event: Event
    ) -> Generator[Event, None, Text]:
        """The part at the upstream's index. Begins it if needed; `event` is its `added`, if that came."""
        text = self._known(entry, parts, theirs, str(part.get("type")))
        if text is None:
            text = self._new_part(entry, parts, part, theirs)
            added = f"{_PART_EVENTS[parts]}.added"
            rest = event if event.get("type") == added else {}
            yield {**rest, "type": added, **text.place(), "part": items.without_text(part)}
        return text

    def field(self, entry: NamedItem) -> Text:
        """The text in a field of the item itself."""
        listed = self._lists.setdefault((entry.index, None), [])
        if not listed:
            stem, field = items.TEXT_FIELDS[entry.kind]
            listed.append(Text(entry, stem, entry.kind, None, 0, field))
            listed[0].told = items.as_text(entry.item.get(field))
        return listed[0]

    # Deltas and ends.

    def delta(self, text: Text, type: str, event: Event, delta: str) -> Iterator[Event]:
        """The events of more of a text, halves joined (U-12). New text after the end reopens the text."""
        if self.is_over(text):
            if delta in self.said(text):
                return
            self.held(text.entry).reopen(text.parts, text.at, text.field)
        said = self.joined(text, delta)
        if said or not delta:
            yield {**event, "type": type, **text.place(), **_logprobs(text, event), "delta": said}

    def joined(self, text: Text, delta: str) -> str:
        """The part of `delta`, the next piece of a text, that can be told now (U-12)."""
        said = text.seam.add(delta)
        (self.halved.add if text.seam.holds else self.halved.discard)(text)
        return said

    def rest(self, text: Text, told: object = None) -> Iterator[Event]:
        """The event of the text that only the end (`told`) has, and no delta had (U-6)."""
        streamed, rest = self.said(text), text.seam.end()
        self.halved.discard(text)
        whole_text = whole(told) if isinstance(told, str) and told else ("" if streamed else text.told)
        if whole_text.startswith(streamed):
            rest = whole_text[len(streamed) :] or rest
        elif whole_text and self._holds(text, whole_text):
            rest = ""
        if rest and not self.is_over(text):
            yield {"type": f"{text.stem}.delta", **text.place(), **_logprobs(text, {}), "delta": rest}

    def ended(self, text: Text, event: Event, told: object) -> Iterator[Event]:
        """The events that end a text, unless it has ended. The end has `told` if that contains all streamed
        text, else the streamed text (U-6).
        """
        if self.is_over(text):
            return
        yield from self.rest(text, told)
        known = whole(told) if isinstance(told, str) else ""
        value = known if known and self._holds(text, known) else self.said(text)
        more = _logprobs(text, event)
        if text.kind == "function_call" and ("name" in event or not event):
            more["name"] = text.entry.item.get("name", "")
        yield {**event, "type": f"{text.stem}.done", **text.place(), **more, text.field: value}

    def part_ended(self, text: Text, told: dict[str, Any], event: Event) -> Iterator[Event]:
        """The events that end a part and its text, unless they have ended."""
        if (text.parts, text.at, "") in self.held(text.entry).over:
            return
        if text.stem:
            more = {"logprobs": told["logprobs"]} if "logprobs" in told else {}
            yield from self.ended(text, more, items.text_of(told))
        part = items.overridden(self.shown(text), told)
        if text.stem:
            part[text.field] = self.said(text)
        yield {**event, "type": f"{_PART_EVENTS[text.parts or '']}.done", **text.place(), "part": part}

    def closed(self, entry: NamedItem, told: Item) -> Iterator[Event]:
        """The events that an item's texts lack when it ends as `told` (U-5)."""
        for name in items.streamed_lists(entry.kind):
            yield from self._parts_closed(entry, name, items.whole_parts(told, name))
        if entry.kind in items.TEXT_FIELDS:
            text, value = self.field(entry), told.get(items.TEXT_FIELDS[entry.kind][1])
            if isinstance(value, str) or self.said(text):
                yield from self.ended(text, {}, value)

    def cut(self, entry: NamedItem) -> Iterator[Event]:
        """The events of the texts that were held back of an item that is cut short."""
        for name in items.streamed_lists(entry.kind):
            if (entry.index, name) not in self._lists:
                for part in items.whole_parts(entry.item, name):
                    yield from self.part(entry, name, part, None, {})
        if entry.kind in items.TEXT_FIELDS:
            self.field(entry)
        for text in self.of(entry):
            yield from self.rest(text)

    def _parts_closed(self, entry: NamedItem, name: str, told: list[dict[str, Any]]) -> Iterator[Event]:
        listed = list(self._lists.get((entry.index, name), ()))
        told = items.aligned([(text.kind, self.said(text)) for text in listed], told)
        known: dict[str, dict[Text, None]] = {}
        for text in listed:
            known.setdefault(text.kind, {})[text] = None
        kinds = [str(part.get("type")) for part in told]
        left = Counter(kinds)
        for kind, part in zip(kinds, told, strict=True):
            alike = known.get(kind, {})
            met = self._meeting(part, alike, left[kind])
            left[kind] -= 1
            if met is None:
                at = len(self._lists.get((entry.index, name), ()))
                met = yield from self.part(entry, name, part, at, {})
            else:
                del alike[met]
            yield from self.part_ended(met, part, {})
        rest = [text for alike in known.values() for text in alike]
        for text in sorted(rest, key=lambda text: text.at):
            yield from self.part_ended(text, {}, {})

    def _meeting(self, part: dict[str, Any], alike: Mapping[Text, None], left: int) -> Text | None:
        """The streamed part that `part` of an item's end is: one of those `alike` with the same text so far,
        else the next one. None if fewer are alike than parts of their kind are `left` (this one counts).
        """
        told = items.text_of(part)
        for text in islice(alike, LOOKED_AT):
            streamed = self.said(text)
            if told.startswith(streamed) or streamed.startswith(told) or self._holds(text, told):
                return text
        return next(iter(alike)) if alike and len(alike) >= left else None

    def _known(self, entry: NamedItem, parts: str, theirs: int | None, kind: str) -> Text | None:
        """The part that an event is about: the one at the upstream's index, or the last of its kind if that
        index cannot be right (U-2). None if the index is that of a new part.
        """
        listed = self._lists.get((entry.index, parts), [])
        if theirs is not None and (text := self._places.get((entry.index, parts, theirs, kind))) is not None:
            return text
        if theirs is not None and theirs <= len(listed):
            return None
        return next((text for text in reversed(listed) if text.kind == kind), None)

    def _new_part(self, entry: NamedItem, parts: str, part: dict[str, Any], theirs: int | None) -> Text:
        listed = self._lists.setdefault((entry.index, parts), [])
        kind = str(part.get("type"))
        field = "refusal" if kind == "refusal" else "text"
        text = Text(entry, items.PART_STEMS.get(kind, ""), kind, parts, len(listed), field)
        text.told = items.text_of(part)
        text.theirs = text.at if theirs is None else theirs
        listed.append(text)
        self._places[entry.index, parts, text.theirs, kind] = text
        return text

    def _holds(self, text: Text, told: str) -> bool:
        """Whether `told` has every streamed piece, in order."""
        end = 0
        for piece in self._pieces(text):
            found = told.find(piece, end)
            if found < 0:
                return False
            end = found + len(piece)
        return True

    def _pieces(self, text: Text) -> list[str]:
        return self.held(text.entry).pieces(text.parts, text.at, text.field)


def _logprobs(text: Text, event: Event) -> dict[str, Any]:
    """The field that strict clients need in every event of an `output_text`."""
    if text.kind != "output_text":
        return {}
    given = event.get("logprobs")
    return {"logprobs": given if isinstance(given, list) else []}
