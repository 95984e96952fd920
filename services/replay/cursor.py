"""A client's cursor: the last event it has (A-4, P-81)."""

import re

from schemas.errors import invalid

START = -1
"""The cursor of a client that has no event yet."""

_INTEGER = re.compile(r"-?[0-9]+")
_LARGEST = 1 << 62


def parse_cursor(starting_after: str | None, last_event_id: str | None) -> int:
    """The cursor of a request: the larger of both, START without any. Any number below -1 is START too.

    A reconnecting EventSource repeats its first URL and adds the header, so the larger one is right. Raises
    ApiError 400 for a `starting_after` that is no integer. A `Last-Event-ID` that is none is ignored: it is
    not ours, and an EventSource that gets a 400 gives up for good.
    """
    asked = START
    if starting_after is not None:
        if not _INTEGER.fullmatch(starting_after):
            raise invalid("starting_after must be an integer", "starting_after")
        asked = _clamped(starting_after)
    seen = _clamped(last_event_id) if last_event_id and _INTEGER.fullmatch(last_event_id) else START
    return max(asked, seen)


def wants_stream(stream: str | None) -> bool:
    """Whether `stream` in a query asks for SSE. Raises ApiError 400 if it is neither true nor false."""
    match (stream or "").lower():
        case "true" | "1":
            return True
        case "" | "false" | "0":
            return False
        case _:
            raise invalid("stream must be true or false", "stream")


def _clamped(digits: str) -> int:
    """The number, at least -1 and at most far past any event, so that no long text is converted."""
    if digits.startswith("-"):
        return START
    return int(digits) if len(digits.lstrip("0")) <= 18 else _LARGEST
