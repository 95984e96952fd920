"""What a closed response adds to the conversation that it is part of (A-13)."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from schemas.events import UNDECODABLE, accepted_value
from schemas.fold import COMPLETED
from schemas.ids import ResponseId, Tenant, parse_response_id
from schemas.output import objects_of
from schemas.request import input_items
from services.replay.snapshot import events_in
from services.web.internal import Turn

Item = dict[str, Any]


def request_body(accepted: bytes) -> dict[str, Any]:
    """The request inside the value of an `accepted`; an unreadable one is empty."""
    try:
        body = msgspec.json.decode(accepted_value(accepted).request)
    except UNDECODABLE:
        return {}
    return body if isinstance(body, dict) else {}


async def turn(
    id: ResponseId, tenant: Tenant, accepted: bytes, final: bytes, frames: AsyncIterator[bytes]
) -> Turn:
    """The turn of a closed response, from its request, final object and, when it was cancelled, its frames.

    One that did not complete gives its finished items only. They are in its frames: the object of a cancelled
    one has no output (A-11), and that of one which put out too much has none either.
    """
    body = request_body(accepted)
    closed = msgspec.json.decode(final)
    if closed.get("status") == COMPLETED:
        output = objects_of(closed.get("output"))
    else:
        done = [event["item"] async for part in frames for event in events_in(part) if _is_done(event)]
        output = [item for item in done if _finished(item)]
    return Turn(id, tenant, _previous(body), input_items(body), output)


def _previous(body: dict[str, Any]) -> ResponseId | None:
    given = body.get("previous_response_id")
    return parse_response_id(given) if isinstance(given, str) else None


def _is_done(event: dict[str, Any]) -> bool:
    return event.get("type") == "response.output_item.done" and "item" in event


def _finished(item: object) -> bool:
    """Cut-off items are not said; those without a status are whole."""
    return isinstance(item, dict) and item.get("status") in (None, "completed")
