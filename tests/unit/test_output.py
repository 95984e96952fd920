from typing import Any

from schemas.output import Output


def added(index: int, **item: Any) -> dict[str, Any]:
    item = {"id": f"item_{index}", "type": "message", "status": "in_progress", "content": [], **item}
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def part(index: int, at: int = 0) -> dict[str, Any]:
    text = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    return {"type": "response.content_part.added", "output_index": index, "content_index": at, "part": text}


def delta(index: int, text: str, at: int = 0) -> dict[str, Any]:
    return {
        "type": "response.output_text.delta",
        "output_index": index,
        "content_index": at,
        "delta": text,
    }


def folded(*events: dict[str, Any]) -> Output:
    output = Output()
    for event in events:
        output.apply(event)
    return output


def test_deltas_add_up_to_the_text_so_far() -> None:
    output = folded(added(0), part(0), delta(0, "one "), delta(0, "two"))
    assert output.items()[0]["content"][0]["text"] == "one two"


def test_an_answer_does_not_change_with_what_comes_later() -> None:
    output = folded(added(0), part(0), delta(0, "one "))
    before = output.items()
    output.apply(delta(0, "two"))
    assert before[0]["content"][0]["text"] == "one "
    assert output.items()[0]["content"][0]["text"] == "one two"


def test_done_text_replaces_what_the_deltas_said() -> None:
    done = {"type": "response.output_text.done", "output_index": 0, "content_index": 0, "text": "whole"}
    assert folded(added(0), part(0), delta(0, "who"), done).items()[0]["content"][0]["text"] == "whole"


def test_a_done_item_is_the_item_and_later_deltas_change_nothing() -> None:
    item = {"id": "item_0", "type": "message", "status": "completed", "content": []}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    output = folded(added(0), part(0), delta(0, "x"), done, delta(0, "y"))
    assert output.items() == [item]
    assert output.unfinished() == []


def test_items_are_in_the_order_of_their_index_and_cut_short_ones_are_incomplete() -> None:
    output = folded(added(1), added(0), part(1), delta(1, "half"))
    assert [item["id"] for item in output.items()] == ["item_0", "item_1"]
    index, cut = output.unfinished()[1]
    assert (index, cut["status"], cut["content"][0]["text"]) == (1, "incomplete", "half")


def test_arguments_code_and_reasoning_gather_where_they_belong() -> None:
    output = folded(
        added(0, type="function_call", arguments="", call_id="call_1"),
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a":'},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "1}"},
        added(1, type="reasoning", summary=[], content=None),
        {
            "type": "response.reasoning_summary_part.added",
            "output_index": 1,
            "summary_index": 0,
            "part": {"type": "summary_text", "text": ""},
        },
        {
            "type": "response.reasoning_summary_text.delta",
            "output_index": 1,
            "summary_index": 0,
            "delta": "why",
        },
        added(2, type="code_interpreter_call", code=None),
        {"type": "response.code_interpreter_call_code.delta", "output_index": 2, "delta": "1+1"},
        {"type": "response.code_interpreter_call.interpreting", "output_index": 2},
    )
    call, reasoning, code = output.items()
    assert call["arguments"] == '{"a":1}'
    assert reasoning["summary"] == [{"type": "summary_text", "text": "why"}]
    assert (code["code"], code["status"]) == ("1+1", "interpreting")


def test_annotations_gather_on_their_part() -> None:
    note = {"type": "url_citation", "url": "u"}
    event = {
        "type": "response.output_text.annotation.added",
        "output_index": 0,
        "content_index": 0,
        "annotation": note,
    }
    assert folded(added(0), part(0), event).items()[0]["content"][0]["annotations"] == [note]


def test_events_that_fit_nothing_change_nothing() -> None:
    output = folded(
        delta(3, "lost"),
        {"type": "response.output_text.delta", "delta": 5},
        {"type": "response.output_item.added", "item": None},
        {"type": "response.content_part.added", "output_index": 0},
        {"type": "response.brand_new.completed", "output_index": 9},
        {"type": "something else"},
    )
    assert output.items() == []
