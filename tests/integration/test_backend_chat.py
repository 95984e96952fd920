"""services/executor/backends/chat.py against real HTTP servers."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from services.executor.backend import Backend, Resume
from tests.conftest import PATIENCE
from tests.strict import checked
from tests.upstreams import Call, Outcome, Raw, Script, outcome, raw, registry, request

DONE = b"data: [DONE]\n\n"


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %b\n\n" % json.dumps({"choices": [choice]}).encode()


USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
HELLO = [chunk(role="assistant"), chunk(content="Good"), chunk(content=" day"), chunk("stop"), USAGE, DONE]


def sending(*pieces: bytes, wait: bool = False) -> Script:
    async def script(call: Call) -> None:
        await call.head()
        for piece in pieces:
            await call.write(piece)
        if wait:
            await call.hung_up.wait()

    return script


@asynccontextmanager
async def serving(script: Script, lines: str = "") -> AsyncIterator[tuple[Raw, Backend]]:
    async with raw(script) as server:
        backends = registry(server.url, lines, kind="chat")
        try:
            yield server, backends.resolve({"model": "m"})
        finally:
            await backends.close()


async def run(script: Script, lines: str = "", **body: Any) -> tuple[Raw, Outcome]:
    async with serving(script, lines) as (server, backend):
        return server, await outcome(backend, request(**body))


async def test_a_call_is_made_and_its_chunks_become_events() -> None:
    server, got = await run(
        sending(*HELLO), temperature=0.5, max_output_tokens=9, previous_response_id="resp_x"
    )
    assert got.error is None
    final = checked(got.events)[-1]["response"]
    assert final["output"][0]["content"][0]["text"] == "Good day"
    assert final["usage"]["output_tokens"] == 2
    assert (server.calls[0].method, server.calls[0].path) == ("POST", "/v1/chat/completions")
    assert server.calls[0].body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 9,
    }


async def test_events_come_as_the_chunks_come() -> None:
    more = asyncio.Event()

    async def script(call: Call) -> None:
        await call.head()
        await call.write(HELLO[1])
        await more.wait()
        await call.write(b"".join(HELLO[2:]))

    async with serving(script) as (_, backend), aclosing(backend.stream(request())) as stream:
        first = await anext(stream)
        assert first[-1].event["delta"] == "Good"
        more.set()
        rest = [one.event["type"] for batch in [batch async for batch in stream] for one in batch]
    assert rest[-1] == "response.completed"


async def test_a_completion_that_is_not_streamed_is_translated() -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}

    async def script(call: Call) -> None:
        await call.answer(200, {"choices": [choice]})

    _, got = await run(script)
    assert checked(got.events)[-1]["response"]["output"][0]["content"][0]["text"] == "Hi"


@pytest.mark.parametrize(
    ("pieces", "says", "type"),
    [
        (HELLO[:3], "ended its stream without a finish reason", "upstream_truncated"),
        ([*HELLO[:3], b"data: {oops\n\n"], "sent something that is not JSON", "upstream_malformed"),
        ([*HELLO[:3], b'data: {"content":"x"}\n\n'], "sent a chunk without choices", "upstream_malformed"),
        ([*HELLO[:3], chunk("error"), DONE], "broke the generation off (error)", "upstream_malformed"),
        ([*HELLO[:3], chunk("bored"), DONE], "not known as success (bored)", "upstream_malformed"),
        (
            [*HELLO[:3], chunk("stop", tool_calls=[{"function": {"arguments": "{}"}}]), DONE],
            "sent a tool call without a name",
            "upstream_malformed",
        ),
        (
            [*HELLO[:3], b'data: {"error": {"message": "out of memory"}}\n\n'],
            "reported an error: out of memory",
            "upstream_error",
        ),
        (
            [*HELLO[:3], b'data: {"choices": [{"delta": {"tool_calls": 5}}]}\n\n'],
            "sent tool_calls that are not a list",
            "upstream_malformed",
        ),
        (
            [*HELLO[:3], b'data: {"choices": ' + b"[" * 50_000 + b"\n\n"],
            "sent JSON that is nested too deeply",
            "upstream_malformed",
        ),
        (
            [*HELLO[:3], b'data: [{"error": {"message": "quota"}}]\n\n'],
            "reported an error: quota",
            "upstream_error",
        ),
        ([*HELLO[:3], b'data: {"errors": ["quota"]}\n\n'], "reported an error: quota", "upstream_error"),
        ([*HELLO[:3], b'data: {"detail": "quota"}\n\n'], "reported an error: quota", "upstream_error"),
        (
            [*HELLO[:3], b'data: {"choices": [{"delta": {}, "error": {"message": "quota"}}]}\n\n'],
            "reported an error: quota",
            "upstream_error",
        ),
        ([*HELLO[:3], b"event: error\ndata: quota\n\n"], "reported an error: quota", "upstream_error"),
        ([*HELLO[:3], b'error: {"message": "quota"}\n\n'], "reported an error: quota", "upstream_error"),
        ([*HELLO[:3], b'{"error": "quota"}'], "reported an error: quota", "upstream_error"),
        (
            [*HELLO[:3], b'data: {"success": false, "msg": "quota"}\n\n'],
            "reported an error: quota",
            "upstream_error",
        ),
        ([*HELLO[:3], b"event: error\ndata: {}\n\n"], "reported an error: without a word", "upstream_error"),
        (
            [*HELLO[:3], b'data: {"object": "error", "message": "no more"}\n\n'],
            "reported an error: no more",
            "upstream_error",
        ),
        (
            [*HELLO[:3], b'data: {"type": "error", "message": "no more"}\n\n'],
            "reported an error: no more",
            "upstream_error",
        ),
        (
            [*HELLO[:3], chunk(content=[{"type": "image_url"}]), chunk("stop"), DONE],
            "sent content that is neither text, a refusal nor thoughts",
            "upstream_malformed",
        ),
    ],
)
@pytest.mark.parametrize("in_one_piece", [True, False])
async def test_a_bad_stream_ends_honestly_and_what_came_before_is_kept(
    pieces: list[bytes], says: str, type: str, in_one_piece: bool
) -> None:
    _, got = await run(sending(b"".join(pieces)) if in_one_piece else sending(*pieces))
    assert [event["delta"] for event in got.events if "delta" in event] == ["Good", " day"]
    assert says in got.failure.message
    assert got.failure.type == type


async def test_a_server_that_goes_silent_after_its_finish_reason_has_finished() -> None:
    _, got = await run(sending(*HELLO[:4], wait=True), "timeout = 0.2")
    assert got.error is None
    assert checked(got.events)[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    "alive",
    [
        b"data:",
        b"event: ping\ndata:",
        b"event: ping\ndata: now",
        b"data: {}",
        b"data: null",
        b'data: {"type":"ping"}',
    ],
)
async def test_some_events_are_signs_of_life(alive: bytes) -> None:
    """U-56."""
    _, got = await run(sending(alive + b"\n\n", *HELLO[:2], alive + b"\n\n", *HELLO[2:]))
    assert checked(got.events)[-1]["response"]["output"][0]["content"][0]["text"] == "Good day"


async def test_the_servers_word_that_it_is_over_is_taken() -> None:
    """U-48."""
    _, got = await run(sending(*HELLO[:3], USAGE, b"data:  [DONE]\n\n"))
    assert got.error is None
    assert checked(got.events)[-1]["response"]["output"][0]["content"][0]["text"] == "Good day"


async def test_what_waits_for_more_is_told_before_a_failure() -> None:
    """U-47: `ha` behind `ha` waits for what shows that it is a piece; the connection breaks instead."""
    _, got = await run(sending(chunk(content="ha"), chunk(content="ha")))
    assert [event["delta"] for event in got.events if "delta" in event] == ["ha", "ha"]
    assert got.failure.type == "upstream_truncated"


async def test_silence_before_it_is_a_failure() -> None:
    _, got = await run(sending(*HELLO[:3], wait=True), "timeout = 0.2")
    assert got.failure.type == "upstream_idle"


async def test_an_error_answer_is_told() -> None:
    async def script(call: Call) -> None:
        await call.answer(400, {"error": {"message": "context too long", "code": "context_length_exceeded"}})

    _, got = await run(script)
    assert got.failure.message == "The model server answered 400: context too long"
    assert got.failure.code == "server_error"


async def test_html_is_refused() -> None:
    async def script(call: Call) -> None:
        await call.answer(200, b"<html>", "text/html")

    _, got = await run(script)
    assert "text/html instead of an event stream" in got.failure.message


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools of type web_search; leave them out of 'tools'"),
        ({"prompt": {"id": "pmpt_1"}}, "stored prompts; send the text of 'prompt' as 'instructions'"),
    ],
)
async def test_what_chat_cannot_say_is_refused_before_any_call(body: dict[str, Any], says: str) -> None:
    server, got = await run(sending(*HELLO), **body)
    assert got.failure.message == (
        f"The model server speaks Chat Completions, which has no {says}, "
        "or use a model whose server has the Responses API."
    )
    assert (got.failure.type, server.calls) == ("unsupported", [])


async def test_a_bad_chunk_behind_the_finish_reason_is_told() -> None:
    """What goes away then takes nothing back, but half a chunk would be in the output, not in the stream."""
    _, got = await run(sending(*HELLO[:4], chunk(content="!", tool_calls=5), DONE))
    assert "sent tool_calls that are not a list" in got.failure.message


async def test_closing_the_stream_cuts_the_connection() -> None:
    async with serving(sending(*HELLO[:3], wait=True)) as (server, backend):
        async with aclosing(backend.stream(request())) as stream:
            await anext(stream)
        async with asyncio.timeout(PATIENCE):
            await server.calls[0].hung_up.wait()


async def test_a_run_of_a_lost_executor_is_not_called_again() -> None:
    async with serving(sending(*HELLO)) as (server, backend):
        assert not backend.resumable
        got = await outcome(backend, request(), Resume(None, None, 3))
    assert (got.failure.type, server.calls) == ("executor_lost", [])


async def asked(lines: str, input: list[dict[str, Any]], **body: Any) -> dict[str, Any]:
    """What the server is sent."""
    async with serving(sending(*HELLO), lines) as (server, backend):
        got = await outcome(backend, request(input, **body))
    assert got.error is None
    sent: dict[str, Any] = server.calls[0].body
    return sent


async def test_a_route_drops_what_its_server_refuses() -> None:
    body = await asked('drop = ["stream_options", "seed"]', [{"role": "user", "content": "hi"}], seed=7)
    assert body.keys() == {"model", "messages", "stream"}


async def test_codex_first_turn_reaches_the_server() -> None:
    body = await asked(
        'vendor_tools = "drop"',
        [
            {"role": "developer", "content": [{"type": "input_text", "text": text} for text in "ab"]},
            {"role": "user", "content": [{"type": "input_text", "text": "hello"}]},
        ],
        instructions="You are Codex",
        tools=[
            {"type": "function", "name": "update_plan", "parameters": {"type": "object"}, "strict": False},
            {"type": "custom", "name": "apply_patch", "format": {"type": "text"}},
            {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]},
            {"type": "web_search"},
        ],
        tool_choice="auto",
        parallel_tool_calls=True,
        client_metadata={"installation": "x"},
        prompt_cache_key="k",
        include=["reasoning.encrypted_content"],
    )
    assert body["messages"] == [
        {"role": "system", "content": "You are Codex\n\na\n\nb"},
        {"role": "user", "content": "hello"},
    ]
    names = [tool["function"]["name"] for tool in body["tools"]]
    assert names == ["update_plan", "apply_patch", "agents__spawn"]
    shared = {"model", "messages", "stream", "stream_options"}
    assert body.keys() - shared == {"tools", "tool_choice", "parallel_tool_calls"}


async def test_thoughts_go_back_where_the_route_says_so() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    call = {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"}
    turn: list[dict[str, Any]] = [thought, call]
    turn += [{"type": "function_call_output", "call_id": "a", "output": "1"}]
    kept = await asked('give_back = ["reasoning_content"]', turn)
    assert kept["messages"][0]["reasoning_content"] == "Hm."
    assert "reasoning_content" not in (await asked("", turn))["messages"][0]


@pytest.mark.parametrize(
    ("input", "body"),
    [
        ([{"role": "user", "content": "hi"}], {"tools": 5}),
        ([{"role": "user", "content": "hi"}], {"text": "x"}),
        ([{"role": "user", "content": "hi"}], {"tools": [{"type": "namespace", "name": "n", "tools": 5}]}),
        ([{"type": "shell_call", "call_id": "a", "action": 5}], {}),
        ([{"type": "reasoning", "summary": 5}], {}),
    ],
)
async def test_a_request_of_a_shape_that_nobody_foresaw_is_not_sent(
    input: list[dict[str, Any]], body: dict[str, Any]
) -> None:
    async with serving(sending(*HELLO)) as (server, backend):
        got = await outcome(backend, request(input, **body))
    assert "a field of the request or of an item is not of the Responses API's type" in got.failure.message
    assert not server.calls


def calling(index: int, name: str, arguments: str, **more: Any) -> list[bytes]:
    """A call in three pieces."""
    head = {"index": index, "id": f"call_{index}", "type": "function", **more}
    cut = len(arguments) // 2
    pieces = [{**head, "function": {"name": name, "arguments": ""}}]
    pieces += [
        {"index": index, "function": {"arguments": said}} for said in (arguments[:cut], arguments[cut:])
    ]
    return [chunk(tool_calls=[piece]) for piece in pieces]


PATCH = '*** Begin Patch\n+a "b" é 😀\n'
AGENTS = {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn"}]}
TOOLS = [{"type": "custom", "name": "apply_patch"}, AGENTS, {"type": "local_shell"}]
SIGNED = {"google": {"thought_signature": "SIG=="}}
ALL_CALLS = [
    *calling(0, "apply_patch", json.dumps({"input": PATCH}), extra_content=SIGNED),
    *calling(1, "agents__spawn", '{"task": "x"}'),
    *calling(2, "local_shell", '{"command": ["ls"]}'),
    chunk(content="\n\n"),
    chunk("tool_calls"),
    DONE,
]


async def test_every_tool_is_called_by_its_own_kind_and_name() -> None:
    _, got = await run(sending(*ALL_CALLS), tools=TOOLS)
    assert got.error is None
    patch, spawn, shell, _ = checked(got.events)[-1]["response"]["output"]
    assert (patch["type"], patch["name"], patch["input"]) == ("custom_tool_call", "apply_patch", PATCH)
    assert (spawn["type"], spawn["namespace"], spawn["name"]) == ("function_call", "agents", "spawn")
    assert (spawn["arguments"], shell["type"]) == ('{"task": "x"}', "local_shell_call")
    assert shell["action"] == {"type": "exec", "env": {}, "command": ["ls"]}
    said = [event for event in got.events if event["type"] == "response.custom_tool_call_input.delta"]
    assert "".join(event["delta"] for event in said) == PATCH
    assert len(said) > 1, "the input comes as the model writes it"
    (done,) = [event for event in got.events if event["type"] == "response.custom_tool_call_input.done"]
    assert done["input"] == PATCH


async def test_what_a_model_called_is_what_it_hears_in_the_next_turn() -> None:
    """The items of a chain: its own calls, the line break behind them, and the client's outputs."""
    _, got = await run(sending(*ALL_CALLS), tools=TOOLS)
    output = got.events[-1]["response"]["output"]
    answers = [
        {"type": "local_shell_call_output", "id": "call_2", "output": "a"},
        {"type": "function_call_output", "call_id": "call_1", "output": "b"},
        {"type": "custom_tool_call_output", "call_id": "call_0", "output": "c"},
    ]
    body = await asked("", [{"role": "user", "content": "go"}, *output, *answers], tools=TOOLS)
    _, assistant, *outputs = body["messages"]
    assert assistant["content"] is None
    calls = assistant["tool_calls"]
    names = [call["function"]["name"] for call in calls]
    assert names == ["apply_patch", "agents__spawn", "local_shell"]
    assert [json.loads(call["function"]["arguments"]) for call in calls] == [
        {"input": PATCH},
        {"task": "x"},
        {"command": ["ls"]},
    ]
    assert [call.get("extra_content") for call in calls] == [SIGNED, None, None]
    assert [(one["tool_call_id"], one["content"]) for one in outputs] == [
        ("call_0", "c"),
        ("call_1", "b"),
        ("call_2", "a"),
    ]


async def test_thoughts_of_a_server_go_back_as_it_said_them() -> None:
    details = [{"type": "reasoning.encrypted", "data": "AA", "index": 0}]
    thinking = chunk(reasoning_content="Hm.", reasoning_details=details)
    _, got = await run(sending(thinking, *calling(0, "f", "{}"), chunk("tool_calls"), DONE))
    turn = [*got.events[-1]["response"]["output"]]
    turn += [{"type": "function_call_output", "call_id": "call_0", "output": "1"}]
    body = await asked('give_back = ["reasoning_content", "reasoning_details"]', turn)
    assert body["messages"][0]["reasoning_content"] == "Hm."
    assert body["messages"][0]["reasoning_details"] == details
    assert not (await asked("", turn))["messages"][0].keys() & {"reasoning_content", "reasoning_details"}
