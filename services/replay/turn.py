"""Finds the items that a response adds to its conversation (A-13), and those that can be referred to (A-26).

completed          the items of its final object
ended otherwise    its finished items, from its frames; items that were cut short can only be referred to
open               its finished items so far can be referred to
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct, field

from schemas.events import ITEM_ADDED, ITEM_DONE, UNDECODABLE, Event, accepted_value
from schemas.fold import COMPLETED
from schemas.ids import ResponseId, Tenant, parse_response_id
from schemas.output import Output, objects_of
from schemas.request import listing
from services.loops import in_turns
from services.replay.snapshot import events_in
from services.web.internal import Name, Turn, name_in

Item = dict[str, Any]


def request_body(accepted: bytes) -> dict[str, Any]:
    """The request in the value of an `accepted`; {} if it cannot be read."""
    try:
        body = msgspec.json.decode(accepted_value(accepted).request)
    except UNDECODABLE:
        return {}
    return body if isinstance(body, dict) else {}


def previous_in(body: dict[str, Any]) -> ResponseId | None:
    """The predecessor that a request names; None if it names no valid id."""
    given = body.get("previous_response_id")
    return parse_response_id(given) if isinstance(given, str) else None


class Outcome(Struct, frozen=True):
    """The output of a response: its finished items, those that were `cut` short, and the upstream's names of
    them, by id.
    """

    output: list[Item]
    cut: list[Item]
    names: dict[str, Name]


async def outcome(final: bytes | None, frames: AsyncIterator[bytes]) -> Outcome:
    """The outcome of a response, from its frames and its `final` object (None while it is open).

    A response that did not complete gives its finished items only. They come from its frames: the object of a
    cancelled response has no output (A-11), and neither has that of one with too much output.
    """
    closed = msgspec.json.decode(final) if final is not None else {}
    completed = closed.get("status") == COMPLETED
    told = _Told()
    async for part in frames:
        for event in _added(part) if completed else events_in(part):
            told.apply(event, output=not completed)
    if completed:
        return Outcome(objects_of(closed.get("output")), [], told.names)
    return Outcome(told.finished(), told.cut(ended=final is not None), told.names)


async def turn(
    id: ResponseId, tenant: Tenant, accepted: bytes, final: bytes, frames: AsyncIterator[bytes]
) -> Turn:
    """The turn of a closed response, from its request, final object and frames."""
    body, came = request_body(accepted), await outcome(final, frames)
    given = await in_turns(listing(body))
    return Turn(id, tenant, previous_in(body), given, came.output, came.names)


class _Told(Struct):
    """The items in the frames of a response."""

    done: list[Any] = field(default_factory=list)
    names: dict[str, Name] = field(default_factory=dict)
    output: Output = field(default_factory=Output)

    def apply(self, event: Event, *, output: bool) -> None:
        """Take the names in the next event; and the output in it if `output`."""
        if (named := name_in(event)) is not None:
            self.names[named[0]] = named[1]
        if output:
            with suppress(Exception):  # an event that cannot be folded, which an executor let through
                self.output.apply(event)
            if event.get("type") == ITEM_DONE and "item" in event:
                self.done.append(event["item"])

    def finished(self) -> list[Item]:
        """The whole items."""
        return [item for item in self.done if _finished(item)]

    def cut(self, *, ended: bool) -> list[Item]:
        """The items that are done and not whole. If the response has `ended`, also those not done."""
        cut = [item for item in self.done if isinstance(item, dict) and not _finished(item)]
        return cut + ([item for _, item in self.output.unfinished()] if ended else [])


_ADDED = b"event: %b\n" % ITEM_ADDED.encode()


def _added(frames: bytes) -> Iterator[Event]:
    """The events that begin an item. They are few, so the others are not decoded."""
    start = frames.find(_ADDED)
    while start >= 0:
        end = frames.index(b"\n\n", start) + 2
        yield from events_in(frames[start:end])
        start = frames.find(_ADDED, end)


def _finished(item: object) -> bool:
    """Whether an item is whole. One without a status is."""
    return isinstance(item, dict) and item.get("status") in (None, "completed")
