"""Checks that strict clients can read events and objects: by the openai SDK's strict types, and by the
Open Responses schema. Also checks that a stream's events add up to the output of its end.
"""

from collections.abc import Sequence
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from schemas import response
from schemas.events import Event
from schemas.ids import ResponseId
from schemas.output import Output
from tests.open_responses import check_event, check_response
from tests.wire import Frame

_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)
_INITIAL = response.initial({"input": "hi"}, ResponseId("resp_" + "0" * 36), 1, "m")


def checked(events: list[Event]) -> list[Event]:
    """`events` of a backend, the terminal one last. Raises AssertionError or pydantic.ValidationError."""
    output = Output()
    for number, event in enumerate(events):
        output.apply(event)
        whole = {**event, "sequence_number": number}
        if "response" in event:
            theirs = event["response"]
            whole["response"] = response.final_response(
                _INITIAL, status=theirs["status"], output=theirs["output"], upstream=theirs, completed_at=2
            )
        _EVENT.validate_python(whole, strict=True)
    assert output.items() == events[-1]["response"]["output"]
    return events


def checked_response(whole: dict[str, Any]) -> dict[str, Any]:
    """Check a response object of the system.

    Raises pydantic.ValidationError, msgspec.ValidationError.
    """
    _RESPONSE.validate_python(whole, strict=True)
    check_response(whole)
    return whole


def checked_stream(frames: Sequence[Frame]) -> dict[str, Any]:
    """Check a whole stream of the system, from number 0 to its end. Returns its final object.

    Raises AssertionError, pydantic.ValidationError, msgspec.ValidationError.
    """
    output = Output()
    for number, frame in enumerate(frames):
        event = frame.event
        assert (event["sequence_number"], event["type"], frame.number) == (number, frame.type, number)
        _EVENT.validate_python(event, strict=True)
        check_event(event)
        output.apply(event)
    final = checked_response(frames[-1].event["response"])
    if final["status"] != "cancelled":
        assert output.items() == final["output"]
    return final
