"""Announcing closings: each is in the topic, in order, whatever fails, and only the owner appends."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from functools import partial
from math import inf
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from schemas.closings import ClosingRecord, Marks, TokenCounts, parse
from schemas.errors import AppendUnknown
from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog, MemoryWriter, Outcome
from services.eventlog.port import Ack
from services.eventlog.topics import topics
from services.projector import announcer, metrics, ownership
from services.projector.announcer import MOST, Announcer, closing_record
from services.projector.closing import Closing
from services.projector.ownership import OWNED_S, Ownership
from services.projector.projection import Projection
from services.settings import Settings
from tests.conftest import eventually
from tests.counted import value_of
from tests.projecting import VIEWS, Views, projecting
from tests.responses import Author

NAMES = topics()
SETTINGS = Settings(grace_s=2)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog(dict.fromkeys((NAMES.events, *VIEWS, NAMES.closings), 2))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(announcer, name, 0.001)
    monkeypatch.setattr(ownership, "LOOK_S", 0.001)


def owned(_: int) -> float:
    """A group that answers at any time."""
    return asyncio.get_running_loop().time()


@pytest.fixture
async def announcing(log: MemoryLog) -> AsyncIterator[Announcer]:
    one = Announcer(log, NAMES, Ownership(owned))
    yield one
    await one.close()


async def closings_of(log: MemoryLog, count: int) -> list[Closing]:
    """So many closings of one partition, in order."""
    writer = log.writer()
    for n in range(count):
        await (await Author(writer, n).accept()).cancel()
    records = log.records(NAMES.events, 0)
    ends = Projection(0, 0, 0, log="topic-1").apply(records, len(records))
    return [end for end in ends if isinstance(end, Closing)]


def appended(log: MemoryLog) -> list[ClosingRecord]:
    """What `closings` holds."""
    found = [parse(record, 0) for record in log.records(NAMES.closings, 0)]
    assert all(isinstance(entry, ClosingRecord) for entry in found)
    return [entry for entry in found if isinstance(entry, ClosingRecord)]


def counted(records: Iterable[ClosingRecord]) -> list[ClosingRecord]:
    """What a consumer with marks counts."""
    marks = Marks()
    return [record for record in records if marks.fresh(record)]


def longer_than(log: MemoryLog, count: int) -> bool:
    return len(appended(log)) > count


async def announce(one: Announcer, closings: Sequence[Closing]) -> None:
    await asyncio.gather(*(one.closed(0, closing) for closing in closings))


async def test_what_a_consumer_finds_of_a_response(log: MemoryLog, announcing: Announcer) -> None:
    one = await (await Author(log.writer(), 1).accept(store=False, background=False)).take()
    await one.say("secret")
    usage = {"input_tokens": 3, "output_tokens": 1}
    final = {"model": "served", "output": ["secret"], "usage": usage, "error": {"type": "x"}}
    await one.event("response.failed", {"response": final}, "failed")
    records = log.records(NAMES.events, 0)
    (end,) = Projection(0, 0, 0, log="topic-1").apply(records, len(records))
    assert isinstance(end, Closing)
    await announcing.closed(0, end)
    (found,) = appended(log)
    assert found == closing_record(end)
    assert (found.id, found.status, found.log) == (one.id, "failed", "topic-1")
    assert (found.model, found.served, found.route, found.agent) == ("echo", "served", "e*", None)
    assert (found.error_type, found.incomplete_reason) == ("x", None)
    assert found.usage == TokenCounts(input_tokens=3, output_tokens=1, total_tokens=4)
    assert (found.accepted_offset, found.closed_offset, found.events) == (0, one.ack.offset, 3)


async def test_p103_no_content_leaves_with_a_closing(log: MemoryLog, announcing: Announcer) -> None:
    """Whatever a client sends, an upstream says or an error tells."""
    secret = "s3cr3t"
    body: dict[str, Any] = {
        "input": secret,
        "instructions": secret,
        "metadata": {"note": secret},
        "user": secret,
        "tools": [{"type": "function", "name": secret}],
        "safety_identifier": secret,
    }
    one = await (await Author(log.writer(), 1).accept(**body)).take()
    await one.say(secret)
    final = one.initial | {
        "status": "failed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": secret}]}],
        "error": {"code": "server_error", "message": secret, "type": "upstream_error"},
        "incomplete_details": {"reason": "max_output_tokens", "note": secret},
        "usage": {"input_tokens": 1, "note": secret},
    }
    await one.event("response.failed", {"response": final}, "failed")
    records = log.records(NAMES.events, 0)
    (end,) = Projection(0, 0, 0).apply(records, len(records))
    assert isinstance(end, Closing)
    await announcing.closed(0, end)
    (record,) = log.records(NAMES.closings, 0)
    assert secret.encode() in b"".join(each.value or b"" for each in records)
    assert secret not in repr(record)


async def test_one_deleted_while_open_and_an_agents(log: MemoryLog, announcing: Announcer) -> None:
    one = await Author(log.writer(), 1).accept()
    await one.delete()
    records = log.records(NAMES.events, 0)
    (end,) = Projection(0, 0, 0).apply(records, len(records))
    assert isinstance(end, Closing)
    await announcing.closed(0, replace(end, model="", route="weather", to_agent=True))
    (found,) = appended(log)
    assert (found.status, found.served, found.usage) == ("deleted", None, None)
    assert (found.model, found.route, found.agent) == (None, "weather", "weather")


async def test_p104_the_order_of_the_log_whatever_waits_together(
    log: MemoryLog, announcing: Announcer
) -> None:
    closings = await closings_of(log, 2 * MOST + 5)
    await announce(announcing, closings)
    assert [found.closed_offset for found in appended(log)] == [closing.closed_offset for closing in closings]


@pytest.mark.parametrize("outcome", ["lost", "unknown-lost", "unknown-appended"])
async def test_p104_after_a_failure_it_goes_on_from_the_first_that_is_not_acknowledged(
    log: MemoryLog, announcing: Announcer, outcome: Outcome
) -> None:
    closings = await closings_of(log, 20)
    log.fail_next(outcome, 3)
    await announce(announcing, closings)
    assert counted(appended(log)) == [closing_record(closing) for closing in closings]
    assert len(appended(log)) == 20 + 3 * (outcome == "unknown-appended")


@pytest.mark.parametrize("error", [AppendUnknown("asked for"), ValueError("a bug"), asyncio.CancelledError()])
async def test_p104_one_in_the_middle_that_fails_lets_nothing_pass_it(
    log: MemoryLog, announcing: Announcer, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Two times. A writer lets what is queued behind a failure fail as well."""
    closings = await closings_of(log, 9)
    original, middle, tries = MemoryWriter.append, closings[4].closed_offset, 0

    async def append(self: MemoryWriter, topic: str, partition: int, record: NewRecord, **of: Any) -> Ack:
        nonlocal tries
        offset = int(dict(record.headers)["closed_offset"])
        tries += offset == middle
        if offset >= middle and tries <= 2:
            raise error
        return await original(self, topic, partition, record, **of)

    monkeypatch.setattr(MemoryWriter, "append", append)
    await announce(announcing, closings)
    assert tries == 3
    assert counted(appended(log)) == [closing_record(closing) for closing in closings]


async def test_what_comes_meanwhile_waits_in_line(log: MemoryLog, announcing: Announcer) -> None:
    closings = await closings_of(log, 12)
    log.fail_next("lost", 2)
    first = asyncio.create_task(announce(announcing, closings[:4]))
    for closing in closings[4:]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        first = asyncio.create_task(_both(first, announcing.closed(0, closing)))
    await first
    assert [found.closed_offset for found in appended(log)] == [closing.closed_offset for closing in closings]


async def _both(first: asyncio.Task[None], second: Any) -> None:
    await asyncio.gather(first, second)


async def test_a_call_that_is_cancelled_leaves_the_line_and_holds_nobody_up(
    log: MemoryLog, announcing: Announcer
) -> None:
    """A partition was lost, and is begun anew: what it tells again comes in order."""
    closings = await closings_of(log, 6)
    log.available = False
    calls = [asyncio.create_task(announcing.closed(0, closing)) for closing in closings[:5]]
    before = value_of(metrics.ANNOUNCEMENTS_FAILED)
    await eventually(lambda: value_of(metrics.ANNOUNCEMENTS_FAILED) > before)
    for call in calls:
        call.cancel()
    log.available = True
    await announce(announcing, closings)
    assert counted(appended(log)) == [closing_record(closing) for closing in closings]
    assert all(
        isinstance(end, asyncio.CancelledError)
        for end in await asyncio.gather(*calls, return_exceptions=True)
    )


async def test_one_that_no_topic_takes_is_passed_over(log: MemoryLog, announcing: Announcer) -> None:
    closings = await closings_of(log, 3)
    size = len(msgspec.json.encode(closing_record(closings[0])))
    log.max_record_bytes = size + 300
    many = replace(closings[1], executors=("exec_" + "x" * 200,) * 5)
    await announce(announcing, [closings[0], many, closings[2]])
    assert [found.id for found in appended(log)] == [closings[0].id, closings[2].id]


@pytest.mark.parametrize("ago", [inf, OWNED_S])
async def test_p106_nothing_is_sent_until_the_group_has_answered(log: MemoryLog, ago: float) -> None:
    looks: list[int] = []
    heard_at = asyncio.get_running_loop().time() - ago

    def owned_at(partition: int) -> float:
        looks.append(partition)
        return heard_at

    one = Announcer(log, NAMES, Ownership(owned_at))
    closings = await closings_of(log, 2)
    call = asyncio.create_task(announce(one, closings))
    await eventually(lambda: looks[:3] == [0, 0, 0])
    assert appended(log) == []
    heard_at = asyncio.get_running_loop().time()
    await call
    assert len(appended(log)) == 2
    await one.close()


async def test_p105_the_watermark_waits_for_the_announcement_and_the_announcement_for_no_view(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, held = Views(log, NAMES, SETTINGS), asyncio.Event()
    original = MemoryWriter.append
    slow = NAMES.transcripts

    async def append(self: MemoryWriter, topic: str, partition: int, record: NewRecord, **of: Any) -> Ack:
        if topic == slow:
            await held.wait()
        return await original(self, topic, partition, record, **of)

    monkeypatch.setattr(MemoryWriter, "append", append)
    one = await (await (await Author(log.writer(), 1).accept()).take()).complete()
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: appended(log))
        held.set()
        await view.committed(0, one.ack.offset + 1)
        held.clear()
        slow = NAMES.closings
        two = await (await (await Author(log.writer(), 2).accept()).take()).complete()
        await eventually(lambda: view.object(two.id))
        await view.committed(0, two.accepted.offset)
        assert len(appended(log)) == 1
        held.set()
        await view.committed(0, two.ack.offset + 1)
    assert [found.id for found in appended(log)] == [one.id, two.id]


async def test_p107_whoever_follows_on_announces_the_same_again(log: MemoryLog) -> None:
    authors = [await (await Author(log.writer(), n).accept(store=n % 2 == 0)).take() for n in range(6)]
    for one in reversed(authors):
        await one.complete()
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: len(appended(log)) == 6)
    log.groups.clear()  # no watermark was ever committed
    async with projecting(log, NAMES, SETTINGS):
        await eventually(lambda: len(appended(log)) == 12)
    first, second = appended(log)[:6], appended(log)[6:]
    assert first == second
    assert [found.id for found in first] == [one.id for one in reversed(authors)]
    assert [record.value for record in log.records(NAMES.closings, 0)[:6]] == [
        record.value for record in log.records(NAMES.closings, 0)[6:]
    ]


async def test_p109_a_log_that_is_made_anew_begins_anew(log: MemoryLog) -> None:
    for _ in range(2):
        one = await (await (await Author(log.writer(), 1).accept()).take()).complete()
        before = len(appended(log))
        async with projecting(log, NAMES, SETTINGS):
            await eventually(partial(longer_than, log, before))
        log.make_anew(NAMES.events)
        log.groups.clear()
    first, second = appended(log)
    assert (first.id, first.closed_offset) == (second.id, second.closed_offset) == (one.id, one.ack.offset)
    assert first.log != second.log
    assert counted(appended(log)) == [first, second]
