"""Which output item an upstream's event is about, and what it is called (U-2, U-3, U-4).

The first id and `call_id` of an item are its own until the end. Places are given in the order in which items
begin, so no two share one. What the upstream calls an item, and where it puts it, finds it again, here and
when the item goes back.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from schemas.events import Event
from schemas.ids import ResponseId, item_id, item_prefix
from schemas.output import Item, Output
from services.executor.mending import items
from services.web.internal import Name

Mint = Callable[[str, str | None, int], str]
"""`mint(type, upstream_id, output_index)`: the id of an item. `upstream_id` is None where the upstream gave
none, or one that another item of the response has. For the type CALL it makes a `call_id`.
"""
CALL = "call"

LOOKED_AT = 10
"""Items of which one without a known id may be any: each is compared with it, texts and all."""
_NAME = re.compile(r"[!-~]{1,256}")
"""Ids of an upstream that are taken note of."""
_TOOLS = ("_arguments", "_input", "_code", "_command", "_output_content")


def ours(response: ResponseId) -> Mint:
    """Ids that say where the item lies (A-26), whatever the upstream calls it."""

    def mint(kind: str, theirs: str | None, index: int) -> str:
        return item_id("call" if kind == CALL else item_prefix(kind, theirs), response, index)

    return mint


def kept(response: ResponseId) -> Mint:
    """Ids as they come, for a backend that gives items ours itself; ours where there is none."""
    mint = ours(response)
    return lambda kind, theirs, index: theirs or mint(kind, None, index)


def kind_of_event(type: str) -> str | None:
    """The kind of item that an event of `type` is about; None when it is about none."""
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
    """An index as upstreams write it: an integer, also as a float or as text; None when it is none."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 31 else None


class Entry:
    """An item that the upstream has told of. `index` is its place once it is open, -1 before."""

    __slots__ = ("id", "implied", "index", "item", "kind", "named", "opened", "theirs", "waiting")

    def __init__(self, item: Item, theirs: int | None, *, implied: bool) -> None:
        self.item = item
        """What it was told to be, and its identity once it is open."""
        self.kind: str = item["type"]
        self.id = ""
        self.index = -1
        self.opened = False
        self.named: str | None = None
        """What the upstream calls it, where that is not its id, and no other item's name."""
        self.theirs = theirs
        self.implied = implied
        """Whether only events about it were seen, and not itself."""
        self.waiting: list[str] = []
        """Deltas that came before the item could begin."""

    @property
    def may_open(self) -> bool:
        """Whether all is known that cannot be invented."""
        return not self.opened and (self.kind not in items.NAMED or bool(self.item.get("name")))

    def identity(self) -> Item:
        """What stays as it was first told."""
        own: Item = {name: self.item[name] for name in ("type", "call_id", "name") if name in self.item}
        return {**own, "id": self.id}


class Table:
    """The items of one response; `names` are what the upstream calls those of `output`, the output so far."""

    def __init__(self, mint: Mint, output: Output, names: Mapping[str, Name]) -> None:
        self._mint = mint
        self.entries: list[Entry] = []
        """Those that are open, or done, in the order of their places."""
        self.unopened: list[Entry] = []
        self._ids: dict[str, Entry] = {}
        self._shared: set[str] = set()
        """Ids that the upstream gave to several items: alone they say nothing."""
        self._places: dict[int, list[Entry]] = {}
        self._calls: dict[tuple[str, str], Entry] = {}
        self._names: set[str] = set()
        self._aliases: dict[str, str] = {}
        """The upstream's call ids to ours, where they differ."""
        self._output = output
        self._next = max(output.held(), default=-1) + 1
        """The place of the item that is opened next."""
        for index, item in zip(sorted(output.held()), output.items(), strict=True):
            self._take_over(index, item, names)

    def _take_over(self, index: int, item: Item, names: Mapping[str, Name]) -> None:
        entry = Entry({**item, "type": items.kind_of(item)}, index, implied=False)
        entry.id, entry.index, entry.opened = str(item.get("id") or ""), index, True
        self.entries.append(entry)
        self._names.add(entry.id)
        self._known_as(entry, item, index)
        if (name := names.get(entry.id)) is not None:
            self._names.add(name.id)
            self._known_as(entry, {"id": name.id}, None)

    def new(self, item: Item, event: Event, *, implied: bool = False) -> Entry:
        """An item that was not there yet."""
        theirs = index_of(event.get("output_index"))
        entry = Entry(dict(item), theirs, implied=implied)
        self.unopened.append(entry)
        self._known_as(entry, item, theirs)
        return entry

    def open(self, entry: Entry) -> Item:
        """Give an item its place and identity; what it is then."""
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

    def _call(self, entry: Entry) -> None:
        """The `call_id` of a call, which no other of its kind has; what answers a call has the same."""
        theirs = entry.item.get("call_id")
        theirs = str(theirs) if theirs and isinstance(theirs, str | int) else None
        if entry.kind.endswith("_output") and theirs is not None:
            entry.item["call_id"] = self._aliases.get(theirs, theirs)
        elif entry.kind.endswith("_output") or entry.kind in items.CALLED:
            taken = self._calls.get((entry.kind, theirs or "")) not in (None, entry)
            ours = theirs if theirs is not None and not taken else self._mint(CALL, None, entry.index)
            entry.item["call_id"] = ours
            self._calls[entry.kind, ours] = entry

    def _known_as(self, entry: Entry, item: Item, theirs: int | None) -> None:
        if isinstance(id := item.get("id"), str) and id:
            if self._ids.get(id, entry) is not entry:
                self._shared.add(id)
            self._ids[id] = entry
        if theirs is not None:
            self._places.setdefault(theirs, []).append(entry)
        if isinstance(call := item.get("call_id"), str) and call:
            self._calls.setdefault((entry.kind, call), entry)

    def learn(self, entry: Entry, item: Item) -> None:
        """Take what another telling of an item adds, and the names that it goes by there."""
        fixed = ("id", "call_id") if entry.opened else ()
        entry.item = items.merged({k: v for k, v in item.items() if k not in fixed}, entry.item)
        self._known_as(entry, item, None)
        theirs, ours = item.get("call_id"), entry.item.get("call_id")
        if entry.kind in items.CALLED and isinstance(theirs, str) and theirs != ours:
            self._aliases[theirs] = str(ours)

    def _is_done(self, entry: Entry) -> bool:
        return entry.opened and not self._output.is_under_way(entry.index)

    def announced(self, item: Item, event: Event) -> Entry | None:
        """The item that an `added` tells of again, if there is one."""
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

    def _same(self, entry: Entry, item: Item) -> bool:
        """Whether an item without a known id may be `entry`, which has the same place and kind."""
        return entry.implied or (not item.get("id") and not _another_call(entry, item))

    def _at(self, theirs: int | None) -> Sequence[Entry]:
        if theirs is not None:
            return self._places.get(theirs, ())
        return [entry for entry in (*self.entries, *self.unopened) if entry.implied]

    def about(self, kind: str, event: Event) -> Entry | None:
        """The item of `kind` that an event is about: by its id, else by its place, else the last one open."""
        id, theirs = event.get("item_id"), index_of(event.get("output_index"))
        found: list[Entry] = []
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
        """The kind of item that a part of the list `parts` is of."""
        kind = part.get("type") if isinstance(part, dict) else None
        if parts == "summary" or kind == "reasoning_text":
            return items.REASONING
        known = self._by_id(event.get("item_id")) if kind is None else None
        return known.kind if known is not None else items.MESSAGE

    def renamed(self, event: Event) -> Event:
        """An event outside the API, about the item by its name here."""
        entry = self._by_id(event.get("item_id"))
        if entry is None or not entry.opened:
            return event
        return {**event, "item_id": entry.id, "output_index": entry.index}

    def ended(self, item: Item, event: Event) -> Entry | None:
        """The item that a `done` tells of; `item` is empty where it tells of none."""
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

    def matched(self, said: list[Item], meets: Callable[[Entry, Item], bool]) -> Iterator[tuple[Entry, Item]]:
        """Each item of the final object with the one that was streamed, or a new one."""
        found: dict[int, Entry] = {}
        matched: set[Entry] = set()
        for number, item in enumerate(said):
            known = self._alone(item.get("id"))
            known = known or self._calls.get((item["type"], str(item.get("call_id"))))
            if known and known.kind == item["type"] and known not in matched:
                found[number] = known
                matched.add(known)
        # By kind: there may be thousands of items that none of these is. New ones are never free.
        free: dict[str, dict[Entry, None]] = {}
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
        free: Mapping[Entry, None],
        meets: Callable[[Entry, Item], bool],
    ) -> Entry | None:
        """The first of those at its place, and of the `free` ones that come next, which `item` may be."""
        near = [entry for entry in self._places.get(number, ()) if entry in free]
        for entry in islice(dict.fromkeys((*near, *islice(free, LOOKED_AT))), LOOKED_AT):
            if _same_name(entry, item) and (not entry.opened or meets(entry, item)):
                return entry
        return None

    def _alone(self, id: object) -> Entry | None:
        """The one item that has this id, if no other has it too."""
        known = self._by_id(id)
        return known if known is not None and id not in self._shared else None

    def _by_id(self, id: object) -> Entry | None:
        return self._ids.get(id) if isinstance(id, str) else None


def _another_call(entry: Entry, item: Item, theirs: int | None = None) -> bool:
    """Whether `item` is another call than `entry`: with a `call_id` of its own, and a name or place too."""
    mine, call_id = entry.item.get("call_id"), item.get("call_id")
    elsewhere = theirs is not None and entry.theirs is not None and theirs != entry.theirs
    renamed = entry.item.get("name") != item.get("name")
    return bool(mine and call_id and mine != call_id and (renamed or elsewhere))


def _same_name(entry: Entry, item: Item) -> bool:
    mine, theirs = entry.item.get("name"), item.get("name")
    return not mine or not theirs or mine == theirs
