"""A-17 for every upstream: whatever the system gives away is whole for strict clients.

All objects and events are checked against the openai SDK's types in strict mode and against the Open
Responses schema (`tests.strict`), and the seven basic cases of the public Open Responses compliance runner
are run through both kinds of model server.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from openai.types.responses import ResponseItem, ResponseStreamEvent
from pydantic import TypeAdapter

from tests.api import Api, request, text
from tests.model_server import ModelServer
from tests.strict import checked_response, checked_stream
from tests.system import System
from tests.wire import Frame

BACKENDS = ["responses", "chat"]
CASES = {
    "text": "completed",
    "tool": "completed",
    "reasoning": "completed",
    "refusal": "completed",
    "failed": "failed",
    "incomplete": "incomplete",
    "cut": "failed",
    "lax": "completed",
}
"""What the model server does, and the status that this ends with."""
FORMAT = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
WHOLE_REQUEST: dict[str, Any] = {
    "instructions": "Be brief.",
    "include": ["reasoning.encrypted_content"],
    "stream_options": {"include_obfuscation": False},
    "truncation": "auto",
    "max_tool_calls": 3,
    "max_output_tokens": 500,
    "text": {
        "format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}},
        "verbosity": "low",
    },
    "reasoning": {"effort": "low"},
    "service_tier": "flex",
    "store": True,
    "temperature": 0.5,
    "metadata": {"a": "b"},
    "tool_choice": {"type": "function", "name": "weather"},
    "safety_identifier": "u1",
    "prompt_cache_key": "k1",
    "top_logprobs": 2,
}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather at a place",
    "parameters": {"type": "object", "properties": {"where": {"type": "string"}}, "required": ["where"]},
}
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer().serving() as serving:
        yield serving


@pytest.fixture(scope="module")
def api(server: ModelServer, kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("objects")
    lines = [
        f'[[models]]\nmatch = "{backend}-*"\nbackend = "{backend}"\nbase_url = "{server.url}"\n'
        for backend in BACKENDS
    ]
    config = folder / "rejoinder.toml"
    config.write_text("\n".join(lines))
    with System(kafka, folder, config=config) as system:
        yield Api(system.base_url)


def posted(api: Api, body: dict[str, Any]) -> list[Frame]:
    """All frames of a POST that streams."""
    with api.connect("POST", "/v1/responses", body | {"stream": True}) as stream:
        assert stream.status == 200, stream.body()
        return list(stream.frames())


@pytest.mark.parametrize("background", [True, False], ids=["background", "attached"])
@pytest.mark.parametrize(("case", "status"), CASES.items())
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stream_is_whole(api: Api, backend: str, case: str, status: str, background: bool) -> None:
    frames = posted(api, request("hi", model=f"{backend}-{case}", background=background))
    final = checked_stream(frames)
    assert final["status"] == status
    assert api.response(final["id"]) == final


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_upstream_said_is_in_the_object(api: Api, backend: str) -> None:
    def final(case: str) -> dict[str, Any]:
        answer = api.post(request("hi", model=f"{backend}-{case}", background=False))
        assert answer.status == 200, answer
        return checked_response(answer.json)

    assert text(final("text")) == "Good day, Sir."
    assert [item["type"] for item in final("reasoning")["output"]] == ["reasoning", "message"]
    assert [item["arguments"] for item in final("tool")["output"]] == ['{"where": "here"}'] * 2
    assert final("refusal")["output"][0]["content"][0]["refusal"] == "Good day, Sir."
    assert final("failed")["error"]["code"] == "rate_limit_exceeded"
    assert final("incomplete")["incomplete_details"] == {"reason": "max_output_tokens"}
    assert final("cut")["error"]["type"] == "upstream_truncated"
    assert final("text")["usage"]["total_tokens"] == 12


def test_a_custom_tool_of_a_chat_server_is_called_and_answered_in_a_chain(
    api: Api, server: ModelServer
) -> None:
    """The model server calls the request's first tool twice, by a name that a chat server can take. Open
    Responses knows no custom tools, so the openai SDK's types are the judge.
    """
    tool = {"type": "custom", "name": "apply.patch"}
    tools = [{"type": "namespace", "name": "files", "description": "The files.", "tools": [tool]}]
    frames = posted(api, request("mend it", model="chat-tool", tools=tools, client_metadata={"a": "b"}))
    events = [EVENT.validate_python(frame.event, strict=True) for frame in frames]
    assert "".join(one.delta for one in events if one.type.endswith("_input.delta")) == "here" * 2
    first = frames[-1].event["response"]
    calls = first["output"]
    assert [(one["type"], one["namespace"], one["name"]) for one in calls] == [
        ("custom_tool_call", "files", "apply.patch")
    ] * 2
    assert [one["input"] for one in calls] == ["here", "here"]
    assert "client_metadata" not in server.asked_for("chat-tool")

    outputs = [
        {"type": "custom_tool_call_output", "call_id": one["call_id"], "output": f"{number}."}
        for number, one in reversed(list(enumerate(calls)))
    ]
    said = [{"role": "user", "content": "Well?"}, {"role": "developer", "content": "Be brief."}, *outputs]
    answer = api.post(request(said, model="chat-text", previous_response_id=first["id"], background=False))
    assert text(checked_response(answer.json)) == "Good day, Sir."
    system, user, assistant, *rest = server.asked_for("chat-text")["messages"]
    assert (system, user["content"]) == ({"role": "system", "content": "Be brief."}, "mend it")
    (name,) = {one["function"]["name"] for one in assistant["tool_calls"]}
    assert "." not in name
    assert [(one["role"], one["content"]) for one in rest] == [
        ("tool", "0."),
        ("tool", "1."),
        ("user", "Well?"),
    ]


def test_echo_is_whole_in_every_state(api: Api) -> None:
    opened = api.open()
    checked_response(api.response(opened))
    assert checked_response(api.cancel(opened).json)["status"] == "cancelled"
    assert checked_stream(api.events(opened))["status"] == "cancelled"
    queued = api.create(previous_response_id=(first := api.open()))
    assert checked_response(api.response(queued))["status"] == "queued"
    api.cancel(first)
    assert checked_stream(api.events(queued))["status"] == "completed"
    assert checked_stream(api.events(api.create(fail_after=1)))["status"] == "failed"
    assert checked_stream(api.events(api.create()))["status"] == "completed"


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_open_response_is_whole_as_it_grows(api: Api, server: ModelServer, backend: str) -> None:
    server.gate.clear()
    id = api.create("hi", model=f"{backend}-gated")
    seen = api.eventually(id, text)
    server.gate.set()
    assert checked_response(seen)["status"] == "in_progress"
    assert checked_stream(api.events(id))["status"] == "completed"


@pytest.mark.parametrize("backend", [*BACKENDS, "echo"])
def test_the_request_is_echoed_in_every_state(api: Api, backend: str) -> None:
    model = backend if backend == "echo" else f"{backend}-text"
    frames = posted(api, request("hi", model=model, tools=[WEATHER], **WHOLE_REQUEST))
    checked_stream(frames)
    for frame in frames:
        if "response" in frame.event:
            said = frame.event["response"]
            for field in WHOLE_REQUEST.keys() - {"text", "reasoning"}:
                assert said[field] == WHOLE_REQUEST[field], (frame.type, field)
            assert said["text"].items() >= {"verbosity": "low"}.items()
            assert said["text"]["format"].items() >= FORMAT.items()
            assert said["reasoning"] == {"effort": "low", "summary": None}
            assert said["tools"] == [{**WEATHER, "strict": None}]


def test_input_items_are_whole(api: Api) -> None:
    parts = [{"type": "input_text", "text": "see"}, {"type": "input_image", "image_url": PIXEL}]
    said: list[dict[str, Any]] = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": parts},
        {"role": "assistant", "content": "A pixel."},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "reasoning", "summary": []},
    ]
    listed = api.input_items(api.create(said), "?limit=100&order=asc").json["data"]
    assert len(listed) == len(said)
    for item in listed:
        TypeAdapter(ResponseItem).validate_python(item, strict=True)


# The seven basic cases of the compliance runner: as there, without the background.

USER: dict[str, Any] = {"type": "message", "role": "user"}
BASIC: dict[str, list[dict[str, Any]]] = {
    "basic": [{**USER, "content": "Greet me in three words."}],
    "system prompt": [
        {"type": "message", "role": "system", "content": "You speak like a butler."},
        {**USER, "content": "Greet me."},
    ],
    "image": [
        {
            **USER,
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": PIXEL},
            ],
        }
    ],
    "multi-turn": [
        {**USER, "content": "I am Ada."},
        {"type": "message", "role": "assistant", "content": "Good day, Ada."},
        {**USER, "content": "Who am I?"},
    ],
}


def reached(server: ModelServer, model: str) -> Any:
    asked = server.asked_for(model)
    return asked.get("input") or asked["messages"]


@pytest.mark.parametrize("case", BASIC)
@pytest.mark.parametrize("backend", BACKENDS)
def test_compliance_answer(api: Api, server: ModelServer, backend: str, case: str) -> None:
    answer = api.post({"model": f"{backend}-text", "input": BASIC[case], "stream": False})
    assert answer.status == 200, answer
    response = checked_response(answer.json)
    assert response["status"] == "completed"
    assert response["output"]
    arrived = reached(server, f"{backend}-text")
    assert [item["role"] for item in arrived] == [item["role"] for item in BASIC[case]]
    assert (PIXEL in str(arrived)) is (case == "image")


@pytest.mark.parametrize("backend", BACKENDS)
def test_compliance_streaming(api: Api, backend: str) -> None:
    body = {"model": f"{backend}-text", "input": [{**USER, "content": "Count to five."}]}
    final = checked_stream(posted(api, body))
    assert (final["status"], text(final)) == ("completed", "Good day, Sir.")


@pytest.mark.parametrize("stream", [False, True], ids=["answered", "streamed"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_compliance_tool_call(api: Api, backend: str, stream: bool) -> None:
    body = {"model": f"{backend}-text", "input": [{**USER, "content": "Rain?"}], "tools": [WEATHER]}
    if not stream:
        response = checked_response(api.post(body).json)
        assert {item["type"] for item in response["output"]} == {"function_call"}
        return
    frames = posted(api, body)
    checked_stream(frames)
    for kind in ("added", "done"):
        items = [frame.event["item"] for frame in frames if frame.type == f"response.output_item.{kind}"]
        assert [(item["type"], item["name"]) for item in items] == [("function_call", "weather")] * 2
    types = {frame.type for frame in frames}
    assert {f"response.function_call_arguments.{kind}" for kind in ("delta", "done")} <= types
