"""Cuts the pages of lists: input items (A-14), webhook endpoints (A-35)."""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from schemas.errors import invalid

Item = dict[str, Any]

DEFAULT_LIMIT = 20
MAX_LIMIT = 100


class Paging(Struct, frozen=True):
    """The page that a client asks for: up to `limit` items after the one with id `after`."""

    limit: int = DEFAULT_LIMIT
    descending: bool = True
    after: str | None = None


def parse_paging(query: Mapping[str, str]) -> Paging:
    """The paging in a query. `include` and `include[]` are accepted without effect. Raises ApiError 400."""
    return Paging(_limit(query.get("limit")), _descending(query.get("order")), query.get("after") or None)


def page(items: Sequence[Item], paging: Paging, what: str = "input item") -> Item:
    """The list object with the page of `items`, the oldest first; `what` is the word for one.

    Raises ApiError 400 if no item has the id `after`.
    """
    ordered = list(reversed(items)) if paging.descending else list(items)
    rest = ordered[_start(ordered, paging.after, what) :]
    data = rest[: paging.limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rest) > len(data),
    }


def _start(ordered: Sequence[Item], after: str | None, what: str) -> int:
    if after is None:
        return 0
    for index, item in enumerate(ordered):
        if item["id"] == after:
            return index + 1
    raise invalid(f"No {what} with id '{after}'.", "after")


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise invalid(f"limit must be an integer from 1 to {MAX_LIMIT}.", "limit")
    return limit


def _descending(text: str | None) -> bool:
    if text not in (None, "asc", "desc"):
        raise invalid("order must be 'asc' or 'desc'.", "order")
    return text != "asc"
