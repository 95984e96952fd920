"""Places: what would call an upstream that is full waits unclaimed, and holds nobody else up (P-49)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest

from schemas.ids import ResponseId
from schemas.records import Claimed, parse
from services.executor import beats
from services.executor.executor import Executor
from tests.conftest import eventually
from tests.executing import DEAD, NAMES, Rig
from tests.points import when
from tests.upstreams import Call, raw, registry

DONE = {"type": "response.completed", "response": {"id": "resp_theirs", "output": []}}

pytestmark = pytest.mark.usefixtures("quick_beats")


class Slow:
    """An upstream that ends a call when it is told to. `most` is how many it had at once."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Event] = []
        self.under_way = self.most = 0

    async def script(self, call: Call) -> None:
        self.calls.append(asyncio.Event())
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await call.head()
        await self.calls[-1].wait()
        self.under_way -= 1
        await call.events(DONE)

    async def called(self, number: int) -> None:
        await eventually(lambda: len(self.calls) > number)

    async def end(self, number: int) -> None:
        """End a call, once it has come."""
        await self.called(number)
        self.calls[number].set()


@asynccontextmanager
async def executing(rig: Rig, lines: str, slots: int = 10) -> AsyncIterator[tuple[Slow, Executor]]:
    """Every model but echo is slow, with so many places as `lines` say; what runs at the end is left."""
    upstream = Slow()
    async with raw(upstream.script) as server:
        backends = registry(server.url, lines)
        try:
            async with rig.executor(backends, slots=slots, grace_s=0.01) as executor:
                yield upstream, executor
        finally:
            await backends.close()


async def test_no_more_calls_at_once_than_places_and_the_next_comes_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: there is one beat in this test, and no second that would have looked again."""
    monkeypatch.setattr(beats, "BEAT_INTERVAL", 1000)
    ids = [await rig.accept(model="theirs") for _ in range(6)]
    async with executing(rig, "max_concurrency = 2") as (upstream, _):
        await upstream.called(1)
        for number in range(6):
            await upstream.end(number)
        states = [await rig.closed(id) for id in ids]
    assert [(state.status, state.attempt) for state in states] == [("completed", 1)] * 6
    assert upstream.most == 2


async def test_what_waits_for_a_full_route_leaves_the_slots_to_what_is_for_another(rig: Rig) -> None:
    for_slow = [await rig.accept(model="theirs") for _ in range(8)]
    async with executing(rig, "max_concurrency = 1", slots=2) as (upstream, _):
        await upstream.called(0)
        for _ in range(2):
            assert (await rig.closed(await rig.accept())).status == "completed"
        assert [rig.state(id).attempt for id in for_slow] == [1] + [0] * 7


async def test_what_lost_its_executor_waits_for_a_place_and_comes_before_what_waits(rig: Rig) -> None:
    first = await rig.accept(model="theirs")
    async with executing(rig, "max_concurrency = 1\nrepeatable = true") as (upstream, executor):
        await upstream.called(0)
        waiting, lost = await rig.accept(model="theirs"), await rig.accept(model="theirs")
        await rig.claim(lost)
        await eventually(lambda: executor.liveness.gone(DEAD))
        then = executor.liveness.beats
        await eventually(lambda: executor.liveness.beats > then + 2)
        assert (rig.state(lost).attempt, rig.state(waiting).attempt) == (1, 0)
        for number, id in enumerate((first, lost, waiting)):
            await upstream.end(number)
            await rig.closed(id)
    claims = [entry.id for r in rig.log.records(NAMES.events, 0) if isinstance(entry := parse(r), Claimed)]
    assert claims == [first, lost, lost, waiting]
    assert upstream.most == 1


async def test_a_claim_that_was_given_up_and_is_in_the_log_all_the_same_takes_nobody_s_place(
    rig: Rig,
) -> None:
    """Its place may be another's by then: it is claimed again, when there is one, and called once."""

    claimed = list[ResponseId]()

    def claiming(id: ResponseId, _: int) -> None:
        if not claimed:
            rig.log.fail_next("unknown-appended")
        claimed.append(id)

    async with executing(rig, "max_concurrency = 1") as (upstream, executor):
        # A beat between the failure and the read-back would claim it again, and keep its place by that.
        await eventually(lambda: executor.liveness.beats > 0)
        with when("claim made", claiming):
            accepted = await rig.accept(model="theirs")
            await upstream.end(0)
            state = await rig.closed(accepted)
    assert claimed == [accepted] * 2
    assert (state.status, state.attempt, len(upstream.calls)) == ("completed", 2, 1)


async def test_what_only_ends_needs_no_place(rig: Rig) -> None:
    """A-19 holds for it however long the route stays full."""
    await rig.accept(model="theirs")
    async with executing(rig, "max_concurrency = 1") as (upstream, _):
        await upstream.called(0)
        lost = await rig.accept(model="theirs")
        await rig.claim(lost)
        overdue = await rig.accept(model="theirs", deadline=1)
        for id in (lost, overdue):
            await rig.closed(id)
        assert upstream.under_way == 1
    errors = [rig.events(id)[-1]["response"]["error"]["type"] for id in (lost, overdue)]
    assert errors == ["executor_lost", "deadline"]


class Untouched(dict[ResponseId, None]):
    """A queue at which nobody looks."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("somebody looked")


async def test_what_waits_for_a_full_route_is_not_even_looked_at(rig: Rig) -> None:
    """Fifty thousand of them cost a look what one does."""
    async with executing(rig, "max_concurrency = 1") as (upstream, executor):
        for _ in range(2):
            await rig.accept(model="theirs")
        await upstream.called(0)
        unclaimed = executor.engine.partitions[0].waiting.unclaimed
        ((route, tenants),) = await eventually(lambda: [item for item in unclaimed.items() if item[1]])
        unclaimed[route] = {tenant: Untouched(ids) for tenant, ids in tenants.items()}
        executor.do(executor.steward.look(0))
        unclaimed[route] = tenants
