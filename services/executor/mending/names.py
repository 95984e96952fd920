"""The two names of an item: ours, which clients see, and the one that its upstream gave it (U-30).

    out    the upstream's id of an item → ours, made of the response and the item's place; the log keeps both
    back   ours → the upstream's, if the item goes back to the upstream that named it

An upstream binds sealed content (`encrypted_content`) to the name that it gave the item, and finds stored
items by it. Other upstreams only want a name of the right shape. Pure.
"""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.ids import parse_item_id
from services.config import Agent, Route
from services.web.internal import Name

Item = dict[str, Any]

AT_DIGITS = 8
"""Hex digits that tell upstreams apart. A client sees them, and cannot derive the URL from them."""


def names_at(route: Route | None) -> str | None:
    """The mark of the upstream of `route`, None if that gives items no names. Routes to one address have the
    same mark.
    """
    if isinstance(route, Agent):
        return _digits(route.url)
    return _digits(route.base_url) if route is not None and route.backend == "responses" else None


def _digits(url: str) -> str:
    return hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:AT_DIGITS]


def restored(items: Iterable[Item], names: Mapping[str, Name], at: str | None) -> list[Item]:
    """The items under the names that upstream `at` gave them; items without one keep ours.

    A thought that another upstream sealed is left out: only that upstream can open it. An item that was
    sealed under a name that is no longer known goes without a name: the upstream refuses a wrong one, and
    accepts none.
    """
    taken: set[str] = set()
    found = (_restored(item, names, at, taken) for item in items)
    return [whole for whole in found if whole is not None]


def is_found(thought: Item) -> bool:
    """Whether an upstream that stores its items may find a `thought` by its id, because that is not ours."""
    return parse_item_id(str(thought.get("id"))) is None


def recalled(event: dict[str, Any], names: Mapping[str, Name], at: str | None) -> None:
    """Put our name of a request for approval into `event` of upstream `at`, in place."""
    response = event.get("response")
    output = response.get("output") if isinstance(response, dict) else None
    for item in (event.get("item"), *(output if isinstance(output, list) else ())):
        asked = item.get("approval_request_id") if isinstance(item, dict) else None
        if isinstance(item, dict) and asked:
            ours = (id for id, name in names.items() if name == Name(str(asked), str(at)))
            item["approval_request_id"] = next(ours, asked)


def _restored(item: Item, names: Mapping[str, Name], at: str | None, taken: set[str]) -> Item | None:
    """One item. `taken` are the names of the items before it: many servers give each call the same name."""
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
        return item  # such as a compacted conversation: the upstream will say that it cannot read it
    return {**item, "encrypted_content": None} if item.get("content") else None


def _theirs(id: object, names: Mapping[str, Name], at: str | None) -> str | None:
    name = names.get(id) if isinstance(id, str) else None
    return name.id if name is not None and name.at == at else None
