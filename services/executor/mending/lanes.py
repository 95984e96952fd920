"""What waits for its turn while another item of the response is told (U-16). Pure.

    event of an item that is not to be told yet → its item's lane … → the lane, when its turn has come

Most upstreams tell one item after the other, and most clients put what comes under the item that began last.
"""

from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct, field

from schemas.events import ITEM_ADDED, Event
from services.executor.mending import items
from services.executor.mending.identity import Entry, index_of, kind_of_event

MAX_EVENTS = 2_000
MAX_CHARACTERS = 8 << 20
"""Bounds of what waits in all: two pictures, or the arguments of some thousand calls."""


class Named(Struct, frozen=True):
    """By what an event names the item that it is about; None where it does not say it."""

    id: str | None
    place: int | None
    kind: str | None
    begins: bool

    @classmethod
    def by(cls, type: str, event: Event) -> "Named":
        """What an event of `type` says."""
        item = event.get("item")
        whole = isinstance(item, dict)
        id = item.get("id") if isinstance(item, dict) else event.get("item_id")
        kind = items.kind_of(item) if isinstance(item, dict) else kind_of_event(type)
        place = index_of(event.get("output_index"))
        named = id if isinstance(id, str) and id else None
        return cls(named, place, kind, whole and type == ITEM_ADDED)


class Lane(Struct):
    """The events of one item that wait. `entry` is the item, where it has begun."""

    entry: Entry | None
    kind: str | None
    place: int | None
    begun: bool
    """Whether the event that begins the item waits here."""
    ids: set[str] = field(default_factory=set)
    events: list[tuple[str, Event]] = field(default_factory=list)


class Lanes:
    """All that waits, in the order in which the items began to wait."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []
        self._events = self._characters = 0

    def __bool__(self) -> bool:
        return bool(self._lanes)

    @property
    def are_full(self) -> bool:
        """Whether more waits than is to be kept."""
        return self._events > MAX_EVENTS or self._characters > MAX_CHARACTERS

    def of(self, named: Named, entry: Entry | None) -> Lane | None:
        """The lane of the item that an event is about, if something of that waits; `entry` is the item that
        it is about among those that have begun.
        """
        if not self._lanes:
            return None
        if named.id is not None and (lane := self._last(lambda one: named.id in one.ids)) is not None:
            return lane
        if named.id is None and named.place is None:  # the latest one of its kind (U-2)
            return self._last(lambda one: one.kind == named.kind) if not named.begins else None
        if entry is not None:
            return self._last(lambda one: one.entry is entry)
        return self._last(lambda one: one.entry is None and _may_be(one, named))

    def put(self, named: Named, entry: Entry | None, type: str, event: Event) -> None:
        """Let an event wait behind what waits of its item."""
        lane = self.of(named, entry)
        if lane is None:
            lane = Lane(entry, named.kind, named.place, named.begins)
            self._lanes.append(lane)
        lane.begun = lane.begun or named.begins
        lane.kind = lane.kind or named.kind
        if named.id is not None:
            lane.ids.add(named.id)
        lane.events.append((type, event))
        self._events += 1
        self._characters += _characters(event)

    def next(self, may_be_told: Callable[[Lane], bool]) -> Lane | None:
        """Take out the first lane whose turn it is."""
        for number, lane in enumerate(self._lanes):
            if may_be_told(lane):
                del self._lanes[number]
                self._events -= len(lane.events)
                self._characters -= sum(_characters(event) for _, event in lane.events)
                return lane
        return None

    def all(self) -> list[Lane]:
        """Take out all lanes."""
        lanes, self._lanes = self._lanes, []
        self._events = self._characters = 0
        return lanes

    def _last(self, fits: Callable[[Lane], bool]) -> Lane | None:
        found: Iterator[Lane] = (lane for lane in reversed(self._lanes) if fits(lane))
        return next(found, None)


def _may_be(lane: Lane, named: Named) -> bool:
    """Whether an event, whose id no lane has, may be about the item of `lane`: by its place and kind."""
    another = named.begins and (lane.begun or (bool(lane.ids) and named.id is not None))
    return named.place is not None and lane.place == named.place and lane.kind == named.kind and not another


def _characters(value: Any, depth: int = 0) -> int:
    """About how long the texts of an event are: those in a part or an item count, deeper ones do not."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict) and depth < 3:
        return sum(_characters(one, depth + 1) for one in value.values())
    if isinstance(value, list) and depth < 3:
        return sum(_characters(one, depth + 1) for one in value)
    return 1
