"""The leave to call an upstream (P-53): asked after every wait, and what becomes of a run without it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.executor import beats
from services.executor.backends import Registry
from services.executor.liveness import Liveness
from tests.conftest import eventually
from tests.executing import Rig
from tests.upstreams import Call, Raw, Script, raw, registry

LEASE_S = 0.3
DONE = {"type": "response.completed", "response": {"id": "resp_theirs", "output": []}}


@pytest.fixture(autouse=True)
def counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor that cannot know that nobody has counted it out: only the lease is left."""
    monkeypatch.setattr(beats, "BEAT_INTERVAL", 0.01)
    monkeypatch.setattr(Liveness, "unbroken", lambda *_: False)


@asynccontextmanager
async def serving(script: Script, lines: str) -> AsyncIterator[tuple[Raw, Registry]]:
    async with raw(script) as server:
        backends = registry(server.url, lines)
        try:
            yield server, backends
        finally:
            await backends.close()


async def past_the_lease() -> None:
    end = asyncio.get_running_loop().time() + LEASE_S
    await eventually(lambda: asyncio.get_running_loop().time() > end)


async def test_a_run_whose_upstream_said_later_for_too_long_claims_anew(rig: Rig) -> None:
    """Nothing was started: so it is called under the next claim, though it is not repeatable."""
    answers = 0

    async def script(call: Call) -> None:
        nonlocal answers
        answers += 1
        if answers == 1:
            await call.answer(503, {}, retry_after=str(2 * LEASE_S))
        else:
            await call.head()
            await call.events(DONE)

    async with serving(script, "") as (_, backends):
        id = await rig.accept(model="theirs")
        async with rig.executor(backends, lease_s=LEASE_S):
            state = await rig.closed(id)
    assert (state.status, answers) == ("completed", 2)
    assert state.attempt >= 2


async def test_a_stream_that_is_not_rejoined_in_time_is_left_to_the_next_claim(rig: Rig) -> None:
    """The upstream goes on meanwhile, and nobody tells it to stop."""

    async def script(call: Call) -> None:
        await call.head()
        if call.method == "POST":
            created = {"type": "response.created", "response": {"id": "resp_theirs"}}
            await call.events(created | {"sequence_number": 0})
            await past_the_lease()
            call.cut()
        else:
            await call.events(DONE | {"sequence_number": 1})

    async with serving(script, "resumable = true") as (server, backends):
        id = await rig.accept(model="theirs")
        async with rig.executor(backends, lease_s=LEASE_S):
            state = await rig.closed(id)
    assert state.status == "completed"
    assert state.attempt >= 2
    paths = [f"{call.method} {call.path}" for call in server.calls]
    rejoined = "GET /v1/responses/resp_theirs?stream=true&starting_after=0"
    assert paths == ["POST /v1/responses", rejoined]
