"""The index of what an older version stored: made once of `transcripts`, and known to be complete (P-138)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from msgspec.structs import replace

from schemas.records import NewRecord
from services.connect import projector_group
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.eventlog.transcript import chunk_key
from services.projector import building, copies, projector, rereader
from services.replay import feed
from services.replay.app import Service
from services.settings import Settings
from tests.conftest import eventually
from tests.projecting import VIEWS, Views, projecting
from tests.responses import Author
from tests.stores import memory_store

NAMES = topics()
SETTINGS = Settings(grace_s=2, acceptance_ms=1_000, skew_ms=100)
GROUP = projector_group(SETTINGS)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "TICK", 0.01)
    monkeypatch.setattr(rereader, "LOOK_S", 0.01)
    monkeypatch.setattr(copies, "MEND_S", 0.2)
    monkeypatch.setattr(building, "WAIT_S", 0.01)
    monkeypatch.setattr(feed, "INDEX_PAUSE", 0.01)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(dict.fromkeys((NAMES.events, *VIEWS, NAMES.closings, NAMES.executors), 1))


@pytest.fixture
def view(log: MemoryLog) -> Views:
    return Views(log, NAMES, SETTINGS)


async def completed(log: MemoryLog, number: int, *texts: str) -> Author:
    author = await (await Author(log.writer(), number).accept(metadata={"order": "7"})).take()
    return await (await author.say(*(texts or ("one",)))).complete()


async def stored_by_an_older_version(log: MemoryLog, view: Views) -> list[Author]:
    """Three responses of which nothing but their transcripts is left, and one that was deleted."""
    authors = [await completed(log, n, "x" * 300_000 * (n == 1), "y") for n in range(3)]
    async with projecting(log, NAMES, SETTINGS):
        await view.committed(0, authors[-1].ack.offset + 1)
        erased = await completed(log, 3)
        await erased.delete()
        await view.committed(0, erased.ack.offset + 1)
    before(log)
    now = log.clock() + 10 * SETTINGS.acceptance_ms  # so that nobody reads them back any more
    log.clock = lambda: now
    last = await completed(log, 4)
    member = await log.join(GROUP, NAMES.events, lambda _: None)
    await member.commit({0: last.accepted.offset})
    await member.close()
    log.retain(NAMES.events, 0, last.accepted.offset)
    return [*authors, erased]


def before(log: MemoryLog) -> None:
    """Make the log that of a version that knows nothing of the index."""
    log.make_anew(NAMES.index)
    log.groups[GROUP].read.clear()


@asynccontextmanager
async def fed(service: Service) -> AsyncIterator[None]:
    """Replay's feed runs within the block."""
    running = asyncio.create_task(service.feed.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def says_so(log: MemoryLog) -> bool:
    return log.groups[GROUP].read.get((NAMES.events, 0)) is not None


async def test_p138_what_an_older_version_stored_gets_its_entries_once(log: MemoryLog, view: Views) -> None:
    *authors, erased = await stored_by_an_older_version(log, view)
    async with projecting(log, NAMES, SETTINGS) as running:
        await eventually(lambda: says_so(log))
        assert running.behind() == []
        for author in authors:
            entry = await view.entry(author.id)
            assert entry is not None
            assert (entry.events, entry.status) == (len(author.frames), "completed")
            assert (entry.model, entry.metadata, entry.closed_at) == ("echo", {"order": "7"}, None)
            assert entry.accepted_offset == author.accepted.offset
    assert await view.gone(erased.id)
    made = log.records(NAMES.index, 0)
    async with projecting(log, NAMES, SETTINGS) as running:
        await eventually(lambda: not running.behind())
    assert log.records(NAMES.index, 0) == made


@pytest.mark.parametrize("compacted", [False, True])
async def test_of_what_was_written_twice_by_half_the_entry_names_the_last_copies(
    log: MemoryLog, view: Views, compacted: bool
) -> None:
    _, author, *_ = await stored_by_an_older_version(log, view)
    (late,) = [one for one in log.records(NAMES.transcripts, 0) if one.key == chunk_key(author.id, 0)]
    await log.writer().append(NAMES.transcripts, 0, NewRecord(late.key or b"", late.value, late.headers))
    if compacted:
        log.compact(NAMES.transcripts)
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: says_so(log))
    entry = await view.entry(author.id)
    assert entry is not None
    assert entry.where.chunks[0] > max(entry.where.chunks[1:])


async def test_a_builder_that_died_is_followed_by_one_that_begins_anew(
    log: MemoryLog, view: Views, monkeypatch: pytest.MonkeyPatch
) -> None:
    authors = await stored_by_an_older_version(log, view)
    monkeypatch.setattr(building, "TOGETHER", 1)
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: log.records(NAMES.index, 0))
    log.groups[GROUP].read.clear()
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: says_so(log))
    assert [await view.entry(author.id) is not None for author in authors] == [True, True, True, False]


async def test_what_closes_meanwhile_has_an_entry_for_its_last_copies(log: MemoryLog, view: Views) -> None:
    authors = await stored_by_an_older_version(log, view)
    async with projecting(log, NAMES, SETTINGS):
        late = await completed(log, 9)
        await view.committed(0, late.ack.offset + 1)
        await eventually(lambda: says_so(log))
    for author in (*authors[:-1], late):
        assert await view.entry(author.id) is not None


async def test_p138_a_replay_begins_when_the_index_is_complete(log: MemoryLog, view: Views) -> None:
    authors = await stored_by_an_older_version(log, view)
    service = Service(replace(SETTINGS, barrier_s=5), log, NAMES, 1, memory_store())
    async with fed(service):
        await eventually(lambda: "index of partitions [0]" in str(service.not_ready()))
        async with projecting(log, NAMES, SETTINGS):
            await eventually(lambda: service.not_ready() == [])
        for author in authors[:-1]:
            assert author.id in service.library
            assert (await service.library.last(author.id)).frames.endswith(author.frames[-1])


async def test_a_new_installation_waits_for_nothing(log: MemoryLog) -> None:
    service = Service(SETTINGS, log, NAMES, 1, memory_store())
    async with fed(service):
        await eventually(lambda: service.not_ready() == [])


async def test_an_older_projector_takes_the_word_back(log: MemoryLog, view: Views) -> None:
    """Its checkpoint says nothing, and what it wrote has no entry."""
    async with projecting(log, NAMES, SETTINGS):
        first = await completed(log, 0)
        await view.committed(0, first.ack.offset + 1)
        await eventually(lambda: says_so(log))
    member = await log.join(GROUP, NAMES.events, lambda _: None)
    second = await completed(log, 1)
    await second.pack()
    await member.commit({0: second.ack.offset + 1})
    await member.close()
    assert not says_so(log)
    log.stored[NAMES.index][0].records = log.records(NAMES.index, 0)[:1]
    assert await view.entry(second.id) is None
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: says_so(log))
    assert await view.entry(first.id) is not None
    assert await view.entry(second.id) is not None
