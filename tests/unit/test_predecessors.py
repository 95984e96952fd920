"""Who waits for whom, and when replay is asked."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from schemas.fold import Fold
from schemas.ids import ExecutorId, ResponseId, Tenant, response_id
from schemas.records import Accepted, Cancelled, Claimed, Deleted, EventRecord
from services.executor import predecessors
from services.executor.partition import Partition
from services.executor.predecessors import Predecessors
from tests.conftest import eventually
from tests.written import claim_of

TENANT, CLAIM = Tenant("t"), claim_of("1")
FAR = 1 << 50


def id_of(number: int, partition: int = 0) -> ResponseId:
    return response_id(partition, number.to_bytes(16))


class Rig:
    """Two partitions, of which only the first is followed, and a replay that answers when told."""

    def __init__(self) -> None:
        self.partition = Partition(0, floor=0)
        self.stirred = asyncio.Event()
        self.asked: list[ResponseId] = []
        self.closed: dict[ResponseId, asyncio.Event] = {}
        self.predecessors = Predecessors(self.settle, {0: self.partition}, self.stirred)
        self.offset = 0

    @property
    def fold(self) -> Fold:
        return self.partition.fold

    async def settle(self, _: Partition, id: ResponseId) -> None:
        self.asked.append(id)
        await self.closed.setdefault(id, asyncio.Event()).wait()

    def apply(self, entry: Accepted | Claimed | EventRecord | Cancelled | Deleted) -> None:
        self.offset += 1
        self.fold.apply(self.offset, self.offset, entry)

    def accept(self, id: ResponseId, previous: ResponseId | None = None) -> None:
        self.apply(Accepted(id, "n", TENANT, "sha", FAR, FAR, background=True, store=True, previous=previous))

    def complete(self, id: ResponseId) -> None:
        self.apply(Claimed(id, 1, CLAIM, ExecutorId("e"), TENANT))
        self.apply(EventRecord(id, CLAIM, 2, "response.completed", "completed"))

    def waits(self, id: ResponseId) -> bool:
        return self.predecessors.open(self.partition, self.fold.responses[id])


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    rig.predecessors.close()


async def test_without_a_predecessor_there_is_nothing_to_wait_for(rig: Rig) -> None:
    rig.accept(id_of(1))
    assert not rig.waits(id_of(1))


async def test_the_fold_knows_who_is_open_and_who_completed(rig: Rig) -> None:
    rig.accept(id_of(1))
    rig.accept(id_of(2), previous=id_of(1))
    assert rig.waits(id_of(2))
    rig.complete(id_of(1))
    assert not rig.waits(id_of(2))
    assert rig.asked == []


async def test_one_that_did_not_complete_may_have_left_an_open_one_behind(rig: Rig) -> None:
    rig.accept(id_of(1))
    rig.accept(id_of(2), previous=id_of(1))
    rig.accept(id_of(3), previous=id_of(2))
    rig.apply(Cancelled(id_of(2), "n", TENANT))
    assert rig.waits(id_of(3))
    rig.apply(Cancelled(id_of(1), "n", TENANT))
    assert not rig.waits(id_of(3))
    assert rig.asked == []


async def test_what_was_deleted_before_it_was_known_is_not_waited_for(rig: Rig) -> None:
    rig.apply(Deleted(id_of(1), "n", TENANT))
    rig.accept(id_of(2), previous=id_of(1))
    assert not rig.waits(id_of(2))


async def test_one_elsewhere_is_asked_for_once_and_stirs_when_it_has_closed(rig: Rig) -> None:
    elsewhere = id_of(1, partition=1)
    rig.accept(id_of(2), previous=elsewhere)
    rig.accept(id_of(3), previous=elsewhere)
    assert all(rig.waits(id) for _ in range(3) for id in (id_of(2), id_of(3)))
    await eventually(lambda: rig.asked)
    rig.closed[elsewhere].set()
    await rig.stirred.wait()
    assert rig.asked == [elsewhere]
    assert not rig.waits(id_of(2))
    assert not rig.waits(id_of(3))


async def test_what_nobody_waits_for_any_more_is_forgotten(rig: Rig) -> None:
    one, two = id_of(1, partition=1), id_of(2, partition=1)
    rig.accept(id_of(3), previous=one)
    rig.accept(id_of(4), previous=two)
    assert rig.waits(id_of(3))
    assert rig.waits(id_of(4))
    waiting = [rig.fold.responses[id_of(4)]]
    rig.predecessors.sweep(waiting)
    await eventually(lambda: two in rig.closed)
    rig.closed[two].set()
    await rig.stirred.wait()
    for _ in range(3):  # its turn may be long in coming
        rig.predecessors.sweep(waiting)
        assert repr(rig.predecessors) == "<Predecessors asking=0 settled=1>"
    rig.predecessors.sweep([])
    assert repr(rig.predecessors) == "<Predecessors asking=0 settled=0>"


async def test_however_many_wait_each_gets_its_turn(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predecessors, "ASKING", 1)
    monkeypatch.setattr(predecessors, "PATIENCE_S", 0.01)
    crowded = Predecessors(rig.settle, {}, rig.stirred)
    open_one, closed_one = id_of(1, partition=1), id_of(2, partition=1)
    rig.closed[closed_one] = asyncio.Event()
    rig.closed[closed_one].set()
    rig.accept(id_of(3), previous=open_one)
    rig.accept(id_of(4), previous=closed_one)
    crowded.open(rig.partition, rig.fold.responses[id_of(3)])
    crowded.open(rig.partition, rig.fold.responses[id_of(4)])
    await rig.stirred.wait()
    assert not crowded.open(rig.partition, rig.fold.responses[id_of(4)])
    assert crowded.open(rig.partition, rig.fold.responses[id_of(3)])
    crowded.close()
