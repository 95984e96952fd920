"""A model server for tests that speaks both APIs, `/v1/responses` and `/v1/chat/completions`.

The end of the model's name says what the model puts out and how it ends, with a `+` between: `text` (else),
`recall` (a text: the conversation as it came, see `recalled`), `tool` (two calls), `reasoning` (before the
others), `refusal`, `lax` (a text without what strict clients need); `failed`, `incomplete`, `cut` (the
connection breaks in the last item), `gated` (it waits there until it is let go), `mixed` (items by turns).
A request with tools is answered with calls of the first tool, unless it ends with a tool's output. Thoughts
are sealed if the request asks for that.
"""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, zip_longest
from typing import Any

from tests.upstreams import Call, Raw, served

Event = dict[str, Any]
USAGE = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
CHAT_USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
WORDS = ("Good ", "day, ", "Sir.")


class ModelServer:
    """The server: the requests that it got, and a gate for `gated`."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self._server: Raw

    @property
    def url(self) -> str:
        """Its base URL, to be configured."""
        return f"{self._server.url}/v1"

    @property
    def asked(self) -> list[dict[str, Any]]:
        """The bodies of all calls so far, but for those that ask which models there are."""
        return [call.body for call in self._server.calls if call.method == "POST"]

    def asked_for(self, model: str) -> dict[str, Any]:
        """The body of the last call for a model."""
        return [body for body in self.asked if body["model"] == model][-1]

    @contextmanager
    def serving(self) -> Iterator["ModelServer"]:
        """Serve until the block ends."""
        with served(self._answer) as self._server:
            yield self
            self.gate.set()

    async def _answer(self, call: Call) -> None:
        if call.path.endswith("/models"):
            await call.answer(200, {"object": "list", "data": []})
            return
        what = _what(call.body)
        await call.head()
        if call.path.endswith("/chat/completions"):
            await self._say(call, [_chunk(part) for part in _chat(what, call.body)], what)
        else:
            events = [event | {"sequence_number": n} for n, event in enumerate(_responses(what, call.body))]
            await self._say(call, [_framed(event) for event in events], what)

    async def _say(self, call: Call, pieces: list[bytes], what: Sequence[str]) -> None:
        most = len(pieces) * 2 // 3
        for piece in pieces[:most]:
            await call.write(piece)
        if "cut" in what:
            call.cut()
            return
        if "gated" in what:
            await asyncio.to_thread(self.gate.wait)
        for piece in pieces[most:]:
            await call.write(piece)


def _what(body: dict[str, Any]) -> list[str]:
    """The kinds of output in answer to a request."""
    what: list[str] = body["model"].rpartition("-")[2].split("+")
    last = body["input"][-1] if "input" in body else body["messages"][-1]
    answered = last.get("role") == "tool" or str(last.get("type")).endswith("_output")
    if not body.get("tools") or answered:
        return what
    return [*(word for word in what if word in ("reasoning", "mixed")), "tool"]


def _words(what: Sequence[str], body: dict[str, Any]) -> Sequence[str]:
    return (recalled(body),) if "recall" in what else WORDS


def recalled(body: dict[str, Any]) -> str:
    """The conversation of a request, a line an item or message; it reads the same for both APIs."""
    return "\n".join(line for item in body.get("input") or body["messages"] for line in _lines(item))


def _lines(item: dict[str, Any]) -> Iterator[str]:
    match item:
        case {"type": "function_call", "name": name, "arguments": arguments}:
            yield f"call {name} {arguments}"
        case {"type": "function_call_output", "output": output} | {"role": "tool", "content": output}:
            yield f"output {output}"
        case {"type": "reasoning"}:
            yield f"thought {item.get('encrypted_content')}"
        case {"role": role, "content": content}:
            parts = content if isinstance(content, list) else [{"text": content or ""}]
            if said := "".join(part["text"] for part in parts):
                yield f"{role}: {said}"
            for call in item.get("tool_calls", ()):
                yield f"call {call['function']['name']} {call['function']['arguments']}"
        case _:
            yield str(item)


def _framed(event: Event) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _chunk(part: Event | str) -> bytes:
    return f"data: {part if isinstance(part, str) else json.dumps(part)}\n\n".encode()


# The Responses API.


def _responses(what: Sequence[str], body: dict[str, Any]) -> Iterator[Event]:
    response = {"id": "resp_upstream", "object": "response", "created_at": 1, "model": body["model"]}
    yield {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}}
    yield {"type": "response.in_progress", "response": {**response, "status": "in_progress", "output": []}}
    told = [list(_item(kind, index, _words(what, body), body)) for index, kind in enumerate(_kinds(what))]
    output = [events[-1]["item"] for events in told]
    if "mixed" in what:
        yield from (event for turn in zip_longest(*told) for event in turn if event)
    else:
        yield from chain(*told)
    status = next((word for word in what if word in ("failed", "incomplete")), "completed")
    final: Event = {**response, "status": status, "output": output, "usage": USAGE}
    if status == "failed":
        final["error"] = {"code": "rate_limit_exceeded", "message": "slow down"}
    if status == "incomplete":
        final["incomplete_details"] = {"reason": "max_output_tokens"}
    if "lax" in what:
        final |= {"temperature": None, "tools": [{"type": "function", "name": "f"}], "text": {}}
    yield {"type": f"response.{status}", "response": final}


def _kinds(what: Sequence[str]) -> list[str]:
    """The items that are put out."""
    kinds = ["tool", "tool"] if "tool" in what else [word for word in what if word in ("lax", "refusal")]
    if "incomplete" in what:
        kinds.append("incomplete")
    return [word for word in what if word == "reasoning"] + (kinds or ["text"])


def _item(kind: str, index: int, words: Sequence[str], body: dict[str, Any]) -> Iterator[Event]:
    turn = len(body["input"])  # ids are not repeated within a conversation
    if kind == "tool":
        return _call(f"{turn}_{index}", index, body)
    if kind == "reasoning":
        sealed = "reasoning.encrypted_content" in (body.get("include") or ())
        return _thought(f"rs_{turn}_{index}", index, sealed)
    return _message(f"msg_{turn}_{index}", kind, index, words)


def _call(key: str, index: int, body: dict[str, Any]) -> Iterator[Event]:
    name = (body.get("tools") or [{"name": "look_up"}])[0]["name"]
    item = {"type": "function_call", "id": f"fc_{key}", "call_id": f"call_{key}", "name": name}
    at = {"item_id": item["id"], "output_index": index}
    begun = {**item, "arguments": "", "status": "in_progress"}
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    for delta in ('{"where": ', '"here"}'):
        yield {"type": "response.function_call_arguments.delta", **at, "delta": delta}
    arguments = '{"where": "here"}'
    yield {"type": "response.function_call_arguments.done", **at, "name": name, "arguments": arguments}
    done = {**item, "arguments": arguments, "status": "completed"}
    yield {"type": "response.output_item.done", "output_index": index, "item": done}


def _thought(id: str, index: int, sealed: bool) -> Iterator[Event]:
    item: Event = {"type": "reasoning", "id": id, "summary": []}
    at = {"item_id": item["id"], "output_index": index, "summary_index": 0}
    yield {"type": "response.output_item.added", "output_index": index, "item": item}
    part = {"type": "summary_text", "text": "Thinking."}
    yield {"type": "response.reasoning_summary_part.added", **at, "part": {**part, "text": ""}}
    yield {"type": "response.reasoning_summary_text.delta", **at, "delta": "Thinking."}
    yield {"type": "response.reasoning_summary_text.done", **at, "text": "Thinking."}
    yield {"type": "response.reasoning_summary_part.done", **at, "part": part}
    done = {**item, "summary": [part], **({"encrypted_content": "sealed"} if sealed else {})}
    yield {"type": "response.output_item.done", "output_index": index, "item": done}


def _message(id: str, kind: str, index: int, words: Sequence[str]) -> Iterator[Event]:
    lax, refuses = kind == "lax", kind == "refusal"
    word = "refusal" if refuses else "text"
    status = "incomplete" if kind == "incomplete" else "completed"
    item: Event = {"type": "message", "id": id, "role": "assistant", "status": "in_progress"}
    part: Event = {"type": "refusal" if refuses else "output_text", word: ""}
    more: Event = {}
    if not (lax or refuses):
        part, more = {**part, "annotations": [], "logprobs": []}, {"logprobs": []}
    at = {"item_id": item["id"], "output_index": index, "content_index": 0}
    yield {"type": "response.output_item.added", "output_index": index, "item": {**item, "content": []}}
    yield {"type": "response.content_part.added", **at, "part": part}
    for delta in words:
        yield {"type": f"response.{part['type']}.delta", **at, "delta": delta, **more}
    part = {**part, word: "".join(words)}
    yield {"type": f"response.{part['type']}.done", **at, word: part[word], **more}
    yield {"type": "response.content_part.done", **at, "part": part}
    done = {**item, "status": status, "content": [part]}
    yield {"type": "response.output_item.done", "output_index": index, "item": done}


# Chat Completions.


def _chat(what: Sequence[str], body: dict[str, Any]) -> Iterator[Event | str]:
    yield _delta(role="assistant")
    if "reasoning" in what:
        yield _delta(reasoning_content="Thinking.")
    if "tool" in what:
        name = (body.get("tools") or [{"function": {"name": "look_up"}}])[0]["function"]["name"]
        turn = len(body["messages"])
        for index in (0, 1):
            call = {"index": index, "id": f"call_{turn}_{index}", "type": "function"}
            yield _delta(tool_calls=[{**call, "function": {"name": name, "arguments": ""}}])
        for piece in ('{"where": ', '"here"}'):
            yield _delta(tool_calls=[{"index": index, "function": {"arguments": piece}} for index in (0, 1)])
    else:
        for word in _words(what, body):
            yield _delta(**{"refusal" if "refusal" in what else "content": word})
    if "failed" in what:
        yield {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
        return
    finish = "length" if "incomplete" in what else "tool_calls" if "tool" in what else "stop"
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    yield {"choices": [], "usage": CHAT_USAGE}
    yield "[DONE]"


def _delta(**delta: Any) -> Event:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
