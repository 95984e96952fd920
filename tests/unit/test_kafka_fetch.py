"""A fetch: what one partition hands out and nobody can read is no matter of the others."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any

import pytest
from aiokafka.record.util import calc_crc32c
from structlog.testing import capture_logs

from schemas.errors import LogUnavailable
from schemas.records import Headers, NewRecord
from services.eventlog import damage, kafka_fetch
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_brokers import Brokers
from services.eventlog.kafka_fetch import KafkaFetcher
from services.eventlog.kafka_lane import Lane, Producer, Queued
from services.eventlog.kafka_link import KafkaLink
from services.eventlog.kafka_wire import Fetched
from services.eventlog.port import Batch, TopicPartition
from tests.conftest import eventually

GOOD, BAD = TopicPartition("events", 0), TopicPartition("events", 1)


def batch_of(key: bytes, headers: Headers = ()) -> bytes:
    """One record, at offset 0, as it is stored."""
    lane = Lane(GOOD)
    lane.queue.append(Queued(NewRecord(key, b"value", headers), None, 100))
    return lane.next_batch(Producer(7, 0)).data


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


class Link(KafkaLink):
    """A broker that leads all partitions and hands out `stored`, whatever the position."""

    def __init__(self) -> None:
        super().__init__(Brokers(KafkaAddress("nowhere:9")), 1)
        self.stored = {GOOD: batch_of(b"good"), BAD: flipped(batch_of(b"bad"))}
        self.asked: list[list[TopicPartition]] = []

    async def client(self) -> Any:
        return None

    def known_leader(self, source: TopicPartition) -> int | None:
        return 1 if source in self.stored else None

    async def send(self, node: int, request: Any, group: Hashable = "", timeout: float = 2) -> Any:  # noqa: ARG002
        self.asked.append(request)
        return [Fetched(source.topic, source.partition, 0, 1, self.stored[source]) for source in request]


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    def request(_wait: int, _bytes: int, topics: list[tuple[str, list[tuple[int, int, int]]]]) -> object:
        return [TopicPartition(name, number) for name, asked in topics for number, _, _ in asked]

    monkeypatch.setattr(kafka_fetch, "FetchRequest", request)
    monkeypatch.setattr(kafka_fetch, "PATIENCE", 0.3)
    return Link()


async def fetch(link: KafkaFetcher, *sources: TopicPartition) -> list[Batch]:
    return await link.fetch(dict.fromkeys(sources, 0), 0, 1 << 20, 1 << 20)


def keys(batches: list[Batch]) -> list[bytes | None]:
    return [record.key for batch in batches for record in batch.records]


async def test_a_corrupt_batch_stops_its_own_partition_only(link: Link) -> None:
    fetcher = KafkaFetcher(link)
    with capture_logs() as logs:
        assert keys(await fetch(fetcher, GOOD, BAD)) == [b"good"]
    [said] = logs
    assert (said["log_level"], said["topic"], said["partition"], said["offset"]) == ("error", "events", 1, 0)
    assert "bad checksum" in said["why"]
    await fetch(fetcher, BAD, GOOD)
    assert link.asked[1] == [GOOD]  # the other one rests
    link.stored[GOOD] = b""
    assert await fetch(fetcher, GOOD, BAD) == []


async def test_who_asks_for_nothing_else_hears_where_it_is(link: Link) -> None:
    with pytest.raises(LogUnavailable, match=r"events/1@0 cannot be read: .*bad checksum") as raised:
        await fetch(KafkaFetcher(link), BAD)
    assert "is it running" not in str(raised.value)


async def test_what_is_mended_is_read_on(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(damage, "LONGEST_REST", 0.01)
    monkeypatch.setattr(damage, "FIRST_REST", 0.01)
    fetcher = KafkaFetcher(link)
    await fetch(fetcher, GOOD, BAD)
    link.stored[BAD] = batch_of(b"mended")

    async def read() -> bool:
        return b"mended" in keys(await fetch(fetcher, GOOD, BAD))

    await eventually(read)


async def test_what_comes_before_a_corrupt_batch_is_read(link: Link) -> None:
    first = batch_of(b"first")
    link.stored[BAD] = first + flipped(first)
    assert keys(await fetch(KafkaFetcher(link), BAD)) == [b"first"]


def resealed(data: bytes) -> bytes:
    """`data` with the checksum that is right for it."""
    checksum: int = calc_crc32c(data[21:])
    return data[:17] + checksum.to_bytes(4) + data[21:]


ZSTD = 4
NO_TEXT = batch_of(b"bad", [("name", b"")]).replace(b"name", b"n\xffme")


@pytest.mark.parametrize("bad", [NO_TEXT, NO_TEXT[:22] + bytes([ZSTD]) + NO_TEXT[23:]], ids=["name", "codec"])
async def test_a_batch_that_cannot_be_unpacked_stops_its_own_partition_only(link: Link, bad: bytes) -> None:
    link.stored[BAD] = batch_of(b"first") + resealed(bad)
    fetcher = KafkaFetcher(link)
    assert sorted(map(str, keys(await fetch(fetcher, GOOD, BAD)))) == ["b'first'", "b'good'"]
    link.stored[BAD] = resealed(bad)
    assert keys(await fetch(fetcher, GOOD, BAD)) == [b"good"]


async def test_a_topic_that_is_missing_is_told_with_what_mends_it(link: Link) -> None:
    link.stored.clear()
    with pytest.raises(LogUnavailable, match=r"topic events has no partition 0.*rejoinder topics") as raised:
        await fetch(KafkaFetcher(link), GOOD)
    assert "is it running" not in str(raised.value)


class Leaders(Link):
    """Each partition has a leader of its own, 0 and 1. Each answers what `answers` says, in its own time."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[int, Callable[[], Awaitable[list[Fetched]]]] = {}
        self.refreshed = 0

    def known_leader(self, source: TopicPartition) -> int | None:
        return source.partition

    def stale(self) -> None:
        self.refreshed += 1

    async def send(self, node: int, request: Any, group: Hashable = "", timeout: float = 2) -> Any:  # noqa: ARG002
        return await self.answers[node]()


async def dead() -> list[Fetched]:
    raise ConnectionError("refused")


async def quiet() -> list[Fetched]:
    return []


@pytest.mark.usefixtures("link")
async def test_a_dead_leader_is_no_reason_for_others_to_wait_or_fail() -> None:
    link, news = Leaders(), asyncio.Event()

    async def later() -> list[Fetched]:
        await news.wait()
        return [Fetched(*GOOD, 0, 1, link.stored[GOOD])]

    link.answers = {0: later, 1: dead}
    reading = asyncio.create_task(fetch(KafkaFetcher(link), GOOD, BAD))
    await eventually(lambda: link.refreshed)
    news.set()
    assert keys(await reading) == [b"good"]


@pytest.mark.usefixtures("link")
async def test_nothing_new_from_the_living_is_no_failure_of_the_dead() -> None:
    link = Leaders()
    link.answers = {0: quiet, 1: dead}
    assert await fetch(KafkaFetcher(link), GOOD, BAD) == []


@pytest.mark.usefixtures("link")
async def test_when_no_leader_answers_the_log_is_away() -> None:
    link = Leaders()
    link.answers = {0: dead, 1: dead}
    with pytest.raises(LogUnavailable, match="refused"):
        await fetch(KafkaFetcher(link), GOOD, BAD)


@pytest.mark.usefixtures("link")
async def test_a_leader_that_fails_when_nobody_waits_for_it_is_looked_for_anew() -> None:
    """Its answer is never taken up: the failure must not be lost with it."""
    link, fails = Leaders(), asyncio.Event()

    async def fails_later() -> list[Fetched]:
        await fails.wait()
        raise ConnectionError("broken")

    link.answers = {0: quiet, 1: fails_later}
    fetcher = KafkaFetcher(link)
    assert await fetch(fetcher, GOOD, BAD) == []
    assert not link.refreshed
    fails.set()
    await eventually(lambda: link.refreshed)
    await fetcher.close()
