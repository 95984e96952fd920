"""services/executor/backends/chat/request.py: Responses requests in the words of Chat Completions."""

from typing import Any

import pytest
from openai.types.responses.response_create_params import (
    ResponseCreateParamsBase,
    ResponseCreateParamsStreaming,
)

from services.executor.backends.chat.request import PASSED_ON, Dialect, chat_body, toolbox
from services.executor.backends.chat.tools import UntranslatableError


def chat(
    input: list[dict[str, Any]] | None = None, dialect: Dialect | None = None, **body: Any
) -> dict[str, Any]:
    said = input if input is not None else [{"role": "user", "content": "hi"}]
    return chat_body(
        {"model": "m", "input": "hi", **body}, said, toolbox(body, said, "refuse"), dialect or Dialect()
    )


def messages(*items: dict[str, Any], **body: Any) -> list[dict[str, Any]]:
    turns: list[dict[str, Any]] = chat(list(items), **body)["messages"]
    return turns


def test_a_plain_request_becomes_a_streamed_call() -> None:
    assert chat() == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_instructions_and_developers_speak_as_one_system() -> None:
    turns = messages(
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": "hi"},
        {"role": "system", "content": "Be quick."},
        instructions="Be brief.",
    )
    assert turns == [
        {"role": "system", "content": "Be brief.\n\nBe kind.\n\nBe quick."},
        {"role": "user", "content": "hi"},
    ]


def test_instructions_may_be_items() -> None:
    assert messages(instructions=[{"role": "developer", "content": "Be kind."}]) == [
        {"role": "system", "content": "Be kind."}
    ]


def test_what_the_assistant_said_and_called_is_one_message() -> None:
    text = {"type": "output_text", "text": "Let me see.", "annotations": []}
    assert messages(
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [text]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "g", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "function_call", "call_id": "c3", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c3", "output": "3"},
    ) == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c3", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c3", "content": "3"},
    ]


def test_an_assistants_parts_are_one_text() -> None:
    parts = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert messages({"role": "assistant", "content": parts}) == [{"role": "assistant", "content": "ab"}]


def test_images_files_and_sound_are_carried() -> None:
    parts = [
        {"type": "input_text", "text": "what is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low"},
        {"type": "input_image", "image_url": "https://x/y.png"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert messages({"role": "user", "content": parts})[0]["content"] == [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


def test_tools_are_nested() -> None:
    tool = {
        "type": "function",
        "name": "f",
        "description": "d",
        "parameters": {"type": "object"},
        "strict": None,
    }
    body = chat(tools=[tool], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False)
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert body["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert body["parallel_tool_calls"] is False


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_tool_choice_by_word_stays(choice: str) -> None:
    assert chat(tools=[{"type": "function", "name": "f"}], tool_choice=choice)["tool_choice"] == choice


def test_allowed_tools_are_nested() -> None:
    choice = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
    tools = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}
    body = chat(tools=[{"type": "function", "name": "f"}], tool_choice=choice)
    assert body["tool_choice"] == {"type": "allowed_tools", "allowed_tools": tools}


def test_without_tools_nothing_is_said_of_their_choice() -> None:
    body = chat(tools=[], tool_choice="auto", parallel_tool_calls=True)
    assert not body.keys() & {"tools", "tool_choice", "parallel_tool_calls"}


@pytest.mark.parametrize(
    ("form", "said"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
            },
        ),
    ],
)
def test_text_format_is_response_format(form: dict[str, Any], said: object) -> None:
    body = chat(text={"format": form, "verbosity": "low"})
    assert (body.get("response_format"), body["verbosity"]) == (said, "low")


@pytest.mark.parametrize(("modern", "name"), [(True, "max_completion_tokens"), (False, "max_tokens")])
def test_the_bound_on_output_has_the_servers_name(modern: bool, name: str) -> None:
    body = chat(dialect=Dialect(max_completion_tokens=modern), max_output_tokens=7)
    assert body[name] == 7
    assert len(body.keys() & {"max_tokens", "max_completion_tokens", "max_output_tokens"}) == 1


def test_sampling_and_fields_of_the_server_are_passed_on() -> None:
    options: dict[str, Any] = {
        "temperature": 0.1,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["x"],
        "top_k": 5,
        "user": "u",
    }
    assert chat(**options).items() >= options.items()


SHARED = {"model", "messages", "stream", "stream_options"}
"""What every call has."""


@pytest.mark.parametrize("params", [ResponseCreateParamsBase, ResponseCreateParamsStreaming])
def test_no_field_of_the_responses_api_leaks(params: type) -> None:
    """A field that the SDK gets tomorrow fails here until the translation says what becomes of it."""
    fields = params.__annotations__.keys()
    assert {"input", "background"} <= fields
    translated = {"context_management", "input", "max_output_tokens", "prompt", "reasoning", "text", "tools"}
    for name in fields - translated - PASSED_ON:
        value: Any = ["x"] if name == "include" else "x"
        leaked = chat(**{name: value}).keys() - SHARED
        assert not leaked or name == "top_logprobs", f"{name} reaches the server"


@pytest.mark.parametrize(
    "name",
    [
        "access_programs",
        "agent_reference",
        "background_options",
        "client_metadata",
        "conversation",
        "generate",
        "moderation",
        "prompt_cache_options",
        "stream_id",
    ],
)
def test_no_field_that_clients_of_the_responses_api_send_leaks(name: str) -> None:
    sent: dict[str, Any] = {name: {"a": "b"}}
    assert chat(**sent) == chat()


def test_what_would_change_the_answer_is_refused_unless_the_operator_drops_it() -> None:
    wanted: list[dict[str, Any]] = [{"type": "compaction", "compact_threshold": 1000}]
    with pytest.raises(UntranslatableError, match="context_management"):
        chat(context_management=wanted)
    assert chat(context_management=wanted, dialect=Dialect(drop=("context_management",))) == chat()
    assert chat(context_management=[]) == chat(context_management=None) == chat()


def test_what_the_operator_drops_is_not_sent() -> None:
    asked = chat(dialect=Dialect(drop=("stream_options", "seed", "max_tokens")), seed=7, max_output_tokens=9)
    assert asked == {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}


def test_options_that_the_conversation_was_given_on_the_way_hold() -> None:
    update = {"type": "configuration_update", "reasoning": {"effort": "high"}}
    later = {"type": "configuration_update", "text": {"format": {"type": "json_object"}}}
    body = chat(
        [{"role": "user", "content": "hi"}, update, later],
        reasoning={"effort": "low"},
        text={"verbosity": "low"},
    )
    assert (body["reasoning_effort"], body["verbosity"]) == ("high", "low")
    assert body["response_format"] == {"type": "json_object"}
    assert body["messages"] == [{"role": "user", "content": "hi"}]


def test_tools_that_the_input_brings_are_offered() -> None:
    found = {"type": "function", "name": "g"}
    body = chat(
        [
            {"type": "additional_tools", "role": "developer", "tools": [{"type": "function", "name": "f"}]},
            {"type": "tool_search_call", "call_id": "s", "execution": "client", "arguments": {"query": "g"}},
            {"type": "tool_search_output", "call_id": "s", "execution": "client", "tools": [found]},
        ],
        tools=[{"type": "tool_search", "execution": "client"}],
    )
    assert [tool["function"]["name"] for tool in body["tools"]] == ["tool_search", "f", "g"]
    call, output = body["messages"]
    assert call["tool_calls"][0]["function"] == {"name": "tool_search", "arguments": '{"query": "g"}'}
    assert output == {"role": "tool", "tool_call_id": "s", "content": '["g"]'}


def test_what_only_the_responses_api_knows_stays_behind() -> None:
    body = chat(
        background=True,
        store=True,
        metadata={"a": "b"},
        previous_response_id="resp_x",
        truncation="auto",
        include=[],
        reasoning={"effort": None},
        stream_options={"include_obfuscation": False},
        temperature=None,
        prompt=None,
        prompt_cache_key="k",
        safety_identifier="s",
        service_tier="auto",
        max_tool_calls=2,
    )
    assert body == chat()


def test_effort_and_logprobs() -> None:
    body = chat(reasoning={"effort": "low", "summary": "auto"}, top_logprobs=3)
    assert (body["reasoning_effort"], body["logprobs"], body["top_logprobs"]) == ("low", True, 3)
    asked = chat(include=["message.output_text.logprobs"])
    assert (asked["logprobs"], "top_logprobs" in asked) == (True, False)


@pytest.mark.parametrize(
    ("input", "body", "says"),
    [
        (
            [{"type": "item_reference", "id": "x"}],
            {},
            "input items of type item_reference; send the item itself",
        ),
        ([{"id": "x"}], {}, "input items of type item_reference"),
        ([{"type": "compaction", "encrypted_content": "x"}], {}, "compaction; send the conversation itself"),
        ([5], {}, "items that are no objects"),
        ([{"type": "web_search_call", "id": "x"}], {}, "input items of type web_search_call"),
        ([{"role": "king", "content": "x"}], {}, "role king"),
        (
            [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}],
            {},
            "type input_image as it",
        ),
        ([], {"tools": [{"type": "web_search"}]}, "tools of type web_search"),
        (
            [],
            {"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "mcp"}},
            "such a 'tool_choice'; name a function",
        ),
        ([], {"prompt": {"id": "pmpt_1"}}, "stored prompts; send the text of 'prompt' as 'instructions'"),
        ([], {"text": {"format": {"type": "grammar"}}}, "'text.format' of type grammar; use json_schema"),
        (
            [{"role": "assistant", "content": [{"type": "input_image", "image_url": "https://x/y.png"}]}],
            {},
            "image_url parts of an assistant; send them as the user's",
        ),
        ([{"role": "user", "content": [5]}], {}, "content without a type"),
    ],
)
def test_what_cannot_be_said_is_refused_and_what_to_do_is_said(
    input: list[dict[str, Any]], body: dict[str, Any], says: str
) -> None:
    with pytest.raises(UntranslatableError, match=f"{says}.*, or use a model whose server has the Responses"):
        chat(input, **body)
