"""Topics on a real broker: created right, checked, and mended where that is safe."""

from collections.abc import Callable
from contextlib import suppress

import anyio
import pytest
from msgspec.structs import astuple, replace

from schemas.errors import LogUnavailable, TopicMisconfigured
from services.eventlog.kafka import check_topics, create_topics
from services.eventlog.kafka_address import KafkaAddress
from services.eventlog.kafka_topics import add_partitions, admin_at, alter, configs_of, grow_topics
from services.eventlog.topics import Topics, specs, topics
from services.settings import Settings
from services.topic_setup import make_topics, require_topics
from tests.conftest import eventually


@pytest.fixture
def names(fresh: Callable[[str], str]) -> Topics:
    return topics(fresh(""))


def alike(names: Topics) -> list[str]:
    """The topics that must have as many partitions as the events."""
    return [spec.name for spec in specs(names)[1:] if spec.partitions is None]


async def test_created_topics_pass_their_check(kafka: str, names: Topics) -> None:
    assert [problem.what for problem in await check_topics(kafka, names)] == ["does not exist"] * len(
        names.__struct_fields__
    )
    done = await create_topics(kafka, names, partitions=3)
    assert f"created topic {names.events} with 3 partitions" in done
    assert f"created topic {names.executors} with 1 partitions" in done
    assert await check_topics(kafka, names) == []
    assert await create_topics(kafka, names, partitions=5) == []


async def test_topics_may_go_while_they_are_looked_at(kafka: str, names: Topics) -> None:
    await create_topics(kafka, names, partitions=1)

    async def look(topic: str) -> None:
        while topic not in {problem.topic for problem in await check_topics(kafka, names)}:
            pass

    async with admin_at(KafkaAddress(kafka)) as admin, anyio.create_task_group() as tasks:
        for topic in astuple(names):
            for _ in range(4):
                tasks.start_soon(look, topic)
            await admin.delete_topics([topic])


async def test_what_is_wrong_is_told_and_mended_and_the_rest_left_alone(kafka: str, names: Topics) -> None:
    await create_topics(kafka, names, partitions=2)
    async with admin_at(KafkaAddress(kafka)) as admin:
        wrong = {"message.timestamp.type": "CreateTime", "min.compaction.lag.ms": "0", "segment.ms": "777777"}
        await alter(admin, {names.events: wrong})
        await add_partitions(admin, names.events, 4)
    found = await eventually(lambda: check_topics(kafka, names))
    assert [(problem.topic, problem.what) for problem in found] == [
        (names.events, "min.compaction.lag.ms is 0, must be at least 86400000"),
        (names.events, "message.timestamp.type is CreateTime, must be LogAppendTime"),
        *((topic, "has 2 partitions, must have 4") for topic in alike(names)),
    ]
    done = await create_topics(kafka, names, fix=True)
    assert f"set message.timestamp.type=LogAppendTime on topic {names.events}" in done
    assert f"raised topic {names.responses} to 4 partitions" in done

    async def mended() -> bool:
        return await check_topics(kafka, names) == []

    await eventually(mended)
    async with admin_at(KafkaAddress(kafka)) as admin:
        assert (await configs_of(admin, [names.events]))[names.events]["segment.ms"] == ("777777", True)


async def test_p143_partitions_are_added_to_the_events_last_and_an_interrupted_growth_goes_on(
    kafka: str, names: Topics
) -> None:
    await create_topics(kafka, names, partitions=2)
    assert await create_topics(kafka, names, partitions=3, fix=True) == []
    order = [*alike(names), names.events]
    growing = grow_topics(kafka, names, 3)
    assert await anext(growing) == f"raised topic {order[0]} to 3 partitions"
    await growing.aclose()
    [left] = await eventually(lambda: check_topics(kafka, names))
    assert (left.topic, left.fatal) == (order[0], False)
    done = [line async for line in grow_topics(kafka, names, 3)]
    assert done == [f"raised topic {topic} to 3 partitions" for topic in order[1:]]
    assert [line async for line in grow_topics(kafka, names, 3)] == []


async def test_topics_that_do_not_outlast_the_deadline_stop_a_service(kafka: str, topic_prefix: str) -> None:
    settings = Settings(kafka=kafka, topic_prefix=topic_prefix, partitions=1)
    await make_topics(settings)
    await require_topics(settings)
    week = replace(settings, run_deadline_s=7 * 24 * 3600)
    with pytest.raises(
        TopicMisconfigured, match=r"min\.compaction\.lag\.ms is 86400000, must be at least 648"
    ):
        await require_topics(week)
    await make_topics(week, fix=True)
    await eventually(lambda: required(week))


async def required(settings: Settings) -> bool:
    with suppress(TopicMisconfigured):
        await require_topics(settings)
        return True
    return False


async def test_a_cluster_that_is_away_is_named(names: Topics) -> None:
    with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1:9 is away"):
        await check_topics("127.0.0.1:9", names)
