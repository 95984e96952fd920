"""Upstreams of responses that were cancelled or deleted when their executor was gone: who tells them."""

import asyncio
import math
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from schemas.ids import ResponseId, partition_of
from schemas.records import Cancelled, Deleted, EventHeaders, NewRecord
from schemas.upstream_headers import upstream_headers
from services.eventlog.port import TopicPartition
from services.executor import liveness
from services.executor.backends import Registry
from services.executor.conversation import Conversation
from services.executor.executor import Executor
from tests.conftest import PATIENCE, eventually
from tests.executing import DEAD, NAMES, TENANT, Rig, away
from tests.upstreams import Call, Raw, raw, registry
from tests.written import claim_of

THEIRS = "resp_theirs"

pytestmark = pytest.mark.usefixtures("quick_beats")


async def script(call: Call) -> None:
    """A resumable upstream that thinks for ever, and can be told to stop."""
    if call.path.endswith("/cancel"):
        await call.answer(200, {"id": THEIRS, "status": "cancelled"})
    else:
        await call.head()
        await call.hung_up.wait()


@asynccontextmanager
async def thinking(lines: str = "resumable = true") -> AsyncIterator[tuple[Raw, Registry]]:
    async with raw(script) as server:
        backends = registry(server.url, lines)
        try:
            yield server, backends
        finally:
            await backends.close()


def told(server: Raw) -> list[str]:
    return [call.path for call in server.calls if call.path.endswith("/cancel")]


async def orphan(rig: Rig, **body: Any) -> ResponseId:
    """A response whose executor died when its upstream had begun."""
    id = await rig.accept(model="theirs", **body)
    await rig.claim(id)
    begun = EventHeaders(id, claim_of("dead"), 1, TENANT).event(
        2, "response.in_progress", b"{}", upstream=upstream_headers(THEIRS, 0)
    )
    await rig.put(begun, partition_of(id))
    return id


async def close(rig: Rig, id: ResponseId, how: str) -> None:
    entry = Cancelled(id, "n", TENANT).new(b"{}") if how == "cancelled" else None
    record = entry or Deleted(id, "n", TENANT, rig.state(id).offset).new()
    await rig.put(record, partition_of(id))


async def beat(rig: Rig, times: int) -> None:
    for _ in range(times):
        await rig.writer.append(
            NAMES.executors, 0, NewRecord(b"x", b"{}", [("kind", b"beat"), ("executor", DEAD.encode())])
        )


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
@pytest.mark.parametrize("already", [True, False], ids=["before", "meanwhile"])
async def test_the_upstream_of_an_orphan_is_told_once(
    rig: Rig, how: str, already: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with thinking() as (server, backends):
        id = await orphan(rig)
        if already:
            await close(rig, id, how)
        async with rig.executor(backends) as executor:
            with monkeypatch.context() as patched:
                patched.setattr(liveness, "BEATS_TO_GONE", math.inf)  # else it might be taken over before
                await eventually(lambda: executor.engine.partitions.get(0))
                partition = executor.engine.partitions[0]
                if not already:
                    await eventually(lambda: id in partition.fold)
                    await close(rig, id, how)
                await eventually(lambda: id in partition.orphans)
            await eventually(lambda: told(server) == [f"/v1/responses/{THEIRS}/cancel"])
            now = executor.liveness.beats
            await eventually(lambda: executor.liveness.beats > now + 10)
    assert told(server) == [f"/v1/responses/{THEIRS}/cancel"]
    assert rig.state(id).attempt == 1


async def test_a_living_executor_is_left_to_stop_its_upstream(rig: Rig) -> None:
    """Also when it dies afterwards: it has read the close."""
    async with thinking() as (server, backends), rig.executor(backends) as executor:
        id = await orphan(rig)
        await beat(rig, 1)
        await close(rig, id, "cancelled")
        partition = executor.engine.partitions[0]
        await eventually(lambda: id in partition.orphans)
        async with asyncio.timeout(PATIENCE):
            while id in partition.orphans:
                await beat(rig, 1)
                await asyncio.sleep(0.01)
        await eventually(lambda: executor.liveness.gone(DEAD))
        now = executor.liveness.beats
        await eventually(lambda: executor.liveness.beats > now + 10)
        assert told(server) == []


@pytest.mark.parametrize("how", ["cancelled", "deleted"])
async def test_a_takeover_that_has_not_called_yet_tells_too(
    rig: Rig, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that waits for its conversation has no stream that it could close."""
    waiting = asyncio.Event()

    async def input(*_: object) -> Iterable[object]:
        waiting.set()
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(Conversation, "input", input)
    async with thinking() as (server, backends):
        id = await orphan(rig)
        async with rig.executor(backends):
            async with asyncio.timeout(PATIENCE):
                await waiting.wait()
            await close(rig, id, how)
            await eventually(lambda: told(server) == [f"/v1/responses/{THEIRS}/cancel"])
    assert rig.state(id).attempt == 2


async def test_a_takeover_past_the_deadline_stops_the_upstream(rig: Rig) -> None:
    async with thinking() as (server, backends):
        id = await orphan(rig, deadline=1)
        async with rig.executor(backends):
            await rig.closed(id)
            await eventually(lambda: told(server) == [f"/v1/responses/{THEIRS}/cancel"])
    assert rig.events(id)[-1]["response"]["error"]["type"] == "deadline"


async def test_an_upstream_that_goes_on_for_nobody_is_not_told(rig: Rig) -> None:
    """Of one that is not resumable, the cut connection was the cancel."""
    async with thinking(lines="") as (server, backends):
        id = await orphan(rig)
        await close(rig, id, "cancelled")
        async with rig.executor(backends) as executor:
            await eventually(lambda: executor.liveness.gone(DEAD))
            now = executor.liveness.beats
            await eventually(lambda: executor.liveness.beats > now + 10)
    assert server.calls == []


async def test_what_cannot_be_told_keeps_nobody_else_from_it(rig: Rig) -> None:
    async with thinking() as (server, backends):
        broken, id = await orphan(rig, raw_value=b'{"request": [1], "respon'), await orphan(rig)
        unbegun = await rig.accept(model="theirs")
        await rig.claim(unbegun)
        for one in (broken, unbegun, id):
            await close(rig, one, "cancelled")
        async with rig.executor(backends):
            await eventually(lambda: told(server) == [f"/v1/responses/{THEIRS}/cancel"])
            assert (await rig.closed(await rig.accept("fine"))).status == "completed"


async def known(executor: Executor, id: ResponseId) -> None:
    """Wait until the executor knows of an orphan."""
    number = partition_of(id)
    await eventually(lambda: id in executor.engine.partitions[number].orphans)


async def test_a_partition_whose_leader_is_away_keeps_no_orphan_of_another_from_being_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with thinking() as (server, backends):
        first = await orphan(rig)
        await close(rig, first, "cancelled")
        with away(rig.log, TopicPartition(NAMES.events, 0), monkeypatch) as leave:
            async with rig.executor(backends) as executor:
                with monkeypatch.context() as patched:
                    patched.setattr(liveness, "BEATS_TO_GONE", math.inf)
                    await eventually(lambda: set(executor.engine.partitions) == {0, 1})
                    await known(executor, first)
                    leave.set()
                await eventually(lambda: first not in executor.engine.partitions[0].orphans)
                with monkeypatch.context() as patched:
                    patched.setattr(liveness, "BEATS_TO_GONE", math.inf)
                    second = await orphan(rig, partition=1)
                    await close(rig, second, "cancelled")
                    await known(executor, second)
                await eventually(lambda: len(told(server)) == 1)
                leave.clear()
                await eventually(lambda: len(told(server)) == 2)
