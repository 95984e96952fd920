import json
from typing import Any

import pytest

from schemas import response
from schemas.ids import response_id
from services.executor.backend import UpstreamError
from services.executor.backends.endings import cut_by
from services.executor.scribe import Draft, Ending, Limits, Scribe

ID = response_id(0, bytes(16))
INITIAL = response.initial({"model": "echo", "background": True, "input": "hi"}, ID, 1_700_000_000, "echo")


def scribe(last: int = 1, **options: Any) -> Scribe:
    return Scribe(dict(INITIAL), origin=1, last=last, limits=options.pop("limits", Limits()), **options)


def texts(drafts: list[Draft]) -> list[tuple[int, str]]:
    return [(draft.number, draft.type) for draft in drafts]


def value(draft: Draft) -> dict[str, Any]:
    return dict(json.loads(draft.value))


ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
DONE = ITEM | {"status": "completed"}
ADDED = {"type": "response.output_item.added", "output_index": 0, "item": ITEM, "sequence_number": 40}


PART = {
    "type": "response.content_part.added",
    "item_id": "msg_1",
    "output_index": 0,
    "content_index": 0,
    "part": {"type": "output_text", "text": ""},
}


def delta(text: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": text}


def test_in_progress_is_said_once_in_a_responses_life() -> None:
    first = scribe()
    assert texts(first.begin()) == [(2, "response.in_progress")]
    assert first.begin() == []
    assert scribe(last=2).begin() == []


def test_events_are_numbered_anew_and_pass_with_unknown_fields() -> None:
    held = scribe(last=2)
    (draft,) = held.write(dict(ADDED, brand_new={"a": [1, None]}), now=0)
    assert value(draft) == dict(ADDED, brand_new={"a": [1, None]}, sequence_number=3)


def test_what_rejoinder_says_itself_is_dropped() -> None:
    held = scribe(last=2)
    for type in ("response.created", "response.queued", "response.in_progress"):
        assert held.write({"type": type, "response": {"id": "theirs"}}, now=0) == []
    assert held.write(dict(ADDED), now=0)[0].number == 3


def test_the_final_object_is_ours_in_identity_and_theirs_in_substance() -> None:
    held = scribe(last=2)
    theirs = {"id": "resp_theirs", "status": "completed", "output": [ITEM], "model": "big-2", "usage": None}
    *streamed, draft = held.write(
        {"type": "response.completed", "response": theirs, "extra": 1}, now=1_700_000_009.7
    )
    assert texts(streamed) == [(3, "response.output_item.added"), (4, "response.output_item.done")]
    final = value(draft)["response"]
    assert (draft.terminal, draft.type, value(draft)["extra"]) == ("completed", "response.completed", 1)
    assert (final["id"], final["model"], final["output"]) == (ID, "big-2", [DONE])
    assert final["completed_at"] == 1_700_000_009
    assert held.ended
    assert held.write(delta("late"), now=0) == []


def test_an_upstream_that_forgets_its_output_gets_what_it_streamed() -> None:
    held = scribe(last=2)
    held.write(dict(ADDED), now=0)
    done = {"type": "response.output_item.done", "output_index": 0, "item": DONE}
    held.write(done, now=0)
    (draft,) = held.write({"type": "response.completed", "response": {"output": []}}, now=0)
    assert [item["id"] for item in value(draft)["response"]["output"]] == ["msg_1"]


def test_an_end_of_ours_finishes_the_items_cut_short_and_keeps_the_output() -> None:
    held = scribe(last=2)
    held.write(dict(ADDED), now=0)
    item, terminal = held.end(Ending("gone", type="executor_lost"))
    assert texts([item, terminal]) == [(4, "response.output_item.done"), (5, "response.failed")]
    assert value(item)["item"]["status"] == "incomplete"
    final = value(terminal)["response"]
    assert final["error"] == {"code": "server_error", "message": "gone", "type": "executor_lost"}
    assert final["output"][0]["status"] == "incomplete"
    assert terminal.terminal == "failed"
    assert held.end(Ending("again")) == []


@pytest.mark.parametrize(
    "limits", [Limits(events=4), Limits(output_bytes=100), Limits(record_bytes=len(json.dumps(ADDED)) - 30)]
)
def test_an_item_whose_beginning_breaks_a_bound_is_not_told(limits: Limits) -> None:
    drafts = scribe(last=2, limits=limits).write(dict(ADDED), now=0)
    assert len(drafts) == 1
    assert drafts[0].terminal in ("incomplete", "failed")


@pytest.mark.parametrize("events", range(4, 24))
def test_a_bound_may_fall_on_any_event_of_items_that_wait(events: int) -> None:
    held = scribe(last=2, limits=Limits(events=events))
    call = {"type": "function_call", "name": "f", "arguments": ""}
    said: list[dict[str, Any]] = []
    for at in range(3):
        item = {**call, "id": f"fc_{at}", "call_id": f"c_{at}"}
        said.append({"type": "response.output_item.added", "output_index": at, "item": item})
    for piece in ('{"a"', ":1}"):
        for at in range(3):
            where = {"item_id": f"fc_{at}", "output_index": at}
            said.append({"type": "response.function_call_arguments.delta", **where, "delta": piece})
    drafts = [draft for event in [dict(ADDED, output_index=3), *said] for draft in held.write(event, now=0)]
    drafts += held.end(Ending("gone"))
    assert drafts[-1].terminal in ("incomplete", "failed")
    assert [draft.number for draft in drafts] == list(range(3, 3 + len(drafts)))
    begun = [value(draft)["output_index"] for draft in drafts if draft.type.endswith("item.added")]
    done = [value(draft)["output_index"] for draft in drafts if draft.type.endswith("item.done")]
    assert begun == sorted(done)


def test_what_waits_and_is_larger_than_a_record_is_not_told_at_the_end() -> None:
    held = scribe(last=2, limits=Limits(record_bytes=400))
    call = {"type": "function_call", "name": "f", "arguments": "", "id": "fc_0", "call_id": "c_0"}
    large = {**call, "id": "fc_1", "call_id": "c_1", "name": "f" * 500}
    where = {"item_id": "fc_1", "output_index": 1}
    for event in (
        {"type": "response.output_item.added", "output_index": 0, "item": call},
        {"type": "response.output_item.added", "output_index": 1, "item": large},
        {"type": "response.function_call_arguments.delta", **where, "delta": "{"},
        {"type": "response.function_call_arguments.done", **where, "arguments": "{}"},
        {"type": "response.output_item.done", "output_index": 1, "item": large},
    ):
        held.write(event, now=0)
    drafts = held.end(Ending("gone"))
    assert [value(draft).get("output_index") for draft in drafts] == [0, None]


def test_an_end_before_the_beginning_says_in_progress_first() -> None:
    assert texts(scribe().end(Ending("no backend"))) == [(2, "response.in_progress"), (3, "response.failed")]


def test_foreign_types_become_extensions_or_pass_where_the_backend_says_so() -> None:
    foreign = {"type": "agent.thought", "sequence_number": 9, "thought": "hm"}
    held = scribe(last=2)
    (kept,) = held.write(dict(foreign), now=0)
    assert (kept.extension, kept.number, value(kept)) == (True, 0, foreign)
    assert held.write(dict(ADDED), now=0)[0].number == 3
    (passed,) = scribe(last=2, pass_extensions=True).write(dict(foreign), now=0)
    assert (passed.extension, passed.number, value(passed)["sequence_number"]) == (False, 3, 3)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.delta", "error": {"message": "boom"}},
        {"no": "type"},
        {"type": 7},
        {"type": "two\nlines"},
    ],
)
def test_what_would_break_a_client_is_an_upstreams_error(event: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError):
        scribe(last=2).write(event, now=0)


def test_an_empty_error_is_not_passed_on() -> None:
    (draft,) = scribe(last=2).write(dict(ADDED, error=None), now=0)
    assert value(draft) == ADDED | {"sequence_number": 3}


def test_a_cancelled_upstream_is_a_failure_of_ours_not_a_cancel() -> None:
    (draft,) = scribe(last=2).write(
        {"type": "response.incomplete", "response": {"status": "cancelled", "output": []}}, now=0
    )
    assert draft.terminal == "failed"
    assert value(draft)["response"]["error"]["type"] == "upstream_cancelled"


@pytest.mark.parametrize(
    ("type", "said", "end"),
    [
        ("completed", "failed", "failed"),
        ("completed", "incomplete", "incomplete"),
        ("incomplete", "failed", "failed"),
        ("failed", "completed", "failed"),
        ("failed", "incomplete", "failed"),
        ("incomplete", "completed", "incomplete"),
        ("completed", "in_progress", "completed"),
        ("completed", None, "completed"),
        ("failed", ["odd"], "failed"),
    ],
)
def test_where_the_last_event_and_its_object_disagree_the_worse_is_believed(
    type: str, said: object, end: str
) -> None:
    held = scribe(last=2)
    held.write(dict(ADDED), now=0)
    theirs = {
        "status": said,
        "error": {"message": "boom"},
        "incomplete_details": {"reason": "content_filter"},
    }
    *_, draft = held.write({"type": f"response.{type}", "response": theirs}, now=7)
    final = value(draft)["response"]
    assert (draft.type, draft.terminal, value(draft)["type"]) == (f"response.{end}", end, f"response.{end}")
    assert (final["status"], final["completed_at"]) == (end, 7 if end == "completed" else None)
    assert (final["error"] or {}).get("message") == ("boom" if end == "failed" else None)
    assert (final["incomplete_details"] is not None) == (end == "incomplete")


def test_an_event_over_the_records_bound_ends_the_response() -> None:
    held = scribe(last=2, limits=Limits(record_bytes=10_000))
    held.write(dict(ADDED), now=0)
    held.write(dict(PART), now=0)
    drafts = held.write(delta("x" * 20_000), now=0)
    assert texts(drafts) == [(5, "response.output_item.done"), (6, "response.failed")]
    assert value(drafts[1])["response"]["error"]["type"] == "event_too_large"


def test_too_many_events_end_it_incomplete() -> None:
    held = scribe(last=2, limits=Limits(events=7))
    held.write(dict(ADDED), now=0)
    held.write(dict(PART), now=0)
    held.write(delta("a"), now=0)
    drafts = held.write(delta("b"), now=0)
    assert drafts[-1].terminal == "incomplete"
    assert [d.number for d in drafts] == [6, 7]


def test_a_final_object_over_the_bound_is_an_honest_failure_that_fits() -> None:
    held = scribe(last=2, limits=Limits(record_bytes=4_000))
    output = [{"id": f"i{n}", "type": "acme:thing", "x": "x" * 1_500} for n in range(3)]
    *_, draft = held.write({"type": "response.completed", "response": {"output": output}}, now=0)
    assert draft.terminal == "failed"
    assert len(draft.value) <= 4_000
    assert value(draft)["response"]["error"]["type"] == "output_too_large"


@pytest.mark.parametrize("ended_by", ["us", "upstream"])
def test_an_item_that_has_outgrown_a_record_is_not_said_again_and_the_reason_is_kept(ended_by: str) -> None:
    held = scribe(last=2, limits=Limits(record_bytes=4_000))
    held.write(dict(ADDED), now=0)
    held.write(dict(ADDED) | {"output_index": 1, "item": ITEM | {"id": "msg_2"}}, now=0)
    held.write(dict(PART), now=0)
    for _ in range(2):
        held.write(delta("x" * 3_000), now=0)
    if ended_by == "us":
        drafts = held.end(Ending("gone", type="executor_lost"))
    else:
        error = {"code": "server_error", "message": "gone", "type": "executor_lost"}
        drafts = held.write({"type": "response.failed", "response": {"error": error}}, now=0)
    assert texts(drafts) == [(8, "response.output_item.done"), (9, "response.failed")]
    assert value(drafts[0])["item"]["id"] == "msg_2"
    assert (value(drafts[1])["response"]["output"], drafts[1].terminal) == ([], "failed")
    assert value(drafts[1])["response"]["error"]["message"] == "gone"
    assert max(len(draft.value) for draft in drafts) <= 4_000


@pytest.mark.parametrize(
    "terminal",
    [
        {"response": {"output": [], "odd": "x" * 5_000}},
        {"response": {"output": []}, "odd": "x" * 5_000},
        {"response": {"error": {"message": "x" * 5_000}}, "type": "response.failed"},
    ],
)
def test_whatever_an_upstream_adds_to_its_last_event_it_ends(terminal: dict[str, Any]) -> None:
    held = scribe(last=2, limits=Limits(record_bytes=4_000))
    (draft,) = held.write({"type": "response.completed", **terminal}, now=0)
    assert draft.terminal == "failed"
    assert len(draft.value) <= 4_000
    assert value(draft)["response"]["error"]["type"] == "output_too_large"


def test_the_first_event_of_a_resumable_upstream_begins_the_run_and_says_where_it_stands() -> None:
    upstream = [("upstream_id", b"resp_theirs"), ("upstream_cursor", b"0")]
    held = scribe()
    (draft,) = held.write({"type": "response.created", "response": {"id": "theirs"}}, upstream, now=0)
    assert (draft.number, draft.type, draft.upstream) == (2, "response.in_progress", upstream)
    assert texts(held.write(dict(ADDED), now=0)) == [(3, "response.output_item.added")]


def test_what_is_raised_takes_no_number() -> None:
    held = scribe()
    with pytest.raises(UpstreamError):
        held.write({"type": "response.output_text.delta", "error": {"message": "boom"}}, now=0)
    assert texts(held.end(Ending("boom"))) == [(2, "response.in_progress"), (3, "response.failed")]


@pytest.mark.parametrize("output", [["x", None, 3], [ITEM, "x"], 5, "text", {"a": 1}])
def test_an_output_that_is_not_a_list_of_objects_is_refused_by_name(output: object) -> None:
    held = scribe(last=2)
    held.write(dict(ADDED), now=0)
    with pytest.raises(UpstreamError, match=r"response\.completed whose response\.output is not") as refused:
        held.write({"type": "response.completed", "response": {"output": output}}, now=0)
    assert refused.value.type == "upstream_malformed"
    *_, terminal = held.end(Ending.of(refused.value))
    assert [item["id"] for item in value(terminal)["response"]["output"]] == ["msg_1"]


def test_half_a_surrogate_pair_is_said_as_the_replacement_character_everywhere() -> None:
    held = scribe(last=2)
    said: list[dict[str, Any]] = [
        dict(ADDED, new="\ud83d"),
        {"type": "own.step", "text": "\ude00"},
        {"type": "response.completed", "response": {"output": [], "model": "m\ud83d"}, "x": "\ud83d"},
    ]
    added, step, closed = (value(held.write(event, now=0)[-1]) for event in said)
    assert (added["new"], step["text"], closed["x"]) == ("\ufffd", "\ufffd", "\ufffd")
    assert closed["response"]["model"] == "m\ufffd"


def test_what_the_upstreams_object_says_beyond_ours_is_in_every_object_from_then_on() -> None:
    held = scribe(last=2)
    theirs = {"id": "theirs", "status": "in_progress", "session": "s1", "metadata": {"a": "1"}, "model": "m2"}
    (told,) = held.write({"type": "response.created", "response": theirs}, now=0)
    assert held.write({"type": "response.in_progress", "response": theirs}, now=0) == []
    shown = value(told)["response"]
    assert (told.number, told.type, shown["status"]) == (3, "response.in_progress", "in_progress")
    assert (shown["id"], shown["session"], shown["metadata"], shown["model"]) == (ID, "s1", {"a": "1"}, "m2")
    (end,) = held.end(Ending("gone"))
    assert (value(end)["response"]["session"], value(end)["response"]["metadata"]) == ("s1", {"a": "1"})


def test_the_first_event_tells_it_at_once() -> None:
    theirs = {"id": "theirs", "session": "s1"}
    (told,) = scribe().write({"type": "response.created", "response": theirs}, now=0)
    assert (told.number, value(told)["response"]["session"]) == (2, "s1")


def test_what_fits_into_no_record_is_not_told() -> None:
    held = scribe(last=2, limits=Limits(record_bytes=4_000))
    theirs = {"id": "theirs", "session": "x" * 5_000}
    assert held.write({"type": "response.created", "response": theirs}, now=0) == []
    (end,) = held.end(Ending("gone"))
    assert value(end)["response"]["error"]["message"] == "gone"


@pytest.mark.parametrize(
    ("reason", "told"),
    [("max_tokens", "max_output_tokens"), ("safety", "content_filter"), ("bored", "max_output_tokens")],
)
def test_the_reason_of_a_cut_is_one_of_the_apis(reason: str, told: str) -> None:
    theirs = {"output": [], "incomplete_details": {"reason": reason}}
    assert cut_by(theirs["incomplete_details"]) == {"reason": told}
    assert all(cut_by(details) is None for details in ({"reason": "steered"}, {"reason": 7}, {}, None, "x"))
