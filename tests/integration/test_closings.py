"""`closings` on a real broker, read by the program of docs/consumers/closings.md."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition as KafkaPartition
from msgspec.structs import asdict

from schemas.closings import ClosingRecord, Marks, parse
from schemas.records import NewRecord
from services.connect import topic_names
from services.eventlog.follower import Member
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.eventlog.topics import MAX_RECORD_BYTES
from services.settings import Settings, environment
from tests.conftest import eventually
from tests.process import REJOINDER
from tests.projecting import Views, projecting
from tests.responses import Author

PARTITIONS = 2
PAGE = Path(__file__).parents[2] / "docs" / "consumers" / "closings.md"
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


class Counting:
    """The page's program, and what it has counted."""

    def __init__(self, kafka: str, topic: str, folder: Path) -> None:
        (program,) = PROGRAM
        self._file = folder / "count.py"
        self._file.write_text(program)
        self._state = folder / "state.json"
        self._command = [sys.executable, str(self._file), kafka, topic, str(self._state)]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)

    def kill(self) -> str:
        """End it at any moment; what it has said."""
        if self._process is None:
            return ""
        process, self._process = self._process, None
        process.kill()
        return process.communicate(timeout=20)[0]

    def totals(self) -> dict[str, int]:
        state: dict[str, Any] = (
            json.loads(self._state.read_text()) if self._state.exists() else {"totals": {}}
        )
        return dict(state["totals"])


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(
        kafka=kafka,
        topic_prefix=topic_prefix,
        grace_s=5,
        max_record_bytes=MAX_RECORD_BYTES,
        max_body_bytes=MAX_RECORD_BYTES,
    )
    await create_topics(kafka, topic_names(settings), partitions=PARTITIONS)
    return settings


@pytest.fixture
def counting(settings: Settings, tmp_path: Path) -> Iterator[Counting]:
    counting = Counting(settings.kafka, topic_names(settings).closings, tmp_path)
    yield counting
    counting.kill()


async def ended(log: Log, settings: Settings, numbers: range) -> list[Author]:
    """Responses that completed, every third of them unstored and every fifth cancelled."""
    writer, names = log.writer(), topic_names(settings)

    async def one(number: int) -> Author:
        author = Author(writer, number, number % PARTITIONS, names)
        stored = number % 3 > 0
        await (await author.accept(store=stored, background=stored)).take()
        return await (author.cancel() if number % 5 == 0 else author.complete())

    authors = await asyncio.gather(*map(one, numbers))
    await writer.close()
    return list(authors)


async def announced(log: Log, settings: Settings) -> list[list[ClosingRecord]]:
    """What `closings` holds, by partition."""
    topic = topic_names(settings).closings
    found: list[list[ClosingRecord]] = []
    for number, bounds in (await log.bounds(topic, range(PARTITIONS))).items():
        source = TopicPartition(topic, number)
        entries = [parse(record, number) async for record in scan(log, source, bounds.start, bounds.end)]
        found.append([entry for entry in entries if isinstance(entry, ClosingRecord)])
    return found


NO_CLOSING: Mapping[str, NewRecord] = {
    "no kind": NewRecord(b"x", b"{}"),
    "another kind": NewRecord(b"x", b"{}", [("kind", b"opening")]),
    "no value": NewRecord(b"x", None, [("kind", b"closing")]),
    "no JSON": NewRecord(b"x", b"{", [("kind", b"closing")]),
    "no UTF-8": NewRecord(b"x", b'{"log":"\xff"}', [("kind", b"closing")]),
    "no object": NewRecord(b"x", b"[1]", [("kind", b"closing")]),
    "very deep": NewRecord(b"x", b"[" * 100_000, [("kind", b"closing")]),
    "without what it is known by": NewRecord(b"x", b'{"log":"x"}', [("kind", b"closing")]),
    "an offset that is none": NewRecord(b"x", b'{"log":"x","closed_offset":[]}', [("kind", b"closing")]),
}


async def test_what_is_no_closing_is_told_and_passed_over(
    log: Log, settings: Settings, counting: Counting
) -> None:
    writer = log.writer()
    for record in NO_CLOSING.values():
        await writer.append(topic_names(settings).closings, 0, record)
    await writer.close()
    counting.start()
    async with projecting(log, topic_names(settings), settings):
        await ended(log, settings, range(1, 5))
        await eventually(lambda: counting.totals() == {"default completed": 4}, timeout=30)
    assert counting.kill().count("UNREADABLE: partition 0, offset ") == len(NO_CLOSING) - 2


async def test_every_end_is_announced_in_order_and_counted_once_though_all_is_told_again(
    log: Log, settings: Settings, counting: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = topic_names(settings)
    all_of_them = {"default completed": 80, "default cancelled": 20}
    with monkeypatch.context() as patched:
        patched.setattr(Member, "commit", _nothing)  # its death leaves no watermark
        async with projecting(log, names, settings):
            counting.start()
            authors = await ended(log, settings, range(60))
            await eventually(counting.totals, timeout=30)
            counting.kill()
            authors += await ended(log, settings, range(60, 100))
            await eventually(lambda: _all_there(log, settings, 100), timeout=30)
    counting.start()
    async with projecting(log, names, settings):
        await eventually(lambda: _all_there(log, settings, 200), timeout=30)
        for number in range(PARTITIONS):
            last = max(author.ack.offset for author in authors[number::PARTITIONS])
            await Views(log, names, settings).committed(number, last + 1)
    await eventually(lambda: counting.totals() == all_of_them, timeout=30)
    assert "LOST" not in counting.kill()
    id = await log.topic_id(names.events)
    for number, closings in enumerate(await announced(log, settings)):
        marks = Marks()
        fresh = [closing.closed_offset for closing in closings if marks.fresh(closing)]
        assert fresh == sorted(author.ack.offset for author in authors[number::PARTITIONS])
        assert {closing.log for closing in closings} == {id}


async def _nothing(*_: object, **__: object) -> frozenset[int]:
    """A commit that commits nothing."""
    return frozenset()


async def _all_there(log: Log, settings: Settings, count: int) -> bool:
    return sum(map(len, await announced(log, settings))) >= count


def projector_process(settings: Settings) -> subprocess.Popen[bytes]:
    return subprocess.Popen([REJOINDER, "projector"], env={**os.environ, **environment(asdict(settings))})


@pytest.mark.slow
async def test_projectors_that_are_killed_leave_no_gap_and_nothing_out_of_order(
    log: Log, settings: Settings
) -> None:
    """Each dies amid its announcements, as a process, and the next one takes over."""
    authors: list[Author] = []
    for life in range(3):
        with projector_process(settings) as process:
            writing = asyncio.create_task(ended(log, settings, range(life * 400, life * 400 + 400)))
            seen = sum(map(len, await announced(log, settings)))
            await eventually(partial(_all_there, log, settings, seen + 1), timeout=60)
            process.kill()
        authors += await writing
    async with projecting(log, topic_names(settings), settings):
        for number in range(PARTITIONS):
            last = max(author.ack.offset for author in authors[number::PARTITIONS])
            await eventually(partial(_past, log, settings, number, last), timeout=60)
    for number, closings in enumerate(await announced(log, settings)):
        marks = Marks()
        fresh = [closing.closed_offset for closing in closings if marks.fresh(closing)]
        assert fresh == sorted(author.ack.offset for author in authors[number::PARTITIONS])


async def _past(log: Log, settings: Settings, number: int, offset: int) -> bool:
    watermark = await Views(log, topic_names(settings), settings).watermark(number)
    return watermark is not None and watermark > offset


async def test_what_retention_took_unread_is_told(log: Log, settings: Settings, counting: Counting) -> None:
    topic = topic_names(settings).closings
    async with projecting(log, topic_names(settings), settings):
        counting.start()
        await ended(log, settings, range(6))
        await eventually(lambda: sum(counting.totals().values()) == 6, timeout=30)
        counting.kill()
        await ended(log, settings, range(6, 20))
        await eventually(lambda: _all_there(log, settings, 20), timeout=30)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
        await admin.start()
        await admin.delete_records({KafkaPartition(topic, 0): RecordsToDelete(8)})
        await admin.close()
        counting.start()
        await eventually(lambda: sum(counting.totals().values()) == 15, timeout=30)
    said = counting.kill()
    assert said.count("LOST") == 1
    assert "from offset 3, goes on at 8" in said


async def test_a_projector_whose_topic_is_gone_waits_until_it_is_made(log: Log, settings: Settings) -> None:
    """As docs/upgrading.md and docs/reliability.md say."""
    names = topic_names(settings)
    view = Views(log, names, settings)
    async with projecting(log, names, settings):
        await ended(log, settings, range(1, 20, 6))
        await eventually(lambda: _all_there(log, settings, 4), timeout=30)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
        await admin.start()
        await admin.delete_topics([names.closings])
        await admin.close()
        one, two = await ended(log, settings, range(31, 33))
        await eventually(lambda: view.object(one.id), timeout=30)
        await view.committed(1, one.accepted.offset)
        said = await create_topics(settings.kafka, names, partitions=5)
        assert said == [f"created topic {names.closings} with {PARTITIONS} partitions"]
        await view.committed(1, one.ack.offset + 1)
    found = [closing.id for closings in await announced(log, settings) for closing in closings]
    assert {one.id, two.id} <= set(found)
