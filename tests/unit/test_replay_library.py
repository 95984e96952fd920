"""Where transcripts lie: what hides one, what brings it back, what is forgotten; how chunks are read."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from schemas.errors import LogUnavailable
from schemas.ids import ResponseId, response_id
from schemas.records import NewRecord
from schemas.steps import finished
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Batch, TopicPartition
from services.eventlog.topics import topics
from services.replay.library import Library, TranscriptLost
from tests.conftest import eventually
from tests.responses import Author
from tests.stores import MemoryDisk, memory_store

NAMES = topics()


class CountingLog(MemoryLog):
    """Counts fetches. Each takes as long as a test says."""

    def __init__(self) -> None:
        super().__init__({NAMES.events: 1, NAMES.transcripts: 1, NAMES.index: 1})
        self.fetches = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def fetch(self, positions: Mapping[TopicPartition, int], **bounds: Any) -> list[Batch]:
        self.fetches += 1
        await self.answers.wait()
        return await super().fetch(positions, **bounds)


class Shelf:
    """A library whose tail goes only as far as a test lets it."""

    def __init__(self) -> None:
        self.log = CountingLog()
        self.library = Library(self.log, NAMES.transcripts, memory_store(), self.catch_up)
        self.position = 0
        self.caught_up = 0

    async def catch_up(self, partition: int) -> None:
        assert partition == 0
        self.caught_up += 1
        await self.read()

    async def read(self) -> None:
        """Take what is new in the index."""
        records = [one for one in self.log.records(NAMES.index, 0) if one.offset >= self.position]
        if records:
            self.position = records[-1].offset + 1
            assert self.library.take(0, records, self.position) == []

    async def closed(self, number: int = 1, size: int = 10, events: int = 3) -> Author:
        author = await (await Author(self.log.writer(), number).accept()).take()
        await author.say(*("x" * size for _ in range(events)))
        return await (await author.complete()).pack()


async def test_it_is_there_once_its_entry_is_and_not_before() -> None:
    shelf = Shelf()
    author = await shelf.closed(size=100_000, events=6)
    assert author.id not in shelf.library
    await shelf.read()
    assert author.id in shelf.library
    assert shelf.library.knows(author.id)
    assert response_id(0, b"another" * 2 + b"xx") not in shelf.library


async def test_every_number_leads_to_the_chunk_that_holds_it() -> None:
    shelf = Shelf()
    author = await shelf.closed(size=100_000, events=6)
    await shelf.read()
    for number in range(author.last + 1):
        opened = await shelf.library.chunk(author.id, number)
        assert opened.chunk.first <= number <= opened.chunk.last
    assert (await shelf.library.last(author.id)).chunk.last == author.last
    assert (await shelf.library.chunk(author.id, 1000)).chunk.last == author.last


async def test_a_chunk_is_fetched_once_for_all_readers() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await shelf.read()
    first = await shelf.library.last(author.id)
    shelf.log.available = False

    assert await shelf.library.last(author.id) is first


async def test_readers_that_ask_at_once_share_one_fetch_and_what_it_unpacks() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await shelf.read()
    shelf.log.answers.clear()
    readers = [asyncio.create_task(shelf.library.last(author.id)) for _ in range(100)]
    await eventually(lambda: shelf.log.fetches)
    readers[0].cancel()
    shelf.log.answers.set()
    opened = await asyncio.gather(*readers[1:])

    assert len({id(each) for each in opened}) == 1
    assert shelf.log.fetches == 1


async def test_readers_that_ask_at_once_share_the_trouble_and_each_may_ask_again() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await shelf.read()
    shelf.log.available = False
    readers = [asyncio.create_task(shelf.library.last(author.id)) for _ in range(100)]
    for reader in readers:
        with pytest.raises(LogUnavailable):
            await reader
    assert shelf.log.fetches == 1
    shelf.log.available = True

    assert (await shelf.library.last(author.id)).frames == author.after(-1)


async def test_a_long_transcript_takes_no_fetch_for_each_chunk() -> None:
    shelf = Shelf()
    author = await shelf.closed(size=20_000, events=200)
    await shelf.read()
    chunks = [await shelf.library.chunk(author.id, 0)]
    while chunks[-1].chunk.last < author.last:
        chunks.append(await shelf.library.chunk(author.id, chunks[-1].chunk.last + 1))

    assert b"".join(opened.frames for opened in chunks) == author.after(-1)
    assert len(chunks) > 10
    assert shelf.log.fetches < len(chunks) / 3


async def test_what_came_beside_another_part_is_hidden_with_its_response() -> None:
    shelf = Shelf()
    author, other = await shelf.closed(1, size=20_000, events=200), await shelf.closed(2)
    await shelf.read()
    await shelf.library.chunk(author.id, 0)
    shelf.library.hide(author.id)
    for number in range(0, author.last, 10):
        with pytest.raises(TranscriptLost):
            await shelf.library.chunk(author.id, number)
    assert (await shelf.library.last(other.id)).frames == other.after(-1)


@pytest.mark.parametrize("late", [False, True])
async def test_gone_hides_whatever_the_order(late: bool) -> None:
    shelf = Shelf()
    author = await shelf.closed()
    if late:
        await author.hide()
        await author.pack()
    else:
        await author.pack()
        await author.hide()
    await shelf.read()

    assert author.id not in shelf.library
    assert shelf.library.gone(author.id)
    with pytest.raises(TranscriptLost):
        await shelf.library.last(author.id)


async def test_a_delete_hides_what_was_already_unpacked() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await shelf.read()
    await shelf.library.last(author.id)
    shelf.library.hide(author.id)

    assert shelf.library.gone(author.id)
    with pytest.raises(TranscriptLost):
        await shelf.library.last(author.id)


async def test_a_tombstone_ends_it() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await author.writer.append(NAMES.index, 0, NewRecord(author.id.encode(), None))
    await shelf.read()

    assert author.id not in shelf.library


async def test_p136_a_hint_that_fails_is_looked_up_again_before_anything_is_lost() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await shelf.read()
    await author.pack()
    shelf.log.compact(NAMES.transcripts)

    assert (await shelf.library.last(author.id)).frames == author.after(-1)
    assert shelf.caught_up == 1


async def test_p135_an_entry_lives_while_what_it_names_does() -> None:
    shelf = Shelf()
    author, other = await shelf.closed(1), await shelf.closed(2)
    await shelf.read()
    shelf.log.retain(NAMES.transcripts, 0, 2)

    with pytest.raises(TranscriptLost):
        await shelf.library.last(author.id)
    assert (await shelf.library.last(other.id)).frames == other.after(-1)
    assert author.id in shelf.library  # so that is a 503
    shelf.library.begin_at({0: 2}, {0: 0})
    assert author.id not in shelf.library  # and this a 404
    assert other.id in shelf.library
    assert finished(shelf.library.expire()) == 1
    shelf.library.begin_at({0: 0}, {0: 0})
    assert (author.id in shelf.library, other.id in shelf.library) == (False, True)


async def test_gone_lives_as_long_as_its_record_in_the_index() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await author.hide()
    await shelf.read()
    shelf.library.begin_at({0: 0}, {0: 1})
    assert shelf.library.gone(author.id)
    shelf.library.begin_at({0: 0}, {0: 2})
    assert not shelf.library.gone(author.id)
    assert finished(shelf.library.expire()) == 2


async def test_what_the_fold_hides_is_remembered_by_the_store_alone_once_it_says_so() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await author.hide()
    shelf.library.hide(author.id)
    await shelf.read()
    shelf.library.hide(author.id)  # folded again
    shelf.library.begin_at({0: 0}, {0: 2})
    assert not shelf.library.gone(author.id)


async def test_the_request_is_there_byte_for_byte() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await shelf.read()

    assert await shelf.library.request(author.id) == author.request


async def test_an_unreadable_record_says_why_and_changes_nothing() -> None:
    shelf = Shelf()
    author = await shelf.closed()
    await shelf.read()
    await author.writer.append(NAMES.index, 0, author.broken(author.id.encode(), b"?"))

    ((_, why),) = shelf.library.take(0, shelf.log.records(NAMES.index, 0)[-1:], 2)
    assert "unheard-of" in why
    assert author.id in shelf.library


async def test_a_store_that_is_full_of_others_finds_its_own_and_sweeps_only_what_expired() -> None:
    shelf = Shelf()
    ids = [(await shelf.closed(number)).id for number in range(1, 30)]
    await shelf.read()
    assert all(id in shelf.library for id in ids)
    offset = shelf.log.records(NAMES.transcripts, 0)[20].offset
    shelf.library.begin_at({0: offset}, {})
    assert finished(shelf.library.expire()) == 10
    assert [id in shelf.library for id in ids] == [False] * 10 + [True] * 19
    assert ResponseId(response_id(1, bytes(16))) not in shelf.library
    assert MemoryDisk().some(b"", b"\xff", 1) == []
