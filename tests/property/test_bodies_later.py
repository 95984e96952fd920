"""No request holds up a process long after it was taken: what each process does with the largest bodies of
every shape, step by step.

A step is what a loop runs without a turn for another task. Measured is its CPU time, best of three.
"""

import asyncio
import tracemalloc
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing, suppress
from functools import cached_property, partial
from typing import Any

import msgspec
import pytest

from schemas import response
from schemas.events import AcceptedValue, accepted_value, opening_frames
from schemas.ids import Tenant, response_id
from schemas.references import references
from schemas.request import input_items, listing, parse
from schemas.steps import Steps, encoding, finished
from services import config
from services.eventlog.transcript import Packer, pack, unpack
from services.executor.backend import RunRequest, UpstreamError
from services.executor.backends import build
from services.executor.backends.chat.request import Dialect, chat_body, toolbox
from services.executor.backends.chat.tools import UntranslatableError
from services.executor.backends.scripted import ScriptedBackend
from services.executor.backends.upstream import Upstream
from services.executor.scribe import Ending, Limits, Scribe
from services.loops import FEW
from services.replay.objects import begun, first_object
from services.replay.snapshot import events_in
from services.replay.turn import request_body
from services.settings import Settings
from services.web.internal import Turn
from services.web.paging import Paging, page
from tests.bodies import FITTING, REFUSED, Shape, longest, seconds, uncollected
from tests.long import some

LONGEST_S = 0.1
LARGEST = Settings().max_body_bytes
ID = response_id(0, bytes(16))
CONFIG = config.parse('[[models]]\nmatch = "*"\nbase_url = "http://127.0.0.1:1/v1"\n', "rejoinder.toml")
read_turn = msgspec.json.Decoder(Turn).decode
LIMITS = Limits(record_bytes=Settings().max_record_bytes)


class Taken:
    """A request that was taken, and what it becomes."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @cached_property
    def body(self) -> dict[str, Any]:
        return parse(self.raw).body

    @cached_property
    def object(self) -> dict[str, Any]:
        return response.initial(self.body, ID, 1, "m")

    @cached_property
    def initial(self) -> bytes:
        return msgspec.json.encode(self.object)

    @cached_property
    def accepted(self) -> bytes:
        return msgspec.json.encode(AcceptedValue(msgspec.Raw(self.raw), msgspec.Raw(self.initial)))

    @cached_property
    def frames(self) -> list[bytes]:
        return opening_frames(ID, self.accepted, background=True)

    @cached_property
    def items(self) -> list[dict[str, Any]]:
        return input_items(self.body)

    @cached_property
    def shown(self) -> list[dict[str, Any]]:
        return input_items(self.body, ID)

    @cached_property
    def turn(self) -> bytes:
        return msgspec.json.encode(Turn(ID, Tenant("t"), None, self.items, []))

    @cached_property
    def packed(self) -> bytes:
        return pack(self.accepted)

    def prepare(self) -> None:
        """Make everything that steps begin from."""
        assert self.frames
        assert self.turn
        assert self.shown
        assert self.packed

    def close(self) -> None:
        """What the projector does when the response closes, all at once: its last chunk, and the request."""
        packer = Packer()
        for opening in self.frames:
            packer.add(opening)
        packer.seal()
        pack(self.accepted)

    def translate(self) -> None:
        """In a thread, where there are many items or tools."""
        if len(self.items) + len(self.body.get("tools") or ()) <= FEW:
            with suppress(UntranslatableError):
                tools = toolbox(self.body, self.items, "refuse")
                chat_body(self.body, self.items, tools, Dialect())


Step = Callable[[Taken], Any]
STEPS: Mapping[str, Step] = {
    "ingest makes the object": lambda taken: response.initial(taken.body, ID, 1, "m"),
    "ingest encodes the object": lambda taken: msgspec.json.encode(taken.object),
    "ingest makes the record": lambda taken: AcceptedValue(
        msgspec.Raw(taken.raw), msgspec.Raw(taken.initial)
    ),
    "ingest looks for references": lambda taken: references(taken.body),
    "ingest cancels": lambda taken: msgspec.json.encode(
        response.cancelled(msgspec.json.decode(taken.initial))
    ),
    "executor finds the route": lambda taken: build(CONFIG, {}).route(taken.accepted),
    "executor reads the record": lambda taken: msgspec.json.decode(accepted_value(taken.accepted).response),
    "executor reads the request": lambda taken: msgspec.json.decode(taken.raw),
    "executor begins": lambda taken: Scribe(dict(taken.object), origin=0, last=1, limits=LIMITS).begin(),
    "executor reads a turn": lambda taken: read_turn(taken.turn),
    "executor translates": Taken.translate,
    "replay frames the record": lambda taken: opening_frames(ID, taken.accepted, background=True),
    "replay shows what began": lambda taken: begun(first_object(b"".join(taken.frames)), ID, "queued"),
    "replay folds its frames": lambda taken: list(events_in(b"".join(taken.frames))),
    "replay reads the request": lambda taken: request_body(taken.accepted),
    "replay shows a page": lambda taken: page(taken.shown, Paging(limit=100)),
    "replay tells a turn": lambda taken: msgspec.json.encode(Turn(ID, Tenant("t"), None, taken.items, [])),
    "replay unpacks it": lambda taken: unpack(taken.packed),
    "projector closes": Taken.close,
}
SLICED: Mapping[str, Callable[[Taken], Steps[Any]]] = {
    "executor lists the input": lambda taken: listing(taken.body),
    "executor encodes the request": lambda taken: encoding(taken.body | {"input": taken.items}),
    "replay lists the input": lambda taken: listing(taken.body, ID),
    "replay encodes the object": lambda taken: encoding(response.running(taken.object)),
}


@pytest.mark.parametrize("shape", some(FITTING, every=4))
async def test_whoever_reads_a_body_later_does_so_in_short_steps(shape: Shape) -> None:
    taken = Taken(shape(LARGEST))
    took: dict[str, float] = {}
    taken.prepare()
    with uncollected():
        for name, step in STEPS.items():
            took[name] = seconds(partial(step, taken), LONGEST_S)
        for name, steps in SLICED.items():
            took[name] = longest(partial(steps, taken), LONGEST_S)
    assert {name: spent for name, spent in took.items() if spent >= LONGEST_S} == {}


@pytest.mark.parametrize(
    "fields", [{}, {"a": []}, {"a": [1, "x", {"b": None}], 'é"': {"c": [[]]}, "d": 1.5}, {"a": [[]] * 5000}]
)
def test_what_is_encoded_in_steps_is_what_is_encoded_at_once(fields: dict[str, Any]) -> None:
    assert finished(encoding(fields)) == msgspec.json.encode(fields)


@pytest.mark.parametrize("shape", some(REFUSED, every=4))
async def test_what_an_upstream_says_in_any_shape_is_read_or_refused_quickly(shape: Shape) -> None:
    raw = shape(LARGEST)
    upstream = Upstream(CONFIG.models[0], {}, 1)

    def decode() -> None:
        with suppress(UpstreamError):
            upstream.decode(raw)

    with uncollected():
        assert seconds(decode, LONGEST_S) < LONGEST_S


async def test_what_holds_more_values_than_can_be_read_quickly_is_no_answer() -> None:
    upstream = Upstream(CONFIG.models[0], {}, 1)
    with pytest.raises(UpstreamError, match="sent JSON of more than 100000 values") as refused:
        upstream.decode(b'{"type":"x","y":[%b]}' % b",".join([b"[]"] * 100_000))
    assert refused.value.type == "upstream_malformed"
    assert upstream.decode(b'{"type":"x","y":"%b"}' % (b"[]," * 100_000))["type"] == "x"


SAID: Mapping[str, Callable[[int], tuple[str, str]]] = {
    "one word": lambda size: ("x" * size, ""),
    "one word again and again": lambda size: ("x" * size, "1000000"),
    "long words": lambda size: (("x" * 100_000 + " ") * (size // 100_001), "1000000"),
    "letters": lambda size: ("a " * (size // 2), ""),
    "letters again and again": lambda size: ("a " * (size // 2), "1000000"),
    "short words": lambda size: ("ab\n" * (size // 3), ""),
    "words of eight": lambda size: ("abcdefgh " * (size // 9), ""),
    "nothing but blanks": lambda size: (" " * size, ""),
    "letters of three bytes": lambda size: ("中" * (size // 3), "3"),
}
"""What a client may send to `echo`: a text, and `echo.tokens`."""


async def _echo(text: str, tokens: str, most: int) -> None:
    """As a run does: each batch is encoded at once, and others have their turn after it."""
    metadata = {"echo.tokens": tokens} if tokens else {}
    body = {"model": "echo", "input": text, "metadata": metadata}
    said = [{"role": "user", "content": text}]
    request = RunRequest(ID, Tenant("t"), 1, body, said, {"id": ID})
    written = 0
    async with aclosing(ScriptedBackend().stream(request)) as stream:
        async for batch in stream:
            written += sum(len(msgspec.json.encode(upstream.event)) for upstream in batch)
            if written > most:
                return
            await asyncio.sleep(0)


def _turns(work: Coroutine[Any, Any, None]) -> Steps[None]:
    """The steps of a coroutine that waits for nothing but its next turn."""
    try:
        while True:
            work.send(None)
            yield
    except StopIteration:
        return


@pytest.mark.parametrize("said", some(SAID, every=2))
def test_echo_says_a_text_of_any_shape_in_short_steps_and_little_memory(
    said: Callable[[int], tuple[str, str]],
) -> None:
    text, tokens = said(LARGEST)
    most = 2 * LARGEST
    with uncollected():
        assert longest(lambda: _turns(_echo(text, tokens, most)), LONGEST_S) < LONGEST_S
    tracemalloc.start()
    try:
        finished(_turns(_echo(text, tokens, 0)))
        assert tracemalloc.get_traced_memory()[1] < 10 * LARGEST
    finally:
        tracemalloc.stop()


MANY = 3000


def _spoken(number: int, id: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": f"{number}", "annotations": []}
    return {"id": f"{id}{number}", "type": "message", "role": "assistant", "content": [part]}


ITEMS: Mapping[str, Callable[[int], tuple[list[dict[str, Any]], list[dict[str, Any]]]]] = {
    "never streamed": lambda n: ([], [_spoken(at, "m") for at in range(n)]),
    "never streamed, without ids": lambda n: ([], [{"type": "x"} for _ in range(n)]),
    "calls never streamed": lambda n: (
        [],
        [{"type": "function_call", "call_id": f"c{at}", "name": "f", "arguments": "{}"} for at in range(n)],
    ),
    "streamed": lambda n: ([_spoken(at, "m") for at in range(n)],) * 2,
    "streamed under other ids": lambda n: (
        [_spoken(at, "m") for at in range(n)],
        [_spoken(at, "n") for at in range(n)],
    ),
    "streamed, and then others": lambda n: (
        [_spoken(at, "m") for at in range(n)],
        [_spoken(at, "n") for at in range(n, 2 * n)],
    ),
}
"""Items that an upstream streams as done, and those of its final object."""


def _parted(number: int) -> dict[str, Any]:
    part = {"type": "output_text", "text": "x", "annotations": []}
    return {"id": "m", "type": "message", "role": "assistant", "content": [part] * number}


def _deltas(number: int, part: str, index: str) -> list[dict[str, Any]]:
    at = {"type": f"response.{part}.delta", "output_index": 0, "item_id": "m", "delta": "x"}
    return [{**at, index: place} for place in range(number)]


PARTED: Mapping[str, Callable[[int], list[dict[str, Any]]]] = {
    "in its end": lambda n: [{"type": "response.output_item.done", "output_index": 0, "item": _parted(n)}],
    "by their deltas": lambda n: _deltas(n, "output_text", "content_index"),
    "summaries by their deltas": lambda n: _deltas(n, "reasoning_summary_text", "summary_index"),
}
"""Events of an item with so many parts."""


@pytest.mark.parametrize("events", [pytest.param(events, id=name) for name, events in PARTED.items()])
@pytest.mark.parametrize("final", [True, False])
def test_the_time_for_an_items_parts_grows_with_their_number_alone(
    events: Callable[[int], list[dict[str, Any]]], final: bool
) -> None:
    def write() -> None:
        scribe = Scribe(Taken(b'{"model":"m","input":"x"}').object, origin=0, last=1, limits=LIMITS)
        for event in events(2 * MANY):
            scribe.write(event, (), now=0)
        end = {"status": "completed", "output": [_parted(2 * MANY)] if final else []}
        scribe.write({"type": "response.completed", "response": end}, (), now=0)
        assert scribe.ended

    assert seconds(write, 2.0) < 2.0


@pytest.mark.parametrize("items", [pytest.param(items, id=name) for name, items in ITEMS.items()])
def test_the_time_for_an_upstreams_items_grows_with_their_number_alone(
    items: Callable[[int], tuple[list[dict[str, Any]], list[dict[str, Any]]]],
) -> None:
    def write() -> None:
        streamed, final = items(MANY)
        scribe = Scribe(Taken(b'{"model":"m","input":"x"}').object, origin=0, last=1, limits=LIMITS)
        for index, item in enumerate(streamed):
            scribe.write(
                {"type": "response.output_item.done", "output_index": index, "item": item}, (), now=0
            )
        end = {"status": "completed", "output": final}
        scribe.write({"type": "response.completed", "response": end}, (), now=0)
        assert scribe.ended

    assert seconds(write, 2.0) < 2.0


UNSTREAMED: Mapping[str, Callable[[int], list[dict[str, Any]]]] = {
    **{f"items {name}": partial(lambda items, n: items(n)[1], items) for name, items in ITEMS.items()},
    "nothing but types": lambda n: [{"type": "x"} for _ in range(8 * n)],
    "one item of many parts": lambda n: [_parted(8 * n)],
    "some items of many parts": lambda n: [{**_parted(n), "id": f"m{at}"} for at in range(8)],
    "one long text": lambda n: [{"type": "message", "content": "x" * (3000 * n)}],
    "long texts": lambda n: [{"type": "message", "content": "é" * 100_000} for _ in range(n // 60)],
}
"""The items of a final object of which nothing was streamed."""


@pytest.mark.parametrize("items", some(UNSTREAMED, every=2))
@pytest.mark.parametrize("status", ["completed", "incomplete"])
def test_what_only_the_final_object_has_is_written_in_short_steps(
    items: Callable[[int], list[dict[str, Any]]], status: str
) -> None:
    def writing() -> Steps[Any]:
        scribe = Scribe(Taken(b'{"model":"m","input":"x"}').object, origin=0, last=1, limits=LIMITS)
        end = {"status": status, "output": items(MANY)}
        return scribe.writing({"type": f"response.{status}", "response": end}, (), now=0)

    with uncollected():
        assert longest(writing, LONGEST_S) < LONGEST_S


def test_what_an_upstream_leaves_open_is_ended_in_short_steps() -> None:
    def ending() -> Steps[Any]:
        scribe = Scribe(Taken(b'{"model":"m","input":"x"}').object, origin=0, last=1, limits=LIMITS)
        for number in range(2 * MANY):
            added = {
                "type": "response.output_item.added",
                "output_index": number,
                "item": _spoken(number, "m"),
            }
            scribe.write(added, (), now=0)
        return scribe.ending(Ending("gone"))

    with uncollected():
        assert longest(ending, LONGEST_S) < LONGEST_S
