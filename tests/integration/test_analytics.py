"""Counting under fire: whatever dies, the rows of `usage` come to the plain sum of all that was announced."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.structs import TopicPartition as KafkaPartition
from msgspec.structs import asdict, replace

from schemas.closings import ClosingRecord
from schemas.records import NewRecord, Unreadable
from schemas.usage import RowKey, UsageRow, encoded_key, encoded_value, read_usage
from services.broker.tcp import free_port
from services.connect import analytics_group, topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log, TopicPartition
from services.eventlog.scan import scan
from services.eventlog.topics import MAX_RECORD_BYTES
from services.settings import Settings, environment
from tests.conftest import eventually
from tests.long import SOAK, some
from tests.process import REJOINDER
from tests.usage import Totals, ended, plain_sum, row_sum, standing

pytest.importorskip("faust", reason="analytics is not installed")

PARTITIONS = 3
SLOWLY = 90.0
"""Seconds for a group to form anew after a death, at worst."""


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(
        kafka=kafka,
        topic_prefix=topic_prefix,
        grace_s=5,
        max_record_bytes=MAX_RECORD_BYTES,
        max_body_bytes=MAX_RECORD_BYTES,
        analytics_instance="one",
    )
    await create_topics(kafka, topic_names(settings), partitions=PARTITIONS)
    return settings


class Announcer:
    """Announces ends, some of them again as the next projector would."""

    def __init__(self, log: Log, settings: Settings) -> None:
        self._topic = topic_names(settings).closings
        self._chance = Random(7)
        self._writer = log.writer()
        self.announced: list[ClosingRecord] = []

    async def announce(self, count: int, *, again: bool = True) -> None:
        """The next `count` ends, and `again` some that are told already."""
        numbers = range(len(self.announced), len(self.announced) + count)
        new = [ended(number, number % PARTITIONS) for number in numbers]
        self.announced += new
        if again:
            new += [closing for closing in self.announced[-3 * count :] if self._chance.random() < 0.05]
        await asyncio.gather(
            *(
                self._writer.append(self._topic, closing.accepted_offset % PARTITIONS, closing.new())
                for closing in new
            )
        )

    async def close(self) -> None:
        await self._writer.close()

    @asynccontextmanager
    async def announcing(self) -> AsyncIterator[None]:
        """Announce for as long as the block runs."""
        over = asyncio.Event()

        async def keep_on() -> None:
            while not over.is_set():
                await self.announce(60)
                await asyncio.wait([ending], timeout=0.1)

        ending = asyncio.create_task(over.wait())
        working = asyncio.create_task(keep_on())
        try:
            yield
        finally:
            over.set()
            await working


@pytest.fixture
async def announcer(log: Log, settings: Settings) -> AsyncIterator[Announcer]:
    announcer = Announcer(log, settings)
    yield announcer
    await announcer.close()


class Workers:
    """Processes that count."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.running: list[subprocess.Popen[bytes]] = []
        self.ports: dict[int, int] = {}
        """By process id the internal port."""

    def start(self, instance: str = "one", dying: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """One more; `dying` says where it kills itself."""
        own = replace(self._settings, analytics_instance=instance, internal_port=free_port())
        command = (
            [sys.executable, "-m", "tests.dying", "analytics", *dying] if dying else [REJOINDER, "analytics"]
        )
        process = subprocess.Popen(command, env={**os.environ, **environment(asdict(own))})
        self.running.append(process)
        self.ports[process.pid] = own.internal_port
        return process


@pytest.fixture
def workers(settings: Settings) -> Iterator[Workers]:
    workers = Workers(settings)
    yield workers
    for process in workers.running:
        process.kill()
        process.wait()


async def counted(log: Log, settings: Settings) -> Totals:
    """What the rows of `usage` come to."""
    return row_sum((key.tenant, row) for key, row in await rows(log, settings))


async def rows(log: Log, settings: Settings) -> Iterable[tuple[RowKey, UsageRow]]:
    topic = topic_names(settings).usage
    found: dict[RowKey, list[UsageRow]] = {}
    for number, bounds in (await log.bounds(topic, range(PARTITIONS))).items():
        async for record in scan(log, TopicPartition(topic, number), bounds.start, bounds.end):
            said = read_usage(record, number)
            assert not isinstance(said, Unreadable), said
            if isinstance(said.key, RowKey) and isinstance(said.value, UsageRow):
                found.setdefault(said.key, []).append(said.value)
    return [(key, row) for key, values in found.items() if isinstance(row := standing(values), UsageRow)]


async def all_counted(log: Log, settings: Settings, announcer: Announcer) -> bool:
    found, wanted = await counted(log, settings), plain_sum(announcer.announced)
    assert found == wanted
    return True


DEATHS = {
    "before a row": ("rows:usage due", "2"),
    "a row is there and no mark": ("rows:usage written", "2"),
    "the mark is there and nothing is acknowledged": ("mark:usage written", "2"),
    "the batch is acknowledged": ("usage acknowledged", "1"),
    "before anything": ("usage counted", "1"),
    "names are there": ("names:usage written", "1"),
    "the rows are on the wire": ("rows:usage due", "3"),
    "before the mark": ("mark:usage due", "1"),
}


@pytest.mark.slow
async def test_killed_at_any_point_it_comes_to_the_plain_sum(
    log: Log, settings: Settings, announcer: Announcer, workers: Workers
) -> None:
    async with announcer.announcing():
        for death in some(DEATHS, 4):
            where: tuple[str, str] = death.values[0]  # type: ignore[assignment]
            process = workers.start(dying=where)
            assert await asyncio.to_thread(process.wait, SLOWLY) == -9
    workers.start()
    await eventually(partial(all_counted, log, settings, announcer), SLOWLY)


@pytest.mark.slow
async def test_what_retention_took_after_it_was_counted_stays_counted_and_what_before_is_told(
    log: Log, settings: Settings, announcer: Announcer, workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    await announcer.announce(300)
    process = workers.start()
    await eventually(partial(all_counted, log, settings, announcer), SLOWLY)
    process.kill()
    ends = await the_ends(log, settings)
    await announcer.announce(90, again=False)
    unread = announcer.announced[300::PARTITIONS][:10]
    await forget(settings, {**ends, 0: ends[0] + 10})
    for closing in unread:
        announcer.announced.remove(closing)
    workers.start()
    await eventually(partial(all_counted, log, settings, announcer), SLOWLY)
    told = f"closings, partition 0: offsets {ends[0]} to {ends[0] + 9} were removed unread"
    assert capfd.readouterr().err.count(told) == 1


async def the_ends(log: Log, settings: Settings) -> dict[int, int]:
    found = await log.bounds(topic_names(settings).closings, range(PARTITIONS))
    return {number: bounds.end for number, bounds in found.items()}


@pytest.mark.slow
async def test_p117_what_an_earlier_owner_wrote_late_is_written_right_again(
    log: Log, settings: Settings, announcer: Announcer, workers: Workers
) -> None:
    await announcer.announce(300)
    workers.start()
    await eventually(partial(all_counted, log, settings, announcer), SLOWLY)
    (key, row), *_ = await rows(log, settings)
    await write_late(log, settings, key, row)
    await eventually(partial(is_last, log, settings, key, row), SLOWLY)


async def write_late(log: Log, settings: Settings, key: RowKey, row: UsageRow) -> None:
    """Append what `row` was one response before."""
    late = replace(row, responses=row.responses - 1)
    writer, topic = log.writer(), topic_names(settings).usage
    await writer.append(topic, key.partition, NewRecord(encoded_key(key), encoded_value(late)))
    await writer.close()


async def is_last(log: Log, settings: Settings, key: RowKey, row: UsageRow) -> bool:
    """Whether the last record of a key is this row: compaction keeps that."""
    topic = topic_names(settings).usage
    end = (await log.bounds(topic, [key.partition]))[key.partition].end
    found = [record async for record in scan(log, TopicPartition(topic, key.partition), 0, end)]
    return [record.value for record in found if record.key == encoded_key(key)][-1] == encoded_value(row)


@pytest.mark.slow
async def test_p117_an_owner_that_comes_back_writes_nothing_of_what_it_knew_before(
    log: Log, settings: Settings, announcer: Announcer, workers: Workers
) -> None:
    await announcer.announce(300, again=False)
    workers.start("one")
    await eventually(partial(all_counted, log, settings, announcer), SLOWLY)
    before = dict(await rows(log, settings))
    second = workers.start("two")
    await eventually(partial(owns_some, workers, second), SLOWLY)
    await announcer.announce(60, again=False)
    await eventually(partial(all_counted, log, settings, announcer), SLOWLY)
    grown = [
        (key, row)
        for key, row in await rows(log, settings)
        if key in before and row.responses > before[key].responses
    ]
    second.terminate()
    assert await asyncio.to_thread(second.wait) == 0
    for key, _ in grown:
        await write_late(log, settings, key, before[key])
    for key, row in grown:
        await eventually(partial(is_last, log, settings, key, row), SLOWLY)
    assert {key.partition for key, _ in grown} == set(range(PARTITIONS))


async def owns_some(workers: Workers, process: subprocess.Popen[bytes]) -> bool:
    async with httpx.AsyncClient() as client:
        try:
            answer = await client.get(f"http://127.0.0.1:{workers.ports[process.pid]}/metrics")
        except httpx.TransportError:
            return False
    found = re.search(r"^rejoinder_analytics_partitions_owned (\d)", answer.text, re.MULTILINE)
    return found is not None and 0 < int(found[1]) < PARTITIONS


async def forget(settings: Settings, before: dict[int, int]) -> None:
    """Remove the closings before these offsets, as retention does."""
    topic = topic_names(settings).closings
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    wanted = {KafkaPartition(topic, number): RecordsToDelete(offset) for number, offset in before.items()}
    await admin.delete_records(wanted)
    await admin.close()


@pytest.mark.slow
async def test_workers_that_come_and_go_count_each_end_once(
    log: Log, settings: Settings, announcer: Announcer, workers: Workers
) -> None:
    async with announcer.announcing():
        first = workers.start("one")
        await eventually(partial(some_counted, log, settings, 1), SLOWLY)
        second = workers.start("two")
        await eventually(partial(some_counted, log, settings, len(announcer.announced) + 600), SLOWLY)
        second.kill()
        await asyncio.to_thread(second.wait)
        second = workers.start("two")
        await eventually(partial(some_counted, log, settings, len(announcer.announced) + 300), SLOWLY)
        first.terminate()
        assert await asyncio.to_thread(first.wait) == 0
        await eventually(partial(some_counted, log, settings, len(announcer.announced) + 300), SLOWLY)
    await eventually(partial(all_counted, log, settings, announcer), SLOWLY)
    assert second.poll() is None


async def some_counted(log: Log, settings: Settings, least: int) -> bool:
    return (await counted(log, settings))["responses"] >= least


@pytest.mark.slow
async def test_p119_closings_that_are_passed_over_end_the_process(
    log: Log, settings: Settings, announcer: Announcer, workers: Workers, capfd: pytest.CaptureFixture[str]
) -> None:
    await announcer.announce(30, again=False)
    topics = topic_names(settings)
    bounds = (await log.bounds(topics.closings, [0]))[0]
    membership = await log.join(analytics_group(settings), topics.closings, lambda _: None)
    await eventually(lambda: membership.owned)
    await membership.commit({0: bounds.end - 1})
    await membership.close()
    process = workers.start()
    assert await asyncio.to_thread(process.wait, SLOWLY) == 1
    told = f"closings 0 to {bounds.end - 2} of partition 0 were not delivered, though they are there"
    assert told in capfd.readouterr().err
    assert 0 not in {key.partition for key, _ in await rows(log, settings)}


@pytest.mark.skipif(not SOAK, reason="a hunt of minutes: REJOINDER_SOAK=1")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_to_three_workers_at_any_moment_it_comes_to_the_plain_sum(
    log: Log, settings: Settings, announcer: Announcer, workers: Workers, seed: int
) -> None:
    """They are killed, stopped and paused for longer than their group waits, and wake up."""
    chance, names = Random(seed), ("one", "two", "three")
    running = {name: workers.start(name) for name in names}
    async with announcer.announcing():
        for _ in range(25):
            await asyncio.sleep(chance.uniform(0.1, 5))  # the moment is the point
            name = chance.choice(names)
            process = running[name]
            what = chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP))
            process.send_signal(what)
            if what == signal.SIGSTOP:
                await asyncio.sleep(chance.choice((1, 13)))
                process.send_signal(signal.SIGCONT)
            if what != signal.SIGSTOP or process.poll() is not None:
                await asyncio.to_thread(process.wait)
                running[name] = workers.start(name)
    for name, process in running.items():
        if process.poll() is not None:
            running[name] = workers.start(name)
    await eventually(partial(all_counted, log, settings, announcer), 2 * SLOWLY)
