"""What every log keeps of the port's promises."""

import asyncio
import time
from collections.abc import Collection
from contextlib import suppress
from itertools import chain
from uuid import uuid4

import pytest

from schemas.errors import LogError, LogUnavailable, RecordTooLarge, TopicMissing
from schemas.records import NewRecord
from services.eventlog.port import Ack, Batch, Checkpoint, Membership, TopicPartition, Writer
from tests.conftest import eventually
from tests.contract.conftest import PARTITIONS, World, at
from tests.steady import steady


def record(n: int, size: int = 1) -> NewRecord:
    return NewRecord(b"key-%d" % n, b"%d" % n * size, [("kind", b"test"), ("n", b"%d" % n)])


async def fill(world: World, writer: Writer, count: int, partition: int = 0) -> list[Ack]:
    appends = [writer.append(world.topic, partition, record(n)) for n in range(count)]
    return await asyncio.gather(*appends)


async def read(
    world: World, positions: dict[TopicPartition, int], count: int
) -> list[tuple[int, bytes | None]]:
    """Read on until `count` records came: (partition, key) in the order of coming."""
    found: list[tuple[int, bytes | None]] = []
    while len(found) < count:
        for batch in await world.log.fetch(positions):
            positions[batch.source] = batch.next_offset
            found += [(batch.source.partition, each.key) for each in batch.records]
    return found


# -- appending and reading ---------------------------------------------------------------------------


async def test_what_is_appended_is_read_back_as_it_was(world: World, writer: Writer) -> None:
    headers = [("kind", b"event"), ("n", b""), ("kind", b"2")]
    wanted = NewRecord(b"a-key", '{"text":"grüße\u2028"}'.encode(), headers)
    ack = await writer.append(world.topic, 1, wanted)
    [batch] = await world.log.fetch(at(world))
    [found] = batch.records
    assert batch == Batch(TopicPartition(world.topic, 1), batch.records, 1, 1)
    assert (found.key, found.value, list(found.headers)) == wanted
    assert (found.offset, found.timestamp) == ack == (0, found.timestamp)


async def test_a_tombstone_is_not_an_empty_value(world: World, writer: Writer) -> None:
    await writer.append(world.topic, 0, NewRecord(b"k", b""))
    await writer.append(world.topic, 0, NewRecord(b"k", None))
    [batch] = await world.log.fetch(at(world))
    assert [each.value for each in batch.records] == [b"", None]


async def test_offsets_and_log_time_never_go_back(world: World, writer: Writer) -> None:
    acks = await fill(world, writer, 20) + await fill(world, writer, 20)
    assert [ack.offset for ack in acks] == list(range(40))
    assert sorted(ack.timestamp for ack in acks) == [ack.timestamp for ack in acks]


async def test_posted_records_keep_their_order_in_each_partition(world: World, writer: Writer) -> None:
    for n in range(3000):
        writer.post(world.topic, n % PARTITIONS, record(n, size=30))
        if n % 700 == 0:
            await asyncio.sleep(0)
    await writer.flush()
    found = await read(world, at(world), 3000)
    for partition in range(PARTITIONS):
        keys = [key for source, key in found if source == partition]
        assert keys == [record(n).key for n in range(partition, 3000, PARTITIONS)]


async def test_flush_waits_for_what_was_queued(world: World, writer: Writer) -> None:
    await writer.flush()
    for n in range(50):
        writer.post(world.topic, n % PARTITIONS, record(n))
    await writer.flush()
    bounds = await world.log.bounds(world.topic, range(PARTITIONS))
    assert sum(bound.end for bound in bounds.values()) == 50


async def test_a_fetch_goes_on_in_the_middle(world: World, writer: Writer) -> None:
    await fill(world, writer, 10)
    [batch] = await world.log.fetch({TopicPartition(world.topic, 0): 7})
    assert [each.offset for each in batch.records] == [7, 8, 9]
    assert (batch.next_offset, batch.end) == (10, 10)


async def test_a_fetch_at_the_end_waits_its_time_and_brings_nothing(world: World, writer: Writer) -> None:
    await fill(world, writer, 1)
    await world.log.fetch(at(world, 0, range(1, 2)), max_wait=0)
    start, shown = time.monotonic(), steady()
    assert await world.log.fetch(at(world, 1, range(1)), max_wait=0.3) == []
    assert time.monotonic() - start > 0.25
    assert steady() - shown < 2


async def test_a_fetch_that_waits_wakes_for_the_first_record(world: World, writer: Writer) -> None:
    await fill(world, writer, 1, partition=1)
    waiting = asyncio.create_task(world.log.fetch(at(world, 0, range(1)), max_wait=4))
    await asyncio.sleep(0.1)
    start = steady()
    await writer.append(world.topic, 0, record(1))
    [batch] = await waiting
    assert len(batch.records) == 1
    assert steady() - start < 2


async def test_long_polls_hold_up_neither_each_other_nor_short_reads(world: World, writer: Writer) -> None:
    await fill(world, writer, 1)
    polls = [asyncio.create_task(world.log.fetch(at(world, 0, range(1, 2)), max_wait=3)) for _ in range(3)]
    await asyncio.sleep(0.1)
    start = steady()
    assert len(await world.log.fetch(at(world, 0, range(1)), max_wait=0)) == 1
    assert (await world.log.bounds(world.topic, [0]))[0].end == 1
    await writer.append(world.topic, 1, record(2))
    assert [len(batches) for batches in await asyncio.gather(*polls)] == [1, 1, 1]
    assert steady() - start < 2.5


async def test_a_cancelled_long_poll_holds_up_nothing(world: World, writer: Writer) -> None:
    await fill(world, writer, 1)
    start = steady()
    for _ in range(5):
        poll = asyncio.create_task(world.log.fetch(at(world, 0, range(1, 2)), max_wait=4))
        await asyncio.sleep(0.05)
        poll.cancel()
        assert len(await world.log.fetch(at(world, 0, range(1)))) == 1
    assert steady() - start < 3


async def test_out_of_range_is_told_and_the_other_partitions_are_read_on(
    world: World, writer: Writer
) -> None:
    await fill(world, writer, 5)
    await fill(world, writer, 1, partition=1)
    await world.retain(0, 3)
    gone, beyond, fine = (TopicPartition(world.topic, partition) for partition in range(3))
    await fill(world, writer, 1, partition=2)
    batches = {batch.source: batch for batch in await world.log.fetch({gone: 2, beyond: 99, fine: 0})}
    assert batches[gone].out_of_range
    assert batches[beyond].out_of_range
    assert (batches[gone].records, batches[gone].next_offset) == ((), 2)
    assert len(batches[fine].records) == 1
    assert not batches[fine].out_of_range


async def test_a_record_larger_than_the_bounds_arrives(world: World, writer: Writer) -> None:
    await writer.append(world.topic, 0, NewRecord(b"large", b"x" * 200_000))
    await writer.append(world.topic, 0, NewRecord(b"small", b"x"))
    found = await read_with(world, max_bytes=1000, partition_bytes=1000)
    assert found == [b"large", b"small"]


async def read_with(world: World, *, max_bytes: int, partition_bytes: int) -> list[bytes | None]:
    positions, keys = at(world, 0, range(1)), list[bytes | None]()
    while len(keys) < 2:
        for batch in await world.log.fetch(positions, max_bytes=max_bytes, partition_bytes=partition_bytes):
            positions[batch.source] = batch.next_offset
            keys += [each.key for each in batch.records]
    return keys


async def test_no_partition_starves_behind_another(world: World, writer: Writer) -> None:
    for n in range(20):
        for partition in range(PARTITIONS):
            await writer.append(world.topic, partition, record(n, size=2000))
    seen: set[int] = set()
    for _ in range(PARTITIONS):
        for batch in await world.log.fetch(at(world), max_bytes=1000, partition_bytes=1000):
            seen.add(batch.source.partition)
    assert seen == set(range(PARTITIONS))


# -- looking up --------------------------------------------------------------------------------------


async def test_partitions_are_counted_and_a_missing_topic_is_named(world: World) -> None:
    assert await world.log.partitions(world.topic) == PARTITIONS
    with pytest.raises(TopicMissing, match="no-such-topic"):
        await world.log.partitions("no-such-topic")


async def test_bounds_follow_appends_and_retention(world: World, writer: Writer) -> None:
    assert await world.log.bounds(world.topic, [0, 2]) == {0: (0, 0), 2: (0, 0)}
    await fill(world, writer, 5)
    await world.retain(0, 2)
    assert await world.log.bounds(world.topic, [0, 2]) == {0: (2, 5), 2: (0, 0)}
    assert await world.log.bounds(world.topic, []) == {}


async def test_offsets_are_found_by_log_time(world: World, writer: Writer) -> None:
    [first] = await fill(world, writer, 1)
    await asyncio.sleep(0.01)  # the clock has to move: log time is in milliseconds
    second = await writer.append(world.topic, 0, record(2))
    times = {0: second.timestamp, 1: second.timestamp}
    assert await world.log.offsets_at(world.topic, times) == {0: 1, 1: 0}
    assert await world.log.offsets_at(world.topic, {0: first.timestamp}) == {0: 0}
    assert await world.log.offsets_at(world.topic, {0: second.timestamp + 60_000}) == {0: 2}


# -- failing -----------------------------------------------------------------------------------------


class Failures:
    def __init__(self) -> None:
        self.told: list[tuple[TopicPartition, list[NewRecord], LogError]] = []

    def __call__(self, source: TopicPartition, records: Collection[NewRecord], error: LogError) -> None:
        self.told.append((source, list(records), error))


async def test_a_record_over_the_bound_is_refused_before_it_is_queued(world: World, writer: Writer) -> None:
    large = NewRecord(b"k", b"x" * (1 << 20))
    with pytest.raises(RecordTooLarge, match="1048"):
        writer.post(world.topic, 0, large)
    with pytest.raises(RecordTooLarge):
        await writer.append(world.topic, 0, large)
    with pytest.raises(RecordTooLarge):
        await writer.append(world.topic, 0, NewRecord(b"k", b"", [("type", b"x" * (1 << 20))]))
    assert (await writer.append(world.topic, 0, record(1))).offset == 0


async def test_behind_a_failure_nothing_is_appended_and_the_writer_goes_on(world: World) -> None:
    failures = Failures()
    writer = world.log.writer(on_failure=failures)
    await writer.append(world.topic, 0, record(0))
    refused = await world.refusable()
    for partition, each in (0, refused), (0, record(1)), (1, record(3)):
        writer.post(world.topic, partition, each)
    await writer.flush()
    after = await writer.append(world.topic, 0, record(4))

    [(source, records, error)] = failures.told
    assert (source, records) == (TopicPartition(world.topic, 0), [refused, record(1)])
    assert isinstance(error, LogError)
    assert after.offset == 1
    assert sorted(await read(world, at(world), 3)) == [(0, b"key-0"), (0, b"key-4"), (1, b"key-3")]
    await writer.close()


async def test_who_waits_behind_a_failure_learns_of_it(world: World, writer: Writer) -> None:
    refused = await world.refusable()
    appends = [writer.append(world.topic, 0, each) for each in (refused, record(1), record(2))]
    outcomes = await asyncio.gather(*appends, return_exceptions=True)
    assert [isinstance(outcome, LogError) for outcome in outcomes] == [True, True, True]
    assert (await writer.append(world.topic, 0, record(3))).offset == 0


async def test_an_append_to_a_partition_that_is_not_there_says_so_in_time(world: World) -> None:
    writer = world.log.writer(delivery_timeout=1)
    start = steady()
    with pytest.raises(LogUnavailable, match=f"topic {world.topic} has no partition 77"):
        await writer.append(world.topic, 77, record(1))
    with pytest.raises(LogUnavailable, match="topic nowhere has no partition 0"):
        await writer.append("nowhere", 0, record(1))
    assert steady() - start < 3

    async def goes_on() -> bool:  # a busy broker may take longer than that second
        with suppress(LogError):
            await writer.append(world.topic, 0, record(2))
            return True
        return False

    await eventually(goes_on)
    await writer.close()


async def test_a_caller_that_gives_up_waiting_changes_nothing_for_the_others(
    world: World, writer: Writer
) -> None:
    gone = asyncio.create_task(writer.append(world.topic, 0, record(0)))
    stays = asyncio.create_task(writer.append(world.topic, 0, record(1)))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).offset == 1


async def test_a_closed_writer_has_appended_everything_and_takes_no_more(world: World) -> None:
    writer = world.log.writer()
    for n in range(10):
        writer.post(world.topic, 0, record(n))
    await writer.close()
    assert (await world.log.bounds(world.topic, [0]))[0].end == 10
    with pytest.raises(LogUnavailable, match="closed"):
        writer.post(world.topic, 0, record(11))


# -- groups ------------------------------------------------------------------------------------------


def everything(*members: Membership) -> bool:
    owned = [partition for member in members for partition in member.owned]
    return sorted(owned) == list(range(PARTITIONS)) and all(member.owned for member in members)


async def test_a_group_shares_the_partitions_and_moves_few(world: World) -> None:
    group, told = uuid4().hex, list[frozenset[int]]()
    first = await world.log.join(group, world.topic, told.append)
    await eventually(lambda: everything(first))
    second = await world.log.join(group, world.topic, lambda _: None)
    await eventually(lambda: everything(first, second))
    assert len(first.owned) == 2
    assert told == [frozenset(range(PARTITIONS)), frozenset(), first.owned]
    before = first.owned
    third = await world.log.join(group, world.topic, lambda _: None)
    await eventually(lambda: everything(first, second, third))
    assert first.owned < before
    await third.close()
    await second.close()
    await eventually(lambda: everything(first))
    await first.close()
    assert first.owned == frozenset()
    assert told[-1] == frozenset()


async def test_checkpoints_are_kept_for_owned_partitions_and_read_by_anybody(world: World) -> None:
    group = uuid4().hex
    assert await world.log.committed(group, world.topic, [0, 1]) == {0: None, 1: None}
    member = await world.log.join(group, world.topic, lambda _: None)
    await eventually(lambda: everything(member))
    await member.commit({0: 5, 77: 9})
    await member.commit({})
    assert await world.log.committed(group, world.topic, [0, 1]) == {0: 5, 1: None}
    await member.commit({0: 6, 1: 2})
    await member.close()
    await member.commit({0: 99})
    assert await world.log.committed(group, world.topic, [0, 1]) == {0: 6, 1: 2}


async def test_a_checkpoint_says_how_far_its_member_had_read(world: World) -> None:
    group = uuid4().hex
    member = await world.log.join(group, world.topic, lambda _: None)
    await eventually(lambda: everything(member))
    await member.commit({0: 5}, {0: 8})
    assert await world.log.checkpoints(group, world.topic, [0, 1]) == {0: Checkpoint(5, 8), 1: None}
    await member.commit({0: 6})
    assert await world.log.checkpoints(group, world.topic, [0]) == {0: Checkpoint(6, None)}
    await member.close()


async def test_two_groups_know_nothing_of_each_other(world: World) -> None:
    members = [await world.log.join(uuid4().hex, world.topic, lambda _: None) for _ in range(2)]
    await eventually(lambda: all(everything(member) for member in members))
    for member in members:
        await member.close()


async def test_a_group_on_a_missing_topic_is_refused(world: World) -> None:
    with pytest.raises(TopicMissing):
        await world.log.join("group", "no-such-topic", lambda _: None)


async def test_a_member_knows_when_its_group_last_knew_of_it(world: World) -> None:
    loop = asyncio.get_running_loop()
    member = await world.log.join(uuid4().hex, world.topic, lambda _: None)
    began = loop.time()
    await eventually(lambda: everything(member) and member.heard_at > began)
    heard = member.heard_at
    await eventually(lambda: member.heard_at > heard)
    await member.close()
    last = member.heard_at
    assert heard < last <= loop.time()
    await asyncio.sleep(0.01)
    assert member.heard_at == last


async def test_a_group_shares_out_partitions_that_are_added(world: World, writer: Writer) -> None:
    group, more = uuid4().hex, PARTITIONS + 3
    members = [await world.log.join(group, world.topic, lambda _: None) for _ in range(2)]

    def owned() -> list[frozenset[int]]:
        return [member.owned for member in members]

    await eventually(lambda: sorted(chain(*owned())) == list(range(PARTITIONS)))
    before = owned()
    await world.grow(more)
    assert await world.log.partitions(world.topic) == more
    ack = await writer.append(world.topic, more - 1, NewRecord(b"k", b"v"))
    assert (await world.log.bounds(world.topic, [more - 1]))[more - 1].end == ack.offset + 1
    await eventually(lambda: sorted(chain(*owned())) == list(range(more)))
    assert [len(mine) for mine in owned()] == [more / 2] * 2
    assert all(was <= now for was, now in zip(before, owned(), strict=True)), "nothing moves without need"
    await members[1].commit(dict.fromkeys(members[1].owned, 1))
    for member in members:
        await member.close()


# -- topics ------------------------------------------------------------------------------------------


async def test_a_topic_that_is_made_anew_has_another_id(world: World) -> None:
    id = await world.log.topic_id(world.topic)
    assert id
    assert id == await world.log.topic_id(world.topic)
    await world.make_anew()

    async def another() -> bool:
        return await world.log.topic_id(world.topic) != id

    await eventually(another)


async def test_a_missing_topic_has_no_id_and_is_not_made(world: World) -> None:
    for _ in range(2):
        with pytest.raises(TopicMissing):
            await world.log.topic_id("no-such-topic")
