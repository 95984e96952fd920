"""services/executor/backends/chat/translate.py: chunks in, Responses events out."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Event
from schemas.ids import ResponseId
from services.executor.backends.chat.translate import ChatTranslator, MalformedChunkError
from tests.strict import checked

ID = ResponseId("resp_" + "b" * 36)


def delta(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "served", "choices": [choice]}


def call(
    index: int | None, id: str | None = None, name: str | None = None, arguments: str = ""
) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"arguments": arguments}}
    piece |= {"index": index} if index is not None else {}
    piece |= {"id": id, "type": "function"} if id else {}
    piece["function"] |= {"name": name} if name else {}
    return piece


def translate(*chunks: dict[str, Any]) -> list[Event]:
    translator = ChatTranslator(ID)
    events = [event for chunk in chunks for event in translator.chunk(chunk)]
    assert translator.finished
    return events + translator.end()


def types(events: list[Event]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_a_text_becomes_a_message() -> None:
    events = checked(
        translate(
            delta(role="assistant", content=""),
            delta(content="Hello"),
            delta(content=" you"),
            delta("stop"),
            {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
        )
    )
    assert types(events) == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    final = events[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == "Hello you"
    assert (final["status"], final["model"]) == ("completed", "served")
    assert final["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_become_a_reasoning_item_before_the_message(field: str) -> None:
    events = checked(
        translate(delta(**{field: "Hm"}), delta(**{field: "m."}), delta(content="Yes"), delta("stop"))
    )
    assert types(events)[:7] == [
        "output_item.added",
        "content_part.added",
        "reasoning_text.delta",
        "reasoning_text.delta",
        "reasoning_text.done",
        "content_part.done",
        "output_item.done",
    ]
    thought, message = events[-1]["response"]["output"]
    assert (thought["type"], thought["content"], thought["summary"]) == (
        "reasoning",
        [{"type": "reasoning_text", "text": "Hmm."}],
        [],
    )
    assert message["content"][0]["text"] == "Yes"


def test_a_refusal_is_a_part_of_its_own() -> None:
    events = checked(
        translate(delta(content="Well"), delta(refusal="I "), delta(refusal="won't"), delta("stop"))
    )
    assert types(events) == [
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "content_part.added",
        "refusal.delta",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert events[-1]["response"]["output"][0]["content"][1] == {"type": "refusal", "refusal": "I won't"}


def test_parallel_calls_may_come_interleaved() -> None:
    events = checked(
        translate(
            delta(content="Let me see."),
            delta(tool_calls=[call(0, "c1", "f")]),
            delta(tool_calls=[call(0, arguments='{"a"'), call(1, "c2", "g", "{")]),
            delta(tool_calls=[call(1, arguments="}")]),
            delta(tool_calls=[call(0, arguments=":1}")]),
            delta("tool_calls"),
        )
    )
    message, first, second = events[-1]["response"]["output"]
    assert message["status"] == "completed"
    assert (first["call_id"], first["name"], first["arguments"]) == ("c1", "f", '{"a":1}')
    assert (second["call_id"], second["name"], second["arguments"]) == ("c2", "g", "{}")
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    assert [(event["output_index"], event["arguments"]) for event in done] == [(1, '{"a":1}'), (2, "{}")]
    order = types(events)
    assert order.index("output_item.done") < order.index("function_call_arguments.delta")
    deltas = [event for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert [event["output_index"] for event in deltas] == [1, 1, 2, 2]


def test_a_call_is_told_live_once_the_one_before_it_is_whole() -> None:
    translator = ChatTranslator(ID)
    translator.chunk(delta(tool_calls=[call(0, "c1", "f", '{"a":'), call(1, "c2", "g", '{"b":')]))
    events = translator.chunk(delta(tool_calls=[call(0, arguments="1}")]))
    assert types(events) == [
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.added",
        "function_call_arguments.delta",
    ]
    assert types(translator.chunk(delta(tool_calls=[call(1, arguments="2}")]))) == [
        "function_call_arguments.delta"
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        [delta(tool_calls=[call(None, "c1", "f", "{}"), call(None, "c2", "g", "{}")])],
        [delta(tool_calls=[call(0, "c1", "f", "{}")]), delta(tool_calls=[call(0, "c2", "g", "{}")])],
        [
            delta(tool_calls=[call(None, "c1", "f", "{}")]),
            delta(tool_calls=[call(None, "c2", "g", "{")]),
            delta(tool_calls=[call(None, arguments="}")]),
        ],
        [
            delta(tool_calls=[call(0, "c1", "f", "{")]),
            delta(tool_calls=[call(0, "c2", "g", "{}")]),
            delta(tool_calls=[call(0, "c1", arguments="}")]),
        ],
    ],
)
def test_calls_are_told_apart_where_servers_give_no_index_or_the_same(chunks: list[dict[str, Any]]) -> None:
    output = checked(translate(*chunks, delta("tool_calls")))[-1]["response"]["output"]
    assert [(item["call_id"], item["name"], item["arguments"]) for item in output] == [
        ("c1", "f", "{}"),
        ("c2", "g", "{}"),
    ]


def test_a_call_without_id_or_arguments_gets_both() -> None:
    output = checked(translate(delta(tool_calls=[call(0, name="f")]), delta("stop")))[-1]["response"][
        "output"
    ]
    assert output[0]["call_id"].startswith("call_")
    assert json.loads(output[0]["arguments"]) == {}


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_a_cut_generation_is_incomplete(finish: str, reason: str) -> None:
    events = checked(translate(delta(reasoning_content="Hm"), delta(content="Good"), delta(finish)))
    final = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete"
    assert final["incomplete_details"] == {"reason": reason}
    assert [item["status"] for item in final["output"]] == ["completed", "incomplete"]


def test_a_cut_call_keeps_its_arguments_as_they_came() -> None:
    events = checked(translate(delta(tool_calls=[call(0, "c1", "f", '{"a"')]), delta("length")))
    assert events[-1]["response"]["output"][0]["arguments"] == '{"a"'
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


def test_nothing_said_is_an_empty_output() -> None:
    assert checked(translate(delta("stop")))[-1]["response"]["output"] == []


def test_a_whole_completion_is_translated_as_well() -> None:
    message = {"role": "assistant", "content": "Hi", "tool_calls": [call(None, "c1", "f", "{}")]}
    usage = {
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    final = checked(translate({"choices": [choice], "usage": usage}))[-1]["response"]
    assert [item["type"] for item in final["output"]] == ["message", "function_call"]
    assert final["usage"]["input_tokens_details"]["cached_tokens"] == 1
    assert final["usage"]["output_tokens_details"]["reasoning_tokens"] == 2
    assert final["usage"]["total_tokens"] == 3


def test_logprobs_are_kept() -> None:
    chunk = delta(content="Hi")
    chunk["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.5, "bytes": None}]}
    events = checked(translate(chunk, delta("stop")))
    expected = [{"token": "Hi", "logprob": -0.5, "bytes": [], "top_logprobs": []}]
    assert events[2]["logprobs"] == events[3]["logprobs"] == expected
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == expected


@pytest.mark.parametrize("odd", [None, "-inf", True])
def test_a_token_without_a_number_has_no_logprob(odd: Any) -> None:
    chunk = delta(content="Hi")
    best = [{"token": "Hi", "logprob": odd}, {"token": "Ho", "logprob": 0}, "x"]
    given = [{"token": "H", "logprob": odd}, {"token": "i", "logprob": -0.5, "top_logprobs": best}]
    chunk["choices"][0]["logprobs"] = {"content": given}
    (message,) = checked(translate(chunk, delta("stop")))[-1]["response"]["output"]
    assert message["content"][0]["logprobs"] == [
        {
            "token": "i",
            "logprob": -0.5,
            "bytes": [],
            "top_logprobs": [{"token": "Ho", "logprob": 0, "bytes": []}],
        }
    ]


def test_content_may_be_a_list_of_parts() -> None:
    thoughts = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    said = [{"type": "text", "text": "Hi"}, {"text": " you"}, "!", {"type": "refusal", "refusal": "No"}]
    beside = [{"type": "reference", "reference_ids": [0]}, {"type": "redacted_thinking", "data": "x"}]
    chunk = delta(content=[thoughts, {"type": "text", "text": ""}, *said, None, *beside])
    chunk["choices"][0]["logprobs"] = {"content": [{"token": "Hi", "logprob": -0.5}]}
    thought, message = checked(translate(chunk, delta("stop", content=[])))[-1]["response"]["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Hm"}]
    assert [part.get("text") or part.get("refusal") for part in message["content"]] == ["Hi you!", "No"]
    assert [entry["token"] for entry in message["content"][0]["logprobs"]] == ["Hi"]


def test_the_text_of_a_choice_is_content() -> None:
    """As the completions before Chat Completions had it."""
    events = checked(translate({"choices": [{"text": "Hi", "finish_reason": "stop"}]}))
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "Hi"


def test_thoughts_may_be_a_list_of_parts_of_any_type() -> None:
    events = checked(translate(delta(reasoning=[{"type": "summary", "text": "Hm"}]), delta("stop")))
    assert events[-1]["response"]["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hm"}]


def test_a_function_call_is_one_tool_call() -> None:
    """The forerunner of `tool_calls`, which some servers still stream."""
    events = checked(
        translate(
            delta(role="assistant", content=None, function_call={"name": "f", "arguments": ""}),
            delta(function_call={"arguments": '{"a"'}),
            delta(function_call={"arguments": ":1}"}),
            delta("function_call"),
        )
    )
    (item,) = events[-1]["response"]["output"]
    assert (item["type"], item["name"], item["arguments"]) == ("function_call", "f", '{"a":1}')
    assert item["call_id"].startswith("call_")


def test_a_function_call_that_repeats_a_tool_call_is_not_told_twice() -> None:
    whole = call(0, "c1", "f", "{}")
    chunk = delta(tool_calls=[whole], function_call=whole["function"])
    assert len(checked(translate(chunk, delta("tool_calls")))[-1]["response"]["output"]) == 1


def test_other_choices_and_lone_usage_are_passed_over() -> None:
    other, unnumbered = delta(content="other"), delta(content="Hi")
    other["choices"][0]["index"], unnumbered["choices"][0]["index"] = 1, None
    lone = {"usage": {"prompt_tokens": 1}}
    events = translate({"choices": None}, other, lone, unnumbered, delta("stop"))
    assert [event["delta"] for event in events if "delta" in event] == ["Hi"]


def test_a_bad_chunk_takes_the_finish_back() -> None:
    """What it began was never told, and would be in the output of the end."""
    translator = ChatTranslator(ID)
    translator.chunk(delta("stop", content="Hi"))
    assert translator.finished
    with pytest.raises(MalformedChunkError):
        translator.chunk(delta(reasoning="Hm", tool_calls=5))
    assert not translator.finished


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        ({"message": {"content": "x"}}, "without choices"),
        ({"choices": {}}, "without choices"),
        ({"choices": [{"delta": "x"}]}, "delta is not an object"),
        (delta(tool_calls=[{"index": 0, "function": "f"}]), "not a function's"),
        (delta(tool_calls=[call(0, name=5)]), "whose name is not a string"),  # type: ignore[arg-type]
        (delta(tool_calls=["x"]), "not a function's"),
        (delta(tool_calls=[call(at, name="f") for at in range(513)]), "more than 512 tool calls"),
        (delta(tool_calls=5), "tool_calls that are not a list"),
        (delta(tool_calls=[call(0, "c", "f", [1])]), "arguments are neither a string nor an object"),  # type: ignore[arg-type]
        ({"choices": [{"delta": {}, "finish_reason": {}}]}, "a finish_reason that is not a string"),
        ({"choices": [{"delta": {"content": "x"}, "logprobs": [1]}]}, "sent logprobs that are not"),
        ({"choices": [{"delta": {"content": "x"}, "logprobs": {"content": [1]}}]}, "sent logprobs that"),
        ({"choices": [None]}, "a choice that is not an object"),
        ({"choices": [{}] * 1001}, "more than 1000 choices"),
        (delta(function_call="f"), "not a function's"),
        (delta(content=5), "neither text, a refusal nor thoughts"),
        (delta(content={"a": 1}), "neither text, a refusal nor thoughts"),
        (delta(content=[{"type": "image_url", "image_url": {"url": "x"}}]), "neither text, a refusal nor"),
        (delta(content=[{"type": "unknown", "text": "x"}]), "neither text, a refusal nor thoughts"),
        (delta(refusal=True), "neither text, a refusal nor thoughts"),
        (delta(reasoning={"a": 1}), "neither text, a refusal nor thoughts"),
        (delta(audio={"data": "AA"}), "neither text, a refusal nor thoughts"),
        (delta(content="Here:", images=[{"type": "image_url"}]), "neither text, a refusal nor thoughts"),
    ],
)
def test_bad_chunks_are_refused(chunk: dict[str, Any], says: str) -> None:
    with pytest.raises(MalformedChunkError, match=says):
        ChatTranslator(ID).chunk(chunk)


@pytest.mark.parametrize(
    ("chunk", "says"),
    [
        (delta("tool_calls", tool_calls=[call(0, "c1")]), "sent a tool call without a name."),
        (delta("stop", tool_calls=[call(0, "c1", arguments="{}")]), "sent a tool call without a name."),
        (delta("stop", function_call={"arguments": "{}"}), "sent a tool call without a name."),
        (delta("error", content="Hi"), "broke the generation off (error)."),
        (delta("Network_Error"), "broke the generation off (Network_Error)."),
        (delta("bored", content="x"), "stopped for a reason that is not known as success (bored)."),
    ],
)
def test_what_only_the_end_shows_as_bad_is_told_then(chunk: dict[str, Any], says: str) -> None:
    """U-45, U-46, U-44: what came before is kept, and usage may still come."""
    translator = ChatTranslator(ID)
    translator.chunk(chunk)
    translator.flush()
    assert (translator.finished, translator.failure) == (True, says)
    with pytest.raises(MalformedChunkError):
        translator.end()


def test_arguments_that_are_an_object_are_passed_on_as_its_json() -> None:
    """The client calls its tool with what the model said, not with nothing."""
    whole: Any = {"a": 1}
    events = checked(translate(delta(tool_calls=[call(0, "c1", "f", whole)]), delta("tool_calls")))
    assert events[-1]["response"]["output"][0]["arguments"] == '{"a":1}'


def test_odd_details_of_the_usage_are_left_out() -> None:
    usage = {"prompt_tokens": 3, "prompt_tokens_details": "x", "completion_tokens": True}
    events = translate(delta("stop", content="x"), {"choices": [], "usage": usage})
    told = events[-1]["response"]["usage"]
    assert (told["input_tokens_details"]["cached_tokens"], told["output_tokens"]) == (0, 0)


pieces = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["reasoning_content", "content", "refusal"]), st.text(max_size=3)),
        st.tuples(st.just("call"), st.integers(0, 2)),
    ),
    max_size=12,
)


@given(pieces, st.sampled_from(["stop", "length"]))
def test_any_order_of_pieces_gives_a_sequence_that_adds_up(said: list[tuple[str, Any]], finish: str) -> None:
    # Each text begins unlike the first one: no server that repeats all of it is meant here.
    said = [(kind, what if kind == "call" else f"{at:x}{what}") for at, (kind, what) in enumerate(said)]
    chunks = [
        delta(tool_calls=[call(what, f"c{what}", "f", "x")]) if kind == "call" else delta(**{kind: what})
        for kind, what in said
    ]
    events = checked(translate(*chunks, delta(finish)))
    deltas = [event["delta"] for event in events if event["type"].endswith(".delta")]
    assert deltas == ["x" if kind == "call" else what for kind, what in said]
    added = [event["output_index"] for event in events if event["type"] == "response.output_item.added"]
    done = [event["output_index"] for event in events if event["type"] == "response.output_item.done"]
    assert added == list(range(len(added))) == sorted(done)
