"""A new kind of upstream, end to end: what Anthropic's Messages API says becomes a whole Responses stream.

The backend is a test double (`tests/messages`). It shows what a new kind takes: a folder, a line, a name.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, get_args
from unittest.mock import patch

import pytest

from schemas.ids import ResponseId
from schemas.records import Cancelled
from services.config import ECHO, Config, Kind, Model
from services.executor import backends
from services.executor.backends import KINDS, build
from tests.conftest import eventually
from tests.executing import TENANT, Rig, memory
from tests.messages import MessagesBackend
from tests.strict import checked_response
from tests.upstreams import Call, Raw, Script, raw
from tests.whole import followed

Said = dict[str, Any]
START: Said = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "usage": {"input_tokens": 7, "cache_read_input_tokens": 3, "output_tokens": 1},
    },
}
STOP: Said = {"type": "message_stop"}
PING: Said = {"type": "ping"}
KEY = "sk-ant-secret"


def block(index: int, kind: str, deltas: list[Said], **more: Any) -> Iterator[Said]:
    """A content block from its start to its end."""
    yield {"type": "content_block_start", "index": index, "content_block": {"type": kind, **more}}
    for delta in deltas:
        yield {"type": "content_block_delta", "index": index, "delta": delta}
    yield {"type": "content_block_stop", "index": index}


def ended(reason: str) -> list[Said]:
    return [{"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 20}}, STOP]


def text(index: int, *pieces: str) -> Iterator[Said]:
    return block(index, "text", [{"type": "text_delta", "text": piece} for piece in pieces], text="")


def thinking(index: int, *pieces: str) -> Iterator[Said]:
    deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces]
    return block(
        index, "thinking", [*deltas, {"type": "signature_delta", "signature": "signed"}], thinking=""
    )


def call(index: int, name: str, *pieces: str) -> Iterator[Said]:
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    return block(index, "tool_use", deltas, id=f"toolu_{index}", name=name, input={})


def saying(*events: Said) -> Script:
    """A server that streams these events, each in a piece of its own."""

    async def script(call: Call) -> None:
        await call.head()
        for event in events:
            await call.events(event)

    return script


class Running:
    """An executor whose model `claude-…` is at a Messages server, over a log in memory."""

    def __init__(self, rig: Rig, server: Raw) -> None:
        self.rig = rig
        self.server = server

    async def run(self, **body: Any) -> tuple[list[Said], dict[str, Any]]:
        """Run one response: its events behind `response.created`, and its final object."""
        id = await self.rig.accept(background=False, **{"model": "claude-1", "input": "hi", **body})
        await self.rig.closed(id)
        return self.whole(id)

    def whole(self, id: ResponseId) -> tuple[list[Said], dict[str, Any]]:
        """A stream that the openai SDK follows, and the object that it ends with."""
        events = self.rig.events(id)
        return events, checked_response(followed(events, id))


@asynccontextmanager
async def running(script: Script) -> AsyncIterator[Running]:
    """With the kind registered as a product would: a line in `KINDS`; the name is in the enum then."""
    kinds: Any = {"messages": lambda model, called: MessagesBackend(model, called())}
    async with raw(script) as server:
        named: Any = "messages"
        headers = {"x-api-key": KEY, "anthropic-version": "2023-06-01"}
        model = Model(match="claude-*", backend=named, base_url=f"{server.url}/v1", headers=headers)
        with patch.object(backends, "KINDS", {**KINDS, **kinds}):
            registry = build(Config(models=(ECHO, model)), {})
        rig = Rig(memory())
        try:
            async with rig.executor(registry):
                yield Running(rig, server)
        finally:
            await registry.close()


def test_every_kind_of_the_configuration_has_a_backend() -> None:
    assert tuple(sorted(KINDS)) == tuple(sorted(get_args(Kind)))


async def test_thoughts_text_and_calls_become_a_whole_stream() -> None:
    script = saying(
        START,
        PING,
        *thinking(0, "Let me ", "see."),
        *text(1, "I'll look ", "it up."),
        PING,
        *call(2, "weather", '{"city":', ' "Paris"}'),
        *call(3, "now"),
        *ended("tool_use"),
    )
    async with running(script) as it:
        events, final = await it.run()
    thought, message, weather, now = final["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "Let me see."}]
    assert thought["encrypted_content"] == "signed"
    assert message["content"][0]["text"] == "I'll look it up."
    assert (weather["call_id"], weather["name"]) == ("toolu_2", "weather")
    assert json.loads(weather["arguments"]) == {"city": "Paris"}
    assert json.loads(now["arguments"]) == {}
    assert {item["status"] for item in final["output"]} == {"completed"}
    assert (final["status"], final["usage"]["input_tokens"], final["usage"]["output_tokens"]) == (
        "completed", 10, 20,
    )  # fmt: skip
    assert final["usage"]["input_tokens_details"]["cached_tokens"] == 3
    assert [event["type"] for event in events[:2]] == ["response.in_progress", "response.output_item.added"]


async def test_the_conversation_is_asked_as_the_messages_api_wants_it() -> None:
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}
    called = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Paris"}'}
    said = [
        {"role": "user", "content": [{"type": "input_text", "text": "Paris?"}]},
        called,
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ]
    async with running(saying(START, *text(0, "It is sunny."), *ended("end_turn"))) as it:
        _, final = await it.run(instructions="Be brief.", input=said, tools=[tool], max_output_tokens=50)
        (asked,) = it.server.calls
    assert final["output"][0]["content"][0]["text"] == "It is sunny."
    assert (asked.path, asked.headers["x-api-key"]) == ("/v1/messages", KEY)
    assert asked.body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Paris?"}]},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "sunny"}]},
    ]
    assert (asked.body["system"], asked.body["max_tokens"]) == ("Be brief.", 50)
    assert [tool["name"] for tool in asked.body["tools"]] == ["weather"]


@pytest.mark.parametrize(
    ("reason", "status", "why"),
    [
        ("end_turn", "completed", None),
        ("stop_sequence", "completed", None),
        ("max_tokens", "incomplete", "max_output_tokens"),
        ("refusal", "incomplete", "content_filter"),
    ],
)
async def test_it_ends_as_the_upstream_says(reason: str, status: str, why: str | None) -> None:
    async with running(saying(START, *text(0, "one"), *ended(reason))) as it:
        events, final = await it.run()
    assert (final["status"], events[-1]["type"]) == (status, f"response.{status}")
    assert (final["incomplete_details"] or {}).get("reason") == why


ERROR: Said = {"type": "error", "error": {"type": "overloaded_error", "message": f"Overloaded: {KEY}"}}


@pytest.mark.parametrize(
    ("events", "type"),
    [
        ([START, *text(0, "one ", "two"), ERROR], "upstream_error"),
        ([START, *text(0, "one ", "two")], "upstream_truncated"),
        ([START, *text(0, "one ", "two"), {"type": "content_block_delta"}], "upstream_malformed"),
    ],
)
async def test_a_failure_is_told_and_what_came_before_is_kept(events: list[Said], type: str) -> None:
    async with running(saying(*events)) as it:
        told, final = await it.run()
    assert (final["status"], final["error"]["type"]) == ("failed", type)
    assert final["output"][0]["content"][0]["text"] == "one two"
    assert KEY not in json.dumps(told)


async def test_a_refused_call_says_what_the_upstream_said() -> None:
    async def refusing(call: Call) -> None:
        error = {"type": "invalid_request_error", "message": "max_tokens: too large"}
        await call.answer(400, {"type": "error", "error": error})

    async with running(refusing) as it:
        _, final = await it.run()
    assert final["status"] == "failed"
    assert "answered 400: max_tokens: too large" in final["error"]["message"]


async def test_a_cancel_closes_the_connection() -> None:
    hung_up = asyncio.Event()

    async def endless(call: Call) -> None:
        await call.head()
        await call.events(START, *list(text(0, "one"))[:2])
        await call.hung_up.wait()
        hung_up.set()

    async with running(endless) as it:
        id = await it.rig.accept(model="claude-1", input="hi")
        await eventually(_said(it, id))
        await it.rig.put(Cancelled(id, "n", TENANT).new(b"{}"))
        await eventually(hung_up.is_set)


def _said(it: Running, id: ResponseId) -> Callable[[], bool]:
    return lambda: any(event["type"].endswith("text.delta") for event in it.rig.events(id))
