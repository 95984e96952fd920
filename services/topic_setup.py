"""Creates and checks Kafka's topics: for `rejoinder topics`, and at the start of every service."""

import sys
from collections.abc import Sequence

from schemas.errors import TopicMisconfigured
from services.connect import connect, kafka_settings, projector_group, topic_names
from services.eventlog.installation import key_partitions
from services.eventlog.kafka_topics import check_topics, create_topics, grow_topics
from services.eventlog.topics import DAY, Problem, kept_ms
from services.settings import Settings


async def set_up_topics(
    settings: Settings, *, create: bool = False, fix: bool = False, grow: bool = False
) -> int:
    """Check the topics, and print what was done and what is wrong. Returns 0 if services can start on them.

    `grow`: existing topics get the partitions of `settings`. Raises as `make_topics` and `grow_by_settings`.
    """
    if create:
        _say(await make_topics(settings, fix=fix))
    if grow:
        await grow_by_settings(settings)
    problems = await _check(settings)
    _say(problems or ["the topics are as they must be"])
    return int(any(problem.fatal for problem in problems))


async def grow_by_settings(settings: Settings) -> None:
    """Raise the existing topics to the partitions of `settings`, and print what was done.

    Raises LogUnavailable, or TopicMisconfigured if they have more, one is missing, or nothing says yet over
    how many partitions keys are spread (P-142).
    """
    names, before, raised = topic_names(settings), None, False
    log = connect(settings, "topics")
    try:
        await log.partitions(names.installation)  # raises TopicMissing, which says what to do
        before = await key_partitions(log, names)
        if before is None and await log.partitions(names.events) < settings.partitions:
            what = "nothing says yet over how many partitions Idempotency-Keys are spread"
            mend = "start an ingest of this version on these topics once, then add partitions"
            raise TopicMisconfigured(f"topic {names.installation}: {what}: {mend}")
    finally:
        await log.close()
    kafka = kafka_settings(settings)
    async for line in grow_topics(settings.kafka, names, settings.partitions, kafka):
        _say([line])
        raised = True
    if raised:
        but = "but for analytics and shards of replay, which are started again"
        _say([f"services follow by themselves, {but}; keys stay in the first {before} partitions"])


async def make_topics(settings: Settings, *, fix: bool = False) -> list[str]:
    """Create missing topics, and with `fix` mend wrong settings. Returns what was done, one line each.

    An existing topic keeps its partitions. Raises LogUnavailable, or TopicMisconfigured if the cluster
    refuses.
    """
    return await create_topics(
        settings.kafka,
        topic_names(settings),
        partitions=settings.partitions,
        replication=settings.replication,
        fix=fix,
        settings=kafka_settings(settings),
        max_record_bytes=settings.max_record_bytes,
        kept=kept_for(settings),
        closings_ms=settings.closings_days * DAY,
        usage_ms=settings.usage_days * DAY,
        projector=projector_group(settings),
    )


async def require_topics(settings: Settings) -> None:
    """Raise TopicMisconfigured unless services can start on the topics, LogUnavailable if Kafka is away."""
    for problem in await _check(settings):
        if problem.fatal:
            raise TopicMisconfigured(str(problem))


async def _check(settings: Settings) -> list[Problem]:
    return await check_topics(
        settings.kafka,
        topic_names(settings),
        kafka_settings(settings),
        max_record_bytes=settings.max_record_bytes,
        kept=kept_for(settings),
        closings_ms=settings.closings_days * DAY,
        usage_ms=settings.usage_days * DAY,
    )


def kept_for(settings: Settings) -> int:
    """Milliseconds for which nothing may be compacted or removed, by these settings (P-92)."""
    needed = int((settings.run_deadline_s + settings.ephemeral_s) * 1000)
    return kept_ms(needed + settings.acceptance_ms + settings.skew_ms)


def _say(lines: Sequence[object]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()
