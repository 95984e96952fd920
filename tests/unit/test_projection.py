"""The projection of one partition: given these records, this is to be written, and here is the watermark."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import response_in
from schemas.ids import ClaimId
from schemas.records import LogRecord, NewRecord
from services.eventlog import transcript
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.eventlog.transcript import Chunk, Request
from services.projector.closing import Closing
from services.projector.projection import End, Projection, response_record
from services.projector.writes import Erase, Regather, Work, Write
from tests.responses import Author
from tests.unit.test_transcript import stored
from tests.written import claim_of

NAMES = topics()


class Given:
    """A partition in memory, and authors who write into it."""

    def __init__(self) -> None:
        self.time = 1_000
        """Log time, ms."""
        self.log = MemoryLog({NAMES.events: 1}, clock=lambda: self.time)
        self.writer = self.log.writer()
        self.made = 0

    def author(self) -> Author:
        self.made += 1
        return Author(self.writer, self.made)

    async def completed(self, *texts: str, **body: Any) -> Author:
        author = await (await self.author().accept(**body)).take()
        return await (await author.say(*texts)).complete()

    def records(self) -> Sequence[LogRecord]:
        return self.log.records(NAMES.events, 0)


@pytest.fixture
def log() -> Given:
    return Given()


def ended(log: Given, projection: Projection, upto: int | None = None) -> list[End]:
    """What the projection makes of the records that it has not seen."""
    records = [record for record in log.records()[:upto] if record.offset >= projection.position]
    return projection.apply(records, records[-1].offset + 1 if records else projection.position)


def projected(log: Given, projection: Projection, upto: int | None = None) -> list[Work]:
    """What is to be written of the records that it has not seen; what asks for nothing is done."""
    return works(projection, ended(log, projection, upto))


def works(projection: Projection, ends: list[End]) -> list[Work]:
    found: list[Work] = []
    for end in ends:
        if not isinstance(end, Closing):
            found.append(end)
        elif end.work is None:
            projection.done(end)
        else:
            found.append(end.work)
    return found


def frames_in(work: Work) -> bytes:
    assert isinstance(work, Write)
    return b"".join(transcript.unpack(record.value or b"") for record in work.transcript[1:])


async def test_a_closed_response_is_written_frame_by_frame_as_its_readers_got_it(log: Given) -> None:
    author = await log.completed("one ", "two")
    (work,) = projected(log, Projection(0, 0, 0))
    assert frames_in(work) == author.after(-1)


async def test_of_what_is_not_stored_nothing_is_written_but_that_its_key_is_used_up(log: Given) -> None:
    await log.completed("one", store=False, background=False)
    keyed = await log.completed("two", store=False, background=False, keyed=True)
    projection = Projection(0, 0, 0)
    (work,) = projected(log, projection)
    assert work == Erase(keyed.id, keyed.accepted.offset, keyed.tenant, 0, keyed.accepted.offset)
    assert projection.watermark() == keyed.accepted.offset
    projection.done(work)
    assert projection.watermark() == len(log.records())


async def test_the_transcript_says_what_the_fold_knows(log: Given) -> None:
    author = await log.completed("one ", "two")
    (work,) = projected(log, Projection(0, 0, 0))
    assert isinstance(work, Write)
    request, chunk = [transcript.parse(stored(record)) for record in work.transcript]
    assert isinstance(request, Request)
    assert isinstance(chunk, Chunk)
    summary = request.summary
    assert summary == chunk.summary
    assert (summary.status, summary.tenant, summary.background) == ("completed", author.tenant, True)
    assert (summary.accepted_offset, summary.closed_offset) == (author.accepted.offset, author.ack.offset)
    assert (summary.events, summary.chunks, summary.created_at) == (len(author.frames), 1, 1_000)
    assert transcript.unpack(work.transcript[0].value or b"") == log.records()[0].value


async def test_the_object_is_the_raw_one_of_the_terminal_event(log: Given) -> None:
    author = await log.completed("one")
    (work,) = projected(log, Projection(0, 0, 0))
    assert isinstance(work, Write)
    assert work.response is not None
    assert work.response.key == author.id.encode()
    assert work.response.value == response_in(log.records()[-1].value or b"")
    headers = dict(work.response.headers)
    assert (headers["status"], headers["model"], headers["kind"]) == (b"completed", b"echo", b"response")


async def test_a_long_model_is_cut_in_the_header_and_whole_in_the_object(log: Given) -> None:
    author = await log.completed("one")
    projection = Projection(0, 0, 0)
    projected(log, projection)
    final = json.dumps({"model": "é" * 1000}).encode()
    record = response_record(projection.fold.responses[author.id], final)
    assert dict(record.headers)["model"] == ("é" * 256).encode()
    assert record.value == final


async def test_a_cancel_is_the_terminal_event(log: Given) -> None:
    author = await (await (await log.author().accept()).take()).say("one")
    await author.cancel()
    (work,) = projected(log, Projection(0, 0, 0))
    assert frames_in(work) == author.after(-1)
    assert isinstance(work, Write)
    assert work.response is not None
    assert work.response.value == log.records()[-1].value
    assert dict(work.response.headers)["status"] == b"cancelled"


async def test_events_of_a_fenced_executor_are_not_in_the_transcript(log: Given) -> None:
    author = await (await (await log.author().accept()).take()).say("one")
    await author.zombie(claim_of("zombie"), range(2, 6))
    await (await author.take()).zombie(ClaimId("c0000000000000001"), [3])
    await (await author.say("two")).complete()
    (work,) = projected(log, Projection(0, 0, 0))
    assert frames_in(work) == author.after(-1)


async def test_an_open_response_writes_nothing_and_holds_the_watermark(log: Given) -> None:
    projection = Projection(0, 0, 0)
    await log.completed("one")
    author = await (await log.author().accept()).take()
    await author.say("one", "two")
    for work in projected(log, projection):
        projection.done(work)
    assert projection.watermark() == author.accepted.offset


async def test_what_is_not_acknowledged_holds_the_watermark(log: Given) -> None:
    projection = Projection(0, 0, 0)
    first, second = await log.completed("one"), await log.completed("two")
    work = projected(log, projection)
    assert projection.watermark() == first.accepted.offset
    projection.done(work[1])
    assert projection.watermark() == first.accepted.offset
    projection.done(work[0])
    assert projection.watermark() == projection.position == second.ack.offset + 1


async def test_a_response_that_is_not_stored_is_never_written_and_holds_the_watermark_while_open(
    log: Given,
) -> None:
    projection = Projection(0, 0, 0)
    author = await (await log.author().accept(store=False, background=False)).take()
    assert projected(log, projection) == []
    assert projection.watermark() == author.accepted.offset
    await (await author.say("secret")).complete()
    assert projected(log, projection) == []
    assert projection.held_bytes == 0
    assert projection.watermark() == author.ack.offset + 1


async def test_responses_accepted_before_the_floor_are_not_written_again(log: Given) -> None:
    first = await log.completed("one")
    second = await log.completed("two")
    (work,) = projected(log, Projection(0, 0, floor=first.ack.offset + 1))
    assert work.id == second.id


async def test_a_deleted_open_response_leaves_nothing_but_gone(log: Given) -> None:
    author = await (await (await log.author().accept()).take()).say("one")
    await author.delete()
    projection = Projection(0, 0, 0)
    (work,) = projected(log, projection)
    assert work == Erase(author.id, author.accepted.offset, author.tenant, 0, author.accepted.offset)
    assert projection.held_bytes == 0
    assert projection.watermark() == author.accepted.offset


async def test_a_deleted_closed_response_is_erased_chunk_by_chunk(log: Given) -> None:
    author = await log.completed("x" * 200_000, "y" * 200_000)
    await author.delete()
    write, erase = projected(log, Projection(0, 0, 0))
    assert isinstance(write, Write)
    assert erase == Erase(author.id, author.ack.offset, author.tenant, 2, author.accepted.offset)


async def test_a_delete_of_what_closed_before_the_floor_does_not_know_its_chunks(log: Given) -> None:
    author = await log.completed("one")
    floor = author.ack.offset + 1
    await author.delete()
    assert projected(log, Projection(0, 0, floor)) == [
        Erase(author.id, author.ack.offset, author.tenant, None, author.accepted.offset)
    ]
    assert projected(log, Projection(0, floor, floor)) == [
        Erase(author.id, author.ack.offset, author.tenant, None, author.accepted.offset)
    ]


async def test_a_delete_before_the_floor_was_dealt_with(log: Given) -> None:
    author = await log.completed("one")
    await author.delete()
    assert projected(log, Projection(0, 0, author.ack.offset + 1)) == []


async def test_nothing_is_written_after_a_delete(log: Given) -> None:
    author = await (await (await log.author().accept()).take()).say("one")
    await author.delete()
    await (await author.say("two")).complete()
    assert [type(work) for work in projected(log, Projection(0, 0, 0))] == [Erase]


async def test_an_unreadable_record_is_told_with_its_offset_and_passed_over(log: Given) -> None:
    author = await (await log.author().accept()).take()
    bad = await author.put(author.broken(b"whatever", b"{}"))
    await author.complete()
    projection = Projection(0, 0, 0)
    (work,) = projected(log, projection)
    assert frames_in(work) == author.after(-1)
    assert [poison.offset for poison in projection.poison] == [bad.offset]


async def test_a_terminal_event_that_cannot_be_decoded_keeps_its_transcript_and_is_told(log: Given) -> None:
    author = await (await log.author().accept()).take()
    ack = await author.put(author.headers().event(2, "response.completed", b"{broken", "completed"))
    projection = Projection(0, 0, 0)
    (work,) = projected(log, projection)
    assert isinstance(work, Write)
    assert work.response is None
    assert frames_in(work).startswith(author.after(-1))
    assert [poison.offset for poison in projection.poison] == [ack.offset]
    projection.done(work)
    assert projection.watermark() == ack.offset + 1


async def test_an_accepted_that_cannot_be_decoded_still_has_its_numbers(log: Given) -> None:
    author = await log.author().accept()
    accepted = log.records()[0]
    broken = accepted._replace(value=b"{broken")  # type: ignore[attr-defined]
    await (await author.take()).complete()
    projection = Projection(0, 0, 0)
    ends = projection.apply([broken, *log.records()[1:]], author.ack.offset + 1)
    (work,) = works(projection, ends)
    frames = transcript.frames_of(frames_in(work))
    assert [json.loads(frame.split(b"data: ")[1])["sequence_number"] for frame in frames] == [0, 1, 2]


async def test_frames_that_were_let_go_are_read_again_at_the_close(log: Given) -> None:
    big = await (await (await log.author().accept()).take()).say("x" * 10_000)
    small = await (await (await log.author().accept()).take()).say("y")
    projection = Projection(0, 0, 0)
    projected(log, projection)
    assert projection.shed(1) == 1
    await big.complete()
    await small.complete()
    again, written = projected(log, projection)
    assert again == Regather(big.id, big.accepted.offset, big.ack.offset)
    assert frames_in(written) == small.after(-1)
    assert projection.watermark() == big.accepted.offset


async def test_frames_cost_no_more_memory_than_a_chunk_and_what_is_packed(log: Given) -> None:
    author = await (await log.author().accept()).take()
    await author.say(*["x" * 1000] * 2000)
    projection = Projection(0, 0, 0)
    projected(log, projection)
    assert projection.held_bytes < 2 * transcript.CHUNK_BYTES


async def test_an_ephemeral_response_goes_to_no_view_and_holds_the_watermark_until_nobody_sees_it(
    log: Given,
) -> None:
    author = await log.completed("one", store=False)
    projection = Projection(0, 0, 0, ephemeral_ms=500)
    assert projected(log, projection) == []
    log.time = author.ack.timestamp + 500
    await log.completed("another", store=False, background=False)
    projected(log, projection)
    assert projection.watermark() == author.accepted.offset
    projection.forget(before=author.ack.timestamp + 500)
    assert author.id in projection.fold
    log.time += 1
    last = await log.completed("another", store=False, background=False)
    projected(log, projection)
    assert projection.watermark() == last.ack.offset + 1


async def test_an_ephemeral_response_that_is_erased_or_deleted_holds_nothing(log: Given) -> None:
    """In an idle partition nothing but the erasure says that its time is over."""
    erased, deleted = [await log.completed("one", store=False) for _ in range(2)]
    projection = Projection(0, 0, 0, ephemeral_ms=500)
    for key in (f"{erased.id}/accepted/void", f"{erased.id}/{erased.claim}/2"):
        await erased.put(NewRecord(key.encode(), None))
    projected(log, projection)
    assert projection.watermark() == erased.accepted.offset
    await erased.put(NewRecord(f"{erased.id}/accepted/n".encode(), None))
    projected(log, projection)
    assert projection.watermark() == deleted.accepted.offset
    await deleted.delete()
    (work,) = projected(log, projection)
    assert work == Erase(deleted.id, deleted.ack.offset, deleted.tenant, 0, deleted.accepted.offset)
    projection.done(work)
    assert projection.watermark() == len(log.records())


async def test_the_key_of_an_ephemeral_response_is_used_up_from_its_end_on(log: Given) -> None:
    keyed = await log.completed("two", store=False, keyed=True)
    projection = Projection(0, 0, 0, ephemeral_ms=500)
    (work,) = projected(log, projection)
    assert work == Erase(keyed.id, keyed.accepted.offset, keyed.tenant, 0, keyed.accepted.offset)
    projection.done(work)
    assert projection.watermark() == keyed.accepted.offset


async def test_closed_responses_are_forgotten_after_the_window(log: Given) -> None:
    author = await log.completed("one")
    projection = Projection(0, 0, 0)
    projected(log, projection)
    projection.forget(before=1_000)
    assert author.id in projection.fold
    projection.forget(before=1_001)
    assert author.id not in projection.fold


async def _busy_partition() -> Given:
    log = Given()
    open_one = await (await log.author().accept()).take()
    first = await (await log.author().accept()).take()
    await first.say("a", "b")
    await open_one.say("c")
    await first.zombie(claim_of("zombie"), [4, 5])
    await first.complete()
    await (await log.completed("d")).delete()
    await (await log.author().accept(background=False, store=False)).cancel()
    await open_one.cancel()
    return log


BUSY = asyncio.run(_busy_partition())


@given(st.data())
def test_batches_may_be_cut_anywhere(data: st.DataObject) -> None:
    log = BUSY
    records = list(log.records())
    whole = Projection(0, 0, 0)
    expected = projected(log, whole)
    cuts = data.draw(st.lists(st.integers(0, len(records)), max_size=4))
    projection, work = Projection(0, 0, 0), []
    for cut in [*sorted(cuts), len(records)]:
        work += projected(log, projection, cut)
    assert work == expected
    assert projection.watermark() == whole.watermark()


@given(st.data())
def test_whoever_starts_at_a_committed_watermark_writes_the_same(data: st.DataObject) -> None:
    log = BUSY
    cut = data.draw(st.integers(1, len(log.records())))
    first = Projection(0, 0, 0)
    done = projected(log, first, cut)
    for work in data.draw(st.lists(st.sampled_from(done), unique_by=id) if done else st.just([])):
        first.done(work)
    mark = first.watermark()
    expected = [work for work in projected(log, Projection(0, 0, 0)) if work.at >= mark]
    found = projected(log, Projection(0, 0, mark))
    assert [(type(work), work.at) for work in found] == [(type(work), work.at) for work in expected]
    assert _writes(found) == _writes(expected)


def _writes(work: list[Work]) -> list[Work]:
    """A delete may know less: what it erases was written before."""
    return [item for item in work if not isinstance(item, Erase)]
