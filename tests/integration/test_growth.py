"""A system gets twice as many partitions while it serves: only analytics is restarted, nothing is lost."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from schemas.ids import ResponseId, partition_of
from services.eventlog.kafka import KafkaLog
from services.eventlog.port import TopicPartition
from services.eventlog.scan import scan
from services.eventlog.topics import topics
from tests.api import Api, insisting, numbers, request, types
from tests.conftest import eventually
from tests.process import REJOINDER
from tests.system import System
from tests.webhooks import Receiver

pytest.importorskip("faust", reason="analytics is not installed")

BEFORE, AFTER = 4, 8
KEYS = [f"key-{number}" for number in range(100)]
LONG = {"tokens": 150, "interval_ms": 100}
"""A response of fifteen seconds, whose stream is open from before the growth until after it."""
AT_ONCE = 10
T = TypeVar("T")


@pytest.fixture
async def growing(kafka: str, tmp_path: Path) -> AsyncIterator[System]:
    system = System(kafka, tmp_path, flags=(), partitions=BEFORE, webhooks_allow_private=1, grace_s=2)
    await asyncio.to_thread(system.start)
    yield system
    await asyncio.to_thread(system.stop)


async def each(ask: Callable[[str], T], of: Iterable[str]) -> list[T]:
    """What is answered for each, `AT_ONCE` at a time, in their order."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(given: str) -> T:
        async with room:
            return await asyncio.to_thread(ask, given)

    return await asyncio.gather(*map(one, of))


def keyed(api: Api, key: str) -> str:
    """The id of the response that a key leads to."""
    answer = insisting(lambda: api.post(request("one two"), {"idempotency-key": key}))
    assert answer.status == 200, answer
    return str(answer.json["id"])


def spread(ids: Iterable[str]) -> set[int]:
    return {partition_of(ResponseId(id)) for id in ids}


async def added(system: System) -> None:
    """Add the partitions as an operator does, twice."""
    command = [REJOINDER, "topics", "--kafka", system.kafka, "--partitions", str(AFTER)]
    for lines in (10, 1):
        said = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **system.environ}, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await said.communicate()
        assert said.returncode == 0, out
        assert len(out.decode().splitlines()) <= lines


async def made_everywhere(api: Api) -> list[str]:
    """Responses without a key, at least one in each of the partitions that were added."""
    made: list[str] = []

    async def everywhere() -> bool:
        made.append(await asyncio.to_thread(api.create, "one two"))
        return spread(made) >= set(range(BEFORE, AFTER))

    await eventually(everywhere)
    return made


async def announced(system: System) -> set[str]:
    """The responses of which `closings` tells."""
    log, topic = KafkaLog(system.kafka, "rejoinder-test"), topics(system.prefix).closings
    try:
        bounds = await log.bounds(topic, range(await log.partitions(topic)))
        return {
            (record.key or b"").decode()
            for number, (start, end) in bounds.items()
            async for record in scan(log, TopicPartition(topic, number), start, end)
        }
    finally:
        await log.close()


def counted(api: Api, since: int) -> int:
    """How many responses usage tells of."""
    path = f"/v1/organization/usage/completions?start_time={since}&bucket_width=1d"
    answer = api.ask("GET", path)
    if answer.status == 503:  # analytics is being started again
        return 0
    return sum(row["num_model_requests"] for day in answer.json["data"] for row in day["results"])


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_partitions_are_added_while_everything_serves(growing: System) -> None:
    api, began = Api(growing.base_url), int(time.time()) - 1
    async with Receiver().serving() as receiver:
        hook = {"name": "all", "url": receiver.url, "event_types": ["response.completed"]}
        assert (await asyncio.to_thread(api.ask, "POST", "/v1/webhook_endpoints", hook)).status == 200
        first = await each(partial(keyed, api), KEYS)
        assert spread(first) == set(range(BEFORE))
        long = await each(lambda words: api.create(words, **LONG), ["a", "b", "c"])
        reading = [asyncio.create_task(asyncio.to_thread(api.events, id)) for id in long]

        await added(growing)
        new = await made_everywhere(api)
        assert await each(partial(keyed, api), KEYS) == first, "a key made a second response"
        chained = await each(
            lambda id: api.create("and on", previous_response_id=id), [long[0], first[0], *new[-3:]]
        )
        assert [partition_of(ResponseId(id)) for id in chained] == [
            partition_of(ResponseId(id)) for id in [long[0], first[0], *new[-3:]]
        ]
        for frames in await asyncio.gather(*reading):
            assert numbers(frames) == list(range(len(frames)))
            assert types(frames)[-1] == "response.completed"
        ids = [*first, *long, *new, *chained]
        for frames in await each(api.events, [*new, *chained]):
            assert types(frames)[-1] == "response.completed"

        async def all_announced() -> bool:
            return await announced(growing) == set(ids)

        await eventually(all_announced)
        await eventually(lambda: receiver.heard_of(set(map(ResponseId, ids))), 60)
        assert len(receiver.ids) == len(ids)

        async def all_counted() -> bool:
            return await asyncio.to_thread(counted, api, began) == len(ids)

        await eventually(all_counted, 60)
    ended = [line for line in growing.log.splitlines() if "service ended" in line]
    assert ended
    assert all("analytics" in line for line in ended), ended
