"""Over how many partitions keys are spread: all agree, and it never changes (P-139)."""

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from schemas.errors import LogUnavailable
from schemas.ids import ResponseId, Tenant, idempotent_response_id, partition_of
from schemas.installation import KeyPartitions, key_partitions_in
from schemas.records import NewRecord
from services.eventlog.installation import KeySpread, freeze_key_partitions, key_partitions
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Ack, Batch, Bounds, TopicPartition
from services.eventlog.topics import topics
from tests.conftest import PATIENCE

NAMES = topics()
DEEP = b"[" * 5_000
ODD = [
    NewRecord(b"", None),
    NewRecord(b"key_partitions/1", None, [("kind", b"key_partitions")]),
    NewRecord(b"key_partitions/2", b'{"partitions": 0}', [("kind", b"key_partitions")]),
    NewRecord(b"key_partitions/3", b'{"partitions": "4"}', [("kind", b"key_partitions")]),
    NewRecord(b"key_partitions/4", DEEP, [("kind", b"key_partitions")]),
    NewRecord(b"something/1", b'{"partitions": 4}', [("kind", b"something")]),
    NewRecord(b"key_partitions/5", b'{"partitions": 4}'),
]


def new_log(events: int = 4) -> MemoryLog:
    return MemoryLog({NAMES.events: events, NAMES.installation: 1})


def nonces() -> Callable[[], str]:
    rng = Random(1)
    return lambda: f"{rng.getrandbits(64):016x}"


class Slow(MemoryLog):
    """A log in memory that takes its time, before it answers and before the answer is there."""

    def __init__(self, rng: Random) -> None:
        super().__init__({NAMES.events: 4, NAMES.installation: 1})
        self._rng = rng

    async def pause(self) -> None:
        for _ in range(self._rng.choice((0, 0, 1, 2, 5, 20))):
            await asyncio.sleep(0)

    async def partitions(self, topic: str) -> int:
        await self.pause()
        found = await super().partitions(topic)
        await self.pause()
        return found

    async def bounds(self, topic: str, partitions: Any) -> dict[int, Bounds]:
        await self.pause()
        found = await super().bounds(topic, partitions)
        await self.pause()
        return found

    async def fetch(self, positions: Any, **terms: Any) -> list[Batch]:
        await self.pause()
        return await super().fetch(positions, **terms)

    def append(self, source: TopicPartition, record: NewRecord) -> Ack:
        if source.topic == NAMES.installation and self._rng.random() < 0.2:
            self.fail_next(self._rng.choice(("unknown-lost", "unknown-appended", "lost")))
        return super().append(source, record)


async def frozen(log: MemoryLog, nonce: Callable[[], str]) -> int:
    """What an ingest takes, which is started again until it can start."""
    while True:
        try:
            return await freeze_key_partitions(log, NAMES, nonce)
        except LogUnavailable:
            await asyncio.sleep(0)


async def added(log: Slow, partitions: int) -> None:
    """Add partitions, but not before the count is there (P-142)."""
    while await key_partitions(log, NAMES) is None:
        await log.pause()
    log.grow(NAMES.events, partitions)


@pytest.mark.parametrize("seed", range(60))
async def test_p140_all_agree_whoever_starts_while_partitions_are_added(seed: int) -> None:
    rng, nonce = Random(seed), nonces()
    log = Slow(rng)
    spreads = [KeySpread(log, NAMES, within_s=PATIENCE) for _ in range(3)]
    work: list[Coroutine[Any, Any, int | None]] = [
        *(frozen(log, nonce) for _ in range(4)),
        added(log, 8),
        added(log, 16),
        *(spread.partitions() for spread in spreads for _ in range(3)),
    ]
    rng.shuffle(work)
    said = set(await asyncio.gather(*work)) - {None}
    assert said == {4}
    assert await log.partitions(NAMES.events) == 16
    log.compact(NAMES.installation)
    assert await KeySpread(log, NAMES, within_s=PATIENCE).partitions() == 4
    assert await freeze_key_partitions(log, NAMES, nonce) == 4


async def test_p140_the_first_holds_even_if_another_knew_of_more_partitions() -> None:
    log = new_log(8)
    writer = log.writer()
    for count in (8, 16):
        await writer.append(NAMES.installation, 0, KeyPartitions(count).record(f"{count:016x}"))
    log.compact(NAMES.installation)
    assert await key_partitions(log, NAMES) == 8


async def test_what_cannot_be_read_is_passed_over() -> None:
    log = new_log(8)
    writer = log.writer()
    for record in ODD:
        await writer.append(NAMES.installation, 0, record)
    assert await key_partitions(log, NAMES) is None
    assert key_partitions_in(log.records(NAMES.installation, 0)) is None
    assert await freeze_key_partitions(log, NAMES, nonces()) == 8
    assert await key_partitions(log, NAMES) == 8


async def test_p141_it_is_written_once_however_many_ingests_start() -> None:
    log = new_log(8)
    for _ in range(3):
        assert await freeze_key_partitions(log, NAMES, nonces()) == 8
    assert len(log.records(NAMES.installation, 0)) == 1


async def test_an_append_that_is_lost_for_good_keeps_ingest_from_starting() -> None:
    log = new_log()
    log.fail_next("unknown-lost")
    with pytest.raises(LogUnavailable, match="installation does not hold"):
        await freeze_key_partitions(log, NAMES, nonces())
    assert await freeze_key_partitions(log, NAMES, nonces()) == 4


async def test_p142_before_it_is_written_it_is_how_many_partitions_there_are() -> None:
    log = new_log()
    spread = KeySpread(log, NAMES, within_s=PATIENCE)
    assert await spread.partitions() == 4
    await freeze_key_partitions(log, NAMES, nonces())
    log.grow(NAMES.events, 8)
    assert await spread.partitions() == 4
    log.available = False  # it is known by now
    assert await spread.partitions() == 4
    with pytest.raises(LogUnavailable):
        await KeySpread(log, NAMES, within_s=PATIENCE).partitions()


async def test_a_log_that_brings_nothing_is_given_up_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    log = new_log()
    await freeze_key_partitions(log, NAMES, nonces())

    async def nothing(*_: object, **__: object) -> list[Batch]:
        await asyncio.sleep(0)
        return []

    monkeypatch.setattr(log, "fetch", nothing)
    with pytest.raises(LogUnavailable, match="installation cannot be read in time"):
        await KeySpread(log, NAMES, within_s=0.01).partitions()


async def test_p139_a_key_leads_to_where_it_always_did() -> None:
    log, tenant = new_log(), Tenant("acme")
    keys = [f"k{n}" for n in range(100)]

    async def lead() -> list[ResponseId]:
        spread = KeySpread(log, NAMES, within_s=PATIENCE)
        return [idempotent_response_id(tenant, key, await spread.partitions()) for key in keys]

    before = await lead()
    await freeze_key_partitions(log, NAMES, nonces())
    log.grow(NAMES.events, 8)
    assert await lead() == before
    assert {partition_of(id) for id in before} == set(range(4))
