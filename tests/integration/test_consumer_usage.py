"""The program of docs/consumers/usage.md on a real broker: it comes to the plain sum."""

import asyncio
import json
import re
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from schemas.records import NewRecord
from services.analytics.counting import PartitionCount
from services.analytics.prices import Prices
from services.connect import topic_names
from services.eventlog.kafka_topics import create_topics
from services.eventlog.port import Log
from services.settings import Settings
from tests.usage import ended

PAGE = Path(__file__).parents[2] / "docs" / "consumers" / "usage.md"
PROGRAM = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
PARTITIONS = 2


@pytest.fixture
async def settings(kafka: str, topic_prefix: str) -> Settings:
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix)
    await create_topics(kafka, topic_names(settings), partitions=PARTITIONS)
    return settings


async def test_the_sums_are_right_over_partitions_repetitions_and_what_was_overtaken(
    log: Log, settings: Settings, tmp_path: Path
) -> None:
    closings = [ended(number, number % PARTITIONS) for number in range(300)]
    writer, topic = log.writer(), topic_names(settings).usage
    for number in range(PARTITIONS):
        count = PartitionCount(number, "topic", Prices(), [])
        count.begin(0)
        appended: list[NewRecord] = []
        for offset, closing in enumerate([*closings[number::PARTITIONS], *closings[number::PARTITIONS]]):
            count.take(offset, closing)
            if offset % 20 == 19:
                changes = count.written()
                appended += [NewRecord(*pair) for pair in [*changes.names, *changes.rows, *changes.mark]]
        appended.append(appended[2])
        for record in appended:
            await writer.append(topic, number, record)
    await writer.close()
    file = tmp_path / "usage.py"
    file.write_text(PROGRAM)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(file), settings.kafka, topic, stdout=PIPE
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    wanted: dict[tuple[str, str | None], int] = {}
    for closing in closings:
        key = (closing.tenant, closing.model)
        wanted[key] = wanted.get(key, 0) + (closing.usage.output_tokens if closing.usage else 0)
    told = [json.loads(line) for line in said.splitlines()]
    assert {(one["tenant"], one["model"]): one["output_tokens"] for one in told} == wanted
    assert sum(one["responses"] for one in told) == len(closings)
