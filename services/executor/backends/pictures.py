"""Says which events the stream can go on without, if a picture is too large for a record (U-90). Pure.

Only the beginning of such an event is there: the fields before the picture say what it is.
"""

import json
import re
from contextlib import suppress
from typing import Any

from schemas.events import TERMINAL_EVENTS
from schemas.pictures import PREVIEW
from services.executor.backends.sse_parser import ServerSentEvent

_RESULT = "response.output_item.done"

_TYPE = re.compile(rb'"type"\s*:\s*"([a-z_.]+)"')
_USAGE = re.compile(rb'"usage"\s*:\s*(?=\{)')
_DECODER = json.JSONDecoder()
_NUMBER = re.compile(rb'"sequence_number"\s*:\s*([0-9]{1,16})\b')


def may_leave_out(one: ServerSentEvent) -> bool:
    """Whether the stream can go on without the event: a preview, an item with its result, or the end, which
    repeats all items.
    """
    return type_of(one) in (PREVIEW, _RESULT, *TERMINAL_EVENTS)


def type_of(one: ServerSentEvent) -> str:
    """The type of an event, from its beginning, else its `event:` field."""
    found = _TYPE.search(one.data)
    first = found[1].decode() if found else ""
    return first if first.startswith("response.") else one.event


def usage_of(one: ServerSentEvent) -> dict[str, Any] | None:
    """The `usage` of a response whose terminal event was left out, if it stands at the end of that."""
    for found in reversed(list(_USAGE.finditer(one.tail))):
        with suppress(ValueError, RecursionError):
            usage, _ = _DECODER.raw_decode(one.tail[found.end() :].decode(errors="replace"))
            if isinstance(usage, dict):
                return usage
    return None


def number_of(one: ServerSentEvent) -> int | None:
    """The upstream's number of an event, if its beginning has it."""
    found = _NUMBER.search(one.data)
    return int(found[1]) if found else None
