"""Looks up the items that one request refers to at several replays: each is asked for its part.

    by name            the replay that serves the response which an id of ours names
    what is left then  in the conversation before the request, from its last turn back, from one replay to the
                       next as its turns lead

A part that cannot be looked up fails the whole: what is there is never called missing.
"""

import asyncio
from collections.abc import Awaitable, Callable

from schemas.ids import parse_item_id, partition_of
from services.web.internal import Found, Wanted

Owner = Callable[[int], str]
"""Names who is asked about a partition: partitions of the same one are asked for together."""
Ask = Callable[[int, Wanted], Awaitable[Found]]
"""Asks a replay that serves the partition. May raise."""


async def found_apart(wanted: Wanted, owner: Owner, ask: Ask) -> Found:
    """Those of the `wanted` items that exist. Raises what `ask` raises."""
    by_owner: dict[str, list[str]] = {}
    asked_at: dict[str, int] = {}
    for id in wanted.ids:
        if (place := parse_item_id(id)) is not None:
            partition = partition_of(place.response)
            who = owner(partition)
            asked_at.setdefault(who, partition)
            by_owner.setdefault(who, []).append(id)
    before = None if wanted.previous is None else partition_of(wanted.previous)
    owners = [*by_owner, *([] if before is None else [owner(before)])]
    if not owners:
        return Found(missing=list(wanted.ids))
    if len(set(owners)) == 1:
        at_one = asked_at.get(owners[0], before)
        assert at_one is not None
        found = await ask(at_one, wanted)
    else:
        parts = [
            ask(asked_at[who], Wanted(wanted.tenant, None, ids, wanted.contents))
            for who, ids in by_owner.items()
        ]
        found = _merged(wanted, await asyncio.gather(*parts))
    while found.behind is not None and found.left:
        part = Wanted(wanted.tenant, found.behind, found.left, wanted.contents, named=False)
        found = _joined(found, await ask(partition_of(found.behind), part))
    return found


def _merged(wanted: Wanted, parts: list[Found]) -> Found:
    """What was found by name, and all else left for the conversation; if an answer was cut for its size, left
    for the next time.
    """
    found = Found(missing=[])
    for part in parts:
        found.items.update(part.items)
        found.names.update(part.names)
    missing = {id for part in parts for id in part.missing}
    cut = [id for part in parts for id in part.left]
    there = {id for id in wanted.ids if parse_item_id(id) is not None} - missing - set(cut)
    rest = [id for id in wanted.ids if id not in there]
    if cut:
        return Found([], found.items, found.names, rest)
    if wanted.previous is None:
        return Found(rest, found.items, found.names)
    return Found([], found.items, found.names, rest, wanted.previous)


def _joined(before: Found, more: Found) -> Found:
    """`before`, with what was found of that which was left."""
    return Found(more.missing, before.items | more.items, before.names | more.names, more.left, more.behind)
