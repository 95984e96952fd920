"""Codex' turns, as it sends them: requests of its shape, its conversation kept by itself (`store: false`)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from tests.api import Api
from tests.model_server import ModelServer

Item = dict[str, Any]
BACKENDS = ["responses", "chat"]
FIRST = json.loads((Path(__file__).parent / "codex" / "first-turn.json").read_text())
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SENT = {
    "reasoning": ["type", "summary", "encrypted_content"],
    "message": ["type", "role", "content", "phase"],
    "function_call": ["type", "name", "namespace", "arguments", "call_id"],
    "custom_tool_call": ["type", "status", "call_id", "name", "input"],
}
"""What Codex sends again of an item, by type: no ids."""


@pytest.fixture
def turn(models: str) -> Callable[..., dict[str, Any]]:
    """Takes a turn as Codex does: the final object, whose output is what its `output_item.done` said."""
    api = Api(models.removesuffix("/v1"), FIRST["headers"])

    def taken(model: str, **fields: Any) -> dict[str, Any]:
        with api.connect("POST", "/v1/responses", FIRST["body"] | {"model": model, **fields}) as stream:
            assert stream.status == 200, stream.body()
            events = [frame.event for frame in stream.frames()]
        for event in events:
            EVENT.validate_python(event, strict=True)
        final: dict[str, Any] = events[-1]["response"]
        done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert done == final["output"]
        assert api.get(final["id"]).status == 404
        return final

    return taken


def answered(output: list[Item]) -> list[Item]:
    """What Codex adds to its conversation: the output, and an output for each call."""
    said = [{key: item[key] for key in SENT[item["type"]] if key in item} for item in output]
    outputs = [
        {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": f"Output {number}."}
        for number, item in enumerate(said)
        if "call_id" in item
    ]
    return [*said, *outputs]


def tools_from(name: str) -> list[Item]:
    """The tools, `name` first: the model server calls the first one."""
    return sorted(FIRST["body"]["tools"], key=lambda tool: tool.get("name") != name)


def test_a_server_of_the_responses_api_gets_what_codex_sends(turn: Any, server: ModelServer) -> None:
    turn("responses-reasoning+recall")

    asked = server.asked_for("responses-reasoning+recall")
    body = FIRST["body"] | {"model": "responses-reasoning+recall"}
    assert {key: asked[key] for key in body} == body


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_turns_with_tools_and_thoughts(turn: Any, backend: str) -> None:
    model = f"{backend}-reasoning+recall"
    first = turn(model)
    assert [item["type"] for item in first["output"]] == ["reasoning", "function_call", "function_call"]

    second = turn(model, input=[*FIRST["body"]["input"], *answered(first["output"])])

    heard = second["output"][-1]["content"][0]["text"]
    thought = "thought sealed\n" if backend == "responses" else ""
    call = 'call exec_command {"where": "here"}\n'
    assert heard.endswith(f"What is here?\n{thought}{call}{call}output Output 1.\noutput Output 2."), heard
    assert second["usage"]["total_tokens"] == 12


def test_a_chat_server_gets_one_system_message_and_nothing_that_it_does_not_know(
    turn: Any, server: ModelServer
) -> None:
    turn("chat-text")

    asked = server.asked_for("chat-text")
    system, user = asked["messages"]
    developer, *users = FIRST["body"]["input"]
    texts = [FIRST["body"]["instructions"], *(part["text"] for part in developer["content"])]
    assert (system["role"], system["content"]) == ("system", "\n\n".join(texts))
    assert user["role"] == "user"
    assert all(part["text"] in user["content"] for one in users for part in one["content"])
    assert {tool["type"] for tool in asked["tools"]} == {"function"}
    assert len(asked["tools"]) == 3
    assert not {"include", "reasoning", "text", "store", "client_metadata", "instructions"} & asked.keys()


@pytest.mark.parametrize("name, kind", [("apply_patch", "custom_tool_call"), ("agents", "function_call")])
def test_a_chat_server_calls_tools_of_every_kind(turn: Any, name: str, kind: str) -> None:
    tools = tools_from(name)
    first = turn("chat-recall", tools=tools)
    calls = first["output"]
    assert [call["type"] for call in calls] == [kind] * 2
    assert {call.get("namespace", call["name"]) for call in calls} == {name}

    second = turn("chat-recall", tools=tools, input=[*FIRST["body"]["input"], *answered(calls)])

    assert second["output"][0]["content"][0]["text"].endswith("output Output 0.\noutput Output 1.")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_failure_is_told_with_the_upstreams_words(turn: Any, backend: str) -> None:
    final = turn(f"{backend}-failed", tools=[])

    assert (final["status"], final["error"]["code"]) == ("failed", "rate_limit_exceeded")
    assert "slow down" in final["error"]["message"]
