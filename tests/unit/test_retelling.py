"""Who goes on with a resumable upstream says what the log lacks, once and in its pieces (U-11, P-34)."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from schemas import ids
from schemas.events import Event
from schemas.output import Output
from schemas.records import EventHeaders, NewRecord
from schemas.steps import ENCODED_ELEMENTS, Steps, finished
from schemas.upstream_headers import is_partial, upstream_headers, upstream_index, upstream_position
from services.executor.past import Ahead, Past
from services.executor.retelling import Retelling
from services.executor.scribe import Draft, Ending, Limits, Scribe
from tests.bodies import longest, uncollected
from tests.property.test_whole_streams import whole_stream
from tests.unit.test_order import call_events, completed, deltas_of, message_events, mixed
from tests.whole import ID, INITIAL, followed, scribe

Goer = Scribe | Retelling
PIECES = ('{"a"', ":1", "1,", '"b":', "22}")
HALVES = {"x": "\ud83d", "y": "\ude00!", "z": "z"}
HALVED = [
    {**event, "delta": HALVES[event["delta"]]} if "delta" in event else event
    for event in message_events(0, *HALVES)[:-1]
]
UNNAMED = [
    {**event, "item": {**event["item"], "name": ""}} if event["type"].endswith("item.added") else event
    for event in call_events(0, pieces=PIECES)
]


def counted_from(events: Sequence[Event], index: int | None, part: int | None = 0) -> list[Event]:
    """`events` of an upstream that counts its items from `index` and its parts from `part`; None: it gives no
    indexes.
    """
    told: list[Event] = json.loads(json.dumps(events))
    for event in told:
        for name, first in ("output_index", index), ("content_index", part):
            if name in event and (at := event.pop(name)) is not None and first is not None:
                event[name] = at + first
    return told


def without_ids(events: Sequence[Event]) -> list[Event]:
    told: list[Event] = json.loads(json.dumps(events))
    for event in told:
        event.pop("item_id", None)
        event.get("item", {}).pop("id", None)
    return told


def with_fresh_ids(events: Sequence[Event]) -> list[Event]:
    """As of a server that makes an id up for each event."""
    told: list[Event] = json.loads(json.dumps(events))
    for number, event in enumerate(told):
        if "item" in event:
            event["item"]["id"] = f"x_{number}"
        else:
            event["item_id"] = f"x_{number}"
    return told


def with_all_in_the_first(events: Sequence[Event]) -> list[Event]:
    """As of a server that says all of an item in its beginning, and nothing of it later."""
    return [{**events[0], "item": {**events[-1]["item"], "status": "in_progress"}}]


def said_twice(events: Sequence[Event]) -> list[Event]:
    """Each beginning and each end of an item is said twice."""
    return [event for one in events for event in [one] * (1 + ("item" in one))]


FOREIGN = [{"type": "vendor.step", "n": n} for n in range(4)]
COUNTED = {
    "texts": [*message_events(0, "a", "b"), *message_events(1, "c", "d")],
    "calls": [*call_events(0, pieces=PIECES), *call_events(1, pieces=PIECES)],
}
NAMING: dict[str, Callable[[Sequence[Event]], list[Event]]] = {
    "by their ids": list,
    "said twice": said_twice,
    "without ids": without_ids,
    "under fresh ids": with_fresh_ids,
}
UPSTREAMS: dict[str, list[Event]] = {
    "calls that take turns": mixed(*(call_events(n, pieces=PIECES) for n in range(3))),
    "custom calls": mixed(*(call_events(n, "custom_tool_call", PIECES) for n in range(3))),
    "a text between calls": mixed(call_events(0, pieces=PIECES), message_events(1, "a", "b", "c", "d")),
    "texts that take turns": mixed(message_events(0, *"abcd"), message_events(1, *"efgh")),
    "a call that is named at its end": UNNAMED,
    "halves of pairs": HALVED,
    "deltas alone": [event for event in mixed(message_events(0, *"abcd")) if "delta" in event],
    **{
        f"{what} {how}, items from {index}, parts from {part}": change(counted_from(said, index, part))
        for what, said in COUNTED.items()
        for how, change in NAMING.items()
        for index, part in ((1, 0), (0, 1), (3, 2), (None, 0), (None, None))
    },
    "a text in its beginning": with_all_in_the_first(message_events(0, "a", "b")),
    "arguments in their beginning": with_all_in_the_first(call_events(0, pieces=PIECES)),
    "a text in the beginning of its part": [
        {**event, "part": {**event["part"], "text": "ab"}} if "part" in event else event
        for event in message_events(0, "a", "b")[:2]
    ],
    "texts in their beginnings": [
        *with_all_in_the_first(message_events(0, "a", "b")),
        *with_all_in_the_first(call_events(1, pieces=PIECES)),
        *message_events(2, "c", "d"),
    ],
    "steps of its own": mixed(call_events(0, pieces=PIECES), call_events(1, pieces=PIECES), FOREIGN),
}


def stream(name: str) -> list[Event]:
    """What the upstream says, by its cursors."""
    return [{"type": "response.created", "response": {"id": "up_1"}}, *UPSTREAMS[name], completed()]


def said(writer: Goer, events: Sequence[Event], start: int = 0) -> list[Draft]:
    """What an executor makes of an upstream's events from `start` on."""
    drafts: list[Draft] = []
    for cursor in range(start, len(events)):
        event: Event = json.loads(json.dumps(events[cursor]))
        drafts += writer.write(event, upstream_headers("up_1", cursor), now=1)
    return drafts


def records_of(drafts: Sequence[Draft]) -> list[NewRecord]:
    headers = EventHeaders(ID, ids.ClaimId("c" + "0" * 16), 1, ids.Tenant("default"))
    return [draft.record(headers) for draft in drafts]


def past_of(counted: Sequence[Draft], records: Sequence[NewRecord]) -> Past:
    """What the log has of the response when so much counts."""
    past = Past()
    for draft, record in zip(counted, records, strict=True):
        upstream_id, cursor = upstream_position(record)  # type: ignore[arg-type]
        partial = is_partial(record)  # type: ignore[arg-type]
        told = Ahead(draft.value, draft.extension, upstream_index(record))  # type: ignore[arg-type]
        past.add(told, upstream_id, cursor, partial=partial)
    finished(past.folding())
    return past


def goer(past: Past, last: int) -> Goer:
    """Who goes on."""

    def of(past: Past) -> Scribe:
        return Scribe(
            past.response or dict(INITIAL),
            origin=0,
            last=last - past.events_ahead,
            limits=Limits(),
            output=past.output,
            extensions=past.extensions,
            written=past.bytes,
            indexes=past.indexes,
        )

    at_rest = of(past)
    return Retelling(past, at_rest, of(finished(past.whole()))) if past.ahead else at_rest


def last_of(counted: Sequence[Draft]) -> int:
    return max((draft.number for draft in counted if not draft.extension), default=0)


def values(drafts: Sequence[Draft]) -> list[Any]:
    return [json.loads(draft.value) for draft in drafts]


@pytest.mark.parametrize("name", UPSTREAMS)
def test_a_takeover_at_any_point_says_the_same_as_none(name: str) -> None:
    events = stream(name)
    alone = said(scribe(), events)
    if name != "steps of its own":
        followed(values(alone))
    records = records_of(alone)
    for count in range(1, len(alone)):
        past = past_of(alone[:count], records[:count])
        start = 0 if past.cursor is None else past.cursor + 1
        rest = said(goer(past, last_of(alone[:count])), events, start)
        assert values([*alone[:count], *rest]) == values(alone), f"taken over behind {count}"


def test_several_takeovers_in_one_flush_say_nothing_twice() -> None:
    events = stream("calls that take turns")
    alone = said(scribe(), events)
    counted: list[Draft] = []
    records: list[NewRecord] = []
    while len(counted) < len(alone):
        past = past_of(counted, records)
        start = 0 if past.cursor is None else past.cursor + 1
        rest = said(goer(past, last_of(counted)), events, start)[:2]
        counted += rest
        records += records_of(rest)
    assert values(counted) == values(alone)


def test_what_is_told_another_way_now_goes_on_behind_what_was_heard() -> None:
    """As where the one before was of another version: what waited comes with the end of its text (U-6)."""
    events = stream("custom calls")
    alone = said(scribe(), events)
    for count in range(1, len(alone)):
        past = past_of(alone[:count], records_of(alone[:count]))
        start = 0 if past.cursor is None else past.cursor + 1
        past.ahead = [Ahead(told.value.replace(b"{", b'{"odd":1,', 1)) for told in past.ahead]
        rest = said(goer(past, last_of(alone[:count])), events, start)
        told = [{k: v for k, v in one.items() if k != "odd"} for one in values([*alone[:count], *rest])]
        final = followed(told)
        assert [item["input"] for item in final["output"]] == ["".join(PIECES)] * 3
        for place in range(3):
            pieces = deltas_of([event for event in told if event.get("output_index") == place])
            assert len(pieces) == len(set(pieces)), "said twice"


@pytest.mark.parametrize("count", range(3, 30, 3))
def test_an_upstream_whose_stream_is_gone_is_told_from_its_object(count: int) -> None:
    events = stream("custom calls")
    alone = said(scribe(), events)
    past = past_of(alone[:count], records_of(alone[:count]))
    output = values(alone)[-1]["response"]["output"]
    ended = {"type": "response.completed", "response": {"status": "completed", "output": output}}
    writer = goer(past, last_of(alone[:count]))
    rest = writer.write(ended, upstream_headers("up_1", past.cursor), now=1)
    final = followed(values([*alone[:count], *rest]))
    assert [item["input"] for item in final["output"]] == ["".join(PIECES)] * 3


@pytest.mark.parametrize("heard", range(4))
def test_an_end_of_ours_has_all_that_counts(heard: int) -> None:
    events = stream("calls that take turns")
    alone = said(scribe(), events)
    count = len(alone) - 6
    past = past_of(alone[:count], records_of(alone[:count]))
    assert past.ahead
    writer = goer(past, last_of(alone[:count]))
    start = 0 if past.cursor is None else past.cursor + 1
    repeated = said(writer, events[: start + heard], start)
    assert repeated == []
    final = followed(values([*alone[:count], *finished(writer.ending(Ending("gone")))]))
    assert final["status"] == "failed"
    assert final["output"][0]["arguments"] == "".join(PIECES)


def a_long_past(said: Sequence[Event]) -> Past:
    """The past of a response that said `said` and never came to rest, then did."""
    past = Past()
    for number, event in enumerate(said):
        value = json.dumps({**event, "sequence_number": number}).encode()
        past.add(Ahead(value), None if number else "up_1", number, partial=True)
    return past


PICTURE = "A" * 500_000
LONG: dict[str, list[Event]] = {
    "deltas": [
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "x" * 20}
        for _ in range(20 * ENCODED_ELEMENTS)
    ],
    "items": [event for number in range(4 * ENCODED_ELEMENTS) for event in call_events(number)],
    "open items": [call_events(number)[0] for number in range(10 * ENCODED_ELEMENTS)],
    "large events": [
        {
            "type": "response.output_item.done",
            "output_index": n,
            "item": {"type": "x", "result": "A" * 500_000},
        }
        for n in range(60)
    ],
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("rests", [False, True], ids=["never at rest", "at rest at last"])
def test_a_long_past_is_folded_in_steps(name: str, rests: bool) -> None:
    said = LONG[name]
    pasts: list[Past] = []

    def steps() -> Steps[Any]:
        past = Past()
        for number, event in enumerate(said):
            past.add(Ahead(json.dumps(event).encode()), "up_1", number, partial=True)
        if rests:
            past.settle()
        pasts.append(past)
        return past.folding() if rests else past.whole()

    with uncollected():
        assert longest(steps, 0.02) < 0.1
    output = Output()
    for event in said:
        output.apply(event)
    whole = pasts[-1] if rests else finished(pasts[-1].whole())
    assert whole.output.items() == output.items()


def test_a_past_counts_all_bytes_that_were_written() -> None:
    """What came beside the stream counts towards the bound of the output as well."""
    writer = scribe()
    drafts = said(writer, stream("steps of its own"))[:-1]
    past = finished(past_of(drafts, records_of(drafts)).whole())
    assert past.bytes == sum(len(draft.value) for draft in drafts)
    assert past.extensions == len(FOREIGN)


def test_a_whole_stream_is_at_rest_behind_each_event() -> None:
    """What its items begin with is told at once: a takeover has next to nothing to pass over."""
    events = [stream("calls that take turns")[0], *whole_stream()]
    writer, partial = scribe(), []
    for cursor, event in enumerate(events):
        for record in records_of(writer.write(event, upstream_headers("up_1", cursor), now=1)):
            partial += [event["type"]] if is_partial(record) else []  # type: ignore[arg-type]
    assert partial == []
