"""The projector in trouble, on a log in memory that fails, rebalances, compacts and forgets when told."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from prometheus_client import REGISTRY

from schemas.events import response_in
from schemas.ids import partition_of
from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog, MemoryWriter
from services.eventlog.metrics import READS_FAILING
from services.eventlog.port import Ack, Batch, TopicPartition
from services.eventlog.topics import Topics, topics
from services.projector import metrics, projector, views
from services.projector.projector import Projector
from services.settings import Settings
from tests.conftest import eventually
from tests.counted import value_of
from tests.following import joining, lose_position
from tests.projecting import VIEWS, Views, projecting
from tests.responses import Author
from tests.written import claim_of

NAMES: Topics = topics()
SETTINGS = Settings(grace_s=2)
Write = Callable[[int], Author]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "TICK", 0.01)
    monkeypatch.setattr(views, "FIRST_PAUSE", 0.01)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(dict.fromkeys((NAMES.events, *VIEWS, NAMES.closings), 2))


@pytest.fixture
def view(log: MemoryLog) -> Views:
    return Views(log, NAMES, SETTINGS)


@pytest.fixture
def write(log: MemoryLog) -> Write:
    writer = log.writer()
    return lambda number: Author(writer, number, number % 2)


async def completed(author: Author, *texts: str) -> Author:
    await (await author.accept()).take()
    return await (await author.say(*texts)).complete()


def _poisoned() -> float:
    return REGISTRY.get_sample_value("rejoinder_projector_poison_total", {"topic": NAMES.events}) or 0


def _repeated() -> float:
    return REGISTRY.get_sample_value("rejoinder_projector_retries_total") or 0


def _slow_down(log: MemoryLog, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read of `topic` is read last."""
    fetch = log.fetch

    async def late(positions: Mapping[TopicPartition, int], **limits: Any) -> list[Batch]:
        if any(source.topic == topic for source in positions):
            await asyncio.sleep(0.05)
        return await fetch(positions, **limits)

    monkeypatch.setattr(log, "fetch", late)


def _let_go(running: Projector, author: Author) -> bool:
    projection = running.partitions[0].projection
    return projection.position > author.ack.offset and projection.held_bytes == 0


async def test_failed_appends_are_repeated_and_the_watermark_waits(
    log: MemoryLog, view: Views, write: Write
) -> None:
    before = _repeated()
    async with projecting(log, NAMES, SETTINGS) as running:
        await eventually(lambda: not running.behind())
        author = await completed(write(2), "one")
        for outcome in ("lost", "unknown-lost", "unknown-appended"):
            log.fail_next(outcome)
        await view.committed(0, author.ack.offset + 1)
        assert await view.frames(author.id) == author.after(-1)
        assert await view.object(author.id) is not None
    assert _repeated() - before >= 3


async def test_with_the_log_away_nothing_is_lost(log: MemoryLog, view: Views, write: Write) -> None:
    async with projecting(log, NAMES, SETTINGS) as running:
        await eventually(lambda: not running.behind())
        first = await completed(write(0), "one")
        await view.committed(0, first.ack.offset + 1)
        second = await completed(write(2), "two")
        log.available = False
        await eventually(lambda: value_of(READS_FAILING.labels(NAMES.events)))
        assert running.not_ready() == []
        log.available = True
        await view.committed(0, second.ack.offset + 1)
    assert await view.frames(second.id) == second.after(-1)


async def test_a_successor_goes_on_where_the_watermark_stands(
    log: MemoryLog, view: Views, write: Write
) -> None:
    await completed(write(4), "zero")
    half = await (await (await write(0).accept()).take()).say("one")
    whole = await completed(write(2), "two")
    async with projecting(log, NAMES, SETTINGS):
        await view.committed(0, half.accepted.offset)
        await eventually(lambda: view.frames(whole.id))
    await half.complete()
    async with projecting(log, NAMES, SETTINGS):
        await view.committed(0, half.ack.offset + 1)
    assert await view.frames(half.id) == half.after(-1)
    assert await view.object(half.id) == response_in(log.records(NAMES.events, 0)[-1].value or b"")


async def test_two_projectors_share_the_partitions_and_one_takes_over_both(
    log: MemoryLog, view: Views, write: Write
) -> None:
    async with projecting(log, NAMES, SETTINGS) as survivor:
        async with projecting(log, NAMES, SETTINGS) as other:
            await eventually(lambda: not survivor.behind() and not other.behind())
            assert [len(each.partitions) for each in (survivor, other)] == [1, 1]
            authors = [await completed(write(number), "x") for number in range(4)]
            open_ones = [await (await write(number).accept()).take() for number in (10, 11)]
            for author in authors:
                await eventually(lambda author=author: view.frames(author.id))  # type: ignore[misc]
        for author in open_ones:
            await (await author.say("y")).complete()
            await view.committed(partition_of(author.id), author.ack.offset + 1)
            assert await view.frames(author.id) == author.after(-1)


async def test_a_zombie_writes_only_the_same_again(
    log: MemoryLog, view: Views, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined = joining(log, monkeypatch)
    async with projecting(log, NAMES, SETTINGS) as zombie:
        await eventually(lambda: not zombie.behind())
        joined[0].expel()
        async with projecting(log, NAMES, SETTINGS) as owner:
            await eventually(lambda: not owner.behind())
            author = await completed(write(0), "one")
            await eventually(lambda: len(log.records(NAMES.responses, 0)) == 2)
            assert await view.frames(author.id) == author.after(-1)
    for topic in (NAMES.transcripts, NAMES.responses):
        contents: dict[bytes | None, set[bytes | None]] = {}
        for record in log.records(topic, 0):
            contents.setdefault(record.key, set()).add(record.value)
        assert all(len(values) == 1 for values in contents.values())


async def test_a_deleted_response_is_hidden_and_erased(log: MemoryLog, view: Views, write: Write) -> None:
    async with projecting(log, NAMES, SETTINGS):
        author = await completed(write(0), "x" * 300_000, "y")
        await eventually(lambda: view.object(author.id))
        await author.delete()
        await eventually(lambda: view.gone(author.id))
        await view.committed(0, author.ack.offset + 1)


async def test_a_delete_waits_for_what_is_being_written(
    log: MemoryLog, view: Views, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tombstone comes after the record whose write was under way, so it erases that too."""
    go, append = asyncio.Event(), views.Views.append

    async def late(self: views.Views, topic: str, partition: int, record: NewRecord) -> None:
        if topic == NAMES.responses and record.key == author.id.encode() and record.value is not None:
            await go.wait()
        await append(self, topic, partition, record)

    monkeypatch.setattr(views.Views, "append", late)
    author = await completed(write(0), "one")
    await author.delete()
    other = await completed(write(2), "two")
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: view.object(other.id))
        go.set()
        await eventually(lambda: view.gone(author.id))
    mine = [record for record in log.records(NAMES.responses, 0) if record.key == author.id.encode()]
    assert [record.value is None for record in mine][:2] == [False, True]


async def test_what_closed_in_another_life_is_found_and_erased(
    log: MemoryLog, view: Views, write: Write
) -> None:
    authors = [await completed(write(number * 2), "x" * 200_000, "y" * 200_000) for number in range(3)]
    async with projecting(log, NAMES, SETTINGS):
        await view.committed(0, authors[-1].ack.offset + 1)
    for author in authors[:2]:
        await author.delete()
    async with projecting(log, NAMES, SETTINGS):
        for author in authors[:2]:
            await eventually(lambda author=author: view.gone(author.id))  # type: ignore[misc]
        await view.committed(0, authors[1].ack.offset + 1)
    assert await view.frames(authors[2].id) == authors[2].after(-1)


async def test_a_delete_of_an_id_never_seen_hides_it(log: MemoryLog, view: Views, write: Write) -> None:
    async with projecting(log, NAMES, SETTINGS):
        author = await write(0).delete()
        await eventually(lambda: view.gone(author.id))


async def test_what_a_late_writer_brings_back_is_erased_again(
    log: MemoryLog, view: Views, write: Write
) -> None:
    async with projecting(log, NAMES, SETTINGS):
        author = await completed(write(0), "one")
        brought_back = await eventually(lambda: view.object(author.id))
        await author.delete()
        await eventually(lambda: view.gone(author.id))
        await author.pack()
        assert brought_back is not None
        await author.writer.append(NAMES.responses, 0, NewRecord(author.id.encode(), brought_back))
        await eventually(lambda: view.gone(author.id))


@pytest.mark.parametrize("slow", [NAMES.transcripts, NAMES.responses])
async def test_a_successor_erases_what_came_back_while_nobody_looked(
    log: MemoryLog, view: Views, write: Write, slow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = await completed(write(0), "one")
    async with projecting(log, NAMES, SETTINGS):
        brought_back = await eventually(lambda: view.object(author.id))
        await author.delete()
        await eventually(lambda: view.gone(author.id))
    await author.pack()
    await author.writer.append(NAMES.responses, 0, NewRecord(author.id.encode(), brought_back))
    assert not await view.gone(author.id)
    _slow_down(log, slow, monkeypatch)
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: view.gone(author.id))


async def test_a_response_that_is_not_stored_leaves_no_trace(
    log: MemoryLog, view: Views, write: Write
) -> None:
    async with projecting(log, NAMES, SETTINGS):
        author = await (await write(0).accept(store=False, background=False)).take()
        await (await author.say("secret")).complete()
        await view.committed(0, author.ack.offset + 1)
    assert log.records(NAMES.transcripts, 0) == log.records(NAMES.responses, 0) == []


async def test_over_the_memory_bound_frames_are_read_again_at_the_close(
    log: MemoryLog, view: Views, write: Write
) -> None:
    async with projecting(log, NAMES, SETTINGS, memory_bytes=1000) as running:
        author = await (await write(0).accept()).take()
        await author.say("one", "two")
        await author.zombie(claim_of("zombie"), [4, 5])
        await eventually(lambda: _let_go(running, author))
        await (await author.say("three")).complete()
        await view.committed(0, author.ack.offset + 1)
    assert await view.frames(author.id) == author.after(-1)


@pytest.mark.parametrize("topic", [NAMES.events, NAMES.transcripts, NAMES.responses])
async def test_an_offset_out_of_range_drops_the_fold_and_starts_again(
    log: MemoryLog, view: Views, write: Write, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with projecting(log, NAMES, SETTINGS) as running:
        await eventually(lambda: not running.behind())
        before = running.partitions[0]
        lost = lose_position(log, TopicPartition(topic, 0), monkeypatch)
        await eventually(lambda: lost and running.partitions.get(0) not in (None, before))
        author = await completed(write(0), "one")
        await view.committed(0, author.ack.offset + 1)
    assert await view.frames(author.id) == author.after(-1)


async def test_a_partition_that_is_lost_before_it_begins_anew_is_left_to_its_owner(
    log: MemoryLog, view: Views, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two projectors would fold it, and tell each closing twice."""
    looking_up, may = asyncio.Event(), asyncio.Event()
    offsets_at = log.offsets_at

    async def late(topic: str, times: Mapping[int, int]) -> dict[int, int]:
        looking_up.set()
        await may.wait()
        return await offsets_at(topic, times)

    async with projecting(log, NAMES, SETTINGS) as one:
        await eventually(lambda: not one.behind())
        with monkeypatch.context() as patch:
            patch.setattr(log, "offsets_at", late)
            lost = [lose_position(log, TopicPartition(NAMES.transcripts, n), patch) for n in (0, 1)]
            await eventually(lambda: all(lost) and not one.partitions)
            await looking_up.wait()
        async with projecting(log, NAMES, SETTINGS) as two:
            await eventually(lambda: not two.behind())
            may.set()
            await eventually(lambda: not one.behind())
            authors = [await completed(write(number), "one") for number in (0, 1)]
            for number, author in enumerate(authors):
                await view.committed(number, author.ack.offset + 1)
            assert not one.partitions.keys() & two.partitions.keys()


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("topic", [NAMES.transcripts, NAMES.responses])
async def test_whatever_raises_is_begun_again_and_ends_nothing(
    log: MemoryLog, view: Views, write: Write, topic: str, deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work of a closing, that of a delete behind it, and whatever a writer may raise."""
    original, bugs = MemoryWriter.append, [ValueError("a bug"), KeyError("another")]

    async def append(self: MemoryWriter, to: str, *of: Any, **terms: Any) -> Ack:
        if to == topic and bugs:
            raise bugs.pop()
        return await original(self, to, *of, **terms)

    monkeypatch.setattr(projector, "FIRST_PAUSE", 0.01)
    before = value_of(metrics.LISTENER_FAILURES.labels("Views"))
    async with projecting(log, NAMES, SETTINGS):
        author = await completed(write(0), "one")
        await view.committed(0, author.ack.offset + 1)
        with monkeypatch.context() as patch:
            patch.setattr(MemoryWriter, "append", append)
            await (author.delete() if deleted else completed(write(2), "two"))
            await eventually(lambda: not bugs)
        last = await completed(write(4), "three")
        await view.committed(0, last.ack.offset + 1)
    assert await view.frames(last.id) == last.after(-1)
    assert await view.gone(author.id) == deleted
    assert value_of(metrics.LISTENER_FAILURES.labels("Views")) > before


async def test_poison_is_counted_and_the_partition_goes_on(log: MemoryLog, view: Views, write: Write) -> None:
    before = _poisoned()
    async with projecting(log, NAMES, SETTINGS):
        broken = await (await write(0).accept()).take()
        await broken.put(broken.broken(b"whatever", b"{}"))
        await broken.put(broken.headers().event(2, "response.completed", b"{broken", "completed"))
        author = await completed(write(2), "one")
        await view.committed(0, author.ack.offset + 1)
    assert await view.frames(author.id) == author.after(-1)
    assert await view.object(broken.id) is None
    assert _poisoned() - before == 2


async def test_a_record_that_no_topic_takes_holds_nothing_up(write: Write) -> None:
    small = MemoryLog(dict.fromkeys((NAMES.events, *VIEWS, NAMES.closings), 2))
    view, writer = Views(small, NAMES, SETTINGS), small.writer()
    author = await completed(Author(writer, 0), "x" * 5000)
    small.max_record_bytes = 600
    async with projecting(small, NAMES, SETTINGS):
        await view.committed(0, author.ack.offset + 1)


async def test_it_stops_in_time_with_the_log_away(log: MemoryLog, write: Write) -> None:
    async with asyncio.timeout(SETTINGS.grace_s + 5):
        async with projecting(log, NAMES, SETTINGS) as running:
            await eventually(lambda: not running.behind())
            await completed(write(0), "one")
            log.available = False
