"""The list of event types is the openai SDK's: what it knows is streamed, everything else stays beside it."""

from typing import Any, get_args

from openai._streaming import SSEDecoder
from openai.types.responses import ResponseStreamEvent
from openai.types.responses.responses_server_event import ResponsesServerEvent

from schemas.events import KNOWN_EVENTS, LIFECYCLE, frame, is_streamed


def types_of(annotated: Any) -> set[str]:
    """The `type` of every member of a union of the SDK's."""
    union = annotated.__origin__
    return {type for member in get_args(union) for type in get_args(member.model_fields["type"].annotation)}


STREAMED = types_of(ResponseStreamEvent)
ON_SOCKETS = types_of(ResponsesServerEvent)


def test_the_event_types_are_those_of_the_sdks_streams_and_sockets() -> None:
    assert len(STREAMED) > 50
    assert (STREAMED | ON_SOCKETS) - {"error"} == KNOWN_EVENTS


def test_an_error_event_is_never_streamed() -> None:
    assert "error" in STREAMED
    assert not is_streamed("error")


def test_the_events_with_an_object_are_the_sdks() -> None:
    """What repeats the whole response is rewritten: a new one of these must not slip through."""
    members = get_args(ResponseStreamEvent.__origin__)  # type: ignore[attr-defined]
    whole = {get_args(m.model_fields["type"].annotation)[0] for m in members if "response" in m.model_fields}
    assert whole == LIFECYCLE


def test_what_only_unicode_takes_for_the_end_of_a_line_ends_none() -> None:
    value = '{"delta":"a\u2028b\u2029c\u0085d"}'.encode()
    (event,) = SSEDecoder().iter_bytes(iter([frame("response.output_text.delta", 3, value)]))
    assert event.json() == {"delta": "a\u2028b\u2029c\u0085d"}
