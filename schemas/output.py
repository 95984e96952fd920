"""The output so far: a fold over the stream events of one response.

A delta is appended to a list, O(1) whatever the length of the text; `items` joins the texts. A client that
follows the stream and one that polls see the same items under the same ids. An event that does not fit what
came before (a foreign index, a missing field) changes nothing here: the stream passes it on as it came, and
this view shows what it can.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from typing import Any, TypeGuard

from schemas.events import Event
from schemas.steps import Steps, each

Item = dict[str, Any]

Place = tuple[str | None, str, str]
"""Where the text of a delta belongs: the list inside the item (None: the item itself), the event's index into
it, the field.
"""
DELTAS: dict[str, Place] = {
    "response.output_text.delta": ("content", "content_index", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal"),
    "response.reasoning_text.delta": ("content", "content_index", "text"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "text"),
    "response.function_call_arguments.delta": (None, "", "arguments"),
    "response.mcp_call_arguments.delta": (None, "", "arguments"),
    "response.custom_tool_call_input.delta": (None, "", "input"),
    "response.code_interpreter_call_code.delta": (None, "", "code"),
}
DONES: dict[str, tuple[Place, str]] = {
    delta.removesuffix("delta") + "done": (place, place[2]) for delta, place in DELTAS.items()
}
"""Type of the event that ends a run of deltas to the place of its text, and the field that holds it."""
_PART_FIELDS = frozenset(field for parts, _, field in DELTAS.values() if parts is not None)
"""Fields of parts that hold a text."""
PARTS = {
    "response.content_part.added": ("content", "content_index"),
    "response.content_part.done": ("content", "content_index"),
    "response.reasoning_summary_part.added": ("summary", "summary_index"),
    "response.reasoning_summary_part.done": ("summary", "summary_index"),
}
_STATUSES = frozenset({"in_progress", "searching", "interpreting", "generating", "completed", "failed"})
_CUT = {
    "image_generation_call": "failed",
    "apply_patch_call": "in_progress",
    "apply_patch_call_output": "failed",
}
"""Status of an item that was cut short, where its type knows no `incomplete`."""


def cut_status(kind: object) -> str:
    """The status of an item of type `kind` that was cut short (A-19)."""
    return _CUT.get(kind, "incomplete") if isinstance(kind, str) else "incomplete"


def are_items(output: object) -> TypeGuard[list[Item]]:
    """Whether `output` is a list of objects, as an `output` has to be."""
    return isinstance(output, list) and all(isinstance(item, dict) for item in output)


def objects_of(output: object) -> list[Item]:
    """The objects in `output`, which may be any value; all other values in it are passed over."""
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


class Held:
    """An output item under way. `texts` holds the deltas that `item` does not show yet; `over` says which
    texts (list, index, field) and parts (list, index, "") are done.
    """

    __slots__ = ("_own", "done", "item", "over", "texts")

    def __init__(self, item: Item, done: bool) -> None:
        self.item = item
        self.done = done
        self.texts: dict[tuple[str | None, int, str], list[str]] = {}
        self.over: set[tuple[str | None, int, str]] = set()
        self._own: set[str] = set()
        """Lists of the item that no event shares."""

    def copy(self) -> "Held":
        """A copy that later events of this one do not change."""
        held = Held(self.item if self.done else deepcopy(self.item), self.done)
        held.texts = {place: list(texts) for place, texts in self.texts.items()}
        held.over = set(self.over)
        return held

    def own(self, parts: str) -> list[Any]:
        """A list of the item, to be changed; copied once, so that thousands of parts take linear time."""
        if parts not in self._own:
            self._own.add(parts)
            self.item[parts] = list(_list(self.item, parts))
        listed: list[Any] = self.item[parts]
        return listed

    def pieces(self, parts: str | None, at: int, field: str) -> list[str]:
        """The text of a place so far: what the item shows, then the deltas since."""
        return [_get(self.item, parts, at, field), *self.texts.get((parts, at, field), ())]

    def reopen(self, parts: str | None, at: int, field: str) -> None:
        """Note that a text goes on which was done."""
        self.over -= {(parts, at, field), (parts, at, "")}


class Output:
    """The output items of one response, folded from its events in order."""

    def __init__(self) -> None:
        self._items: dict[int, Held] = {}

    def __repr__(self) -> str:
        return f"<Output of {len(self._items)} items, {sum(1 for _ in self._unfinished())} under way>"

    def copying(self) -> Steps["Output"]:
        """A copy that goes on by itself. Nothing may be folded meanwhile."""
        output = Output()
        for (index, held), pause in each(self._items.items()):
            output._items[index] = held.copy()
            if pause:
                yield
        return output

    def apply(self, event: Event) -> None:
        """Fold the next event, decoded."""
        type = event.get("type")
        if not isinstance(type, str):
            return
        place = DELTAS.get(type)
        if place is not None:
            self._delta(event, place)
        elif (fold := _FOLDS.get(type)) is not None:
            fold(self, event)
        elif type.startswith("response.") and type.rpartition(".")[2] in _STATUSES:
            self._status(event, type.rpartition(".")[2])

    def held(self) -> dict[int, Held]:
        """What is known of the items, by `output_index`."""
        return self._items

    def items(self) -> list[Item]:
        """The items so far in `output_index` order; texts joined, those under way with what they have."""
        return [_settled(self._items[index]) for index in sorted(self._items)]

    def unfinished(self) -> list[tuple[int, Item]]:
        """`output_index` and item of those that were added and not done, marked `incomplete` (A-19)."""
        cut = ((index, _settled(held)) for index, held in self._unfinished())
        return [(index, item | {"status": cut_status(item.get("type"))}) for index, item in cut]

    def is_under_way(self, index: int) -> bool:
        """Whether the item at `index` was added and is not done."""
        held = self._items.get(index)
        return held is not None and not held.done

    def _unfinished(self) -> Iterator[tuple[int, Held]]:
        return ((index, held) for index, held in sorted(self._items.items()) if not held.done)

    def _under_way(self, event: Event) -> Held | None:
        """The item that the event is about, if it was added and is not done."""
        index = event.get("output_index")
        held = self._items.get(index) if type(index) is int else None
        return None if held is None or held.done else held

    def _delta(self, event: Event, place: Place) -> None:
        held, delta = self._under_way(event), event.get("delta")
        parts, index, field = place
        number = _index(event, index) if parts else 0
        if held is None or number is None or not isinstance(delta, str):
            return
        at = (parts, number, field)
        texts = held.texts.get(at)
        if texts is None:
            held.texts[at] = [delta]
        else:
            texts.append(delta)

    def _text_done(self, event: Event) -> None:
        (parts, index, field), source = DONES[event["type"]]
        held, at = self._under_way(event), _index(event, index) if parts else 0
        if held is None or at is None:
            return
        held.texts.pop((parts, at, field), None)
        held.over.add((parts, at, field))
        if isinstance(text := event.get(source), str):
            _put(held.item, parts, at, field, text)

    def _item(self, event: Event) -> None:
        index, item = event.get("output_index"), event.get("item")
        if type(index) is int and isinstance(item, dict):
            self._items[index] = Held(dict(item), done=event["type"].endswith(".done"))

    def _part(self, event: Event) -> None:
        parts, index = PARTS[event["type"]]
        held, part, at = self._under_way(event), event.get("part"), _index(event, index)
        if held is None or at is None or not isinstance(part, dict):
            return
        for field in _PART_FIELDS:
            held.texts.pop((parts, at, field), None)
        if event["type"].endswith(".done"):
            held.over.add((parts, at, ""))
        held.own(parts)[at : at + 1] = [dict(part)]

    def _annotation(self, event: Event) -> None:
        held, at = self._under_way(event), _index(event, "content_index")
        part = _part_at(held.item, "content", at) if held is not None and at is not None else None
        if part is not None:
            part["annotations"] = [*_list(part, "annotations"), event.get("annotation")]

    def _status(self, event: Event, status: str) -> None:
        held = self._under_way(event)
        if held is not None:
            held.item["status"] = status


_FOLDS: dict[str, Callable[[Output, Event], None]] = {
    "response.output_item.added": Output._item,
    "response.output_item.done": Output._item,
    "response.output_text.annotation.added": Output._annotation,
    **dict.fromkeys(PARTS, Output._part),
    **dict.fromkeys(DONES, Output._text_done),
}


def _settled(held: Held) -> Item:
    """The item with its deltas joined in; a copy that later deltas do not change."""
    for (parts, at, field), texts in held.texts.items():
        joined = "".join(texts)
        _put(held.item, parts, at, field, _get(held.item, parts, at, field) + joined)
        texts.clear()
    parts_copied = {k: [_copy(p) for p in v] for k, v in held.item.items() if isinstance(v, list)}
    return held.item | parts_copied


def _copy(part: Any) -> Any:
    return dict(part) if isinstance(part, dict) else part


def _index(event: Event, name: str) -> int | None:
    """The event's index into a list, 0 when it has none, None when it is no index."""
    index = event.get(name, 0)
    return index if type(index) is int and index >= 0 else None


def _list(holder: Mapping[str, Any], name: str) -> list[Any]:
    held = holder.get(name)
    return held if isinstance(held, list) else []


def _part_at(item: Item, parts: str, at: int) -> dict[str, Any] | None:
    listed = _list(item, parts)
    part = listed[at] if at < len(listed) else None
    return part if isinstance(part, dict) else None


def _get(item: Item, parts: str | None, at: int, field: str) -> str:
    holder = item if parts is None else _part_at(item, parts, at)
    text = holder.get(field) if holder is not None else None
    return text if isinstance(text, str) else ""


def _put(item: Item, parts: str | None, at: int, field: str, text: str) -> None:
    holder = item if parts is None else _part_at(item, parts, at)
    if holder is not None:
        holder[field] = text
