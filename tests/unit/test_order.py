"""One item is told after the other (U-16), whatever way an upstream mixes them."""

import json
import time
from itertools import groupby, zip_longest
from random import Random
from typing import Any

import pytest

from schemas.events import Event
from services.executor.mending import lanes
from tests.property.test_whole_streams import whole_stream
from tests.steady import slowness
from tests.whole import followed, scribe, told

ARGUMENTS = '{"a":1}'


def added(item: dict[str, Any], at: int) -> Event:
    return {"type": "response.output_item.added", "output_index": at, "item": item}


def call_events(
    number: int, kind: str = "function_call", pieces: tuple[str, ...] = ('{"a"', ":1}")
) -> list[Event]:
    """All that a flawless upstream says of a call."""
    stem, field = {
        "function_call": ("function_call_arguments", "arguments"),
        "custom_tool_call": ("custom_tool_call_input", "input"),
    }[kind]
    item = {"type": kind, "id": f"c_{number}", "call_id": f"call_{number}", "name": "f", field: ""}
    at, whole = {"item_id": item["id"], "output_index": number}, "".join(pieces)
    return [
        added(item, number),
        *({"type": f"response.{stem}.delta", **at, "delta": piece} for piece in pieces),
        {"type": f"response.{stem}.done", **at, field: whole},
        {
            "type": "response.output_item.done",
            "output_index": number,
            "item": {**item, field: whole, "status": "completed"},
        },
    ]


def message_events(number: int, *pieces: str) -> list[Event]:
    item = {"type": "message", "id": f"m_{number}", "role": "assistant", "content": []}
    at = {"item_id": item["id"], "output_index": number, "content_index": 0}
    part = {"type": "output_text", "text": "".join(pieces), "annotations": [], "logprobs": []}
    return [
        added(item, number),
        {"type": "response.content_part.added", **at, "part": {**part, "text": ""}},
        *({"type": "response.output_text.delta", **at, "delta": piece} for piece in pieces),
        {"type": "response.output_item.done", "output_index": number, "item": {**item, "content": [part]}},
    ]


def mixed(*items: list[Event]) -> list[Event]:
    return [event for turn in zip_longest(*items) for event in turn if event]


def completed() -> Event:
    return {"type": "response.completed", "response": {"output": []}}


def order_of(events: list[Event]) -> list[int]:
    """The places of the items in the order in which they begin and grow."""
    grown = (event for event in events if event["type"].endswith(("item.added", ".delta")))
    return [place for place, _ in groupby(event["output_index"] for event in grown)]


def deltas_of(events: list[Event]) -> list[str]:
    return [event["delta"] for event in events if event["type"].endswith(".delta")]


@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call"])
@pytest.mark.parametrize("count", [2, 5])
def test_calls_that_take_turns_are_told_one_after_the_other(kind: str, count: int) -> None:
    said = mixed(*(call_events(number, kind) for number in range(count)))

    events = told([*said, completed()])

    assert order_of(events) == list(range(count))
    followed(events)


def test_a_call_is_live_once_the_one_before_it_is_over() -> None:
    first, second = call_events(0), call_events(1)
    writer = scribe()
    writer.begin()
    for event in [first[0], second[0], first[1], second[1]]:
        writer.write(event, now=0)

    heard = writer.write(first[2], now=0)
    assert [draft.type.removeprefix("response.") for draft in heard] == [
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.added",
        "function_call_arguments.delta",
    ]
    heard = writer.write(second[2], now=0)
    assert [draft.type.removeprefix("response.") for draft in heard] == ["function_call_arguments.delta"]


def test_a_call_whose_json_was_made_whole_by_the_short_way_holds_nothing_up() -> None:
    first, second = call_events(0), call_events(1, pieces=('{"b"', ":2", "}"))
    writer = scribe()
    events = [
        json.loads(draft.value)
        for event in [first[0], second[0], *first[1:3], *second[1:4]]
        for draft in writer.write(dict(event), now=0)
    ]
    assert deltas_of(events) == ['{"a"', ":1}", '{"b"', ":2", "}"]
    assert order_of(events) == [0, 1]


@pytest.mark.parametrize("unsaid", ["output_item.done", "arguments.done", ".done"])
def test_whole_arguments_are_an_end_where_nobody_says_it(unsaid: str) -> None:
    said = [event for event in [*call_events(0), *call_events(1)] if unsaid not in event["type"]]
    writer = scribe()
    events = [json.loads(draft.value) for event in said for draft in writer.write(dict(event), now=0)]

    assert deltas_of(events) == ['{"a"', ":1}"] * 2
    assert order_of(events) == [0, 1]


def test_arguments_that_are_told_by_the_beginning_are_told_before_what_follows() -> None:
    first = call_events(0)[0]
    first["item"]["arguments"] = ARGUMENTS

    events = told([first, *call_events(1), completed()])

    assert order_of(events)[:2] == [0, 1]
    assert [item["arguments"] for item in followed(events)["output"]] == [ARGUMENTS] * 2


def test_what_comes_of_a_text_behind_a_later_one_waits_for_that() -> None:
    first, second = message_events(0, "a", "b", "c"), message_events(1, "x", "y", "z")

    events = told([*mixed(first, second), completed()])

    assert deltas_of(events) == ["x", "y", "z", "a", "b", "c"]
    followed(events)


def test_texts_that_are_announced_together_are_told_live() -> None:
    first, second = message_events(0, "a", "b"), message_events(1, "x", "y")

    assert deltas_of(told([first[0], second[0], *first[1:], *second[1:], completed()])) == [
        "a",
        "b",
        "x",
        "y",
    ]


def test_a_text_waits_for_a_call_that_is_told() -> None:
    text, call = message_events(0, "a", "b", "c"), call_events(1)

    events = told([*text[:3], call[0], text[3], call[1], text[4], *call[2:], *text[5:], completed()])

    assert deltas_of(events) == ["a", '{"a"', ":1}", "b", "c"]
    assert order_of(events)[:3] == [0, 1, 0]


def test_a_text_that_nobody_ends_holds_nothing_up() -> None:
    said = [event for event in message_events(0, "a", "b") if ".done" not in event["type"]]
    thought = {"type": "response.reasoning_text.delta", "delta": "t"}
    writer = scribe()
    events = [
        json.loads(draft.value)
        for event in [thought, *said, thought, said[-1]]
        for draft in writer.write(dict(event), now=0)
    ]
    assert deltas_of(events) == ["t", "a", "b", "t", "b"]


@pytest.mark.parametrize("end", [[], [completed()], [{"type": "response.failed", "response": {}}]])
def test_what_waits_is_told_at_the_end(end: list[Event]) -> None:
    first, second, text = call_events(0), call_events(1), message_events(2, "a", "b")

    events = told([*first[:2], *second, *text, *end])

    shown = json.dumps(followed(events)["output"])
    assert '{\\"a\\":1}' in shown
    assert "ab" in shown
    assert order_of(events)[:3] == [0, 1, 2]


def test_an_event_that_names_no_item_is_of_the_one_that_came_last() -> None:
    first, second = call_events(0), call_events(1)
    for event in second[1:]:
        event.pop("item_id", None)
        event.pop("output_index", None)

    events = told([*first[:2], *second[:3], *first[2:], *second[3:], completed()])

    assert [item["arguments"] for item in followed(events)["output"]] == [ARGUMENTS] * 2
    assert order_of(events) == [0, 1]


def test_calls_whose_ids_drift_are_found_by_their_places() -> None:
    said = mixed(call_events(0), call_events(1))
    for number, event in enumerate(said):
        if "item_id" in event:
            event["item_id"] = f"drifting_{number}"

    events = told([*said, completed()])

    assert order_of(events) == [0, 1]
    assert [item["arguments"] for item in followed(events)["output"]] == [ARGUMENTS] * 2


def test_calls_that_share_a_place_are_found_by_their_ids() -> None:
    said = mixed(call_events(0), call_events(1))
    for event in said:
        event["output_index"] = 0

    events = told([*said, completed()])

    assert order_of(events) == [0, 1]
    assert [item["arguments"] for item in followed(events)["output"]] == [ARGUMENTS] * 2


@pytest.mark.parametrize("bound", ["MAX_EVENTS", "MAX_CHARACTERS"])
def test_no_more_waits_than_is_to_be_kept(bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, bound, 3)
    first, second = call_events(0), call_events(1)

    events = told([*first[:2], *second, *first[2:], completed()])

    assert deltas_of(events) == ['{"a"', '{"a"', ":1}", ":1}"]
    followed(events)


def test_an_event_that_waits_takes_no_longer_where_thousands_of_items_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """8,000 events of 2,000 items: 0.3 s; 34 s where each of them looks at all lanes."""
    monkeypatch.setattr(lanes, "MAX_EVENTS", 1_000_000)
    first, *others = (call_events(number) for number in range(2_001))
    said = [first[0], *(events[step] for step in range(4) for events in others)]

    def seconds() -> float:
        writer, began = scribe(), time.thread_time()
        for event in said:
            writer.write(dict(event), now=0)
        return (time.thread_time() - began) / slowness()

    assert any(seconds() < 2 for _ in range(3))


@pytest.mark.parametrize("seed", range(60))
def test_items_that_are_mixed_anyhow_are_the_items_that_they_were(seed: int) -> None:
    random = Random(seed)
    *body, final = whole_stream()
    items: dict[int, list[Event]] = {}
    for event in body:
        items.setdefault(event["output_index"], []).append(event)
    others = [events for events in items.values() if events[0]["item"]["type"] != "function_call"]
    left = [*random.sample(others, 4), call_events(20), call_events(21)]
    said = []
    while left:
        lane = random.choice(left)
        said.append(lane.pop(0))
        left = [one for one in left if one]
    final["response"]["output"] = []

    events = told([*said, final])

    shown = followed(events)["output"]
    ended = [event["item"] for event in said if event["type"] == "response.output_item.done"]
    assert {item["id"]: item for item in shown} == {item["id"]: item for item in ended}
    calls = [
        place for place, item in enumerate(shown) if item["type"] in ("function_call", "custom_tool_call")
    ]
    order = order_of(events)
    assert [order.count(place) for place in calls] == [1] * len(calls)
