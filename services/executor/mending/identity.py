"""Finds the output item that an upstream's event is about, and gives items their ids (U-2, U-3, U-4).

An item keeps its first id and `call_id` to the end. Items get places in the order in which they begin, so no
two share one. The upstream's id and index of an item serve to find it again, here and when the item goes back
to the upstream.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from schemas.events import Event
from schemas.ids import ResponseId, item_id, item_prefix
from schemas.output import Item, Output
from services.executor.mending import items
from services.executor.mending.places import NO_INDEX, Indexes, OurPlace
from services.web.internal import Name

Mint = Callable[[str, str | None, int], str]
"""`mint(type, upstream_id, output_index)` returns the id of an item. `upstream_id` is None if the upstream
gave none, or one that another item of the response has. For the type CALL it returns a `call_id`.
"""
CALL = "call"

LOOKED_AT = 10
"""How many items one without a known id is compared with: a comparison reads all texts."""
_NAME = re.compile(r"[!-~]{1,256}")
"""Ids of an upstream that are kept."""
_TOOLS = ("_arguments", "_input", "_code", "_command", "_output_content")


def ours(response: ResponseId) -> Mint:
    """Makes ids that say where the item lies (A-26), whatever the upstream calls it."""

    def mint(kind: str, theirs: str | None, index: int) -> str:
        return item_id("call" if kind == CALL else item_prefix(kind, theirs), response, index)

    return mint


def kept(response: ResponseId) -> Mint:
    """Keeps the ids of a backend that gives items our ids itself, and makes the ones that are missing."""
    mint = ours(response)
    return lambda kind, theirs, index: theirs or mint(kind, None, index)


def kind_of_event(type: str) -> str | None:
    """The kind of item that an event of `type` is about; None if it is about no item."""
    head, _, rest = type.partition(".")
    name = rest.partition(".")[0]
    if head != "response" or not rest:
        return None
    if name in ("output_text", "refusal", "content_part"):
        return items.MESSAGE
    if name.startswith("reasoning"):
        return items.REASONING
    if name.startswith("shell_call_output"):
        return "shell_call_output"
    for ending in _TOOLS:
        name = name.removesuffix(ending)
    return name if name.endswith("_call") or name in ("mcp_list_tools", "compaction") else None


def index_of(value: object) -> int | None:
    """An index as upstreams write it: an integer, maybe as a float or as text. None for anything else."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 31 else None


class NamedItem:
    """An item that the upstream has named. `index` is its place once it is open, -1 before."""

    __slots__ = ("id", "implied", "index", "item", "kind", "named", "opened", "theirs", "waiting")

    def __init__(self, item: Item, theirs: int | None, *, implied: bool) -> None:
        self.item = item
        """The item as told so far; it has its own id once it is open."""
        self.kind: str = item["type"]
        self.id = ""
        self.index = -1
        self.opened = False
        self.named: str | None = None
        """The upstream's id of the item, if it differs from ours and no other item has it."""
        self.theirs = theirs
        self.implied = implied
        """Whether events about the item came, but not yet the item itself."""
        self.waiting: list[str] = []
        """Deltas that came before the item could begin."""

    @property
    def may_open(self) -> bool:
        """Whether the item can be opened: all fields are known that cannot be invented."""
        return not self.opened and (self.kind not in items.NAMED or bool(self.item.get("name")))

    def identity(self) -> Item:
        """The fields that stay as they first came."""
        own: Item = {name: self.item[name] for name in ("type", "call_id", "name") if name in self.item}
        return {**own, "id": self.id}


class Table:
    """The items of one response. `output` is the output so far, `names` and `indexes` are the upstream's of
    its items; an item without an index has ours.
    """

    def __init__(self, mint: Mint, output: Output, names: Mapping[str, Name], indexes: Indexes) -> None:
        self._mint = mint
        self.entries: list[NamedItem] = []
        """The items that are open, or done, in the order of their places."""
        self.unopened: list[NamedItem] = []
        self._ids: dict[str, NamedItem] = {}
        self._shared: set[str] = set()
        """Ids that the upstream gave to several items: such an id alone finds no item."""
        self._places: dict[int, list[NamedItem]] = {}
        self._calls: dict[tuple[str, str], NamedItem] = {}
        self._names: set[str] = set()
        self._aliases: dict[str, str] = {}
        """By the upstream's call id, ours, where they differ."""
        self._output = output
        self._next = max(output.held(), default=-1) + 1
        """The place of the item that is opened next."""
        for index, item in zip(sorted(output.held()), output.items(), strict=True):
            theirs = indexes.get(OurPlace(index), index)
            self._take_over(index, item, names, None if theirs == NO_INDEX else theirs)

    def _take_over(self, index: int, item: Item, names: Mapping[str, Name], theirs: int | None) -> None:
        entry = NamedItem({**item, "type": items.kind_of(item)}, theirs, implied=False)
        entry.id, entry.index, entry.opened = str(item.get("id") or ""), index, True
        self.entries.append(entry)
        self._names.add(entry.id)
        self._known_as(entry, item, theirs)
        if (name := names.get(entry.id)) is not None:
            self._names.add(name.id)
            self._known_as(entry, {"id": name.id}, None)

    def new(self, item: Item, event: Event, *, implied: bool = False) -> NamedItem:
        """Add an item that is not open yet."""
        theirs = index_of(event.get("output_index"))
        entry = NamedItem(dict(item), theirs, implied=implied)
        self.unopened.append(entry)
        self._known_as(entry, item, theirs)
        return entry

    def open(self, entry: NamedItem) -> Item:
        """Give an item its place and identity. Returns the item with them."""
        entry.index, self._next = self._next, self._next + 1
        theirs = entry.item.get("id")
        theirs = theirs if isinstance(theirs, str) and theirs and theirs not in self._names else None
        entry.id = self._mint(entry.kind, theirs, entry.index)
        if entry.id in self._names:
            entry.id = self._mint(entry.kind, None, entry.index)
        if theirs is not None and theirs != entry.id and _NAME.fullmatch(theirs):
            entry.named = theirs
            self._names.add(theirs)
        self._names.add(entry.id)
        self._call(entry)
        entry.item["id"], entry.opened = entry.id, True
        self.unopened.remove(entry)
        self.entries.append(entry)
        self._ids.setdefault(entry.id, entry)
        return entry.item

    def _call(self, entry: NamedItem) -> None:
        """Give a call a `call_id` that no other call of its kind has; an output gets that of its call."""
        theirs = entry.item.get("call_id")
        theirs = str(theirs) if theirs and isinstance(theirs, str | int) else None
        if entry.kind.endswith("_output") and theirs is not None:
            entry.item["call_id"] = self._aliases.get(theirs, theirs)
        elif entry.kind.endswith("_output") or entry.kind in items.CALLED:
            taken = self._calls.get((entry.kind, theirs or "")) not in (None, entry)
            ours = theirs if theirs is not None and not taken else self._mint(CALL, None, entry.index)
            entry.item["call_id"] = ours
            self._calls[entry.kind, ours] = entry

    def _known_as(self, entry: NamedItem, item: Item, theirs: int | None) -> None:
        if isinstance(id := item.get("id"), str) and id:
            if self._ids.get(id, entry) is not entry:
                self._shared.add(id)
            self._ids[id] = entry
        if theirs is not None:
            self._places.setdefault(theirs, []).append(entry)
        if isinstance(call := item.get("call_id"), str) and call:
            self._calls.setdefault((entry.kind, call), entry)

    def learn(self, entry: NamedItem, item: Item) -> None:
        """Add the fields and the ids that another version of an item has."""
        fixed = ("id", "call_id") if entry.opened else ()
        entry.item = items.overridden({k: v for k, v in item.items() if k not in fixed}, entry.item)
        self._known_as(entry, item, None)
        theirs, ours = item.get("call_id"), entry.item.get("call_id")
        if entry.kind in items.CALLED and isinstance(theirs, str) and theirs != ours:
            self._aliases[theirs] = str(ours)

    def _is_done(self, entry: NamedItem) -> bool:
        return entry.opened and not self._output.is_under_way(entry.index)

    def announced(self, item: Item, event: Event) -> NamedItem | None:
        """The known item that an `added` is about, if there is one."""
        theirs = index_of(event.get("output_index"))
        known = self._by_id(item.get("id"))
        if known and known.kind == item["type"] and not _another_call(known, item, theirs):
            if not self._is_done(known) or theirs in (None, known.theirs):
                return known
        elif known is None:
            for entry in reversed(self._at(theirs)):
                if entry.kind == item["type"] and not self._is_done(entry) and self._same(entry, item):
                    return entry
        return None

    def _same(self, entry: NamedItem, item: Item) -> bool:
        """Whether an item without a known id may be `entry`, which has the same place and kind."""
        return entry.implied or (not item.get("id") and not _another_call(entry, item))

    def _at(self, theirs: int | None) -> Sequence[NamedItem]:
        if theirs is not None:
            return self._places.get(theirs, ())
        return [entry for entry in (*self.entries, *self.unopened) if entry.implied]

    def about(self, kind: str, event: Event) -> NamedItem | None:
        """The item of `kind` that an event is about: found by id, else by place, else the last open one."""
        id, theirs = event.get("item_id"), index_of(event.get("output_index"))
        found: list[NamedItem] = []
        if (known := self._by_id(id)) is not None:
            found.append(known)
        if theirs is not None:
            found += reversed(self._places.get(theirs, ()))
        else:
            found += [*reversed(self.unopened), *reversed(self.entries)]
        fitting = [entry for entry in found if entry.kind == kind]
        under_way = next((entry for entry in fitting if not self._is_done(entry)), None)
        if under_way is not None or not fitting:
            return under_way
        return fitting[0] if known is not None or not id else None

    def kind_of_part(self, part: object, parts: str, event: Event) -> str:
        """The kind of item to which a part in the list `parts` belongs."""
        kind = part.get("type") if isinstance(part, dict) else None
        if parts == "summary" or kind == "reasoning_text":
            return items.REASONING
        known = self._by_id(event.get("item_id")) if kind is None else None
        return known.kind if known is not None else items.MESSAGE

    def renamed(self, event: Event) -> Event:
        """An event outside the API, with our id and place of its item."""
        entry = self._by_id(event.get("item_id"))
        if entry is None or not entry.opened:
            return event
        return {**event, "item_id": entry.id, "output_index": entry.index}

    def ended(self, item: Item, event: Event) -> NamedItem | None:
        """The item that a `done` ends. `item` is the one in the event, empty without one."""
        kind = item.get("type")
        known = self._by_id(item.get("id"))
        theirs = index_of(event.get("output_index"))
        if known is not None and known.kind == kind and not _another_call(known, item):
            elsewhere = theirs not in (None, known.theirs)
            if not (elsewhere and self._is_done(known)):
                return known
        call = self._calls.get((kind or "", str(item.get("call_id"))))
        if call is not None and not self._is_done(call):
            return call
        at = self._places.get(theirs, ()) if theirs is not None else [*self.entries, *self.unopened]
        fitting = [entry for entry in reversed(at) if kind in (None, entry.kind)]
        under_way = next((entry for entry in fitting if not self._is_done(entry)), None)
        if under_way is None and fitting and not item.get("id") and not _another_call(fitting[0], item):
            return fitting[0]
        return under_way

    def matched(
        self, said: list[Item], meets: Callable[[NamedItem, Item], bool]
    ) -> Iterator[tuple[NamedItem, Item]]:
        """Each item of the final object, with the entry that was streamed, or a new one."""
        found: dict[int, NamedItem] = {}
        matched: set[NamedItem] = set()
        for number, item in enumerate(said):
            known = self._alone(item.get("id"))
            known = known or self._calls.get((item["type"], str(item.get("call_id"))))
            if known and known.kind == item["type"] and known not in matched:
                found[number] = known
                matched.add(known)
        # By kind, because there may be thousands of items of other kinds. New items are never free.
        free: dict[str, dict[NamedItem, None]] = {}
        for entry in (*self.entries, *self.unopened):
            if entry not in matched:
                free.setdefault(entry.kind, {})[entry] = None
        for number, item in enumerate(said):
            if number not in found:
                same = free.get(item["type"], {})
                entry = self._unmatched(number, item, same, meets) or self.new(item, {})
                same.pop(entry, None)
                found[number] = entry
            yield found[number], item

    def _unmatched(
        self,
        number: int,
        item: Item,
        free: Mapping[NamedItem, None],
        meets: Callable[[NamedItem, Item], bool],
    ) -> NamedItem | None:
        """The first entry that `item` may be: of those at its place, then of the next `free` ones."""
        near = [entry for entry in self._places.get(number, ()) if entry in free]
        for entry in islice(dict.fromkeys((*near, *islice(free, LOOKED_AT))), LOOKED_AT):
            if _same_name(entry, item) and (not entry.opened or meets(entry, item)):
                return entry
        return None

    def _alone(self, id: object) -> NamedItem | None:
        """The item with this id, if no other item has it."""
        known = self._by_id(id)
        return known if known is not None and id not in self._shared else None

    def _by_id(self, id: object) -> NamedItem | None:
        return self._ids.get(id) if isinstance(id, str) else None


def _another_call(entry: NamedItem, item: Item, theirs: int | None = None) -> bool:
    """Whether `item` is another call than `entry`: another `call_id`, and another name or place."""
    mine, call_id = entry.item.get("call_id"), item.get("call_id")
    elsewhere = theirs is not None and entry.theirs is not None and theirs != entry.theirs
    renamed = entry.item.get("name") != item.get("name")
    return bool(mine and call_id and mine != call_id and (renamed or elsewhere))


def _same_name(entry: NamedItem, item: Item) -> bool:
    mine, theirs = entry.item.get("name"), item.get("name")
    return not mine or not theirs or mine == theirs
