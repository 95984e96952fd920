"""Finds the items that requests refer to (A-26).

    an id of ours    it names the response whose input or output has the item; an item of the output must be
                     done, or cut short in a response that has closed
    any other id     the item is looked for in the conversation before the request, from its last turn back;
                     where that leads into a partition that this replay does not serve, the caller goes on

An item that the tenant may not see does not exist: unknown, foreign, deleted and unstored are the same. One
look-up of the log's ends serves all items of a request: one for each of thousands would take seconds.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

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
"""How many responses are looked up at once for one request: most are in memory, the others a fetch each."""
ANSWER_BYTES = 4 << 20
"""Bytes of items (JSON) after which an answer ends; the caller asks again for the rest."""


class Referred(NamedTuple):
    """An item that can be referred to, and its upstream's name for it."""

    item: Item
    name: Name | None = None


Group = Mapping[str, Referred]
"""Some of the wanted items, by id."""


class Items:
    """Finds items in the responses that `replay` knows."""

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
        """Those of the wanted items that exist. Raises ApiError 503 if that cannot be told now."""
        answer = Found(missing=[])
        rest, size = dict.fromkeys(wanted.ids), 0
        async with aclosing(self._groups(wanted, list(rest))) as groups:
            async for group in groups:
                if isinstance(group, str):
                    return replace(answer, left=list(rest), behind=group)
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

    async def _groups(self, wanted: Wanted, ids: Sequence[str]) -> AsyncGenerator[Group | ResponseId, None]:
        """The found items, in groups: those in the responses that the ids name, then the conversation's.

        A response id comes last if that response, with which the conversation goes on, is not served here.
        """
        left = dict.fromkeys(ids)
        by_response: dict[ResponseId, list[str]] = {}
        for id in ids if wanted.named else ():
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
            if self._replay.is_far(partition_of(previous)):
                yield previous
                return
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
        """Response `id`, if `tenant` may see it and it is stored. Its partition must have been `reach`ed.

        Items of an ephemeral response are not found: a response that is kept for good must not need one that
        is erased in minutes (A-9).
        """
        found = await self._replay.reached(id, tenant)
        return found if found is not None and found.stored else None

    async def _in_response(self, tenant: Tenant, id: ResponseId, ids: Sequence[str]) -> Group:
        """The items with `ids` that response `id` has, if `tenant` may see it."""
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
            if error.status == 404:  # the response expired, or was deleted, meanwhile
                return {}
            raise
        return group

    async def _put_out(self, found: Stored, ids: Sequence[str]) -> dict[str, Referred]:
        """The items with `ids` in the output of a response so far."""
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
        """The error for frames that end early: the response is gone, or the caller must ask again."""
        if isinstance(await self._replay.find(found.id), Stored):
            return unavailable("The response cannot be read now.", reason="log_away")
        return not_found(found.id)


def _given(body: dict[str, object], ids: Iterable[str]) -> dict[str, Referred]:
    """The items with `ids` in the input of the request `body`."""
    by_id = {item.get("id"): item for item in reversed(input_items(body)) if not is_reference(item)}
    return {id: Referred(by_id[id]) for id in ids if id in by_id}
