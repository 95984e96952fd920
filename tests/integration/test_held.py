"""How long one step holds the loop: ingest, replay and an executor on one loop, and the largest bodies.

A hold is the CPU time that the loop's thread takes between two turns of a task that always wants one. What
runs in other threads, clients and upstream too, does not count. The time is scaled to a quiet machine.
"""

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from services.eventlog.memory import MemoryLog
from services.settings import Settings
from tests.api import Api
from tests.bodies import FITTING, REFUSED, Shape
from tests.ingesting import Ingesting, executing, served_topics, started
from tests.long import some
from tests.steady import slowness
from tests.upstreams import Call, Raw, served

LONGEST_S = 0.1
LARGEST = Settings().max_body_bytes
TRIES = 3


async def answer(call: Call) -> None:
    """Say what was asked, as a picture would be."""
    await call.head()
    if call.path.endswith("/chat/completions"):
        said = b'{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}'
        await call.write(b'data: {"choices":[%b]}\n\ndata: [DONE]\n\n' % said)
        return
    item = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "A" * 5_600_000}
    await call.events({"type": "response.output_item.done", "output_index": 0, "item": item})
    whole: dict[str, Any] = {"id": "resp_1", "status": "completed", "output": [item]}
    await call.events({"type": "response.completed", "response": whole})


@pytest.fixture(scope="module")
def upstream() -> Iterator[Raw]:
    with served(answer) as server:
        yield server


@asynccontextmanager
async def system(upstream: Raw) -> AsyncIterator[Ingesting]:
    text = "".join(
        f'[[models]]\nmatch = "{kind}-*"\nbackend = "{kind}"\nbase_url = "{upstream.url}/v1"\n'
        for kind in ("chat", "responses")
    )
    log = MemoryLog(served_topics(), max_record_bytes=Settings().max_record_bytes)
    async with started(Ingesting(log), text) as running, executing(running):
        yield running


class Held:
    """The longest hold so far, seconds."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest, last = max(self.longest, now - last), now


@asynccontextmanager
async def watched() -> AsyncIterator[Held]:
    gc.freeze()
    held = Held()
    watch = asyncio.create_task(held.watch())
    try:
        yield held
    finally:
        watch.cancel()
        gc.unfreeze()


def lives(running: Ingesting, raw: bytes) -> None:
    """A response's life as clients see it. Blocks."""
    created = Api(f"http://127.0.0.1:{running.port}").post(raw)
    assert created.status in (200, 400, 413), created
    if created.status == 200:
        api = Api(f"http://127.0.0.1:{running.public}")
        id = created.json["id"]
        api.events(id)
        assert api.response(id)["status"] in ("completed", "failed")
        assert api.input_items(id, "?limit=100").status == 200


@pytest.mark.parametrize("model", ["responses-1", "chat-1"])
@pytest.mark.parametrize("shape", some(FITTING, every=7))
async def test_a_response_of_the_largest_body_holds_nobody_up(
    upstream: Raw, shape: Shape, model: str
) -> None:
    raw = shape(LARGEST - 300).replace(b'"model":"echo"', f'"model":"{model}"'.encode(), 1)
    if b'"background"' not in raw[:60]:
        raw = raw.replace(b"{", b'{"background":true,', 1)
    holds: list[float] = []
    async with system(upstream) as running:
        while not holds or (holds[-1] >= LONGEST_S and len(holds) < TRIES):
            async with watched() as held:
                await asyncio.to_thread(lives, running, raw)
            holds.append(held.longest / slowness())
    assert min(holds) < LONGEST_S


@pytest.mark.parametrize("shape", some(REFUSED, every=4))
async def test_a_refusal_holds_nobody_up(upstream: Raw, shape: Shape) -> None:
    raw, holds = shape(LARGEST - 200), list[float]()
    async with system(upstream) as running:
        while not holds or (holds[-1] >= LONGEST_S and len(holds) < TRIES):
            async with watched() as held:
                await asyncio.to_thread(lives, running, raw)
            holds.append(held.longest / slowness())
    assert min(holds) < LONGEST_S
