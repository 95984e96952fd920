"""Entries of `transcripts.index`: each names the last copies of its transcript, whoever writes late."""

import asyncio
from collections.abc import Callable, Collection

import pytest

from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Batch, Bounds
from services.eventlog.shelf import Shelved
from services.eventlog.tail import Tail
from services.eventlog.topics import Topics, topics
from services.eventlog.transcript import chunk_key, gone_record
from services.projector import copies, metrics, projector, rereader
from services.settings import Settings
from tests.conftest import eventually
from tests.counted import value_of
from tests.projecting import VIEWS, Views, projecting
from tests.responses import TENANT, Author

NAMES: Topics = topics()
SETTINGS = Settings(grace_s=2, acceptance_ms=1_000, skew_ms=100)
Write = Callable[[int], Author]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "TICK", 0.01)
    monkeypatch.setattr(rereader, "LOOK_S", 0.01)
    monkeypatch.setattr(copies, "MEND_S", 0.2)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(dict.fromkeys((NAMES.events, *VIEWS, NAMES.closings), 1))


@pytest.fixture
def view(log: MemoryLog) -> Views:
    return Views(log, NAMES, SETTINGS)


async def completed(log: MemoryLog, number: int = 0, *texts: str) -> Author:
    author = await (await Author(log.writer(), number).accept(metadata={"order": "7"})).take()
    return await (await author.say(*(texts or ("one",)))).complete()


def time_passes(log: MemoryLog) -> None:
    """More log time than any fold remembers."""
    now = log.clock() + 10 * SETTINGS.acceptance_ms
    log.clock = lambda: now


def last_copy(log: MemoryLog, key: bytes) -> NewRecord:
    """The record under `key` in `transcripts`, as a late writer would write it again."""
    (found,) = [record for record in log.records(NAMES.transcripts, 0) if record.key == key]
    return NewRecord(key, found.value, found.headers)


async def test_p130_the_entry_says_what_closed_and_where_its_transcript_lies(
    log: MemoryLog, view: Views
) -> None:
    async with projecting(log, NAMES, SETTINGS):
        author = await completed(log, 0, "x" * 300_000, "y")
        await view.committed(0, author.ack.offset + 1)
        entry = await view.entry(author.id)
    assert entry is not None
    assert (entry.status, entry.tenant, entry.events) == ("completed", TENANT, len(author.frames))
    assert (entry.accepted_offset, entry.closed_offset) == (author.accepted.offset, author.ack.offset)
    assert (entry.created_at, entry.closed_at) == (author.accepted.timestamp, author.ack.timestamp)
    assert (entry.model, entry.metadata, len(entry.where.chunks)) == ("echo", {"order": "7"}, 3)


@pytest.mark.parametrize("late", ["chunk", "entry", "both", "deleted"])
async def test_p133_what_a_late_writer_wrote_is_mended(log: MemoryLog, view: Views, late: str) -> None:
    """Half a copy, an entry that names the copies before, both, and those of a response that was deleted.

    The projector that mends them was started after all else was over, so that it knows of none.
    """
    async with projecting(log, NAMES, SETTINGS):
        author = await completed(log, 0, "x" * 300_000, "y")
        await view.committed(0, author.ack.offset + 1)
        copy, entry = last_copy(log, chunk_key(author.id, 0)), await view.entry(author.id)
        if late == "deleted":
            await author.delete()
            await view.committed(0, author.ack.offset + 1)
    assert isinstance(entry, Shelved)
    time_passes(log)
    other = await completed(log, 1)
    async with projecting(log, NAMES, SETTINGS):
        await view.committed(0, other.ack.offset + 1)
    time_passes(log)
    last, writer, before = await completed(log, 2), log.writer(), value_of(metrics.MENDED)
    async with projecting(log, NAMES, SETTINGS):
        await view.committed(0, last.ack.offset + 1)
        if late != "entry":
            await writer.append(NAMES.transcripts, 0, copy)
        if late != "chunk":
            await writer.append(NAMES.index, 0, entry.new(author.id))

        async def mended() -> bool:
            if late == "deleted":
                assert await view.gone(author.id)
            else:
                assert await view.entry(author.id) is not None
            return True

        await eventually(lambda: value_of(metrics.MENDED) > before)
        await eventually(mended)
    log.compact(NAMES.transcripts)
    if late != "deleted":
        assert await view.entry(author.id) is not None
        assert await view.frames(author.id) == author.after(-1)


async def test_what_the_log_has_forgotten_stays_as_it_is_and_holds_nothing_up(
    log: MemoryLog, view: Views
) -> None:
    async with projecting(log, NAMES, SETTINGS):
        author = await completed(log)
        await view.committed(0, author.ack.offset + 1)
        entry = await view.entry(author.id)
        assert entry is not None
        log.retain(NAMES.events, 0, author.ack.offset + 1)
        await log.writer().append(NAMES.transcripts, 0, last_copy(log, chunk_key(author.id, 0)))
        time_passes(log)
        other = await completed(log, 1)
        await view.committed(0, other.ack.offset + 1)
    assert await view.frames(author.id) == author.after(-1)


async def test_an_unstored_response_with_a_key_leaves_gone_in_both(log: MemoryLog, view: Views) -> None:
    async with projecting(log, NAMES, SETTINGS):
        author = await Author(log.writer(), 0).accept(store=False, keyed=True, background=False)
        await author.cancel()
        await view.committed(0, author.ack.offset + 1)
    gone = gone_record(author.id, TENANT).key
    assert [record.key for record in log.records(NAMES.index, 0)] == [gone]
    assert [record.key for record in log.records(NAMES.transcripts, 0)] == [gone]


async def test_p134_the_watermark_waits_for_what_is_not_read_back(
    log: MemoryLog, view: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be ahead of that by the acceptance window and the skew, and no more."""
    go, read = asyncio.Event(), Tail.read
    go.set()

    async def held(self: Tail, max_wait: float | None = None) -> list[Batch]:
        if repr(self).startswith(f"Tail({NAMES.responses},"):
            batches = await read(self, max_wait)
            await go.wait()
            return batches
        return await read(self, max_wait)

    bounds, looks = log.bounds, list[str]()

    async def looked(topic: str, partitions: Collection[int]) -> dict[int, Bounds]:
        looks.append(topic)
        return await bounds(topic, partitions)

    monkeypatch.setattr(Tail, "read", held)
    monkeypatch.setattr(log, "bounds", looked)
    async with projecting(log, NAMES, SETTINGS) as running:
        first = await completed(log, 0)
        await view.committed(0, first.ack.offset + 1)
        go.clear()
        time_passes(log)
        second = await completed(log, 1)
        await eventually(lambda: len(log.records(NAMES.index, 0)) == 2)
        await eventually(lambda: not running.partitions[0].jobs)
        seen = len(looks)
        await eventually(lambda: len(looks) > seen + 5)
        assert await view.watermark(0) == second.accepted.offset
        go.set()
        await view.committed(0, second.ack.offset + 1)
