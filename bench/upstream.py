"""What an upstream on HTTP costs the executor, beside model echo, which has none.

The upstream is a process of its own, whose CPU is not counted. It speaks both APIs. The end of a model's name
says what it says: `chat-500-20` is 500 words, one every 20 ms (0: as fast as it goes), in chunks of the Chat
API, and `responses-500-0-10-200` 500 words at once and then ten, one every 200 ms. Every response is created
in the background, and its stream read by GET.
"""

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from bench import target
from bench.load import OVERHEAD, Load
from bench.target import Target
from bench.throughput import settled
from tests.process import ServerProcess

KINDS = ("echo", "responses", "chat")
PACES = ((50, 20, 500), (50, 0, 4_000))
"""Streams at once, ms between two words, words."""
BOUND_S = 120.0
CONFIG = """
[[models]]
match = "responses-*"
base_url = "{url}/v1"

[[models]]
match = "chat-*"
base_url = "{url}/v1"
backend = "chat"
"""
WORDS = ("the ", "quick ", "brown ", "fox ", "jumps ", "over ", "the ", "lazy ", "dog ")

_encode = msgspec.json.Encoder().encode


class UpstreamLoad(Load):
    """Creates responses of a `model` of the upstream in the background, and reads their streams."""

    def __init__(self, url: str, model: str, events: int) -> None:
        super().__init__(url, events)
        self.body = _encode({"model": model, "input": "go on", **self.ask})


def load_of(url: str, kind: str, words: int, interval_ms: int) -> Load:
    """The load of one kind of model."""
    if kind == "echo":
        return Load(url, words + OVERHEAD, tokens=words, interval_ms=interval_ms)
    return UpstreamLoad(url, f"{kind}-{words}-{interval_ms}", words + OVERHEAD)


def run() -> None:
    """Print the table."""
    print("\n## An upstream on HTTP\n\n| streams × events | model | executor, µs an event | of echo |")
    print("|---|---|---:|---:|", flush=True)
    with before_upstream() as ours:
        measure(ours, "echo", 100, 10, 1_000)  # warms the broker up
        for at_once, interval_ms, words in PACES:
            costs = {kind: measure(ours, kind, at_once, interval_ms, words) for kind in KINDS}
            pace = f"{at_once} × {1000 // interval_ms if interval_ms else words}"
            for kind, cost in costs.items():
                print(f"| {pace} | {kind} | {cost:.0f} | {cost / costs['echo']:.2f} |", flush=True)


@contextmanager
def before_upstream(*flags: str) -> Iterator[Target]:
    """The whole system of `rejoinder dev` with these flags, before an upstream of its own."""
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder, upstream(Path(folder)) as url:
        config = Path(folder) / "rejoinder.toml"
        config.write_text(CONFIG.format(url=url))
        with target.rejoinder("--config", str(config), *flags) as ours:
            yield ours


def measure(ours: Target, kind: str, at_once: int, interval_ms: int, words: int) -> float:
    """µs of CPU of the executor for each event that arrived."""
    begin = ours.cpu()
    command = [sys.executable, "-m", "bench.upstream", f"--load={ours.base_url}", f"--kind={kind}"]
    command += [f"--at-once={at_once}", f"--interval-ms={interval_ms}", f"--words={words}"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=2 * BOUND_S)
    used = settled(ours)["executor"] - begin["executor"]
    return used / (at_once * (words + OVERHEAD)) * 1e6


@contextmanager
def upstream(folder: Path) -> Iterator[str]:
    """The upstream as a process; its URL."""
    with ServerProcess([sys.executable, "-m", "bench.upstream"], folder / "upstream.log") as process:
        yield process.base_url


# The upstream.


def app() -> Starlette:
    """Both APIs."""
    return Starlette(
        routes=[
            Route("/v1/responses", _responses, methods=["POST"]),
            Route("/v1/chat/completions", _chat, methods=["POST"]),
        ]
    )


async def _responses(request: Request) -> StreamingResponse:
    asked = msgspec.json.decode(await request.body())
    return StreamingResponse(_told(asked["model"]), media_type="text/event-stream")


async def _told(model: str) -> AsyncIterator[bytes]:
    response = {"id": "resp_up", "object": "response", "model": model, "status": "in_progress", "output": []}
    item: dict[str, Any] = {"id": "msg_up", "type": "message", "role": "assistant", "status": "in_progress"}
    item["content"] = []
    at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
    yield _event({"type": "response.created", "response": response})
    yield _event({"type": "response.in_progress", "response": response})
    yield _event({"type": "response.output_item.added", "output_index": 0, "item": item})
    yield _event({"type": "response.content_part.added", **at, "part": _part("")})
    said = []
    async for word in _words(model):
        said.append(word)
        yield _event({"type": "response.output_text.delta", **at, "delta": word, "logprobs": []})
    text = "".join(said)
    item = {**item, "status": "completed", "content": [_part(text)]}
    yield _event({"type": "response.output_text.done", **at, "text": text, "logprobs": []})
    yield _event({"type": "response.content_part.done", **at, "part": _part(text)})
    yield _event({"type": "response.output_item.done", "output_index": 0, "item": item})
    final = {**response, "status": "completed", "output": [item]}
    yield _event({"type": "response.completed", "response": final})


async def _chat(request: Request) -> StreamingResponse:
    asked = msgspec.json.decode(await request.body())
    return StreamingResponse(_chunks(asked["model"]), media_type="text/event-stream")


async def _chunks(model: str) -> AsyncIterator[bytes]:
    chunk: dict[str, Any] = {"id": "chat_up", "object": "chat.completion.chunk", "created": 1, "model": model}
    yield _data({**chunk, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
    async for word in _words(model):
        yield _data({**chunk, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
    yield _data({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield b"data: [DONE]\n\n"


async def _words(model: str) -> AsyncIterator[str]:
    paces = list(map(int, model.split("-")[1:]))
    words = cycle(WORDS)
    for count, interval_ms in zip(paces[::2], paces[1::2], strict=True):
        for word in islice(words, count):
            await asyncio.sleep(interval_ms / 1000)
            yield word


def _event(event: dict[str, Any]) -> bytes:
    return f"event: {event['type']}\n".encode() + _data(event)


def _data(value: object) -> bytes:
    return b"data: " + _encode(value) + b"\n\n"


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


def _serve() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app(), loop="uvloop", log_level="warning", access_log=False)
    print(f"ready http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    uvicorn.Server(config).run([listening])


async def _load(given: argparse.Namespace) -> None:
    load = load_of(given.load, given.kind, given.words, given.interval_ms)
    await load.run(given.at_once, given.at_once, BOUND_S, leave=True)


def main() -> None:
    """The upstream; with `--load` the clients of one measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", help="the URL to ask")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--at-once", type=int)
    parser.add_argument("--interval-ms", type=int)
    parser.add_argument("--words", type=int)
    given = parser.parse_args()
    if given.load:
        asyncio.run(_load(given))
    else:
        _serve()


if __name__ == "__main__":
    main()
