"""What lax upstreams leave out, change and tell twice; every stream here is followed by the openai SDK."""

from typing import Any

import pytest

from schemas.events import Event
from services.executor.mending import items
from services.executor.mending.items import filled
from tests.whole import followed, scribe, told

USAGE = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}


def completed(*output: dict[str, Any], **more: Any) -> Event:
    return {"type": "response.completed", "response": {"output": list(output), "usage": USAGE, **more}}


def added(item: dict[str, Any], **at: Any) -> Event:
    return {"type": "response.output_item.added", **at, "item": item}


def done(item: dict[str, Any], **at: Any) -> Event:
    return {"type": "response.output_item.done", **at, "item": item}


def delta(text: Any, stem: str = "output_text", **at: Any) -> Event:
    return {"type": f"response.{stem}.delta", **at, "delta": text}


def message(text: str, id: str | None = "msg_1", **more: Any) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text}] if text else []
    return {"type": "message", "id": id, "role": "assistant", "content": content, **more}


def call(arguments: str = "", id: str | None = "fc_1", call_id: str | None = "call_1", **more: Any) -> Any:
    item = {"type": "function_call", "id": id, "call_id": call_id, "name": "f", "arguments": arguments}
    return {**item, **more}


def output_of(*said: Event) -> list[dict[str, Any]]:
    """The output that a client sees of a stream, which it can follow."""
    return list(followed(told(said))["output"])


def texts_of(*said: Event) -> list[str]:
    """The texts of its items."""
    return ["".join(items.texts(item)) for item in output_of(*said)]


def types_of(*said: Event) -> list[str]:
    events = told(said)
    followed(events)
    return [event["type"].removeprefix("response.") for event in events[1:]]


# What an event presupposes (U-1), where it belongs (U-2).

SCAFFOLD = [
    *["output_item.added", "content_part.added", "output_text.delta"],
    *["output_text.done", "content_part.done", "output_item.done", "completed"],
]


@pytest.mark.parametrize(
    "said",
    [
        [delta("Hi", item_id="m", output_index=0, content_index=0), completed(message("Hi"))],
        [delta("Hi"), completed()],
        [delta("Hi"), completed(message("Hi", id=None))],
        [added(message("", id=None)), delta("Hi", item_id=None, output_index=None), completed()],
        [added(message("")), done(message("Hi")), completed()],
        [done(message("Hi")), completed()],
        [completed(message("Hi"))],
        [completed({"type": "message", "content": "Hi"})],
        [completed({"role": "assistant", "content": [{"type": "text", "text": "Hi"}]})],
        [{"type": "response.output_text.done", "text": "Hi"}, completed()],
        [
            {"type": "response.content_part.done", "part": {"type": "output_text", "text": "Hi"}},
            completed(),
        ],
        [added(message("Hi", status="completed"), output_index=0), completed()],
    ],
)
def test_whatever_is_left_out_is_said(said: list[Event]) -> None:
    assert (types_of(*said), texts_of(*said)) == (SCAFFOLD, ["Hi"])


@pytest.mark.parametrize(
    ("stem", "kind", "field"),
    [
        ("refusal", "message", "refusal"),
        ("reasoning_text", "reasoning", "text"),
        ("reasoning_summary_text", "reasoning", "text"),
        ("code_interpreter_call_code", "code_interpreter_call", "code"),
    ],
)
def test_deltas_alone_are_an_item_of_their_kind(stem: str, kind: str, field: str) -> None:
    (item,) = output_of(delta("a", stem), delta("b", stem), completed())
    assert (item["type"], items.texts(item)) == (kind, ["ab"])


@pytest.mark.parametrize("named_by", ["arguments.done", "added", "done", "the end"])
def test_a_call_begins_when_it_is_named(named_by: str) -> None:
    said = [delta('{"a"', "function_call_arguments", item_id="fc_1"), delta(":1}", "function_call_arguments")]
    whole = '{"a":1}'
    said += {
        "arguments.done": [
            {"type": "response.function_call_arguments.done", "name": "f", "arguments": whole},
            completed(),
        ],
        "added": [added(call()), completed()],
        "done": [done(call(whole)), completed()],
        "the end": [completed(call(whole))],
    }[named_by]
    (item,) = output_of(*said)
    assert (item["name"], item["arguments"], item["id"]) == ("f", whole, "fc_1")
    assert types_of(*said)[:2] == ["output_item.added", "function_call_arguments.delta"]


def test_a_call_that_nobody_names_is_no_success() -> None:
    final = followed(told([delta("{}", "function_call_arguments"), completed()]))
    assert (final["status"], final["output"]) == ("failed", [])
    assert final["error"]["type"] == "upstream_malformed"


def test_steps_of_a_tool_open_its_item() -> None:
    said = [{"type": "response.web_search_call.searching", "item_id": "ws_1"}, completed()]
    assert types_of(*said)[:2] == ["output_item.added", "web_search_call.searching"]
    assert output_of(*said)[0]["status"] == "completed"


def test_an_annotation_has_a_part_and_a_number() -> None:
    note = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    said = [
        delta("Hi"),
        *[{"type": "response.output_text.annotation.added", "annotation": note} for _ in range(2)],
        completed(),
    ]
    events = told(said)
    (item,) = followed(events)["output"]
    assert item["content"][0]["annotations"] == [note, note]
    assert [event["annotation_index"] for event in events if "annotation_index" in event] == [0, 1]


def test_a_preview_has_an_index() -> None:
    preview = {"type": "response.image_generation_call.partial_image", "partial_image_b64": "AA"}
    assert types_of(preview, completed())[:2] == [
        "output_item.added",
        "image_generation_call.partial_image",
    ]


@pytest.mark.parametrize("index", [0, 0.0, "0", None, -1, 7, True, [], "x"])
def test_an_index_is_read_as_it_is_meant(index: Any) -> None:
    at = {"output_index": index, "content_index": index, "item_id": "msg_1"}
    said = [added(message(""), output_index=index), delta("H", **at), delta("i", **at), completed()]
    assert texts_of(*said) == ["Hi"]


# Identity (U-3), places (U-4).


def test_the_first_id_is_the_items_own_to_the_end() -> None:
    said = [
        added(message("", id="A1"), output_index=0),
        {
            "type": "response.content_part.added",
            "output_index": 0,
            "content_index": 0,
            "item_id": "A2",
            "part": {"type": "output_text", "text": ""},
        },
        delta("H", output_index=0, content_index=0, item_id="A3"),
        delta("i", output_index=0, content_index=0, item_id="A4"),
        done(message("Hi", id="A6"), output_index=0),
        completed(message("Hi", id="A7")),
    ]
    events = told(said)
    assert [item["id"] for item in followed(events)["output"]] == ["A1"]
    assert {event["item_id"] for event in events if "item_id" in event} == {"A1"}


@pytest.mark.parametrize("drifts", ["done", "final", "both"])
def test_the_first_call_id_is_the_calls_own_to_the_end(drifts: str) -> None:
    ended = call("{}", call_id="call_2" if drifts != "final" else "call_1")
    final = call("{}", id="fc_9", call_id="call_3" if drifts != "done" else "call_1")
    said = [added(call(), output_index=0), done(ended, output_index=0), completed(final)]
    (item,) = output_of(*said)
    assert (item["id"], item["call_id"], item["arguments"]) == ("fc_1", "call_1", "{}")


def test_what_answers_a_call_has_the_id_that_the_client_knows_it_by() -> None:
    action = {"commands": ["ls"], "max_output_length": None, "timeout_ms": None}
    shell = {"type": "shell_call", "id": "sh_1", "action": action, "status": "completed"}
    answer = {"type": "shell_call_output", "id": "so_1", "call_id": "late", "output": []}
    said = [
        added({**shell, "call_id": None}, output_index=0),
        done({**shell, "call_id": "late"}, output_index=0),
        completed({**shell, "call_id": "late"}, answer),
    ]
    asked, answered = output_of(*said)
    assert asked["call_id"] == answered["call_id"] != "late"


def test_items_of_one_place_get_places_of_their_own() -> None:
    said = [
        *[added(call(id=f"fc_{n}", call_id=f"call_{n}"), output_index=0) for n in range(3)],
        *[delta(f"[{n}]", "function_call_arguments", item_id=f"fc_{n}", output_index=0) for n in range(3)],
        *[done(call(f"[{n}]", id=f"fc_{n}", call_id=f"call_{n}"), output_index=0) for n in range(3)],
        completed(),
    ]
    assert [(item["call_id"], item["arguments"]) for item in output_of(*said)] == [
        (f"call_{n}", f"[{n}]") for n in range(3)
    ]


def test_no_two_items_share_an_id_and_no_two_calls_a_call_id() -> None:
    said = [
        *[done(message(f"{n}", id="x"), output_index=n) for n in range(2)],
        *[done(call(f"[{n}]", id="y", call_id="same", name=f"f{n}"), output_index=2 + n) for n in range(2)],
        completed(),
    ]
    output = output_of(*said)
    assert texts_of(*said) == ["0", "1", "[0]", "[1]"]
    assert len({item["id"] for item in output}) == len({item.get("call_id") for item in output}) + 1 == 4


@pytest.mark.parametrize(
    ("texts", "order"),
    [
        *[([*texts], 1) for texts in (["a", "b"], ["a", "ab"], ["ab", "a"], ["a", "a"], ["a", "b", "c"])],
        *[([*texts], -1) for texts in (["a", "b"], ["a", "a"], ["a", "b", "c"])],
    ],
)
def test_items_that_share_an_id_are_told_once_though_the_final_object_has_them_too(
    texts: list[str], order: int
) -> None:
    said = [done(message(text, id="x"), output_index=at) for at, text in enumerate(texts)]
    final = [message(text, id="x") for text in texts][::order]
    assert texts_of(*said, completed(*final)) == texts
    calls = [call(text, id="x", call_id=f"call_{at}") for at, text in enumerate(texts)]
    said = [done(one, output_index=at) for at, one in enumerate(calls)]
    assert texts_of(*said, completed(*calls[::order])) == texts


def test_places_follow_each_other_whatever_the_upstream_counts_from() -> None:
    said = [added(message("", id="a"), output_index=3), delta("Hi", item_id="a", output_index=3), completed()]
    assert [event["output_index"] for event in told(said) if "output_index" in event] == [0] * 6


def test_an_items_id_is_made_by_the_mint_and_no_event_has_another() -> None:
    said = [
        added(message(""), output_index=0),
        *[delta(text, item_id="msg_1", output_index=0, content_index=0) for text in "abc"],
        completed(message("abc")),
    ]
    events = told(said, scribe(mint=lambda kind, theirs, index: f"{kind}-{theirs}-{index}"))
    assert followed(events)["output"][0]["id"] == "message-msg_1-0"


# What was streamed is never taken back (U-6), what was not is streamed (U-7).


@pytest.mark.parametrize(
    ("streamed", "ended", "whole"),
    [
        (["Good"], "Good day", "Good day"),
        (["Good", " day"], "", "Good day"),
        (["Good", " day"], None, "Good day"),
        (["Good", " day"], "Good", "Good day"),
        (["Good", "ay"], "Good day", "Good day"),
        (["Good day"], "Goodbye", "Good day"),
        ([], "Good day", "Good day"),
    ],
)
@pytest.mark.parametrize("by", ["text", "part", "item", "final"])
def test_no_end_takes_back_what_was_streamed(by: str, streamed: list[str], ended: Any, whole: str) -> None:
    part = {"type": "output_text", "text": ended}
    ends = {
        "text": {"type": "response.output_text.done", "text": ended},
        "part": {"type": "response.content_part.done", "part": part},
        "item": done({**message(""), "content": [part]}),
        "final": completed({**message(""), "content": [part]}),
    }
    said = [added(message("")), *map(delta, streamed), ends[by], completed()]
    assert texts_of(*said) == [whole]


def test_what_only_the_final_object_has_of_an_item_is_in_ours() -> None:
    note = {"type": "url_citation", "url": "u", "title": "t", "start_index": 0, "end_index": 1}
    part = {"type": "output_text", "text": "Hi", "annotations": [note]}
    said = [done(message("Hi")), completed({**message(""), "content": [part], "phase": "final_answer"})]
    (item,) = output_of(*said)
    assert (item["content"][0]["annotations"], item["phase"]) == ([note], "final_answer")


def silent(kind: str, parts: int) -> list[Event]:
    """An item whose parts of `kind` begin, and say nothing."""
    name = "summary" if kind == "summary_text" else "content"
    event = "response.reasoning_summary_part" if name == "summary" else "response.content_part"
    part = {"type": kind, "refusal" if kind == "refusal" else "text": ""}
    item = message("") if kind in ("output_text", "refusal") else {"type": "reasoning", "id": "msg_1"}
    at = [{"item_id": "msg_1", "output_index": 0, f"{name}_index": number} for number in range(parts)]
    return [
        added(item, output_index=0),
        *({"type": f"{event}.added", **place, "part": part} for place in at),
        *({"type": f"response.{kind.removesuffix('_text')}.done", **place, "text": ""} for place in at[1:]),
    ]


@pytest.mark.parametrize("end", ["completed", "incomplete", "cut"])
@pytest.mark.parametrize("shown", [None, [], [""], ["", "", ""]], ids=["not done", "none", "one", "three"])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kind", ["output_text", "refusal", "reasoning_text", "summary_text"])
def test_a_part_that_says_nothing_ends_with_its_item(
    kind: str, parts: int, shown: list[str] | None, end: str
) -> None:
    said, name = silent(kind, parts), "summary" if kind == "summary_text" else "content"
    if shown is not None:
        field = "refusal" if kind == "refusal" else "text"
        said.append(done({**said[0]["item"], name: [{"type": kind, field: text} for text in shown]}))
    said += [{**completed(), "type": f"response.{end}"}] if end != "cut" else []
    events = told(said)
    final = followed(events)
    assert final["status"] == ("failed" if end == "cut" else end)
    (item,) = final["output"]
    assert items.texts(item) == [""] * max(parts, len(shown or []))


def noted(text: str, *starts: int) -> dict[str, Any]:
    """A part with a note on the character at each of `starts`."""
    notes = [
        {"type": "url_citation", "url": "u", "title": "t", "start_index": at, "end_index": at + 1}
        for at in starts
    ]
    return {"type": "output_text", "text": text, "annotations": notes, "logprobs": []}


@pytest.mark.parametrize(
    ("streamed", "told", "shown"),
    [
        (["ab", "cd"], [noted("abcd", 1, 2)], [noted("ab", 1), noted("cd", 0)]),
        (["ab", "cd"], [noted("abcdef", 5)], [noted("ab"), noted("cdef", 3)]),
        (["abcd"], [noted("ab", 0), noted("cd", 1)], [noted("abcd", 0, 3)]),
        (["abc"], [noted("ab"), noted("cd", 1)], [noted("abcd", 3)]),
        (["ab"], [noted("ab", 1), noted("cd", 1)], [noted("ab", 1), noted("cd", 1)]),
        (["ab", "cd"], [noted("xy")], [noted("ab"), noted("cd")]),
    ],
)
@pytest.mark.parametrize("by", ["item", "final"])
def test_parts_that_an_end_joins_or_takes_apart_are_told_once(
    by: str, streamed: list[str], told: list[Any], shown: list[Any]
) -> None:
    ended = {**message(""), "content": told}
    end = [done(ended)] if by == "item" else []
    pieces = [delta(text, content_index=at) for at, text in enumerate(streamed)]
    (item,) = output_of(added(message("")), *pieces, *end, completed(ended))
    assert item["content"] == shown


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"url": "u"}, {"type": "url_citation", "url": "u", "title": "", "start_index": 0, "end_index": 0}),
        (
            {"type": "url_citation", "url_citation": {"url": "u", "start_index": 1.0, "end_index": None}},
            {"type": "url_citation", "url": "u", "title": "", "start_index": 1, "end_index": 0},
        ),
        (
            {"type": "file_citation", "file_id": "f"},
            {"type": "file_citation", "file_id": "f", "filename": "", "index": 0},
        ),
        ({"type": "url_citation", "url": 5}, None),
        ({"type": "url_citation"}, None),
        ("u", None),
        (None, None),
    ],
)
def test_an_annotation_has_all_that_its_type_requires(given: Any, shown: Any) -> None:
    """Told by an event, by its item's end, by the final object."""
    event = {"type": "response.output_text.annotation.added", "annotation": given}
    said = {**message(""), "content": [{"type": "output_text", "text": "Hi", "annotations": [given]}]}
    streams = [delta("Hi"), event, completed()], [done(said), completed()], [delta("Hi"), completed(said)]
    for stream in streams:
        (item,) = output_of(*stream)
        assert item["content"][0]["annotations"] == ([shown] if shown else [])


def test_an_annotation_of_a_type_that_nobody_knows_yet_is_kept() -> None:
    note = {"type": "scent", "of": "rain"}
    said = {**message(""), "content": [{"type": "output_text", "text": "Hi", "annotations": [note]}]}
    assert told([done(said), completed()])[-1]["response"]["output"][0]["content"][0]["annotations"] == [note]


def test_items_that_were_never_streamed_are_before_the_end() -> None:
    said = [done(message("a", id="1")), completed(message("a", id="1"), call("{}"), message("b", id="2"))]
    assert texts_of(*said) == ["a", "{}", "b"]
    assert types_of(*said).count("output_item.added") == 3


@pytest.mark.parametrize("late", [" day", "Good day"])
def test_a_late_piece_that_was_said_is_not_said_again(late: str) -> None:
    said = [
        done(message("Good day"), output_index=0),
        delta(late, item_id="msg_1", output_index=0),
        completed(),
    ]
    assert texts_of(*said) == ["Good day"]


def test_a_text_that_goes_on_after_its_item_is_another_item() -> None:
    said = [
        done(message("Good"), output_index=0),
        delta(" day", item_id="msg_1", output_index=0),
        completed(),
    ]
    assert texts_of(*said) == ["Good", " day"]


@pytest.mark.parametrize("end", ["failed", "incomplete"])
def test_an_end_that_is_no_success_keeps_what_was_held_back(end: str) -> None:
    cut = {"type": f"response.{end}", "response": {"output": []}}
    said = [added(message("before")), delta("Hi \ud83d", item_id="m2"), cut]
    (first, *rest) = followed(told(said))["output"]
    assert (first["status"], items.texts(first), rest) == ("incomplete", ["Hi \ufffd"], [])


def test_halves_meet_within_their_text_only() -> None:
    said = [
        delta("\ud83d", output_index=0, item_id="a"),
        delta("\ude00", output_index=0, item_id="a"),
        delta("x\ud83d", "reasoning_text", output_index=1, item_id="b"),
        delta("\ude00", output_index=0, item_id="a"),
        completed(),
    ]
    assert texts_of(*said) == ["\U0001f600\ufffd", "x\ufffd"]


# Twice.


def test_what_is_told_twice_is_said_once() -> None:
    said = [
        added(message("")),
        added(message("")),
        delta("Hi"),
        *[{"type": "response.output_text.done", "text": "Hi"} for _ in range(2)],
        *[done(message("Hi")) for _ in range(2)],
        completed(message("Hi")),
    ]
    assert types_of(*said) == SCAFFOLD


# What an item must have (U-5).


@pytest.mark.parametrize(
    ("item", "whole"),
    [
        ({"type": "message"}, {"role": "assistant", "content": [], "status": "completed"}),
        ({"type": "function_call", "status": "incomplete"}, {"arguments": "", "status": "incomplete"}),
        ({"type": "reasoning"}, {"summary": []}),
        ({"type": "reasoning", "content": None}, {"summary": [], "content": []}),
        ({"type": "acme:thing", "status": None}, {}),
    ],
)
def test_required_fields_are_there_and_nothing_is_changed(item: dict[str, Any], whole: Any) -> None:
    assert filled(item, "completed") == {**item, **whole}


@pytest.mark.parametrize(
    ("kind", "said", "status"),
    [
        ("message", "in_progress", "completed"),
        ("message", "incomplete", "incomplete"),
        ("message", "finished", "completed"),
        ("image_generation_call", "generating", "completed"),
        ("image_generation_call", "failed", "failed"),
        ("function_call", 7, "completed"),
    ],
)
def test_an_item_that_is_done_is_over(kind: str, said: Any, status: str) -> None:
    (item,) = output_of(done({"type": kind, "id": "i", "name": "f", "status": said}), completed())
    assert item["status"] == status


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a":1}'])
def test_arguments_are_text(arguments: Any) -> None:
    (item,) = output_of(done(call(arguments)), completed())
    assert item["arguments"] == '{"a":1}'


@pytest.mark.parametrize("told_by", ["arguments.done", "done", "the end"])
@pytest.mark.parametrize("arguments", [None, ""])
def test_a_call_without_arguments_has_an_empty_object(arguments: Any, told_by: str) -> None:
    said = {
        "arguments.done": [{"type": "response.function_call_arguments.done", "arguments": arguments}],
        "done": [done(call(arguments))],
        "the end": [],
    }[told_by]
    streamed = told([added(call(arguments)), *said, completed(call(arguments))])
    assert [event["delta"] for event in streamed if event["type"].endswith(".delta")] == ["{}"]
    assert followed(streamed)["output"][0]["arguments"] == "{}"


@pytest.mark.parametrize("arguments", [None, ""])
def test_what_was_streamed_of_arguments_stands_whatever_the_end_says(arguments: Any) -> None:
    streamed = delta('{"a":1}', "function_call_arguments", item_id="fc_1")
    (item,) = output_of(added(call("")), streamed, done(call(arguments)), completed())
    assert item["arguments"] == '{"a":1}'


def test_a_call_that_was_cut_has_no_arguments_made_up() -> None:
    (item,) = output_of(added(call("")))
    assert (item["arguments"], item["status"]) == ("", "incomplete")


@pytest.mark.parametrize("finals", [("number 0", "number 1"), ("number 1",), ("number 0",), ()])
def test_items_that_share_an_id_are_each_told_once(finals: tuple[str, ...]) -> None:
    said = [
        event
        for place, text in enumerate(("number 0", "number 1"))
        for event in (added(message(""), output_index=place), done(message(text), output_index=place))
    ]
    assert texts_of(*said, completed(*map(message, finals))) == ["number 0", "number 1"]
