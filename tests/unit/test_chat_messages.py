"""services/executor/backends/chat/messages.py: a conversation in an order that every chat server takes."""

import json
from typing import Any

import pytest

from services.config import SIGNATURES
from services.executor.backends.chat.messages import SHOWN, UNANSWERED, UNTHOUGHT, messages
from services.executor.backends.chat.tools import Toolbox, UntranslatableError

Item = dict[str, Any]
TOOLS = [
    {"type": "function", "name": "f"},
    {"type": "custom", "name": "patch"},
    {"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "f"}]},
    {"type": "local_shell"},
    {"type": "shell"},
    {"type": "apply_patch"},
]
PICTURE = {"type": "input_image", "image_url": "data:image/png;base64,AA"}
SEEN = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}


def said(
    *items: Item, instructions: object = None, give_back: tuple[str, ...] = SIGNATURES, drops: bool = False
) -> list[Item]:
    return messages(instructions, items, Toolbox(TOOLS, "drop" if drops else "refuse"), give_back)


def user(text: str = "hi") -> Item:
    return {"role": "user", "content": text}


def spoken(text: str) -> Item:
    return {"role": "assistant", "content": text}


def call(id: str, name: str = "f", arguments: str = "{}", **more: Any) -> Item:
    return {"type": "function_call", "call_id": id, "name": name, "arguments": arguments, **more}


def output(id: str, text: Any = "1") -> Item:
    return {"type": "function_call_output", "call_id": id, "output": text}


def called(*ids: str, content: str | None = None) -> Item:
    calls = [{"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}} for id in ids]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def tool(id: str, text: str = "1") -> Item:
    return {"role": "tool", "tool_call_id": id, "content": text}


@pytest.mark.parametrize(
    ("items", "turns"),
    [
        pytest.param(
            [user(), call("a"), spoken("calling"), output("a")],
            [user(), called("a", content="calling"), tool("a")],
            id="text after the call",
        ),
        pytest.param(
            [user(), spoken("Let me look."), call("a"), spoken("I called it."), output("a")],
            [user(), called("a", content="Let me look.\nI called it."), tool("a")],
            id="text around the call",
        ),
        pytest.param(
            [user(), call("a"), spoken("\n\n"), output("a")],
            [user(), called("a"), tool("a")],
            id="a line break after the call",
        ),
        pytest.param(
            [user(), call("a"), user("a joke!"), output("a")],
            [user(), called("a"), tool("a"), user("a joke!")],
            id="the user between",
        ),
        pytest.param(
            [
                user(),
                call("a"),
                {"role": "developer", "content": "Be quick."},
                call("b"),
                output("a"),
                output("b"),
            ],
            [{"role": "system", "content": "Be quick."}, user(), called("a", "b"), tool("a"), tool("b")],
            id="a developer between",
        ),
        pytest.param(
            [user(), call("a"), user("never mind")],
            [user(), called("a"), tool("a", UNANSWERED), user("never mind")],
            id="unanswered",
        ),
        pytest.param(
            [user(), call("a")], [user(), called("a"), tool("a", UNANSWERED)], id="unanswered at the end"
        ),
        pytest.param(
            [user(), call("a"), call("b"), call("c"), output("b", "2")],
            [user(), called("a", "b", "c"), tool("a", UNANSWERED), tool("b", "2"), tool("c", UNANSWERED)],
            id="one of three answered",
        ),
        pytest.param(
            [user(), call("a"), call("b"), output("b", "2"), output("a")],
            [user(), called("a", "b"), tool("a"), tool("b", "2")],
            id="out of order",
        ),
        pytest.param(
            [user(), call("a"), call("b"), output("a"), spoken("so far"), output("b", "2"), spoken("done")],
            [user(), called("a", "b"), tool("a"), tool("b", "2"), spoken("so far\ndone")],
            id="text between two outputs",
        ),
        pytest.param(
            [user(), call("a"), output("a"), call("b"), output("b", "2")],
            [user(), called("a"), tool("a"), called("b"), tool("b", "2")],
            id="one after the other",
        ),
        pytest.param(
            [user(), output("a"), call("a")], [user(), called("a"), tool("a")], id="the output first"
        ),
        pytest.param(
            [spoken("x"), output("a"), call("a")],
            [called("a", content="x"), tool("a")],
            id="the output first, behind words",
        ),
        pytest.param(
            [user(), call("a"), output("a"), output("a"), output("a", "2")],
            [user(), called("a"), tool("a", "1\n\n2")],
            id="put out again",
        ),
        pytest.param(
            [call("a"), user(), call("a"), output("a")],
            [called("a"), tool("a"), user()],
            id="a call that the client sends again",
        ),
        pytest.param(
            [call("0"), output("0"), user(), call("0"), output("0", "2")],
            [called("0"), tool("0"), user(), called("0"), tool("0", "2")],
            id="ids that begin anew in each turn",
        ),
        pytest.param(
            [user(), output("zz")],
            [user("hi\n\nOutput of a tool, whose call zz is not in this conversation:\n\n1")],
            id="an output without a call",
        ),
        pytest.param(
            [user("a"), user("b"), {"role": "user", "content": ""}, spoken(" \n"), user("c")],
            [user("a\n\nb\n\nc")],
            id="a user who says it bit by bit",
        ),
    ],
)
def test_calls_and_outputs_are_paired_by_id(items: list[Item], turns: list[Item]) -> None:
    assert said(*items) == turns


def test_calls_of_one_id_or_none_are_told_apart() -> None:
    first, *outputs = said(
        call("a"),
        call("a", arguments='{"n":2}'),
        call(""),
        call(""),
        output("a"),
        output("a", "2"),
        output("", "3"),
    )
    ids = [one["id"] for one in first["tool_calls"]]
    assert len(set(ids)) == len(ids) == 4
    assert all(ids)
    assert [(one["tool_call_id"], one["content"]) for one in outputs] == list(
        zip(ids, ["1", "2", "3", UNANSWERED], strict=True)
    )


def test_texts_are_one_string() -> None:
    texts = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert said({"role": "user", "content": texts}) == [user("a\n\nb")]
    blank = {"type": "input_text", "text": ""}
    assert said({"role": "user", "content": [blank, *texts, blank]}) == [user("a\n\nb")]
    assert said(call("a"), output("a", texts))[1] == tool("a", "a\n\nb")
    system = said({"role": "developer", "content": texts}, user(), instructions="You are Codex")[0]
    assert system == {"role": "system", "content": "You are Codex\n\na\n\nb"}


def test_a_picture_of_the_systems_is_shown_by_the_user() -> None:
    text = {"type": "input_text", "text": "Like this:"}
    assert said({"role": "system", "content": [text, PICTURE]}, user()) == [
        {"role": "system", "content": "Like this:"},
        {"role": "user", "content": [SEEN, {"type": "text", "text": "hi"}]},
    ]


def test_a_picture_in_an_output_is_shown_by_the_user_behind_all_outputs() -> None:
    text = {"type": "input_text", "text": "a cat"}
    turns = said(call("a"), call("b"), output("a", [text, PICTURE]), output("b", [PICTURE]), user("Well?"))
    assert turns[1:3] == [tool("a", "a cat"), tool("b", SHOWN)]
    assert turns[3:] == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Output of f (call a):"},
                SEEN,
                {"type": "text", "text": "Output of f (call b):"},
                SEEN,
                {"type": "text", "text": "Well?"},
            ],
        }
    ]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, ""),
        ("", ""),
        ([], ""),
        ({"a": [1]}, '{"a": [1]}'),
        (5, "5"),
        ([1, "ä"], '[1, "ä"]'),
        ([{"type": "resource", "uri": "x"}], '{"type": "resource", "uri": "x"}'),
        ([{"city": "x"}], '[{"city": "x"}]'),
    ],
)
def test_whatever_a_client_puts_out_is_text(given: object, text: str) -> None:
    assert said(call("a"), output("a", given))[1] == tool("a", text)


@pytest.mark.parametrize(
    ("item", "put_out", "function", "text"),
    [
        (
            {"type": "custom_tool_call", "name": "patch", "input": "*** ä\n"},
            {"type": "custom_tool_call_output", "output": "ok"},
            {"name": "patch", "arguments": '{"input": "*** ä\\n"}'},
            "ok",
        ),
        (
            {"type": "function_call", "name": "f", "namespace": "crm", "arguments": ""},
            {"type": "function_call_output", "output": "ok"},
            {"name": "crm__f", "arguments": "{}"},
            "ok",
        ),
        (
            {
                "type": "local_shell_call",
                "action": {"type": "exec", "command": ["ls"], "env": {}, "user": None},
            },
            {"type": "local_shell_call_output", "output": "a b"},
            {"name": "local_shell", "arguments": '{"command": ["ls"]}'},
            "a b",
        ),
        (
            {"type": "shell_call", "action": {"commands": ["ls"], "timeout_ms": 5}},
            {
                "type": "shell_call_output",
                "output": [{"stdout": "a", "stderr": "", "outcome": {"type": "timeout"}}],
            },
            {"name": "shell", "arguments": '{"commands": ["ls"], "timeout_ms": 5}'},
            '[{"stdout": "a", "stderr": "", "outcome": {"type": "timeout"}}]',
        ),
        (
            {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
            {"type": "apply_patch_call_output", "status": "failed"},
            {"name": "apply_patch", "arguments": '{"type": "delete_file", "path": "a"}'},
            "failed",
        ),
    ],
)
def test_calls_of_all_that_a_client_runs_are_function_calls(
    item: Item, put_out: Item, function: Item, text: str
) -> None:
    turns = said(item | {"call_id": "a", "id": "x_1", "status": "completed"}, put_out | {"call_id": "a"})
    calls = [{"id": "a", "type": "function", "function": function}]
    assert turns == [{"role": "assistant", "content": None, "tool_calls": calls}, tool("a", text)]


def test_a_tool_that_is_offered_no_more_keeps_its_name() -> None:
    assert said(call("a", "gone", namespace="crm"))[0]["tool_calls"][0]["function"]["name"] == "crm__gone"


def test_a_local_shells_output_names_the_call_by_its_id() -> None:
    shell = {"type": "local_shell_call", "id": "lsh_1", "call_id": "a", "action": {"command": ["ls"]}}
    assert said(shell, {"type": "local_shell_call_output", "id": "a", "output": "x"})[1] == tool("a", "x")


def test_another_agents_word_is_the_users() -> None:
    parts = [
        {"type": "input_text", "text": "Task:"},
        {"type": "encrypted_content", "encrypted_content": "count"},
    ]
    assert said({"type": "agent_message", "author": "/root", "content": parts}) == [user("Task:\n\ncount")]


VENDORS = [
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}},
    {"type": "mcp_call", "id": "mcp_1", "name": "f", "arguments": "{}", "output": "x"},
    {"type": "image_generation_call", "id": "ig_1", "result": "AA"},
    {"type": "tool_search_call", "id": "ts_1", "execution": "server", "arguments": {}},
    {"type": "computer_call_output", "call_id": "c", "output": {}},
]


@pytest.mark.parametrize("item", VENDORS, ids=lambda item: item["type"])
def test_items_of_a_vendors_tools_are_refused_by_name_or_dropped(item: Item) -> None:
    with pytest.raises(UntranslatableError, match=f"^input items of type {item['type']}; leave them out"):
        said(user(), item)
    assert said(user(), item, drops=True) == [user()]


@pytest.mark.parametrize("kind", ["item_reference", "compaction", "compaction_trigger", "acme:dream"])
def test_what_nobody_may_drop_is_refused(kind: str) -> None:
    with pytest.raises(UntranslatableError, match=f"^input items of type {kind}; "):
        said(user(), {"type": kind, "id": "x"}, drops=True)


THOUGHT = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
}


def test_thoughts_stay_here_unless_the_server_wants_them() -> None:
    assert said(user(), THOUGHT, spoken("Ah.")) == [user(), spoken("Ah.")]


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_go_back_in_the_servers_field_with_every_turn(field: str) -> None:
    summed = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "So."}]}
    turns = said(
        user(),
        THOUGHT,
        call("a"),
        output("a"),
        summed,
        spoken("Ah."),
        user(),
        spoken("Oh."),
        give_back=(field,),
    )
    assert [turn.get(field) for turn in turns if turn["role"] == "assistant"] == ["Hm.", "So.", UNTHOUGHT]
    assert turns[1] == called("a") | {field: "Hm."}


def test_what_a_server_said_beside_its_thoughts_goes_back_with_the_turn() -> None:
    one, two = [{**THOUGHT, "reasoning_details": [{"data": data}]} for data in "ab"]
    turns = said(one, call("a"), two, output("a"), one, spoken("x"), give_back=("reasoning_details",))
    assert turns[0]["reasoning_details"] == [{"data": "a"}, {"data": "b"}]
    assert turns[2] == {**spoken("x"), "reasoning_details": [{"data": "a"}]}
    assert all("reasoning_details" not in turn for turn in said(one, call("a"), output("a")))


def test_a_signature_goes_back_with_its_call() -> None:
    signed = {"google": {"thought_signature": "SIG=="}}
    turns = said(call("a", extra_content=signed), call("b"), output("a"), output("b"))
    assert [one.get("extra_content") for one in turns[0]["tool_calls"]] == [signed, None]
    unsigned = said(call("a", extra_content=signed), output("a"), give_back=())
    assert "extra_content" not in json.dumps(unsigned)


def test_a_conversation_of_one_id_takes_no_longer_than_its_length() -> None:
    items = [call("", arguments=str(number)) for number in range(5_000)] + [output("")] * 5_000
    assert len(said(*items)) == 5_001
