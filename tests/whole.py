"""Runs an upstream's events through a run, and checks that the strictest client can follow the stream."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from openai import omit
from openai._models import construct_type
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter

from schemas import response
from schemas.events import Event
from schemas.ids import response_id
from services.executor.backend import UpstreamError
from services.executor.scribe import Draft, Ending, Limits, Scribe

ID = response_id(0, bytes(16))
INITIAL = response.initial({"model": "m", "input": "hi"}, ID, 1_700_000_000, "m")
CUT = Ending("the upstream ended without a terminal event", type="upstream_truncated")

_EVENTS = {
    get_args(event.model_fields["type"].annotation)[0]: event
    for event in get_args(get_args(ResponseStreamEvent)[0])
}
_ITEMS = {
    get_args(item.model_fields["type"].annotation)[0]: item
    for item in get_args(get_args(ResponseOutputItem)[0])
}
_RESPONSE: TypeAdapter[Any] = TypeAdapter(Response)


def scribe(**options: Any) -> Scribe:
    """The scribe of a response that is not in the background and has not begun."""
    given = {"origin": 0, "last": 0, "limits": Limits(), **options}
    return Scribe(dict(INITIAL), **given)


def drafts_of(said: Iterable[Event], writer: Scribe) -> list[Draft]:
    """The drafts that a run writes, to the end."""
    drafts = writer.begin()
    try:
        for event in said:
            drafts += writer.write(json.loads(json.dumps(event)), now=1.0)
    except UpstreamError as error:
        return drafts + writer.end(Ending.of(error))
    return drafts + writer.end(CUT)


def told(said: Iterable[Event], writer: Scribe | None = None) -> list[Event]:
    """The events behind `response.created` of a run whose upstream says `said`."""
    drafts = drafts_of(said, writer or scribe())
    return [json.loads(draft.value) for draft in drafts if not draft.extension]


def followed(events: Sequence[Event], id: str = ID) -> dict[str, Any]:
    """Follow a whole stream of response `id` as the openai SDK's accumulator does, and check its types,
    indexes, ids, texts; the final object. Raises what the SDK raises, ValidationError, AssertionError.
    """
    state = ResponseStreamState(input_tools=[], text_format=omit)
    created = {"type": "response.created", "sequence_number": 0, "response": INITIAL | {"id": id}}
    ids: dict[int, tuple[str, str | None]] = {}
    texts: dict[tuple[Any, ...], list[str]] = {}
    for number, event in enumerate([created, *events]):
        assert event["sequence_number"] == number
        _check(event)
        state.handle_event(construct_type(type_=ResponseStreamEvent, value=event))  # type: ignore[arg-type]
        if event["type"] == "response.output_item.added":
            assert event["output_index"] == len(ids)
            ids[event["output_index"]] = (event["item"]["id"], event["item"].get("call_id"))
        if "item_id" in event:
            assert event["item_id"] == ids[event["output_index"]][0]
        if event["type"].endswith(".delta") and isinstance(event["delta"], str):
            at = event["type"], *(event.get(f"{n}_index") for n in ("output", "content", "summary"))
            texts.setdefault(at, []).append(event["delta"])
    final: dict[str, Any] = events[-1]["response"]
    _RESPONSE.validate_python({**final, "output": []}, strict=True)
    for item in final["output"]:
        _check({"item": item})
    assert [(item["id"], item.get("call_id")) for item in final["output"]] == list(ids.values())
    assert len(set(ids.values())) == len(ids)
    for (_, index, *_), pieces in texts.items():
        shown = _texts(final["output"][index])
        assert all(piece in shown for piece in pieces), (pieces, shown)
    return final


def _texts(item: dict[str, Any]) -> str:
    parts = [*(item.get("content") or []), *(item.get("summary") or [])]
    said = [part.get("text", part.get("refusal", "")) for part in parts]
    return "".join([*said, *(item.get(name) or "" for name in ("arguments", "input", "code"))])


def _check(event: Event) -> None:
    """Check the types of an event; of an item by the type of its own kind, which has readable errors."""
    item = event.get("item")
    if "output" in event.get("response", {}):
        event = {**event, "response": {**event["response"], "output": []}}
    if item is None:
        _EVENTS[event["type"]].model_validate(event, strict=True)
    elif item["type"] in _ITEMS:
        _ITEMS[item["type"]].model_validate(item, strict=True)
