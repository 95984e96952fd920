"""Finds the ends and errors in an upstream's events, which have many names for them (U-8, U-9). Pure.

response.done, response.cancelled, … with a final object → the terminal event of its status
error, response.error, {"error": …}, {"detail": …}       → an error
an object without a type                                 → the response itself
"""

from typing import Any

from schemas.events import KNOWN_EVENTS, TERMINAL_EVENTS, Event
from schemas.output import are_items
from schemas.response import INCOMPLETE_REASONS
from services.executor.backends.chat.finish import INCOMPLETE, verdict
from services.executor.backends.told import refuses

RUNNING = ("queued", "in_progress")
"""The statuses of a response that has not ended."""
_FINAL = {
    "completed": "completed",
    "incomplete": "incomplete",
    "failed": "failed",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "expired": "failed",
    "error": "failed",
}
"""By the status of a final object, the API's word for it."""
_TERMINAL_OF = {status: type for type, status in TERMINAL_EVENTS.items()} | {"cancelled": "response.failed"}
_DONE = frozenset({"response.done", "response.finished", "response.complete", "response.end"})
_CANCELLED = frozenset({"response.cancelled", "response.canceled"})
_ERRORS = frozenset({"error", "response.error"})
_TOLD_IN = ("error", "errors", "detail")


def named(event: Event, name: str) -> Event:
    """`event` with its type, which may come as the `name` of the stream's event; an end gets the API's type.
    If it has neither, the event is returned without a type.
    """
    type = event.get("type")
    if not isinstance(type, str) or not type:
        type = name if name != "message" else ""
        event.pop("type", None)
    if not type:
        return event
    event["type"] = type
    if not type.startswith("response.") or (type in KNOWN_EVENTS and type not in TERMINAL_EVENTS):
        return event
    response = event.get("response")
    status = _end(type, response if isinstance(response, dict) else {})
    if status is None or (type in TERMINAL_EVENTS and not isinstance(response, dict)):
        return event
    ended = {**response, "status": status} if isinstance(response, dict) else {"status": status}
    if type in TERMINAL_EVENTS:
        return {**event, "response": ended}
    return {**event, "type": _TERMINAL_OF[status], "response": ended}


def cut_by(details: object) -> dict[str, Any] | None:
    """`incomplete_details` with the API's word for the upstream's reason (U-45). None if there is no reason,
    or it is the API's word already.
    """
    reason = details.get("reason") if isinstance(details, dict) else None
    if not isinstance(details, dict) or not isinstance(reason, str) or reason in INCOMPLETE_REASONS:
        return None
    said = verdict(reason)
    return {**details, "reason": INCOMPLETE.get(said, "max_output_tokens") if said else "max_output_tokens"}


def tells_of_an_error(event: Event) -> bool:
    """Whether an event, or an object without a type, tells of an error, and not of a response that failed."""
    if event.get("type") is not None:
        return event["type"] in _ERRORS or (event["type"] in TERMINAL_EVENTS and _is_bare_error(event))
    told = any(event.get(name) for name in _TOLD_IN) or event.get("object") == "error" or refuses(event)
    return told and final_event(event) is None


def is_object(whole: dict[str, Any]) -> bool:
    """Whether an object without a type is a response's."""
    return whole.get("object") == "response" or (
        isinstance(whole.get("status"), str) and are_items(whole.get("output"))
    )


def final_event(whole: dict[str, Any]) -> Event | None:
    """The terminal event for the object of a response; None if the object is not final."""
    status, output = whole.get("status"), whole.get("output")
    end = _FINAL.get(status.lower()) if isinstance(status, str) else None
    if end is None or not is_object(whole) or not (output is None or are_items(output)):
        return None
    return {"type": _TERMINAL_OF[end], "response": {**whole, "status": end}}


def _end(type: str, response: dict[str, Any]) -> str | None:
    """The status with which an event ends the response; None if it does not end it."""
    said = response.get("status")
    status = _FINAL.get(said.lower()) if isinstance(said, str) else None
    if status is None and type in _CANCELLED:
        return "cancelled"
    if status is None and said is None and type in _DONE:
        return "completed"
    return status


def _is_bare_error(event: Event) -> bool:
    return bool(event.get("error")) and not isinstance(event.get("response"), dict)
