"""The two names of an item: ours, which clients see, and the one that its upstream gave it (U-30).

    out    the upstream's id of an item → ours, by the response and the item's place; the log keeps both
    back   ours → the upstream's, where the item goes back to the upstream that named it

Upstreams bind what they sealed (`encrypted_content`) to the name that they gave it, and find what they stored
by it. To all others a name is a label of the right shape. Pure.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.ids import parse_item_id
from services.config import Agent, Route
from services.web.internal import Name

Item = dict[str, Any]

AT_DIGITS = 8
"""Hex digits that tell upstreams apart: a client sees them, and learns nothing from them."""


def names_at(route: Route | None) -> str | None:
    """Which upstream the names of items are from, None where it gives none: two routes to the same address
    lead to the same upstream.
    """
    if isinstance(route, Agent):
        return _digits(route.url)
    return _digits(route.base_url) if route is not None and route.backend == "responses" else None


def _digits(url: str) -> str:
    return hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:AT_DIGITS]


def restored(items: Iterable[Item], names: Mapping[str, Name], at: str | None) -> list[Item]:
    """The items by the names that upstream `at` gave them, where it did; elsewhere ours stay.

    A thought that another upstream sealed is left out: nobody else can open it. What was sealed under a name
    that nobody knows any more goes without one: the upstream refuses a wrong name, and takes none.
    """
    taken: set[str] = set()
    found = (_restored(item, names, at, taken) for item in items)
    return [whole for whole in found if whole is not None]


def is_found(thought: Item) -> bool:
    """Whether an upstream that stores what it says may find a `thought` by its id: the id is not ours."""
    return parse_item_id(str(thought.get("id"))) is None


def recalled(event: dict[str, Any], names: Mapping[str, Name], at: str | None) -> None:
    """Say in `event` of upstream `at`, in place, which request for approval a call was about, by our name."""
    response = event.get("response")
    output = response.get("output") if isinstance(response, dict) else None
    for item in (event.get("item"), *(output if isinstance(output, list) else ())):
        asked = item.get("approval_request_id") if isinstance(item, dict) else None
        if isinstance(item, dict) and asked:
            ours = (id for id, name in names.items() if name == Name(str(asked), str(at)))
            item["approval_request_id"] = next(ours, asked)


def _restored(item: Item, names: Mapping[str, Name], at: str | None, taken: set[str]) -> Item | None:
    """One item; the names in `taken` are those of items before it: many servers give each call the same."""
    id, sealed = item.get("id"), item.get("encrypted_content")
    asked = _theirs(item.get("approval_request_id"), names, at)
    if asked is not None:
        item = {**item, "approval_request_id": asked}
    if not isinstance(id, str) or parse_item_id(id) is None:
        return item
    if (theirs := _theirs(id, names, at)) is not None and theirs not in taken:
        taken.add(theirs)
        return {**item, "id": theirs}
    if not sealed:
        return item
    if id not in names:
        return {name: value for name, value in item.items() if name != "id"}
    if item.get("type") != "reasoning":
        return item  # a conversation that was made compact, say: the upstream tells that it cannot read it
    return {**item, "encrypted_content": None} if item.get("content") else None


def _theirs(id: object, names: Mapping[str, Name], at: str | None) -> str | None:
    name = names.get(id) if isinstance(id, str) else None
    return name.id if name is not None and name.at == at else None
