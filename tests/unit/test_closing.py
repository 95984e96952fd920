"""A listener hears of every end: what was accepted and has closed, once for each fold, in order."""

import asyncio
from functools import partial
from typing import Any

import pytest

from schemas.ids import ExecutorId, partition_of
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.projector import metrics, projector
from services.projector.closing import Closing
from services.projector.projection import Projection
from services.projector.writes import Erase
from services.settings import Settings
from tests.conftest import PATIENCE, eventually
from tests.counted import value_of
from tests.projecting import VIEWS, Views, projecting
from tests.responses import TENANT, Author
from tests.written import claim_of

NAMES = topics()
SETTINGS = Settings(grace_s=2)


class Clock:
    """Log time in steps of a second."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += 1_000
        return self.now


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(dict.fromkeys((NAMES.events, *VIEWS, NAMES.closings), 2), clock=Clock())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "TICK", 0.01)


class Hearer:
    """Notes what it hears, and acknowledges it when it may."""

    def __init__(self, hangs_in: int = 0, raises: bool = False) -> None:
        self.heard: list[Closing] = []
        self.acknowledges = asyncio.Event()
        self.hangs_in = hangs_in
        self.raises = raises

    async def closed(self, partition: int, closing: Closing) -> None:
        self.heard.append(closing)
        if self.raises:
            raise ValueError("a bug of a listener")
        if partition == self.hangs_in:
            await self.acknowledges.wait()


def author(log: MemoryLog, number: int) -> Author:
    return Author(log.writer(), number)


def closings(log: MemoryLog) -> list[Closing]:
    records = log.records(NAMES.events, 0)
    ends = Projection(0, 0, 0).apply(records, records[-1].offset + 1)
    return [end for end in ends if isinstance(end, Closing)]


async def test_a_closing_says_what_the_fold_knows(log: MemoryLog) -> None:
    one = await (await author(log, 1).accept()).take()  # 1 and 2 s
    await one.event("response.in_progress", {})  # 3 s
    await one.event("response.output_item.added", {"output_index": 0, "item": {}})
    await one.zombie(claim_of("zombie"), [4, 5])  # 5 and 6 s: they do not count
    await one.say("a")
    await one.take()
    await one.say("b")  # 9 s
    await one.complete()
    (closing,) = closings(log)
    assert (closing.id, closing.tenant, closing.status) == (one.id, TENANT, "completed")
    assert (closing.background, closing.store) == (True, True)
    assert (closing.model, closing.route, closing.to_agent) == ("echo", "e*", False)
    assert (closing.accepted_offset, closing.closed_offset) == (0, one.ack.offset)
    assert (closing.accepted_at, closing.claimed_at, closing.closed_at) == (1_000, 2_000, 10_000)
    assert (closing.first_output_at, closing.last_output_at) == (4_000, 9_000)
    assert (closing.events, closing.deltas, closing.attempts) == (len(one.frames), 2, 2)
    assert closing.executors == (ExecutorId("exec_1"),)
    assert closing.terminal == log.records(NAMES.events, 0)[-1].value


async def test_what_never_ran_has_no_times_of_a_run(log: MemoryLog) -> None:
    one = await (await author(log, 1).accept()).cancel()
    (closing,) = closings(log)
    assert (closing.status, closing.attempts, closing.executors) == ("cancelled", 0, ())
    assert (closing.claimed_at, closing.first_output_at, closing.last_output_at) == (None, None, None)
    assert closing.events == len(one.frames)
    assert b"".join(one.frames).endswith(b"data: %b\n\n" % closing.terminal)


@pytest.mark.parametrize("body", [{}, {"store": False}, {"store": False, "background": False}])
@pytest.mark.parametrize("keyed", [False, True])
async def test_whatever_is_stored_makes_a_closing_when_it_closes_or_is_deleted_while_open(
    log: MemoryLog, body: dict[str, Any], keyed: bool
) -> None:
    closed = await (await author(log, 1).accept(keyed=keyed, **body)).take()
    await closed.complete()
    deleted = await (await author(log, 2).accept(keyed=keyed, **body)).take()
    await deleted.delete()
    told = [(closing.id, closing.status, closing.closed_offset, closing.store) for closing in closings(log)]
    stored = body.get("store", True)
    assert told == [
        (closed.id, "completed", closed.ack.offset, stored),
        (deleted.id, "deleted", deleted.ack.offset, stored),
    ]


async def test_nothing_else_makes_one(log: MemoryLog) -> None:
    """Not the delete of a closed response, nor that of one never accepted, nor a second `accepted`."""
    one = await (await (await author(log, 1).accept()).take()).complete()
    await one.delete()
    await author(log, 2).delete()
    await author(log, 1).accept()
    assert [closing.id for closing in closings(log)] == [one.id]


async def test_frames_that_were_let_go_cost_a_closing_nothing(log: MemoryLog) -> None:
    one = await (await (await author(log, 1).accept()).take()).say("a")
    projection = Projection(0, 0, 0)
    projection.apply(log.records(NAMES.events, 0), 3)
    projection.shed(1 << 30)
    await one.complete()
    (closing,) = projection.apply(log.records(NAMES.events, 0)[3:], 4)
    assert isinstance(closing, Closing)
    assert (closing.deltas, closing.events) == (1, len(one.frames))


async def test_listeners_hear_in_the_order_of_the_log_beside_the_views_and_the_watermark_waits(
    log: MemoryLog,
) -> None:
    view, hearer = Views(log, NAMES, SETTINGS), Hearer()
    authors = [await (await author(log, n).accept(store=n % 2 == 0)).take() for n in range(8)]
    for one in reversed(authors):
        await one.complete()
    async with projecting(log, NAMES, SETTINGS, listeners=[hearer]):
        await eventually(lambda: len(hearer.heard) == 8)
        assert [closing.id for closing in hearer.heard] == [one.id for one in reversed(authors)]
        await eventually(lambda: view.object(authors[0].id))
        assert await view.watermark(0) in (None, 0)
        hearer.acknowledges.set()
        await eventually(lambda: view.watermark(0))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little may wait: one or two ends of each of two partitions."""
    monkeypatch.setattr(projector, "WAITING_BYTES", 3 * projector.END_BYTES)


async def ended(log: MemoryLog, number: int, partition: int, how: str) -> Author:
    body: dict[str, Any] = {"store": False, "background": False} if how == "unstored" else {}
    one = await (await Author(log.writer(), number, partition).accept(**body)).take()
    return await (one.delete() if how == "deleted" else one.complete())


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("how", ["completed", "unstored", "deleted"])
async def test_a_listener_that_hangs_holds_up_its_partition_and_no_other(log: MemoryLog, how: str) -> None:
    """Every end counts, also one that holds no bytes: so the tasks of a partition are bounded."""
    view, hearer = Views(log, NAMES, SETTINGS), Hearer(hangs_in=0)
    async with projecting(log, NAMES, SETTINGS, listeners=[hearer]) as running:
        await eventually(lambda: len(running.partitions) == 2)
        await eventually(lambda: value_of(metrics.RESTING) == 0)
        held = [await ended(log, 0, 0, how)]
        await eventually(lambda: hearer.heard)
        held.append(await ended(log, 2, 0, how))
        await eventually(lambda: value_of(metrics.RESTING) == 1)
        held += [await ended(log, number, 0, how) for number in range(4, 14, 2)]
        others = [await ended(log, number, 1, how) for number in range(1, 21, 2)]
        await view.committed(1, others[-1].ack.offset + 1)
        assert len(hearer.heard) in (1 + len(others), 2 + len(others))
        assert await view.watermark(0) in (None, 0)
        hearer.acknowledges.set()
        await view.committed(0, held[-1].ack.offset + 1)
        await eventually(lambda: value_of(metrics.RESTING) == 0)
    assert [closing.id for closing in hearer.heard if partition_of(closing.id) == 0] == [
        one.id for one in held
    ]


async def test_a_listener_that_raises_is_called_again_and_nothing_else_waits_for_it(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projector, "LONGEST_PAUSE", 0.01)
    view, hearer = Views(log, NAMES, SETTINGS), Hearer(raises=True)
    before = value_of(metrics.LISTENER_FAILURES.labels("Hearer"))
    async with projecting(log, NAMES, SETTINGS, listeners=[hearer]):
        for number in (1, 2):
            one = await ended(log, number, 0, "completed")
            await eventually(partial(view.object, one.id))
        await eventually(lambda: len(hearer.heard) > 5)
        assert await view.watermark(0) in (None, 0)
        hearer.raises = False
        hearer.acknowledges.set()
        await view.committed(0, one.ack.offset + 1)
    assert len({closing.id for closing in hearer.heard}) == 2
    assert value_of(metrics.LISTENER_FAILURES.labels("Hearer")) - before == len(hearer.heard) - 2


async def test_whoever_follows_on_hears_again_of_what_was_not_acknowledged(log: MemoryLog) -> None:
    first, second = Hearer(), Hearer()
    one = await (await (await author(log, 1).accept()).take()).complete()
    async with projecting(log, NAMES, Settings(grace_s=0.1), listeners=[first]):
        await eventually(lambda: first.heard)
    second.acknowledges.set()
    async with projecting(log, NAMES, SETTINGS, listeners=[second]):
        await eventually(lambda: second.heard)
        await Views(log, NAMES, SETTINGS).committed(0, one.ack.offset + 1)
    assert first.heard == second.heard


async def test_it_stops_in_time_though_a_listener_acknowledges_nothing_and_a_delete_waits_for_that(
    log: MemoryLog,
) -> None:
    hearer = Hearer()
    one = await (await (await author(log, 1).accept()).take()).complete()
    await one.delete()
    async with asyncio.timeout(PATIENCE):
        async with projecting(log, NAMES, Settings(grace_s=0.1), listeners=[hearer]):
            await eventually(lambda: hearer.heard)
    assert not await Views(log, NAMES, SETTINGS).gone(one.id)


async def test_a_closing_of_one_deleted_while_open_erases_it(log: MemoryLog) -> None:
    one = await (await author(log, 1).accept()).take()
    await one.delete()
    (closing,) = closings(log)
    assert closing.work == Erase(one.id, one.accepted.offset, TENANT, 0, one.accepted.offset)
