"""The follower and the reader of an append-only topic, which keeps what it knows and reports what it lost."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from math import inf

import pytest

from schemas.records import NewRecord
from services.eventlog.follower import Follower, Member
from services.eventlog.memory import MemoryLog, MemoryMembership
from services.eventlog.port import Batch, Checkpoint
from services.eventlog.start import StartingPoint, floor
from tests.conftest import eventually
from tests.following import joining
from tests.points import when

TOPIC, GROUP = "ends", "counting"


class Counting:
    """Counts the records of each partition, and goes on at its checkpoint whoever counted before."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self.read_to: dict[int, int] = {}
        self.values: list[bytes] = []
        self.lost: list[tuple[int, int]] = []
        """The stretches that it never saw."""
        self.told: list[object] = []
        self.batches: list[Batch] = []
        self.free = asyncio.Event()
        """Unset: it is busy with the batch that it has."""
        self.free.set()
        self.asked = asyncio.Event()
        """It was asked for places."""
        self.answers = asyncio.Event()
        """Unset: it has looked places up, and does not answer yet."""
        self.answers.set()

    def assigned(self, owned: frozenset[int]) -> None:
        self.told.append(owned)

    async def places(self, partitions: Collection[int]) -> Mapping[int, StartingPoint]:
        committed = await self.log.committed(GROUP, TOPIC, partitions)
        bounds = await self.log.bounds(TOPIC, partitions)
        places = {number: floor(committed[number], bounds[number]) for number in partitions}
        self.asked.set()
        await self.answers.wait()
        return {number: StartingPoint(at, at) for number, at in places.items()}

    def begin(self, partition: int, place: StartingPoint, end: int) -> None:
        stood = self.read_to.setdefault(partition, place.offset)
        if place.offset > stood:
            self.lost.append((stood, place.offset))
        self.told.append(("begun", partition, end))

    def own(self, partition: int, place: StartingPoint, end: int) -> None:
        self.told.append(("owned", partition, place.floor, end))

    async def read(self, batch: Batch) -> None:
        self.batches.append(batch)
        await self.free.wait()
        number = batch.source.partition
        new = [record for record in batch.records if record.offset >= self.read_to[number]]
        self.values += [record.value or b"" for record in new]
        self.read_to[number] = max(self.read_to[number], batch.next_offset)

    def out_of_range(self, partition: int) -> None:
        self.told.append(("out of range", partition))

    def told_since(self, before: int, what: str) -> list[tuple[object, ...]]:
        """What it was told of that kind since it had been told `before` things."""
        return [told for told in self.told[before:] if isinstance(told, tuple) and told[0] == what]

    def checkpoints(self) -> dict[int, Checkpoint]:
        return {number: Checkpoint(at, at) for number, at in self.read_to.items()}


class Following:
    """A consumer that follows, and what the group knows of it."""

    def __init__(self, follower: Follower[StartingPoint], consumer: Counting, member: Member) -> None:
        self.follower = follower
        self.consumer = consumer
        self.member = member


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog({TOPIC: 2})


@pytest.fixture
def memberships(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> list[MemoryMembership]:
    return joining(log, monkeypatch)


@asynccontextmanager
async def following(log: MemoryLog, consumer: Counting | None = None) -> AsyncIterator[Following]:
    consumer = consumer or Counting(log)
    follower = Follower(log, GROUP, TOPIC, consumer)
    member = await follower.join()
    loops = [asyncio.create_task(loop()) for loop in (follower.begin, follower.read)]
    try:
        yield Following(follower, consumer, member)
    finally:
        await member.leave()
        for loop in loops:
            loop.cancel()


async def put(log: MemoryLog, *values: bytes, partition: int = 0) -> None:
    writer = log.writer()
    for value in values:
        await writer.append(TOPIC, partition, NewRecord(b"k", value))


async def other(log: MemoryLog, count: int) -> tuple[int, MemoryMembership]:
    """Another member, which works a partition off up to offset `count`; its partition."""
    member = await log.join(GROUP, TOPIC, lambda _: None)
    (mine,) = member.owned
    await put(log, *[b"x"] * (count - log.stored[TOPIC][mine].end), partition=mine)
    await member.commit({mine: count}, {mine: count})
    return mine, member


async def committed(log: MemoryLog) -> Checkpoint | None:
    return (await log.checkpoints(GROUP, TOPIC, [0]))[0]


async def test_what_is_owned_begins_and_its_batches_come(log: MemoryLog) -> None:
    await put(log, b"a", b"b")
    async with following(log) as one:
        await eventually(lambda: one.consumer.values == [b"a", b"b"])
        begun = [("begun", 0, 2), ("owned", 0, 0, 2), ("begun", 1, 0), ("owned", 1, 0, 0)]
        assert one.consumer.told == [{0, 1}, *begun]
        assert one.follower.owned == {0, 1}


async def test_a_checkpoint_is_where_the_next_one_begins_and_is_committed_only_when_it_moves(
    log: MemoryLog,
) -> None:
    await put(log, b"a")
    made: list[Mapping[int, Checkpoint]] = []
    with when("checkpoints committed", made.append):
        async with following(log) as one:
            await eventually(lambda: one.consumer.values == [b"a"])
            for _ in range(2):
                await one.member.commit(one.consumer.checkpoints())
    assert made == [{0: Checkpoint(1, 1)}]
    assert await committed(log) == Checkpoint(1, 1)
    await put(log, b"b")
    async with following(log) as two:
        await eventually(lambda: two.consumer.values == [b"b"])


async def test_without_the_coordinator_a_checkpoint_is_committed_later(log: MemoryLog) -> None:
    await put(log, b"a")
    async with following(log) as one:
        await eventually(lambda: one.consumer.values == [b"a"])
        log.available = False
        await one.member.commit(one.consumer.checkpoints())
        log.available = True
        await one.member.commit(one.consumer.checkpoints())
        assert await committed(log) == Checkpoint(1, 1)


async def test_with_the_log_away_it_begins_later(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.eventlog.follower.RETRY_SECONDS", 0.01)
    await put(log, b"a")
    tried = asyncio.Event()
    with when("following", lambda *_: tried.set()):
        async with following(log) as one:
            log.available = False
            await tried.wait()
            tried.clear()
            await tried.wait()
            assert one.consumer.told == [{0, 1}]
            log.available = True
            await eventually(lambda: one.consumer.values == [b"a"])


async def test_what_is_lost_is_read_on_until_it_is_dropped_and_nothing_of_it_is_committed(
    log: MemoryLog, memberships: list[MemoryMembership]
) -> None:
    async with following(log) as one:
        await eventually(lambda: len(one.consumer.told) == 5)
        memberships[0].expel()
        assert one.consumer.told[-1] == frozenset()
        await put(log, b"a")
        await eventually(lambda: one.consumer.values == [b"a"])
        await one.member.commit(one.consumer.checkpoints())
        assert await committed(log) is None
        one.follower.drop(0)
        await put(log, b"b")
        await put(log, b"c", partition=1)
        await eventually(lambda: one.consumer.values == [b"a", b"c"])


async def test_what_comes_back_is_read_on_where_it_stands(
    log: MemoryLog, memberships: list[MemoryMembership]
) -> None:
    """Never rewound (P-60): only its checkpoint and its end are news."""
    await put(log, b"a")
    async with following(log) as one:
        await eventually(lambda: one.consumer.values == [b"a"])
        async with following(log):
            await eventually(lambda: len(one.follower.owned) == 1)
        await eventually(lambda: one.consumer.told[-1] in [("owned", 0, 0, 1), ("owned", 1, 0, 0)])
        await put(log, b"b")
        await eventually(lambda: one.consumer.values == [b"a", b"b"])
        assert [told for told in one.consumer.told if told == ("begun", 0, 1)] == [("begun", 0, 1)]


@pytest.mark.parametrize("followed", [False, True])
async def test_p56_what_is_lost_and_won_again_while_its_place_is_looked_up_is_looked_up_anew(
    log: MemoryLog, memberships: list[MemoryMembership], followed: bool
) -> None:
    """Place and end are those of the last assignment: others may have worked it off in between."""
    consumer = Counting(log)
    if not followed:
        consumer.answers.clear()
    async with following(log, consumer):
        await consumer.asked.wait()
        if followed:
            await eventually(lambda: ("owned", 1, 0, 0) in consumer.told)
            consumer.answers.clear()
            consumer.asked.clear()
            memberships[0].become(frozenset())
            memberships[0].become(frozenset({0, 1}))
            await consumer.asked.wait()
        before = len(consumer.told)
        number, member = await other(log, 3)
        await member.close()
        consumer.answers.set()
        await eventually(lambda: {told[1] for told in consumer.told_since(before, "owned")} == {0, 1})
        owned = [told[1:] for told in consumer.told_since(before, "owned")]
        assert [told for told in owned if told[0] == number] == [(number, 3, 3)]


async def test_a_commit_under_way_while_a_partition_is_lost_and_won_again_moves_nothing_back(
    log: MemoryLog, memberships: list[MemoryMembership], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, answered = asyncio.Event(), asyncio.Event()
    async with following(log) as one:
        await eventually(lambda: ("owned", 1, 0, 0) in one.consumer.told)
        with monkeypatch.context() as slow:

            async def commit(*_: object) -> None:
                sent.set()
                await answered.wait()

            slow.setattr(memberships[0], "commit", commit)
            checkpoints = {0: Checkpoint(1, 1), 1: Checkpoint(1, 1)}
            committing = asyncio.create_task(one.member.commit(checkpoints))
            await sent.wait()
            number, member = await other(log, 3)
            await member.close()
            await eventually(lambda: ("owned", number, 3, 3) in one.consumer.told)
            answered.set()
            await committing
        await one.member.commit({number: Checkpoint(2, 2)})
        assert (await log.checkpoints(GROUP, TOPIC, [number]))[number] == Checkpoint(3, 3)


@pytest.mark.parametrize("looking_up", [False, True])
async def test_what_is_not_kept_does_not_begin_anew(log: MemoryLog, looking_up: bool) -> None:
    consumer = Counting(log)
    async with following(log, consumer) as one:
        await eventually(lambda: ("owned", 1, 0, 0) in consumer.told)
        consumer.answers.clear()
        consumer.asked.clear()
        one.follower.again(0)
        if looking_up:
            await consumer.asked.wait()
        number, _ = await other(log, 0)
        one.follower.again(number)
        one.follower.keep(one.follower.owned)
        before = len(consumer.told)
        consumer.answers.set()
        await eventually(lambda: consumer.told[before:])
        await put(log, b"a", partition=1 - number)
        await eventually(lambda: consumer.values == [b"a"])
        assert [told[1] for told in consumer.told_since(before, "begun")] in ([], [1 - number])


@pytest.mark.parametrize("owned", [True, False])
async def test_out_of_range_it_begins_anew_owned_or_not_and_the_consumer_knows_what_it_lost(
    log: MemoryLog, memberships: list[MemoryMembership], owned: bool
) -> None:
    consumer = Counting(log)
    consumer.free.clear()
    await put(log, b"a")
    async with following(log, consumer):
        await eventually(lambda: consumer.batches)
        if not owned:
            memberships[0].expel()
        await put(log, b"b", b"c")
        log.retain(TOPIC, 0, 2)
        consumer.free.set()
        await eventually(lambda: consumer.values == [b"a", b"c"])
        assert consumer.lost == [(1, 2)]
        again = [("out of range", 0), ("begun", 0, 3), *([("owned", 0, 2, 3)] if owned else [])]
        assert consumer.told[-len(again) :] == again


async def test_a_batch_that_was_fetched_before_its_partition_began_anew_is_thrown_away(
    log: MemoryLog,
) -> None:
    """Its records come again: a fold would get them twice."""
    consumer = Counting(log)
    consumer.free.clear()
    await put(log, b"a")
    await put(log, b"x", partition=1)
    async with following(log, consumer) as one:
        await eventually(lambda: consumer.batches)
        other = 1 - consumer.batches[0].source.partition
        one.follower.again(other)
        consumer.free.set()
        await eventually(lambda: sorted(consumer.values) == [b"a", b"x"])
        assert [batch.source.partition for batch in consumer.batches] == [1 - other, other]


async def test_it_says_when_a_partition_was_last_known_to_be_owned(
    log: MemoryLog, memberships: list[MemoryMembership]
) -> None:
    loop = asyncio.get_running_loop()
    assert Follower(log, GROUP, TOPIC, Counting(log)).owned_at(0) == -inf
    async with following(log) as one:
        began = loop.time()
        assert one.follower.owned_at(0) >= began
        memberships[0].expel()
        lost = one.follower.owned_at(0)
        assert began <= lost <= loop.time()
        await asyncio.sleep(0)
        assert one.follower.owned_at(0) == lost
        assert one.follower.owned_at(7) == -inf
