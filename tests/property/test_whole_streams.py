"""A whole stream is cut up: events and fields deleted, doubled, nulled, renumbered, renamed, reordered.

What comes out can be followed by the strictest client, and says everything that was streamed.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.events import Event
from schemas.output import DELTAS, Output
from schemas.upstream_headers import upstream_headers
from services.executor.mending.places import OurPlace, begun_by
from tests.long import examples
from tests.whole import followed, scribe, told

USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
ONLY_ONCE = ("function_call", "mcp_call", "custom_tool_call", "code_interpreter_call")
"""Kinds whose late texts are not said again in another item."""


def _texts(stem: str, at: dict[str, Any], field: str, pieces: list[str]) -> Iterator[Event]:
    more: dict[str, Any] = {"logprobs": []} if stem == "output_text" else {}
    for piece in pieces:
        yield {"type": f"response.{stem}.delta", **at, "delta": piece, **more}
    yield {"type": f"response.{stem}.done", **at, field: "".join(pieces), **more}


def _item(index: int, began: dict[str, Any], ended: dict[str, Any], within: list[Event]) -> Iterator[Event]:
    yield {"type": "response.output_item.added", "output_index": index, "item": began}
    yield from within
    yield {"type": "response.output_item.done", "output_index": index, "item": ended}


def _message(index: int, id: str, texts: list[list[str]]) -> Iterator[Event]:
    at, parts, within = {"item_id": id, "output_index": index}, [], []
    for number, pieces in enumerate(texts):
        where = {**at, "content_index": number}
        kind, field = ("refusal", "refusal") if number == 2 else ("output_text", "text")
        lists: dict[str, Any] = {} if number == 2 else {"annotations": [], "logprobs": []}
        part = {"type": kind, field: "".join(pieces), **lists}
        within += [{"type": "response.content_part.added", **where, "part": {**part, field: ""}}]
        within += _texts(kind, where, field, pieces)
        within += [{"type": "response.content_part.done", **where, "part": part}]
        parts.append(part)
    item = {"type": "message", "id": id, "role": "assistant", "status": "completed"}
    began = {**item, "status": "in_progress", "content": []}
    yield from _item(index, began, {**item, "content": parts}, within)


def _reasoning(index: int, id: str) -> Iterator[Event]:
    at = {"item_id": id, "output_index": index}
    said, thought = ["<s1>", "<s2>"], ["<r1>", "<r2>"]
    summary = {"type": "summary_text", "text": "".join(said)}
    content = {"type": "reasoning_text", "text": "".join(thought)}
    first, second = {**at, "summary_index": 0}, {**at, "content_index": 0}
    within = [
        {"type": "response.reasoning_summary_part.added", **first, "part": {**summary, "text": ""}},
        *_texts("reasoning_summary_text", first, "text", said),
        {"type": "response.reasoning_summary_part.done", **first, "part": summary},
        {"type": "response.content_part.added", **second, "part": {**content, "text": ""}},
        *_texts("reasoning_text", second, "text", thought),
        {"type": "response.content_part.done", **second, "part": content},
    ]
    item = {"type": "reasoning", "id": id, "summary": []}
    yield from _item(index, item, {**item, "summary": [summary], "content": [content]}, within)


def _call(index: int, item: dict[str, Any], stem: str, field: str) -> Iterator[Event]:
    at, pieces = {"item_id": item["id"], "output_index": index}, [f"<{index}a>", f"<{index}b>"]
    began = {**item, field: "", "status": "in_progress"}
    yield from _item(index, began, {**item, field: "".join(pieces)}, list(_texts(stem, at, field, pieces)))


def _tool(index: int, item: dict[str, Any], *steps: str) -> Iterator[Event]:
    at = {"item_id": item["id"], "output_index": index}
    within = [{"type": f"response.{item['type']}.{step}", **at} for step in steps]
    began = {**item, "status": "in_progress"} | ({"result": None} if "result" in item else {})
    yield from _item(index, began, {**item, "status": "completed"}, within)


TOOLS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "q"}}, ("searching",)),
    ({"type": "file_search_call", "id": "fs_1", "queries": ["q"]}, ("in_progress", "completed")),
    ({"type": "image_generation_call", "id": "ig_1", "result": "AAAA"}, ("generating",)),
    ({"type": "computer_call", "id": "cu_1", "call_id": "call_cu", "pending_safety_checks": []}, ()),
    ({"type": "mcp_list_tools", "id": "ml_1", "server_label": "s", "tools": []}, ("in_progress",)),
    (
        {
            "type": "shell_call",
            "id": "sh_1",
            "call_id": "call_sh",
            "action": {"commands": ["ls"], "max_output_length": None, "timeout_ms": None},
        },
        (),
    ),
    ({"type": "shell_call_output", "id": "so_1", "call_id": "call_sh", "output": []}, ()),
    (
        {
            "type": "apply_patch_call",
            "id": "ap_1",
            "call_id": "call_ap",
            "operation": {"type": "delete_file", "path": "x"},
        },
        (),
    ),
    ({"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}, ("compacting",)),
]
CALLS = [
    ("function_call_arguments", "arguments", {"type": "function_call", "call_id": "call_1", "name": "f"}),
    ("function_call_arguments", "arguments", {"type": "function_call", "call_id": "call_2", "name": "f"}),
    ("custom_tool_call_input", "input", {"type": "custom_tool_call", "call_id": "call_3", "name": "g"}),
    ("mcp_call_arguments", "arguments", {"type": "mcp_call", "name": "h", "server_label": "s"}),
    ("code_interpreter_call_code", "code", {"type": "code_interpreter_call", "container_id": "c"}),
]


def whole_stream() -> list[Event]:
    """What a flawless upstream streams of every kind of item, its terminal event last."""
    events = [*_reasoning(0, "rs_1"), *_message(1, "msg_1", [["<a>", "<b>"], ["<c>", "<d>"], ["<e>"]])]
    for number, (stem, field, call) in enumerate(CALLS):
        item = {**call, "id": f"call_item_{number}", "status": "completed"}
        events += _call(2 + number, item, stem, field)
    for number, (item, steps) in enumerate(TOOLS):
        events += _tool(7 + number, item, *steps)
    events += _message(16, "msg_2", [["<y>", "<z>"]])
    output = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    final = {"id": "resp_theirs", "status": "completed", "output": output, "usage": USAGE}
    return [*events, {"type": "response.completed", "response": final}]


FIELDS = ("item_id", "output_index", "content_index", "summary_index", "item", "part", "delta", "text")
INNER = ("id", "type", "call_id", "name", "status", "content", "arguments", "summary")
odd: Any = st.sampled_from([None, 0, 1, 3, 40, -1, 1.0, "0", "x", "", [], {}, True])
events_at = st.integers(0, 400)
cuts = st.one_of(
    st.tuples(st.just("delete"), events_at),
    st.tuples(st.just("double"), events_at, events_at),
    st.tuples(st.just("move"), events_at, events_at),
    st.tuples(st.just("set"), events_at, st.sampled_from(FIELDS), odd),
    st.tuples(st.just("drop"), events_at, st.sampled_from(FIELDS)),
    st.tuples(st.just("silence"), events_at),
    st.tuples(st.just("within"), events_at, st.sampled_from(INNER), odd),
    st.tuples(st.just("all without"), st.sampled_from(["added", "done", "part", "item_id", "output_index"])),
    st.tuples(st.just("final"), st.sampled_from(["none", "empty", "short", "renamed", "bare", "cut"])),
)


def _cut(events: list[Event], cut: tuple[Any, ...]) -> list[Event]:
    """`events`, the terminal one last, after one accident."""
    body, terminal = events[:-1], events[-1]
    match cut:
        case ("delete", int(at)) if body:
            del body[at % len(body)]
        case ("double", int(at), int(to)) if body:
            body.insert(to % len(body), copy.deepcopy(body[at % len(body)]))
        case ("move", int(at), int(to)) if body:
            body.insert(to % len(body), body.pop(at % len(body)))
        case ("set", int(at), field, value) if body:
            body[at % len(body)] |= {field: value} if field in body[at % len(body)] else {}
        case ("drop", int(at), field) if body:
            body[at % len(body)].pop(field, None)
        case ("silence", int(at)) if body:
            body = _silenced(body, body[at % len(body)])
        case ("within", int(at), field, value) if body:
            _set_within(body[at % len(body)], field, value)
        case ("all without", "added" | "done" | "part" as what):
            body = [event for event in body if what not in event["type"]]
        case ("all without", field):
            for event in body:
                event.pop(field, None)
        case ("final", how):
            terminal["response"]["output"] = _final(terminal["response"].get("output") or [], how)
    return [*body, terminal]


def _silenced(body: list[Event], about: Event) -> list[Event]:
    """`body` in which the part that the event `about` is about says nothing. An event about an item, or about
    a text without parts, changes nothing.
    """
    place = [about.get(name) for name in ("item_id", "content_index", "summary_index")]
    if not {"content_index", "summary_index"} & about.keys():
        return body
    said = []
    for event in body:
        if [event.get(name) for name in ("item_id", "content_index", "summary_index")] == place:
            if event["type"] in DELTAS:
                continue
            for holder in (event, event.get("part")):  # the end of its item has the same part
                if isinstance(holder, dict):
                    holder |= dict.fromkeys(holder.keys() & {"text", "refusal"}, "")
        said.append(event)
    return said


def _set_within(event: Event, field: str, value: Any) -> None:
    holder = event.get("item") or event.get("part")
    unknown = field == "type" and value  # the client's types know no other kind
    if isinstance(holder, dict) and field in holder and not unknown:
        holder[field] = value


def _final(output: list[Any], how: str) -> Any:
    match how:
        case "none":
            return None
        case "empty":
            return []
        case "short":
            return output[: len(output) // 2]
        case "renamed":
            return [{**item, "id": f"other_{n}", "call_id": f"c_{n}"} for n, item in enumerate(output)]
        case "bare":
            return [{k: v for k, v in item.items() if k not in ("id", "content")} for item in output]
    return output[1:]


def _said_in(event: Event) -> str | None:
    """The delta of an event whose text may be told by any item."""
    late = event["type"].split(".")[1].startswith(ONLY_ONCE)
    return (
        event["delta"]
        if event["type"] in DELTAS and not late and isinstance(event.get("delta"), str)
        else None
    )


def test_a_whole_stream_passes_as_it_is() -> None:
    said = whole_stream()
    events = told(said)
    followed(events)
    assert [{**event, "sequence_number": None} for event in events[1:-1]] == [
        {**event, "sequence_number": None} for event in said[:-1]
    ]
    assert events[-1]["response"]["output"] == said[-1]["response"]["output"]


@settings(max_examples=examples(150), deadline=None)
@given(st.lists(cuts, min_size=1, max_size=6))
def test_a_stream_that_was_cut_up_is_whole_again(accidents: list[tuple[Any, ...]]) -> None:
    said = whole_stream()
    for accident in accidents:
        said = _cut(said, accident)
    events = told(said)
    final = followed(events)
    shown = json.dumps(final["output"])
    assert [piece for event in said if (piece := _said_in(event)) and piece not in shown] == []


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(cuts, max_size=3), st.integers(0, 200))
def test_a_stream_that_ends_anywhere_keeps_what_it_said(accidents: list[tuple[Any, ...]], end: int) -> None:
    said = whole_stream()
    for accident in accidents:
        said = _cut(said, accident)
    said = said[: end % len(said)]
    events = told(said)
    final = followed(events)
    shown = json.dumps(final["output"])
    assert final["status"] == "failed"
    assert [piece for event in said if (piece := _said_in(event)) and piece not in shown] == []


@settings(max_examples=examples(80), deadline=None)
@given(st.lists(cuts, max_size=3), st.integers(0, 200))
def test_an_executor_that_takes_over_goes_on_with_the_output_so_far(
    accidents: list[tuple[Any, ...]], end: int
) -> None:
    said = whole_stream()
    for accident in accidents:
        said = _cut(said, accident)
    first = scribe()
    drafts = first.begin()
    for number, event in enumerate(said[: end % len(said)]):
        drafts += first.write(copy.deepcopy(event), upstream_headers("up_1", number), now=1.0)
    if first.ended:
        return
    output, indexes = Output(), dict[OurPlace, int]()
    before = [json.loads(draft.value) for draft in drafts]
    for event, draft in zip(before, drafts, strict=True):
        output.apply(event)
        if draft.index is not None and (place := begun_by(event)) is not None:
            indexes[place] = draft.index
    rest = told(said[end % len(said) :], scribe(last=len(drafts), output=output, indexes=indexes))
    final = followed([*before, *rest])
    shown = json.dumps(final["output"])
    assert [piece for event in said if (piece := _said_in(event)) and piece not in shown] == []


@pytest.mark.parametrize("kind", sorted({event["type"] for event in whole_stream()[:-1]}))
def test_every_type_of_event_may_be_missing_everywhere(kind: str) -> None:
    said = [event for event in whole_stream() if event["type"] != kind]
    final = followed(told(said))
    assert final["status"] == "completed"
    assert final["output"] == whole_stream()[-1]["response"]["output"]
