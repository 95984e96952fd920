"""The stream events of the Responses API: names, derived events, SSE frames.

An event is a JSON object with `type` and `sequence_number`. Rejoinder passes the API's events through with
all their fields, known or not, so it needs their names and not their shapes. Source of the names: the event
union of the openai Python SDK (`ResponseStreamEvent`).
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

Event = dict[str, Any]
"""A decoded stream event: `{"type": str, "sequence_number": int, …}`, unknown fields kept."""

CREATED = "response.created"
QUEUED = "response.queued"
IN_PROGRESS = "response.in_progress"
TERMINAL_EVENTS = {
    "response.completed": "completed",
    "response.failed": "failed",
    "response.incomplete": "incomplete",
}
"""Event type to the status that it closes the response with."""
ITEM_ADDED = "response.output_item.added"
ITEM_DONE = "response.output_item.done"
NAMED = "upstream_item"
"""The field of an ITEM_ADDED, beside `item`, that says what the upstream calls the item (U-30)."""
UNDECODABLE = (ValueError, RecursionError)
"""What decoding raises, of a value that any client of Kafka may have appended: msgspec's errors are
ValueErrors, too deep a nesting is the other."""
LIFECYCLE = frozenset({CREATED, QUEUED, IN_PROGRESS, *TERMINAL_EVENTS})
"""Events that carry the whole response object."""

_ITEM_EVENTS = """
response.audio.delta response.audio.done response.audio.transcript.delta response.audio.transcript.done
response.code_interpreter_call_code.delta response.code_interpreter_call_code.done
response.code_interpreter_call.completed response.code_interpreter_call.in_progress
response.code_interpreter_call.interpreting response.compaction.compacting
response.content_part.added response.content_part.done
response.custom_tool_call_input.delta response.custom_tool_call_input.done
response.file_search_call.completed response.file_search_call.in_progress response.file_search_call.searching
response.function_call_arguments.delta response.function_call_arguments.done
response.image_generation_call.completed response.image_generation_call.generating
response.image_generation_call.in_progress response.image_generation_call.partial_image
response.mcp_call_arguments.delta response.mcp_call_arguments.done response.mcp_call.completed
response.mcp_call.failed response.mcp_call.in_progress response.mcp_list_tools.completed
response.mcp_list_tools.failed response.mcp_list_tools.in_progress
response.output_item.added response.output_item.done response.output_text.annotation.added
response.output_text.delta response.output_text.done
response.reasoning_summary_part.added response.reasoning_summary_part.done
response.reasoning_summary_text.delta response.reasoning_summary_text.done
response.reasoning_text.delta response.reasoning_text.done
response.refusal.delta response.refusal.done
response.shell_call_command.added response.shell_call_command.delta response.shell_call_command.done
response.shell_call_output_content.delta response.shell_call_output_content.done
response.steer.accepted response.steer.failed response.steer.pending
response.web_search_call.completed response.web_search_call.in_progress response.web_search_call.searching
"""
KNOWN_EVENTS = LIFECYCLE | frozenset(_ITEM_EVENTS.split())
"""The types that go into the stream. `error` is not among them: it becomes `response.failed` (A-2)."""
DELTA_EVENTS = frozenset(type for type in KNOWN_EVENTS if type.endswith(".delta"))
"""Events that bring a piece of something: of a text, of arguments, of audio."""


class AcceptedValue(msgspec.Struct, frozen=True):
    """The value of an `accepted` record: the request's body as it came, and the initial response object."""

    request: msgspec.Raw
    response: msgspec.Raw


accepted_value = msgspec.json.Decoder(AcceptedValue).decode
"""Decode the value of an `accepted` record, leaving both parts as raw JSON."""


def derived_event(type: str, sequence_number: int, response: bytes) -> bytes:
    """A lifecycle event around the raw object bytes `response`: the one template that every reader uses
    (P-7).
    """
    return b'{"type":"%b","sequence_number":%d,"response":%b}' % (type.encode(), sequence_number, response)


def opening_events(response: bytes, background: bool) -> list[tuple[str, bytes]]:
    """Type and value of events 0 and, in the background, 1 of a response, from its initial object (P-7)."""
    events = [(CREATED, derived_event(CREATED, 0, response))]
    if background:
        events.append((QUEUED, derived_event(QUEUED, 1, response)))
    return events


def cancelled_event(sequence_number: int, response: bytes) -> tuple[str, bytes]:
    """Type and value of the terminal event of a cancel: `response.failed` with status `cancelled` (A-2,
    P-7).
    """
    return "response.failed", derived_event("response.failed", sequence_number, response)


def frame(type: str, sequence_number: int, value: bytes) -> bytes:
    """The SSE frame of one event: `event:`, `id:` (its number) and `data:` (A-1).

    JSON that a foreign writer broke into lines is put on one: a line break in `data:` would end the frame.
    """
    return b"event: %b\nid: %d\ndata: %b\n\n" % (type.encode(), sequence_number, value.replace(b"\n", b" "))


class Encoded(NamedTuple):
    """An event as its frame holds it: its number, and its JSON on one line."""

    number: int
    value: bytes


_ENCODED = re.compile(rb"\nid: ([0-9]{1,18})\ndata: (.*)\n\n")


def encoded_in(frames: bytes) -> Iterator[Encoded]:
    """The events in some whole frames (`frame`), in order and undecoded. A frame that the type of a foreign
    writer's event has broken is passed over.
    """
    for found in _ENCODED.finditer(frames):
        yield Encoded(int(found[1]), found[2])


def opening_frames(id: str, accepted: bytes, background: bool) -> list[bytes]:
    """Frames 0 and, in the background, 1 of response `id`, from the value of its `accepted` (P-7).

    A value that cannot be read gives a bare object, the same at every reader. The record counts nevertheless
    (P-4), so the numbers must not have a gap; the run ends the response `failed`.
    """
    try:
        initial = initial_object(accepted)
    except UNDECODABLE:
        initial = b'{"id":"%b","object":"response","status":"queued","output":[]}' % id.encode()
    events = opening_events(initial, background)
    return [frame(type, number, value) for number, (type, value) in enumerate(events)]


def cancelled_frame(sequence_number: int, response: bytes) -> bytes:
    """The terminal frame of a cancelled response, around its final object (P-7)."""
    type, value = cancelled_event(sequence_number, response)
    return frame(type, sequence_number, value)


KEEP_ALIVE = b": keep-alive\n"
"""Exactly this one line, with no blank line after it: a blank line crashes the openai Python SDK (A-1)."""


class _WithResponse(msgspec.Struct):
    response: msgspec.Raw


_with_response = msgspec.json.Decoder(_WithResponse).decode


def response_in(value: bytes) -> bytes:
    """The raw response object inside a lifecycle event's value."""
    return bytes(_with_response(value).response)


def initial_object(accepted: bytes) -> bytes:
    """The raw initial response object inside the value of an `accepted` record."""
    return bytes(accepted_value(accepted).response)


def is_streamed(type: str) -> bool:
    """Whether an upstream event of this type goes into the stream; others become extensions."""
    return type in KNOWN_EVENTS
