"""The whole input of a run out of its parts: the turns before, its own input, and what these refer to. Pure.

    turns, oldest first, then the own input → what has to be looked up (`unresolved`) → the items (`said`)

An item that was said already is not said again for a reference to it: upstreams refuse an id twice.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from msgspec import Struct

from schemas.ids import item_id, item_prefix, parse_item_id
from schemas.references import MAX_REFERENCES, is_reference
from schemas.request import item_type
from services.executor.backend import UpstreamError
from services.web.internal import Found, Name, Turn

Item = dict[str, Any]


class Said(Struct, frozen=True):
    """The whole input of a run, and what upstreams call those of its items whose ids are ours."""

    items: list[Item]
    names: Mapping[str, Name] = {}


def unresolved(turns: Sequence[Turn], own: Sequence[Item], *, named: bool) -> list[str]:
    """The ids of items that have to be looked up: of references to what was not said before them and, where
    the upstream has names for items of its own, of those that a client sends again itself.
    """
    known = {item.get("id") for turn in turns for item in turn.output}
    said: set[str] = set()
    referred: dict[str, None] = {}
    again: dict[str, None] = {}
    for id, item in _spoken(turns, own):
        if id is None:
            continue
        if is_reference(item):
            if id not in said:
                referred[id] = None
        elif named and id not in known and _is_of_output(id):
            again[id] = None
        said.add(id)
    # More than any client says again: ids that a client invents must not cause as many look-ups.
    return list(dict.fromkeys([*referred, *islice(again, MAX_REFERENCES)]))


def _is_of_output(id: str) -> bool:
    place = parse_item_id(id)
    return place is not None and not place.given


def said(turns: Sequence[Turn], own: Sequence[Item], found: Found) -> Said:
    """The whole input; `found` has what was `unresolved`.

    Raises UpstreamError where a reference leads to nothing: what it led to was deleted or has expired after
    the request was accepted, or a turn before refers to it.
    """
    items: list[Item] = []
    said: set[str | None] = set()
    for id, item in _spoken(turns, own):
        if not is_reference(item):
            items.append(item)
        elif id not in said:
            referred = found.items.get(str(id))
            if referred is None:
                raise UpstreamError(f"Item with id '{id}' not found.", type="conversation")
            items.append(referred)
        said.add(id)
    return Said(items, found.names | _names(turns))


def _spoken(turns: Sequence[Turn], own: Sequence[Item]) -> Iterator[tuple[str | None, Item]]:
    """The items in order, with the ids by which they can be referred to."""
    for turn in turns:
        for position, item in enumerate(turn.input):
            derived = item_id(item_prefix(item_type(item)), turn.id, position, given=True)
            yield item.get("id") or derived, item
        for item in turn.output:
            yield item.get("id"), item
    for item in own:
        yield item.get("id"), item


def _names(turns: Sequence[Turn]) -> dict[str, Name]:
    return {id: name for turn in turns for id, name in turn.names.items()}
