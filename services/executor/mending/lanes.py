"""Holds the events that wait for their turn while another item of the response is told (U-16). Pure.

    event of an item whose turn has not come → its item's lane … → the lane, when its turn has come

Most upstreams tell one item after the other, and most clients put each event under the item that began last.
"""

from typing import Any

from msgspec import Struct, field

from schemas.events import ITEM_ADDED, Event
from services.executor.mending import items
from services.executor.mending.identity import NamedItem, index_of, kind_of_event

TEXTS = (items.MESSAGE, items.REASONING)
"""Kinds of which an item waits for a later one of the same kind."""
MAX_EVENTS = 2_000
MAX_CHARACTERS = 8 << 20
"""Bounds of all that waits: two pictures, or the arguments of some thousand calls."""


class Named(Struct, frozen=True):
    """The fields by which an event names its item; None for a field that it lacks."""

    id: str | None
    place: int | None
    kind: str | None
    begins: bool

    @classmethod
    def by(cls, type: str, event: Event) -> "Named":
        """The name of the item in an event of `type`."""
        item = event.get("item")
        whole = isinstance(item, dict)
        id = item.get("id") if isinstance(item, dict) else event.get("item_id")
        kind = items.kind_of(item) if isinstance(item, dict) else kind_of_event(type)
        place = index_of(event.get("output_index"))
        named = id if isinstance(id, str) and id else None
        return cls(named, place, kind, whole and type == ITEM_ADDED)


class ItemLane(Struct, eq=False):
    """The waiting events of one item. `entry` is the item if it has begun; `number` counts lanes."""

    number: int
    entry: NamedItem | None
    kind: str | None
    place: int | None
    begun: bool
    """Whether the event that begins the item waits here."""
    ids: set[str] = field(default_factory=set)
    events: list[tuple[str, Event]] = field(default_factory=list)
    keys: set[tuple[object, ...]] = field(default_factory=set)
    """The keys under which `Lanes` finds it."""


class Lanes:
    """All lanes, in the order in which the items began to wait.

    Thousands of lanes may wait, and each event asks for one. So a lane is found by its keys, and no search
    goes through all lanes.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[object, ...], dict[ItemLane, None]] = {}
        """By key, the lanes that have it, in their order; by () all lanes."""
        self._begun = 0
        self._events = self._characters = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def are_full(self) -> bool:
        """Whether more events wait than the bounds allow."""
        return self._events > MAX_EVENTS or self._characters > MAX_CHARACTERS

    def of(self, named: Named, entry: NamedItem | None) -> ItemLane | None:
        """The lane of the item that an event is about, if any. `entry` is that item if it has begun."""
        if not self._found:
            return None
        if named.id is not None and (lane := self._last("id", named.id)) is not None:
            return lane
        if named.id is None and named.place is None:  # the latest one of its kind (U-2)
            return self._last("kind", named.kind) if not named.begins else None
        if entry is not None:
            return self._last("entry", entry)
        if named.place is None:
            return None
        if not named.begins:
            return self._last("place", named.place, named.kind)
        # A lane whose item has not begun, by place and kind. If the event has an id, only a lane without ids.
        untold = reversed(self._found.get(("untold", named.place, named.kind), {}))
        return next((lane for lane in untold if named.id is None or not lane.ids), None)

    def put(self, named: Named, entry: NamedItem | None, type: str, event: Event) -> None:
        """Let an event wait, behind the others of its item."""
        lane = self.of(named, entry)
        if lane is None:
            lane = ItemLane(self._begun, entry, named.kind, named.place, named.begins)
            self._begun += 1
        lane.begun = lane.begun or named.begins
        lane.kind = lane.kind or named.kind
        if named.id is not None:
            lane.ids.add(named.id)
        self._find_by(lane, named.id)
        lane.events.append((type, event))
        self._events += 1
        self._characters += _characters(event)

    def first(self, turn: str) -> ItemLane | None:
        """The first lane of those that have their turn together; see `turn_of`."""
        return next(iter(self._found.get(("turn", turn), ())), None)

    def about(self, entry: NamedItem) -> ItemLane | None:
        """The first lane of an item that has begun."""
        return next(iter(self._found.get(("entry", entry), ())), None)

    def take(self, lane: ItemLane) -> ItemLane:
        """Take out a lane."""
        for key in lane.keys:
            self._lose(lane, key)
        self._events -= len(lane.events)
        self._characters -= sum(_characters(event) for _, event in lane.events)
        return lane

    def all(self) -> list[ItemLane]:
        """Take out all lanes."""
        return [self.take(lane) for lane in list(self._found.get((), ()))]

    def _find_by(self, lane: ItemLane, id: str | None) -> None:
        keys: list[tuple[object, ...]] = [(), ("kind", lane.kind), ("turn", turn_of(lane.entry))]
        keys += [("entry", lane.entry)] if lane.entry is not None else [("place", lane.place, lane.kind)]
        keys += [("id", id)] if id is not None else []
        untold = ("untold", lane.place, lane.kind)
        if lane.entry is None and not lane.begun:
            keys.append(untold)
        elif untold in lane.keys:
            lane.keys.discard(untold)
            self._lose(lane, untold)
        for key in keys:
            if key not in lane.keys:
                lane.keys.add(key)
                self._found.setdefault(key, {})[lane] = None

    def _lose(self, lane: ItemLane, key: tuple[object, ...]) -> None:
        found = self._found[key]
        del found[lane]
        if not found:
            del self._found[key]

    def _last(self, *key: object) -> ItemLane | None:
        found = self._found.get(key)
        return next(reversed(found)) if found else None


def turn_of(entry: NamedItem | None) -> str:
    """The turn that an item shares: of the begun texts of its kind, or "" with all other items."""
    return entry.kind if entry is not None and entry.opened and entry.kind in TEXTS else ""


def _characters(value: Any, depth: int = 0) -> int:
    """About how many characters the texts of an event have, down to those in a part or an item."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict) and depth < 3:
        return sum(_characters(one, depth + 1) for one in value.values())
    if isinstance(value, list) and depth < 3:
        return sum(_characters(one, depth + 1) for one in value)
    return 1
