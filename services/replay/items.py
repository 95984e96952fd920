"""The items that requests refer to (A-26).

    an id of ours     names its response: its input has the item or, as far as that is done, its output
    any other         is looked for in the conversation before the request, from its last turn back

What the tenant may not see is not there: unknown, foreign, deleted and unstored are one and the same.
The log's end is asked for once for all of them: an ask for each of thousands would take seconds.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from schemas.errors import ApiError, not_found, unavailable
from schemas.ids import ResponseId, Tenant, parse_item_id, partition_of
from schemas.references import is_reference
from schemas.request import input_items, listing
from services.loops import in_turns
from services.replay.reader import Cut
from services.replay.replay import Replay, Stored
from services.replay.turn import Item, outcome, previous_in, request_body, turn
from services.web.internal import Found, Name, Turn, Wanted

TOGETHER = 8
"""Responses that are looked up at once for one request: most are in memory, the others are a fetch each."""
ANSWER_BYTES = 4 << 20
"""An answer is whole as soon as its items have so many bytes, as JSON; who wants more asks again."""


class Referred(NamedTuple):
    """An item that can be referred to, and what its upstream calls it."""

    item: Item
    name: Name | None = None


Group = Mapping[str, Referred]
"""Some of the items that are wanted, by id."""


class Items:
    """Finds items in what `replay` knows."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay

    async def turn(self, found: Stored, final: bytes) -> Turn:
        """The turn of a closed response with that `final` object. Raises ApiError."""
        accepted = await self._replay.request(found)
        try:
            return await turn(found.id, found.tenant, accepted, final, self._replay.chunks_so_far(found))
        except Cut as error:
            raise await self._lost(found) from error

    async def find(self, wanted: Wanted) -> Found:
        """What is there of the items that are wanted. Raises ApiError 503 when that cannot be said now."""
        answer = Found(missing=[])
        rest, size = dict.fromkeys(wanted.ids), 0
        async with aclosing(self._groups(wanted, list(rest))) as groups:
            async for group in groups:
                for id, (item, name) in group.items():
                    del rest[id]
                    if wanted.contents:
                        answer.items[id] = item
                        size += len(msgspec.json.encode(item))
                        if name is not None:
                            answer.names[id] = name
                if size > ANSWER_BYTES:
                    answer.left.extend(rest)
                    return answer
        answer.missing.extend(rest)
        return answer

    async def _groups(self, wanted: Wanted, ids: Sequence[str]) -> AsyncGenerator[Group, None]:
        """What is found, group by group: in the responses that the ids name, then in the conversation."""
        left = dict.fromkeys(ids)
        by_response: dict[ResponseId, list[str]] = {}
        for id in ids:
            if (place := parse_item_id(id)) is not None:
                by_response.setdefault(place.response, []).append(id)
        await self._replay.reach(by_response)
        named = list(by_response.items())
        for start in range(0, len(named), TOGETHER):
            looks = [self._in_response(wanted.tenant, *one) for one in named[start : start + TOGETHER]]
            for group in await asyncio.gather(*looks):
                for id in group:
                    del left[id]
                yield group
        previous = wanted.previous
        reached = {partition_of(id) for id in by_response}
        while previous is not None and left:
            if partition_of(previous) not in reached:
                await self._replay.reach([previous])
                reached.add(partition_of(previous))
            found = await self._stored(previous, wanted.tenant)
            if found is None:
                return
            body = request_body(await self._replay.request(found))
            group = _given(body, left) | await self._put_out(found, list(left))
            for id in group:
                del left[id]
            yield group
            previous = previous_in(body)

    async def _stored(self, id: ResponseId, tenant: Tenant) -> Stored | None:
        """Response `id`, which is reached, if `tenant` may see it and it is not ephemeral: what is kept for
        good must not need what is erased in minutes (A-9).
        """
        found = await self._replay.reached(id, tenant)
        return found if found is not None and found.stored else None

    async def _in_response(self, tenant: Tenant, id: ResponseId, ids: Sequence[str]) -> Group:
        """Those of the items with `ids`, which name response `id`, that it has, if `tenant` may see it."""
        try:
            found = await self._stored(id, tenant)
            if found is None:
                return {}
            places = {item: place for item in ids if (place := parse_item_id(item)) is not None}
            group = await self._put_out(found, [item for item in ids if not places[item].given])
            given = {item: place.position for item, place in places.items() if place.given}
            if given:
                body = request_body(await self._replay.request(found))
                went_in = await in_turns(listing(body))
                group |= {
                    item: Referred(went_in[index])
                    for item, index in given.items()
                    if index < len(went_in) and not is_reference(went_in[index])
                }
        except ApiError as error:
            if error.status == 404:  # it expired, or was deleted, meanwhile
                return {}
            raise
        return group

    async def _put_out(self, found: Stored, ids: Sequence[str]) -> dict[str, Referred]:
        """Those of the items with `ids` that a response has put out so far."""
        if not ids:
            return {}
        final = await self._replay.object(found) if self._replay.closed(found) else None
        try:
            came = await outcome(final, self._replay.chunks_so_far(found))
        except Cut as error:
            raise await self._lost(found) from error
        by_id = {item.get("id"): item for item in (*came.cut, *came.output)}
        return {id: Referred(by_id[id], came.names.get(id)) for id in ids if id in by_id}

    async def _lost(self, found: Stored) -> ApiError:
        """Why the frames of a response end early: it is gone, or must be asked for again."""
        if isinstance(await self._replay.find(found.id), Stored):
            return unavailable("The response cannot be read now.", reason="log_away")
        return not_found(found.id)


def _given(body: dict[str, object], ids: Iterable[str]) -> dict[str, Referred]:
    """Those of the items with `ids` that are in the input of the request `body`."""
    by_id = {item.get("id"): item for item in reversed(input_items(body)) if not is_reference(item)}
    return {id: Referred(by_id[id]) for id in ids if id in by_id}
