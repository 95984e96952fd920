"""services/executor/backends/chat/tools.py: a request's tools as functions, and themselves again."""

import json
from typing import Any

import pytest

from services.executor.backends.chat.tools import KINDS, Tool, Toolbox, UntranslatableError, arguments

F = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
CRM = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [F, PATCH]}
SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {"a": 1}}
SHELL = {"type": "shell", "environment": {"type": "local"}}


def names(*tools: Any, **more: Any) -> list[str]:
    return [one["function"]["name"] for one in Toolbox(tools, **more).functions]


def test_a_function_is_nested() -> None:
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": False}
    assert Toolbox([F]).functions == [{"type": "function", "function": function}]


def test_a_custom_tool_is_a_function_with_one_string() -> None:
    grammar = {"type": "grammar", "syntax": "lark", "definition": "start: /x/"}
    (sent,) = Toolbox([PATCH | {"format": grammar}]).functions
    function = sent["function"]
    assert (function["name"], function["parameters"]["required"]) == ("apply_patch", ["input"])
    assert function["parameters"]["properties"]["input"]["type"] == "string"
    assert function["description"] == "Edits files.\n\n`input` must match this lark grammar:\nstart: /x/"


def test_a_call_of_a_custom_tool_is_one_again() -> None:
    tool = Toolbox([PATCH]).called("apply_patch")
    assert (tool.prefix, tool.stream, tool.said) == ("ctc", "response.custom_tool_call_input", "input")
    assert tool.item("ctc_1", "call_1", "*** Begin", "completed") == {
        "id": "ctc_1",
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": "call_1",
        "name": "apply_patch",
        "input": "*** Begin",
    }


def test_a_namespace_is_flat_and_its_calls_name_it() -> None:
    box = Toolbox([F, CRM])
    assert [one["function"]["name"] for one in box.functions] == ["f", "crm__f", "crm__apply_patch"]
    assert box.functions[1]["function"]["description"] == "d\n\nCustomers."
    assert box.called("f") == Tool("function", "f")
    item = box.called("crm__f").item("fc_1", "c", "{}", "completed")
    assert (item["type"], item["name"], item["namespace"]) == ("function_call", "f", "crm")
    custom = box.called("crm__apply_patch").item("ctc_1", "c", "x", "completed")
    assert (custom["type"], custom["name"], custom["namespace"]) == ("custom_tool_call", "apply_patch", "crm")
    assert "namespace" not in box.called("f").item("fc_1", "c", "{}", "completed")


def test_what_is_called_by_its_bare_name_is_found_if_there_is_but_one() -> None:
    assert Toolbox([CRM]).called("f") == Tool("function", "f", "crm")
    assert Toolbox([CRM, CRM | {"name": "erp"}]).called("f") == Tool("function", "f")
    assert Toolbox([CRM]).called("unheard_of") == Tool("function", "unheard_of")


@pytest.mark.parametrize(
    ("name", "namespace"),
    [("a.b", None), ("ä", None), ("x" * 65, None), ("t", "n" * 63), ("f/g:h i", "mcp.server"), ("t", "n__")],
)
def test_every_name_fits_and_is_the_tools_own_again(name: str, namespace: str | None) -> None:
    tool: dict[str, Any] = F | {"name": name}
    box = Toolbox([tool if namespace is None else {"type": "namespace", "name": namespace, "tools": [tool]}])
    (sent,) = [one["function"]["name"] for one in box.functions]
    assert len(sent) <= 64
    assert set(sent) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert box.called(sent) == Tool("function", name, namespace)


def test_tools_of_one_name_are_told_apart_and_what_fits_keeps_its_name() -> None:
    clash = [{"type": "custom", "name": "f"}, F | {"name": "crm.f"}, CRM, F, F | {"name": "crm__f"}]
    box = Toolbox(clash)
    sent = [one["function"]["name"] for one in box.functions]
    assert len(set(sent)) == len(sent) == 6
    assert box.called("f") == Tool("function", "f")
    assert box.called("crm__f") == Tool("function", "crm__f")
    assert {box.called(name) for name in sent} == {
        Tool("custom", "f"),
        Tool("function", "crm.f"),
        Tool("function", "f", "crm"),
        Tool("custom", "apply_patch", "crm"),
        Tool("function", "f"),
        Tool("function", "crm__f"),
    }
    assert names(*clash) == sent, "the same in every turn"


def test_a_tool_that_is_offered_twice_is_sent_once() -> None:
    assert names(F, F) == ["f"]


@pytest.mark.parametrize("kind", ["local_shell", "shell", "apply_patch", "tool_search"])
def test_tools_that_the_client_runs_are_functions_and_themselves_again(kind: str) -> None:
    given: dict[str, dict[str, Any]] = {
        "local_shell": {"command": ["ls", "-l"]},
        "shell": {"commands": ["ls"], "timeout_ms": 5},
        "apply_patch": {"type": "create_file", "path": "a", "diff": "+x"},
        "tool_search": {"query": "x"},
    }
    box = Toolbox([SEARCH if kind == "tool_search" else {"type": kind}])
    (sent,) = box.functions
    assert sent["function"]["name"] == kind
    assert sent["function"]["parameters"]
    assert sent["function"]["description"]
    item = box.called(kind).item("x_1", "c", json.dumps(given[kind]), "completed")
    assert (item["type"], item["status"]) == (f"{kind}_call", "completed")
    assert item[KINDS[kind].holder].items() >= given[kind].items()
    assert json.loads(arguments(item, kind)) == given[kind], "and a function's call in the next turn"


@pytest.mark.parametrize("said", ["", "{oops", "[]", '{"commands": "ls"}', "[" * 100_000])
def test_a_call_that_cannot_be_carried_out_is_incomplete(said: str) -> None:
    item = Toolbox([SHELL]).called("shell").item("sh_1", "c", said, "completed")
    assert (item["status"], item["action"]) == ("incomplete", {"commands": []})


VENDORS: list[dict[str, Any]] = [
    {"type": "web_search"},
    {"type": "file_search", "vector_store_ids": ["v"]},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {"type": "image_generation"},
    {"type": "computer"},
    {"type": "computer_use_preview"},
    {"type": "mcp", "server_label": "x"},
    {"type": "tool_search"},
    {"type": "shell", "environment": {"type": "container_auto"}},
    {"type": "programmatic_tool_calling"},
    {"type": "acme:telescope"},
]


@pytest.mark.parametrize("tool", VENDORS, ids=lambda tool: tool["type"])
def test_a_tool_that_only_a_vendor_can_run_is_refused_by_name_or_dropped(tool: dict[str, Any]) -> None:
    with pytest.raises(
        UntranslatableError, match=f"^tools of type {tool['type']}; leave them out of 'tools'"
    ):
        Toolbox([F, tool])
    box = Toolbox([F, tool], "drop")
    assert [one["function"]["name"] for one in box.functions] == ["f"]
    assert box.choice({"type": tool["type"]}) is None


@pytest.mark.parametrize(
    "tool", [{"type": "function"}, {"type": "custom", "name": ""}, {"type": "namespace"}]
)
def test_a_tool_without_a_name_is_refused(tool: dict[str, Any]) -> None:
    with pytest.raises(UntranslatableError, match="without a name; give each tool a 'name'"):
        Toolbox([tool], "drop")


def test_what_is_no_tool_is_refused() -> None:
    with pytest.raises(UntranslatableError, match="tools of type none"):
        Toolbox([5])


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("required", "required"),
        ({"type": "function", "name": "f"}, "f"),
        ({"type": "function", "name": "f", "namespace": "crm"}, "crm__f"),
        ({"type": "custom", "name": "apply_patch"}, "crm__apply_patch"),
        ({"type": "shell"}, "shell"),
    ],
)
def test_a_choice_follows_the_names(choice: object, sent: str) -> None:
    said = Toolbox([F, CRM, SHELL]).choice(choice)
    assert said == (choice if isinstance(choice, str) else {"type": "function", "function": {"name": sent}})


def test_allowed_tools_follow_the_names_and_what_was_dropped_is_not_allowed() -> None:
    box = Toolbox([F, CRM, {"type": "web_search"}], "drop")
    tools = [{"type": "custom", "name": "apply_patch"}, {"type": "web_search"}]
    assert box.choice({"type": "allowed_tools", "mode": "required", "tools": tools}) == {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "crm__apply_patch"}}],
        },
    }
    assert box.choice({"type": "allowed_tools", "mode": "auto", "tools": tools[1:]}) == "none"


@pytest.mark.parametrize("choice", [{"type": "mcp"}, {"type": "function"}, 5])
def test_a_choice_that_means_nothing_here_is_refused(choice: object) -> None:
    with pytest.raises(UntranslatableError, match="such a 'tool_choice'; name a function"):
        Toolbox([F]).choice(choice)


def test_ten_thousand_tools_take_no_longer_than_their_number() -> None:
    many = [F | {"name": f"tool.{number}"} for number in range(10_000)]
    assert len(set(names(*many))) == 10_000
