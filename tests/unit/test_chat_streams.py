"""Chat Completions streams as servers in the field send them: what a client is told of each class."""

import json
from typing import Any

import pytest

from schemas.ids import ResponseId
from services.executor.backends.chat.tools import Toolbox
from services.executor.backends.chat.translate import ChatTranslator
from services.executor.mending.surrogates import loads
from tests.strict import checked

ID = ResponseId("resp_" + "c" * 36)
DONE: dict[str, Any] = {}
"""The end of the stream, `[DONE]`."""


def delta(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def message(finish: str | None = None, beside: Any = None, **message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": beside, "message": message, "finish_reason": finish}]}


def calls(*given: Any) -> dict[str, Any]:
    return delta(tool_calls=[call(*one) if isinstance(one, tuple) else one for one in given])


def call(
    index: Any = 0, id: str | None = None, name: str | None = None, arguments: Any = None
) -> dict[str, Any]:
    return {"index": index, "id": id, "function": {"name": name, "arguments": arguments}}


def final(*chunks: dict[str, Any], tools: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    translator = ChatTranslator(ID, Toolbox(tools or ()))
    events = []
    for chunk in chunks:
        events += translator.chunk(loads(json.dumps(chunk).encode())) if chunk else translator.over()
    events += translator.flush()
    assert translator.finished
    assert not translator.failure
    end: dict[str, Any] = checked(events + translator.end())[-1]["response"]
    return end


def called(response: dict[str, Any]) -> list[str]:
    items = [item for item in response["output"] if item["type"] == "function_call"]
    return [f"{item['name']}({item['arguments']})" for item in items]


def text(response: dict[str, Any], type: str = "message") -> str:
    items = [item for item in response["output"] if item["type"] == type]
    return "|".join("".join(part.get("text", "") for part in item["content"]) for item in items)


STOP = delta("stop")
TOOLS = [{"type": "function", "name": name} for name in ("get_weather", "get_time")]


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ([calls((0, "c", None, '{"a"')), calls((0, None, "f", ":1}"))], ['f({"a":1})']),
        ([calls({"index": 0, "id": "c"}), calls((0, None, "f", '{"a":1}'))], ['f({"a":1})']),
        ([calls((0, "c", "f", "{}")), calls({"index": 0}), calls({"id": "c", "function": None})], ["f({})"]),
        (
            [calls((0, "c", "f", "")), calls((0, "d", None, '{"a"')), calls((0, "e", None, ":1}"))],
            ['f({"a":1})'],
        ),
        ([calls((0, "", "f", '{"a":1}')), calls((0, "", "f", '{"a":2}'))], ['f({"a":1})', 'f({"a":2})']),
        ([calls((0, None, "f", "{}"), (0, None, "g", "{}"))], ["f({})", "g({})"]),
        ([calls((0, "c", "f", '{"a"')), calls((0, "c", "f", ":1}"))], ['f({"a":1})']),
        ([calls((0, "c", "f", {"a": 1}))], ['f({"a":1})']),
        ([calls((0, "c", "f", "{}")), calls((0, None, None, '{"a":1}'))], ['f({"a":1})']),
        (
            [calls((0, "c", "get_", "")), calls((0, None, "weather", "")), calls((0, None, None, "{}"))],
            ["get_weather({})"],
        ),
        ([calls((0, "c", "get_", "{")), calls((0, None, "weather", "}"))], ["get_weather({})"]),
        (
            [calls((0, None, "get_weather", "")), calls((0, None, "get_time", "{}"))],
            ["get_weather({})", "get_time({})"],
        ),
        ([calls(("0", "c", "f", '{"a"')), calls((0.0, None, None, ":1}"))], ['f({"a":1})']),
        ([calls({"name": "f", "arguments": "{}", "id": "c"})], ["f({})"]),
        ([calls((0, "c", "f")), calls((1, "c", None, '{"a"')), calls((2, "c", None, ":1}"))], ['f({"a":1})']),
        (
            [calls((0, "c", "f")), calls((1, None, None, '{"a"')), calls((2, None, None, ":1}"))],
            ['f({"a":1})'],
        ),
        ([delta(tool_calls={"index": 0, "function": {"name": "f", "arguments": "{}"}})], ["f({})"]),
        ([calls((0, "f", "f", '{"a":1}'), (1, "f", "f", '{"a":2}'))], ['f({"a":1})', 'f({"a":2})']),
    ],
)
def test_calls_are_put_together_from_pieces(chunks: list[dict[str, Any]], told: list[str]) -> None:
    """U-40 to U-44; all ways of cutting are in tests/property/test_chat_calls.py."""
    response = final(*chunks, delta("tool_calls"), DONE, tools=TOOLS)
    assert called(response) == told
    assert len({item["call_id"] for item in response["output"]}) == len(told)


def test_calls_that_share_an_id_get_ids_that_tell_them_apart() -> None:
    response = final(calls((0, "f", "f", '{"a":1}'), (1, "f", "f", '{"a":2}')), delta("tool_calls"))
    ids = [item["call_id"] for item in response["output"]]
    assert (ids[0], len(set(ids))) == ("f", 2)


def test_a_call_is_told_while_it_comes() -> None:
    translator = ChatTranslator(ID, Toolbox(TOOLS))
    assert [event["type"] for event in translator.chunk(calls((0, "c", "get_", "")))] == []
    told = translator.chunk(calls((0, None, "weather", "")))
    assert [event["item"]["name"] for event in told] == ["get_weather"]
    told = translator.chunk(calls((0, None, None, '{"a"')))
    assert [event["delta"] for event in told] == ['{"a"']


@pytest.mark.parametrize(
    ("reasons", "status", "why"),
    [
        (["length", "stop"], "incomplete", "max_output_tokens"),
        (["stop", "LENGTH"], "incomplete", "max_output_tokens"),
        (["length", "content_filter", "stop"], "incomplete", "content_filter"),
        (["stop", ""], "completed", None),
    ],
)
def test_the_worst_finish_reason_wins(reasons: list[str], status: str, why: str | None) -> None:
    response = final(delta(content="Half"), *map(delta, reasons))
    assert (response["status"], (response["incomplete_details"] or {}).get("reason")) == (status, why)


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (delta(content="Whole."), "completed"),
        (calls((0, "c", "f", '{"a":1}')), "completed"),
        (calls((0, "c", "f", None)), "completed"),
        (calls((0, "c", "f", '{"a":')), "incomplete"),
        (calls((0, "c", "f", '{"a":}')), "incomplete"),
        (calls((0, "c", "f", "{}"), (1, "d", "f", "{")), "incomplete"),
    ],
)
def test_the_servers_word_that_it_is_over_is_taken_unless_half_a_call_belies_it(
    said: dict[str, Any], status: str
) -> None:
    """U-48."""
    assert final(said, DONE)["status"] == status


def test_the_end_of_a_stream_that_said_nothing_is_no_answer() -> None:
    translator = ChatTranslator(ID)
    assert [*translator.chunk(delta(role="assistant")), *translator.over(), *translator.flush()] == []
    assert not translator.finished


@pytest.mark.parametrize(
    "chunks",
    [
        [
            message(beside={"content": "He"}, content="He"),
            message("stop", beside={"content": "llo"}, content="Hello"),
        ],
        [delta(content="Hello"), message("stop", content="Hello")],
        [delta(content="Hell"), message("stop", beside={}, content="Hello")],
        [message(content="He"), message(content="Hello"), message("stop", content="Hello")],
        [delta(content="He"), delta(content="Hello"), delta("stop", content="Hello")],
        [delta(content="He"), delta(content="llo"), delta("stop", content="Hello")],
        [delta(content="He"), delta(content="llo"), delta(content="Hello"), STOP],
        [delta(content=[{"type": "text", "text": "Hell"}]), delta(content=[{"text": "o"}]), STOP],
    ],
)
def test_a_message_is_all_so_far_and_a_delta_a_piece(chunks: list[dict[str, Any]]) -> None:
    """U-47."""
    assert text(final(*chunks, DONE)) == "Hello"


def test_calls_and_thoughts_of_a_last_message_are_not_told_twice() -> None:
    whole = message(
        "tool_calls",
        content="Hello",
        reasoning_content="Hmm",
        tool_calls=[{"id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    )
    pieces = [delta(reasoning_content="Hm"), delta(reasoning_content="m"), delta(content="Hello")]
    for chunks in ([*pieces, calls((0, "c", "f", '{"a":')), calls((0, None, None, "1}")), whole], [whole]):
        response = final(*chunks, DONE)
        assert [item["type"] for item in response["output"]] == ["reasoning", "message", "function_call"]
        assert (text(response), text(response, "reasoning")) == ("Hello", "Hmm")
        assert json.loads(response["output"][2]["arguments"]) == {"a": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": None, "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
        {"reasoning": "Hm", "reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]},
        {"reasoning": "Hm", "reasoning_content": "Hm"},
        {"thinking": "Hm"},
        {"reasoning_text": "Hm"},
        {"thinking": {"content": "Hm"}},
        {"reasoning": {"summary": [{"text": "Hm"}]}},
        {"reasoning_content": "Hm", "thinking_blocks": [{"type": "thinking", "thinking": "Hm"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}]},
        {"content": "Hm", "extra_content": {"google": {"thought": True}}},
        {"reasoning_details": [{"type": "reasoning.summary", "summary": "Hm"}]},
    ],
)
def test_thoughts_are_told_once_under_whatever_name(fields: dict[str, Any]) -> None:
    """U-50."""
    response = final(delta(**fields), delta(content="A"), STOP)
    assert (text(response, "reasoning"), text(response)) == ("Hm", "A")


def test_thoughts_that_a_second_field_repeats_later_are_told_once() -> None:
    detail = {"type": "reasoning.text", "text": "Hmm. So"}
    response = final(
        delta(reasoning="Hm"),
        delta(reasoning="m."),
        delta(reasoning_details=[detail]),
        delta(content="A"),
        STOP,
    )
    assert text(response, "reasoning") == "Hmm. So"


def test_annotations_of_deltas_and_messages_are_the_texts() -> None:
    """U-53."""
    place = {"url": "http://x", "title": "X", "start_index": 0, "end_index": 3}
    cited = {"type": "url_citation", "url_citation": place}
    flat, odd = {"type": "url_citation", **place}, {**place, "start_index": 0.0}
    for chunks in (
        [delta(content="A b"), delta("stop", annotations=[cited])],
        [delta(annotations=[flat]), delta(content="A b"), STOP],
        [delta(content="A b", annotations=[cited]), message("stop", content="A b", annotations=[cited])],
        [message("stop", content="A b", annotations=[{"type": "url_citation", "url_citation": odd}])],
    ):
        (item,) = final(*chunks)["output"]
        assert item["content"][0]["annotations"] == [flat]


def test_a_list_of_sources_is_cited_where_the_text_refers_to_them() -> None:
    sources = {"citations": ["http://x", "http://y"], "search_results": [{"url": "http://y", "title": "Y"}]}
    chunks = [delta(content="So"), delta(content=" it is [2]."), STOP]
    (item,) = final(*({**chunk, **sources} for chunk in chunks))["output"]
    places = [
        (one["url"], one["title"], one["start_index"], one["end_index"])
        for one in item["content"][0]["annotations"]
    ]
    assert places == [("http://x", "", 0, 0), ("http://y", "Y", 9, 12)]


@pytest.mark.parametrize("odd", [5, "x", [None, 5, {"type": "file"}, {}], {"a": 1}])
def test_what_is_no_citation_says_nothing(odd: Any) -> None:
    chunk = delta("stop", content="A", annotations=odd, context=odd) | {"search_results": odd}
    assert final(chunk)["output"][0]["content"][0]["annotations"] == []


@pytest.mark.parametrize(
    "usages",
    [
        [{"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}],
        [{"prompt_tokens": 0, "completion_tokens": 0}, {"prompt_tokens": 3.0, "completion_tokens": "2"}],
        [
            {"prompt_tokens": 3, "completion_tokens": 1},
            {"prompt_tokens": 3, "completion_tokens": 2},
            {"prompt_tokens": -1, "completion_tokens": None},
        ],
        [{"input_tokens": 3, "output_tokens": 2}],
    ],
)
def test_counts_are_taken_from_wherever_they_are_counts(usages: list[dict[str, Any]]) -> None:
    """U-55."""
    chunks = [{"choices": [], "usage": usage} for usage in usages]
    for at in (0, 1, 2):
        told = [delta(content="A"), STOP]
        used = final(*told[:at], *chunks, *told[at:])["usage"]
        assert (used["input_tokens"], used["output_tokens"], used["total_tokens"]) == (3, 2, 5)
    inside = [{"choices": [{"index": 0, "delta": {}, "usage": usage}]} for usage in usages]
    assert final(delta(content="A"), *inside, STOP)["usage"]["output_tokens"] == 2


@pytest.mark.parametrize(
    "usage", [{"prompt_tokens": 0, "completion_tokens": ""}, {}, "x", None, {"prompt_tokens": "many"}]
)
def test_placeholders_are_no_counts(usage: Any) -> None:
    assert final(delta("stop", content="A") | {"usage": usage})["usage"] is None


@pytest.mark.parametrize(
    "alive",
    [
        {"choices": []},
        {"choices": None},
        {"type": "ping"},
        {"object": "chat.completion.chunk"},
        delta(),
        delta(role="assistant"),
        delta(content=None, tool_calls=None),
        {"choices": [{"index": 0, "delta": None}]},
    ],
)
def test_signs_of_life_say_nothing(alive: dict[str, Any]) -> None:
    """U-56."""
    assert text(final(alive, delta(content="He"), alive, delta(content="y"), alive, STOP, alive)) == "Hey"


def test_one_choice_is_told() -> None:
    one, other = delta(content="A"), delta(content="B")
    other["choices"][0]["index"] = 1
    assert text(final(other, one, other, STOP)) == "A"
    stop = delta("stop")
    stop["choices"][0]["index"] = 1
    assert text(final(other, stop)) == "B"
    assert text(final(other, DONE)) == "B"


def test_halves_of_a_character_meet_in_texts_and_arguments() -> None:
    """U-12."""
    high, low = "\ud83d", "\ude00"
    assert text(final(delta(content=high), delta(content=low), STOP)) == "😀"
    assert text(final(delta(content="A"), delta(content=high), STOP)) == "A\ufffd"
    head = (0, "c", "f", '{"a":"' + high)
    assert called(final(calls(head), calls((0, None, None, low + '"}')), delta("tool_calls"))) == [
        'f({"a":"😀"})'
    ]


def test_what_a_server_wants_back_is_kept_on_the_items() -> None:
    """U-58."""
    signature = {"google": {"thought_signature": "SIG"}}
    details = [
        delta(reasoning_details=[{"type": "reasoning.text", "text": "H", "index": 0}]),
        delta(reasoning_details=[{"type": "reasoning.text", "text": "m", "index": 0, "signature": "S"}]),
    ]
    one = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}, "extra_content": signature}
    response = final(*details, delta(content="A"), delta(content="", tool_calls=[one]), delta("tool_calls"))
    thought, _, made = response["output"]
    assert thought["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm", "index": 0, "signature": "S"}
    ]
    assert made["extra_content"] == signature


@pytest.mark.parametrize("finish", ["tool_calls", "length"])
def test_thoughts_that_nobody_may_read_are_an_item_for_the_server(finish: str) -> None:
    sealed = [{"type": "reasoning.encrypted", "data": "XYZ"}]
    chunks = [delta(content="A"), delta(reasoning_details=sealed), calls((0, "c", "f", "{}")), delta(finish)]
    kinds = [(item["type"], item.get("reasoning_details")) for item in final(*chunks)["output"]]
    assert kinds == [("message", None), ("reasoning", sealed), ("function_call", None)]
    text_cut = final(delta(content="A"), delta(reasoning_details=sealed), delta("length"))["output"]
    assert [item["status"] for item in text_cut] == ["incomplete", "completed"]


def test_a_custom_tool_is_itself_again() -> None:
    tools = [{"type": "custom", "name": "patch"}]
    response = final(
        calls((0, "c", "patch", '{"input":"*** Be')),
        calls((0, None, None, 'gin"}')),
        delta("tool_calls"),
        tools=tools,
    )
    (item,) = response["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "patch", "*** Begin")


def test_fields_that_the_route_gives_back_are_kept_on_what_they_came_with() -> None:
    translator = ChatTranslator(ID, give_back=["reasoning_opaque", "sealed"])
    thought = delta(reasoning_text="Hm", reasoning_opaque="OP")
    one = {"index": 0, "id": "c", "function": {"name": "f", "arguments": "{}"}, "sealed": "S"}
    for chunk in (thought, delta(tool_calls=[one], sealed="M"), delta("tool_calls")):
        translator.chunk(chunk)
    thoughts, made = translator.end()[-1]["response"]["output"]
    assert (thoughts["reasoning_opaque"], thoughts["sealed"], made["sealed"]) == ("OP", "M", "S")


def test_content_that_gemini_marks_as_thought_leaves_no_mark() -> None:
    mark = {"google": {"thought": True}}
    response = final(delta(content="Hm", extra_content=mark), delta(content="A"), STOP)
    assert all("extra_content" not in item for item in response["output"])


@pytest.mark.parametrize("reason", ["tool_calls", "stop", None])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [('{"a": "lo', "incomplete"), ('{"a": 1', "incomplete"), ('{"a": 1}', "completed")],
)
def test_half_a_call_is_a_cut_whatever_the_finish_reason_says(
    reason: str | None, arguments: str, status: str
) -> None:
    response = final(calls((0, "c", "f", arguments)), *([delta(reason)] if reason else []), DONE)
    assert (response["status"], response["output"][0]["arguments"]) == (status, arguments)


def test_what_a_model_writes_instead_of_an_object_is_no_cut() -> None:
    response = final(calls((0, "c", "f", "a=1")), delta("tool_calls"), DONE)
    assert (response["status"], response["output"][0]["arguments"]) == ("completed", "a=1")


MARKED: Any = {"extra_content": {"google": {"thought": True}}}


@pytest.mark.parametrize(
    "chunks",
    [
        [
            delta(content="<thought>Hm, ", **MARKED),
            delta(content="so", **MARKED),
            delta(content="</thought>Hi"),
        ],
        [delta(content="<thought>Hm, so</thought>Hi", **MARKED)],
        [delta(content="<thought>Hm, so</thought>", **MARKED), delta(content="Hi")],
        [delta(content="Hm, so", **MARKED), delta(content="Hi")],
        [message(content="<thought>Hm, so</thought>Hi", **MARKED)],
    ],
)
def test_the_tags_of_marked_thoughts_are_no_text(chunks: list[dict[str, Any]]) -> None:
    response = final(*chunks, delta("stop"), DONE)
    assert (text(response, "reasoning"), text(response)) == ("Hm, so", "Hi")


def test_a_tag_that_the_server_does_not_mark_is_text() -> None:
    assert text(final(delta(content="</thought>Hi"), delta("stop"), DONE)) == "</thought>Hi"
