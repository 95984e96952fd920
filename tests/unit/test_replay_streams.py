"""What readers get, over the log in memory: from the window, by seek, from transcripts, live, and cut."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import ApiError
from schemas.steps import finished
from services.connect import projector_group
from services.eventlog.memory import MemoryLog
from services.eventlog.metrics import READS_FAILING
from services.eventlog.topics import topics
from services.replay import feed
from services.replay.app import Service
from services.replay.disk import StoreFailed
from services.replay.folding import TOLD
from services.replay.reader import Cut
from services.replay.replay import Deleted, Packed
from services.replay.store import Store
from services.replay.window import Window
from services.settings import Settings
from tests.conftest import eventually
from tests.counted import value_of
from tests.responses import Author
from tests.stores import MemoryDisk, memory_store
from tests.written import claim_of

NAMES = topics()
PARTITIONS = 2
Found = Window | Packed


def new_log(**options: Any) -> MemoryLog:
    topics = {
        NAMES.events: PARTITIONS,
        NAMES.transcripts: PARTITIONS,
        NAMES.index: PARTITIONS,
        NAMES.executors: 1,
        NAMES.installation: 1,
    }
    return MemoryLog(topics, **options)


@asynccontextmanager
async def replaying(
    log: MemoryLog,
    memory: int = 1 << 30,
    barrier_s: float = 5,
    partitions: int = PARTITIONS,
    store: Store | None = None,
) -> AsyncIterator[Service]:
    """A replay process without its ports, caught up."""
    settings = Settings(replay_memory_bytes=memory, barrier_s=barrier_s)
    service = Service(settings, log, NAMES, partitions, store or memory_store())
    running = asyncio.create_task(service.feed.run())
    try:
        await eventually(lambda: service.feed.caught_up)
        yield service
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def find(service: Service, author: Author) -> Found:
    found = await service.replay.find(author.id)
    assert found is not None
    assert not isinstance(found, Deleted)
    return found


async def read(service: Service, author: Author, cursor: int = -1) -> bytes:
    """Everything after the cursor, to the end."""
    return b"".join([chunk async for chunk in service.replay.chunks(await find(service, author), cursor)])


class Reader:
    """A reader that goes on by itself, and what it has got. By turns it `takes` what is pushed, or not."""

    def __init__(
        self, service: Service, found: Found, cursor: int = -1, takes: Sequence[bool] = (False,)
    ) -> None:
        self.got = b""
        self.chunks: list[bytes] = []
        self.pushed = 0
        self._takes = cycle(takes)
        self.task = asyncio.create_task(self._read(service, found, cursor))

    def _push(self, chunk: bytes) -> bool:
        if takes := next(self._takes):
            self._take(chunk)
            self.pushed += 1
        return takes

    def _take(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.got += chunk

    async def _read(self, service: Service, found: Found, cursor: int) -> None:
        async for chunk in service.replay.chunks(found, cursor, self._push):
            self._take(chunk)
            await asyncio.sleep(0)  # its client takes a moment


async def test_rejoining_at_every_boundary_gives_the_rest_byte_for_byte() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say(*(f"word {n} " for n in range(150)))
    await author.complete()
    async with replaying(log) as service:
        for cursor in range(-1, author.last + 2):
            assert await read(service, author, cursor) == author.after(cursor)


async def test_two_readers_at_different_cursors_both_end_with_the_terminal_event() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say("a", "b", "c")
    async with replaying(log) as service:
        found = await find(service, author)
        whole, rest = Reader(service, found), Reader(service, found, 3)
        await eventually(lambda: whole.got == author.after(-1) and rest.got == author.after(3))
        await author.say("d", "e")
        await author.complete()
        await asyncio.gather(whole.task, rest.task)

        assert (whole.got, rest.got) == (author.after(-1), author.after(3))


async def test_a_hundred_readers_of_one_response_share_the_chunks() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        found = await find(service, author)
        readers = [Reader(service, found) for _ in range(100)]
        for _ in range(5):
            await author.say(*"abcdefgh")
        await author.complete()
        await asyncio.gather(*(reader.task for reader in readers))

        assert {reader.got for reader in readers} == {author.after(-1)}
        assert len({id(chunk) for reader in readers for chunk in reader.chunks}) == len(readers[0].chunks)


async def test_readers_at_the_end_are_pushed_what_comes_in_one_pass_and_share_it() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        found = await find(service, author)
        readers = [Reader(service, found, takes=[True]) for _ in range(2 * TOLD + 3)]
        await eventually(lambda: all(reader.got == author.after(-1) for reader in readers))
        assert not any(reader.pushed for reader in readers), "it was there before they came"
        for _ in range(5):
            await author.say(*"abc")
        await author.complete()
        await asyncio.gather(*(reader.task for reader in readers))

        assert {reader.got for reader in readers} == {author.after(-1)}
        assert {reader.pushed for reader in readers} == {len(readers[0].chunks) - 1}
        assert len({id(chunk) for reader in readers for chunk in reader.chunks}) == len(readers[0].chunks)


async def test_a_push_that_raises_ends_one_reader_and_not_the_feed() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        found = await find(service, author)

        def broken(_: bytes) -> bool:
            raise RuntimeError("the socket is gone")

        async def read_on() -> None:
            async for _ in service.replay.chunks(found, -1, broken):
                pass

        ends = asyncio.create_task(read_on())
        stayer = Reader(service, found, takes=[True])
        await eventually(lambda: stayer.got == author.after(-1))
        await author.say("a")
        await author.complete()
        await stayer.task

        assert stayer.got == author.after(-1)
        with pytest.raises(RuntimeError, match="the socket is gone"):
            await ends


async def test_a_reader_that_leaves_is_pushed_nothing_more() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        found = await find(service, author)
        leaver, stayer = (Reader(service, found, takes=[True]) for _ in range(2))
        await eventually(lambda: leaver.got == stayer.got == author.after(-1))
        seen = leaver.got
        leaver.task.cancel()
        await asyncio.wait([leaver.task])
        await author.say("a")
        await author.complete()
        await stayer.task

        assert (leaver.got, stayer.got) == (seen, author.after(-1))


async def test_a_reader_that_takes_nothing_holds_up_nobody_and_rejoins_where_it_was() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log, memory=4096) as service:
        found = await find(service, author)
        stalled = service.replay.chunks(found, -1)
        first = await anext(stalled)
        quick = Reader(service, found)
        await author.say(*("x" * 300 for _ in range(200)))
        await author.complete()
        await quick.task

        assert quick.got == author.after(-1)
        rest = b"".join([chunk async for chunk in stalled])
        assert first + rest == author.after(-1)
        assert service.feed.lag() == 0


@settings(max_examples=60)
@given(st.data())
def test_any_cursor_and_any_memory_give_every_event_once(data: st.DataObject) -> None:
    """Events come in any portions, from any claims, beside other responses, while memory is short."""
    memory = data.draw(st.sampled_from([0, 500, 5_000, 50_000, 1 << 30]), "memory")
    steps = data.draw(st.lists(st.sampled_from(["say", "take", "other", "zombie"]), max_size=25), "steps")
    cursors = data.draw(st.lists(st.integers(-1, 60), min_size=1, max_size=4), "cursors")
    cancelled = data.draw(st.booleans(), "cancelled")
    takes = data.draw(st.lists(st.booleans(), min_size=1, max_size=5), "takes")

    async def scenario() -> None:
        log = new_log()
        author = await (await Author(log.writer(), 1).accept()).take()
        other = await (await Author(log.writer(), 2).accept()).take()
        async with replaying(log, memory) as service:
            found = await find(service, author)
            readers = [Reader(service, found, cursor, takes) for cursor in cursors]
            for step in steps:
                match step:
                    case "say":
                        await author.say("a", "b" * 700, "c")
                    case "take":
                        await author.take()
                    case "other":
                        await other.say(*"xyz")
                    case _:
                        await author.zombie(claim_of("zombie"), [author.last + 1, author.last])
            await (author.cancel() if cancelled else author.complete())
            await asyncio.gather(*(reader.task for reader in readers))

            assert [reader.got for reader in readers] == [author.after(cursor) for cursor in cursors]
            assert await read(service, author) == author.after(-1)

    asyncio.run(scenario())


async def test_what_fell_out_of_the_window_is_read_by_seek_among_two_hundred_others() -> None:
    log = new_log()
    authors = [await (await Author(log.writer(), n).accept()).take() for n in range(200)]
    for _ in range(8):
        for author in authors:
            await author.say("some words", "and more")
    async with replaying(log, memory=0) as service:
        await authors[77].say("late")
        reader = Reader(service, await find(service, authors[77]))
        await eventually(lambda: reader.got == authors[77].after(-1))
        await authors[77].complete()
        await reader.task

        assert reader.got == authors[77].after(-1)
        assert service.seeker.seeks > 0


async def test_a_seek_over_the_holes_of_compaction_finds_what_is_there() -> None:
    log = new_log()
    author, other = Author(log.writer(), 1), Author(log.writer(), 2)
    for each in (author, other):
        await each.accept()
        await each.take()
    for _ in range(40):
        await other.say("erased")
        await author.say("kept")
    async with replaying(log, memory=0) as service:
        found = await find(service, author)
        for record in log.records(NAMES.events, 0):
            if record.key and record.key.startswith(other.id.encode()) and record.value:
                await author.put(type(author).erasing(record.key))
        log.compact(NAMES.events)
        reader = Reader(service, found)
        await author.complete()
        await reader.task

        assert reader.got == author.after(-1)


async def test_a_zombies_events_are_in_no_stream_live_or_by_seek() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    first = author.claim
    await author.say("one")
    await author.take()
    await author.zombie(first, [3, 4])
    await author.say("two")
    await author.zombie(first, [4])
    await author.complete()
    for memory in (0, 1 << 30):
        async with replaying(log, memory) as service:
            assert await read(service, author) == author.after(-1)


async def test_an_erased_response_is_cut_and_never_ends_with_a_gap() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say(*"abc")
    await author.complete()
    async with replaying(log, memory=0) as service:
        found = await find(service, author)
        log.retain(NAMES.events, 0, author.accepted.offset + 3)
        with pytest.raises(Cut):
            await read(service, author)
        assert isinstance(found, Window)


async def test_a_delete_cuts_its_readers_and_hides_the_response() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say("a")
    async with replaying(log) as service:
        reader = Reader(service, await find(service, author))
        await eventually(lambda: reader.got == author.after(-1))
        await author.delete()
        with pytest.raises(Cut):
            await reader.task

        assert isinstance(await service.replay.find(author.id), Deleted)
        await author.pack()
        await author.hide()
        await author.say("zombie")
        assert isinstance(await service.replay.find(author.id), Deleted)
        assert service.replay.load().open == 0


async def test_after_a_restart_the_replay_is_byte_identical() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    async with replaying(log) as service:
        live = Reader(service, await find(service, author))
        await author.say(*"abcdef")
        await author.cancel()
        await live.task
    async with replaying(log) as service:
        assert isinstance(await find(service, author), Window)
        assert await read(service, author) == live.got == author.after(-1)
    await author.pack("cancelled")
    log.retain(NAMES.events, 0, author.ack.offset + 1)
    async with replaying(log) as service:
        assert isinstance(await find(service, author), Packed)
        for cursor in range(-1, author.last + 1):
            assert await read(service, author, cursor) == author.after(cursor)


async def test_a_response_of_many_chunks_is_served_from_its_transcript_at_any_cursor() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say(*("y" * 9_000 for _ in range(100)))
    await author.complete()
    await author.pack()
    log.retain(NAMES.events, 0, author.ack.offset + 1)
    async with replaying(log) as service:
        for cursor in (-1, 0, 25, 28, 29, 30, 60, author.last - 1, author.last, author.last + 5):
            assert await read(service, author, cursor) == author.after(cursor)


async def test_a_rewritten_transcript_is_found_where_it_is_now() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.complete()
    await author.pack()
    log.retain(NAMES.events, 0, author.ack.offset + 1)
    async with replaying(log) as service:
        assert isinstance(await find(service, author), Packed)
        await author.pack()
        log.compact(NAMES.transcripts)

        assert await read(service, author) == author.after(-1)


async def test_a_store_that_fails_is_a_503_and_never_a_404_until_it_is_open_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "FIRST_PAUSE", 0.01)
    log, disk = new_log(), MemoryDisk()
    author = await (await (await Author(log.writer(), 1).accept()).take()).complete()
    await author.pack()
    log.retain(NAMES.events, 0, author.ack.offset + 1)
    async with replaying(log, store=Store(disk)) as service:
        disk.failing = StoreFailed("the disk is full")
        with pytest.raises(ApiError) as refused:
            await find(service, author)
        assert refused.value.status == 503
        other = await (await (await Author(log.writer(), 2).accept()).take()).complete()
        assert await read(service, other) == other.after(-1)
        await other.pack()
        await eventually(lambda: service.feed.store_failures == 1)
        disk.failing = None
        await eventually(lambda: other.id in service.library)
        assert await read(service, author) == author.after(-1)
    assert disk.reopened >= 1


async def test_a_store_that_was_emptied_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "FIRST_PAUSE", 0.01)
    log, disk = new_log(), MemoryDisk()
    first, second = [await (await (await Author(log.writer(), n).accept()).take()).complete() for n in (1, 2)]
    await first.pack()
    async with replaying(log, store=Store(disk)) as service:
        assert first.id in service.library
        disk.rows.clear()
        disk.failing = StoreFailed("a block cannot be read")
        await second.pack()
        await eventually(lambda: service.feed.store_failures == 1)
        disk.failing = None
        await eventually(lambda: first.id in service.library and second.id in service.library)


async def test_p137_a_replay_that_starts_again_reads_the_index_on_from_where_its_store_stands() -> None:
    log, disk = new_log(), MemoryDisk()
    first, second = [await (await (await Author(log.writer(), n).accept()).take()).complete() for n in (1, 2)]
    await first.pack()
    async with replaying(log, store=Store(disk)):
        pass
    await second.pack()
    log.stored[NAMES.index][0].records = log.records(NAMES.index, 0)[1:]  # it does not need what it has
    async with replaying(log, store=Store(disk)) as service:
        assert await read(service, first) == first.after(-1)
        assert second.id in service.library


async def test_a_closed_response_leaves_the_window_once_it_is_packed_and_long_closed() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.complete()
    async with replaying(log) as service:
        await find(service, author)
        later = author.ack.timestamp + 1
        finished(service.foldings[0].forget(later, service.library.__contains__))
        assert isinstance(await find(service, author), Window)

        await author.pack()
        await eventually(lambda: author.id in service.library)
        finished(service.foldings[0].forget(later, service.library.__contains__))
        assert isinstance(await find(service, author), Packed)
        assert await read(service, author) == author.after(-1)


async def test_an_offset_out_of_range_drops_the_fold_cuts_its_readers_and_starts_again() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say("a")
    async with replaying(log) as service:
        reader = Reader(service, await find(service, author))
        await eventually(lambda: reader.got != b"")
        for _ in range(3):
            await author.zombie(claim_of("zombie"), range(100))
            log.retain(NAMES.events, 0, author.ack.offset + 1)
        with pytest.raises(Cut):
            await reader.task
        later = await Author(log.writer(), 2).accept()

        assert await service.replay.find(author.id) is None
        assert isinstance(await find(service, later), Window)


async def test_unreadable_records_change_nothing() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.put(author.broken(b"no path", b"{}"))
    await author.put(author.broken(author.id.encode() + b"/c/1", b"\xff"))
    await author.say("a")
    await author.complete()
    async with replaying(log) as service:
        assert await read(service, author) == author.after(-1)
        assert service.feed.unreadable == 2


async def test_streams_stay_open_while_the_log_is_away_and_go_on_after_it() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    await author.say("a")
    async with replaying(log, memory=0) as service:
        found = await find(service, author)
        log.available = False
        reader = Reader(service, found)
        await eventually(lambda: value_of(READS_FAILING.labels(NAMES.events)))
        assert service.not_ready() == []
        log.available = True
        await author.complete()
        await reader.task

        assert reader.got == author.after(-1)
        await eventually(lambda: not value_of(READS_FAILING.labels(NAMES.events)))


async def test_it_starts_where_the_projector_says_and_knows_the_rest_from_transcripts() -> None:
    now = [0]
    log = new_log(clock=lambda: now[0])
    old = await (await Author(log.writer(), 1).accept()).take()
    await old.complete()
    await old.pack()
    now[0] += 10 * (Settings().acceptance_ms + Settings().skew_ms)
    fresh = await (await Author(log.writer(), 2).accept()).take()
    await fresh.say("a")
    projector = await log.join(projector_group(Settings()), NAMES.events, lambda _: None)
    await projector.commit({0: fresh.accepted.offset}, {0: fresh.accepted.offset})

    async with replaying(log) as service:
        assert isinstance(await find(service, old), Packed)
        assert isinstance(await find(service, fresh), Window)
        assert old.id not in service.foldings[0].fold
        assert await read(service, old) == old.after(-1)


async def test_what_was_accepted_before_the_watermark_has_no_second_life() -> None:
    now = [0]
    log = new_log(clock=lambda: now[0])
    deleted = await Author(log.writer(), 1).accept()
    await deleted.delete()
    await deleted.hide()
    now[0] += 1_000
    await deleted.accept()
    await (await (await Author(log.writer(), 3).accept()).take()).complete()
    now[0] += Settings().acceptance_ms + Settings().skew_ms - 500
    last = await Author(log.writer(), 2).accept()
    projector = await log.join(projector_group(Settings()), NAMES.events, lambda _: None)
    await projector.commit({0: last.accepted.offset}, {0: last.accepted.offset})

    async with replaying(log) as service:
        assert deleted.id in service.foldings[0].fold
        assert isinstance(await service.replay.find(deleted.id), Deleted)
        assert not service.foldings[0].windows.keys() - {last.id}


async def test_polling_folds_what_is_new_and_follows_a_rejoined_fold() -> None:
    log = new_log()
    author = await (await Author(log.writer(), 1).accept()).take()
    item = {"id": "msg_1", "type": "message", "content": [{"type": "output_text", "text": ""}]}
    await author.event("response.output_item.added", {"output_index": 0, "item": item})
    async with replaying(log, memory=2_000) as service:
        for count in range(1, 120, 7):
            await author.say(*("w" for _ in range(7)))
            shown = json.loads(await service.replay.object(await find(service, author)))
            assert shown["output"][0]["content"][0]["text"] == "w" * (count + 6)
        seeks = service.seeker.seeks
        await service.replay.object(await find(service, author))
        assert service.seeker.seeks == seeks
