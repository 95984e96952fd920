"""The upstreams: scripted backends of several kinds, whose calls are held against the claims in the log.

resumable    goes on where another executor stood
terse        the same, and leaves out all that the executor can fill in: one event of it comes to several in
             the log (U-11)
mixed        the same, with two calls whose inputs take turns: the words of one wait while the other is told
             (U-16). It counts its items from FIRST, and names them by nothing else
repeatable   may be run again while no output counted
fragile      neither
silent       says nothing until the deadline
stubborn     says nothing, and does not stop when it is told to: only the owner can end it
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any

from msgspec.structs import replace

from schemas.events import TERMINAL_EVENTS, Event
from schemas.ids import ResponseId, Tenant
from schemas.request import input_items
from services.config import Config, Model, Route
from services.executor.backend import Backend, Resume, RunRequest, UpstreamError, UpstreamEvent
from services.executor.backends import Registry
from services.executor.backends.scripted import ScriptedBackend, last_user_text
from services.executor.partition import Partition
from services.executor.said import Said
from tests.simulation.node import Node
from tests.simulation.truth import Story

KINDS = ("resumable", "terse", "mixed", "repeatable", "fragile", "silent", "stubborn")
_RESUMABLE = ("resumable", "terse", "mixed")
FIRST = 3
"""Index that a mixed upstream gives to its first item."""
STUBBORN = 30.0
"""Seconds that a stubborn upstream takes to stop."""
Streams = dict[int, tuple[ResponseId, Node, str]]
"""The open streams: each with its response, its node and its kind."""
OnCall = Callable[[Node, RunRequest, str], None]
OnBatch = Callable[[ResponseId, Node, bool], None]
"""Called with the response, its node, and whether a batch is asked for (else: one is given)."""


class Upstream:
    """A backend of one kind: it tells of its calls, and stalls with its process."""

    pass_extensions = False

    def __init__(self, node: Node, kind: str, on_call: OnCall, on_batch: OnBatch, streams: Streams) -> None:
        self._node = node
        self._kind = kind
        self._on_call = on_call
        self._on_batch = on_batch
        self._streams = streams
        self._inner = ScriptedBackend()
        self.resumable = kind in _RESUMABLE
        self.repeatable = kind == "repeatable"

    async def stream(
        self, request: RunRequest, resume: Resume | None = None
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        """The run's batches. The call and each batch are as late as the process is."""
        await self._node.away(0.3)
        request.calling()
        self._on_call(self._node, request, self._kind)
        self._streams[id(request)] = request.id, self._node, self._kind
        self._node.acts("call", request.id)
        try:
            if self._kind == "silent":
                await asyncio.Event().wait()
            if self._kind == "stubborn":
                await stubborn()
            said = replace(request, input=_input(request, self._kind))
            async for batch in self._told(said, resume):
                await self._node.away(0.2)
                if batch[-1].event["type"] != "response.in_progress":  # which the executor says itself
                    self._on_batch(request.id, self._node, False)
                yield batch
                self._on_batch(request.id, self._node, True)
        finally:
            del self._streams[id(request)]

    async def _told(
        self, request: RunRequest, resume: Resume | None
    ) -> AsyncIterator[Sequence[UpstreamEvent]]:
        """The upstream's batches. A resumable one goes on after the id and the cursor that the log has of it
        (P-34), or from its start where the log has none, and gives both with its events.
        """
        told = 0
        if self.resumable and resume is not None:
            told = 0 if resume.upstream_id is None or resume.cursor is None else resume.cursor + 1
            resume = replace(resume, counted=told)
        async for batch in self._inner.stream(request, resume):
            here = range(told, told + len(batch))
            told += len(batch)
            if self.resumable:
                theirs = f"up_{request.id}"
                batch = [UpstreamEvent(one.event, theirs, n) for one, n in zip(batch, here, strict=True)]
            if self._kind == "mixed":
                batch = [one._replace(event=_mixed(one.event, one.cursor or 0)) for one in batch]
            if self._kind == "terse":
                batch = [one for one in batch if _says_something(one.event["type"])]
            if batch:
                yield batch

    async def stop(self, upstream_id: str) -> None:
        """Do nothing: this upstream works only within a run."""

    async def close(self) -> None:
        """Nothing to close."""


def inputs_of(text: str) -> list[str]:
    """The inputs of two calls: the words of `text`, dealt to them in turn."""
    words = re.findall(r"\S+ ?", text)
    return ["".join(words[call::2]) for call in range(2)]


def _mixed(event: Event, number: int) -> Event:
    """The event that replaces `event`, a message's, with this number: two calls share the message's words."""
    match event["type"]:
        case "response.output_item.added":
            return _call_event("output_item.added", 0, item=_call(0))
        case "response.content_part.added":
            return _call_event("output_item.added", 1, item=_call(1))
        case "response.output_text.delta":
            return _call_event("custom_tool_call_input.delta", (number + 1) % 2, delta=event["delta"])
        case "response.output_text.done":
            return _call_event("output_item.done", 0, item=_call(0, event["text"]))
        case "response.content_part.done":
            return _call_event("output_item.done", 1, item=_call(1, event["part"]["text"]))
        case "response.output_item.done":  # both items are done already
            whole = inputs_of(event["item"]["content"][0]["text"])[1]
            return _call_event("custom_tool_call_input.done", 1, input=whole)
        case "response.completed":
            response = event["response"]
            text = response["output"][0]["content"][0]["text"]
            return {**event, "response": {**response, "output": [_call(0, text), _call(1, text)]}}
    return event


def _call_event(type: str, call: int, **more: Any) -> Event:
    return {"type": f"response.{type}", "output_index": FIRST + call, **more}


def _call(number: int, text: str | None = None) -> dict[str, Any]:
    """One of the two calls: as it begins, or, given the `text` that both share, as it ends."""
    whole = {"input": "", "status": "in_progress"}
    if text is not None:
        whole = {"input": inputs_of(text)[number], "status": "completed"}
    names = {"call_id": f"call_{number}", "name": "f"}
    return {"type": "custom_tool_call", **names, **whole}


def _says_something(type: str) -> bool:
    return type.endswith(".delta") or type in TERMINAL_EVENTS


def _input(request: RunRequest, kind: str) -> Sequence[dict[str, Any]]:
    """The input of a call. A model that is called again says something else, unless it resumes."""
    if kind in _RESUMABLE:
        return request.input
    return [{"role": "user", "content": " ".join(f"{letter}{request.attempt}" for letter in "abc")}]


def whole_text(request: RunRequest, kind: str) -> str:
    """All that an upstream of a kind says to `request`: the words of its input, round and round."""
    words = last_user_text(_input(request, kind)).split()
    return " ".join(islice(cycle(words), int(request.body["metadata"]["echo.tokens"])))


async def stubborn() -> None:
    """Wait, and once more after being told to stop."""
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(STUBBORN)


class Upstreams(Registry):
    """One upstream of each kind, with `places` each. The kind is the model's name."""

    def __init__(self, node: Node, on_call: OnCall, on_batch: OnBatch, streams: Streams, places: int) -> None:
        routes = [Model(match=kind, backend="scripted", max_concurrency=places) for kind in KINDS]
        backends: dict[Route, Backend] = {
            route: Upstream(node, route.match, on_call, on_batch, streams) for route in routes
        }
        super().__init__(Config(models=tuple(routes)), backends)


class Chains:
    """Conversations: a run waits for a predecessor that is open, as with replay's internal port."""

    def __init__(self, node: Node, find: Callable[[str], Story | None]) -> None:
        self._node = node
        self._find = find

    async def input(
        self, partition: Partition, tenant: Tenant, body: Mapping[str, Any], named: bool = True
    ) -> Said:
        """The request's own input, once the predecessor is known to have closed."""
        previous = body.get("previous_response_id")
        if previous is not None and not await self._there(previous):
            raise UpstreamError("the predecessor is gone", type="conversation")
        return Said(input_items(body))

    async def settle(self, partition: Partition, id: ResponseId) -> None:
        """Wait until response `id` and all before it have closed or are gone."""
        previous: ResponseId | None = id
        while previous is not None and await self._there(previous):
            story = self._find(previous)
            previous = story.accepted.previous if story is not None and story.accepted else None

    async def _there(self, previous: str) -> bool:
        """Wait until `previous` has closed or is gone. Whether it closed and was not deleted."""
        while True:
            await self._node.turn(0.3)
            story = self._find(previous)
            if story is None or story.closed:
                return story is not None and not story.deleted
            await asyncio.sleep(0.5)
