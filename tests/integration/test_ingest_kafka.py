"""Ingest on a real broker: what it stores, and what a client hears while the broker is away (A-10, P-31)."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.ids import partition_of
from schemas.records import Accepted, Cancelled, parse
from services.broker import EmbeddedKafka
from services.eventlog.kafka import KafkaLog, create_topics
from services.eventlog.port import TopicPartition
from services.eventlog.topics import Topics, topics
from tests.conftest import eventually
from tests.ingesting import PARTITIONS, Ingesting, started
from tests.serving import Answer
from tests.steady import steady


@asynccontextmanager
async def ingesting_on(bootstrap: str, names: Topics) -> AsyncIterator[tuple[Ingesting, KafkaLog]]:
    await create_topics(bootstrap, names, partitions=PARTITIONS)
    log = KafkaLog(bootstrap)
    try:
        async with started(Ingesting(log, names)) as running:
            yield running, log
    finally:
        await log.close()


async def test_a_post_and_its_cancel_are_two_records_of_one_partition(kafka: str, topic_prefix: str) -> None:
    names = topics(topic_prefix)
    async with ingesting_on(kafka, names) as (running, log):
        made = await running.create()
        cancelled = await running.cancel(made["id"])
        shown = await running.get(made["id"])
        (batch,) = await log.fetch({TopicPartition(names.events, partition_of(made["id"])): 0})
    assert (cancelled.status, cancelled.body) == (200, shown.body)
    accepted, cancel = (parse(record) for record in batch.records)
    assert isinstance(accepted, Accepted)
    assert isinstance(cancel, Cancelled)
    assert accepted.id == cancel.id == made["id"]
    assert 0 <= accepted.not_after - batch.records[0].timestamp <= 60_000
    assert json.loads(batch.records[1].value or b"") == json.loads(shown.body)


async def timed(asking: Awaitable[Answer]) -> tuple[Answer, float]:
    """An answer, and the seconds that it took."""
    began = steady()
    return await asking, steady() - began


@pytest.mark.usefixtures("forgotten_connections")
async def test_a_paused_broker_is_a_503_in_time_and_never_a_false_queued(tmp_path: Path) -> None:
    broker = EmbeddedKafka(tmp_path)
    try:
        async with ingesting_on(await broker.start(), topics()) as (running, _):
            before = await running.create()
            await broker.pause()
            asked = [
                *(running.post({"background": True}) for _ in range(20)),
                running.post({"background": True}, "Idempotency-Key: k"),
                running.cancel(before["id"]),
                running.delete(before["id"]),
            ]
            answers = await asyncio.gather(*map(timed, asked))
            assert {answer.status for answer, _ in answers} == {503}
            assert all(1 <= int(answer.headers["retry-after"]) <= 60 for answer, _ in answers)
            in_doubt = [seconds for answer, seconds in answers if "x-should-retry" in answer.headers]
            others = [seconds for answer, seconds in answers if "x-should-retry" not in answer.headers]
            assert max(in_doubt, default=0) < 20
            assert (
                sorted(others)[-3] < 5
            )  # a cancel, a delete and the keyed one may be in doubt and repeatable

            async def refuses_at_once() -> bool:
                began = steady()
                refused = (await running.post({"background": True})).status == 503
                return refused and steady() - began < 0.2

            await eventually(refuses_at_once)
            broker.resume()
            await eventually(running.ready)
            after = await eventually(running.create)
            for made in (before, after):
                assert (await running.get(made["id"])).status == 200
    finally:
        broker.resume()
        await broker.stop()
