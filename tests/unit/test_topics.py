"""The topics as data: what they are created with, and which differences are told (A-23)."""

import pytest
from msgspec.structs import replace

from schemas.errors import TopicMisconfigured
from services.eventlog.topics import (
    DAY,
    HOUR,
    LONGEST_OUTAGE,
    MAX_RECORD_BYTES,
    ActualTopic,
    Problem,
    TopicSpec,
    check_all,
    config,
    growth,
    kept_ms,
    partitions_for,
    specs,
    topics,
)

NAMES = topics()
SPECS = {spec.name: spec for spec in specs(NAMES)}
EVENTS = SPECS[NAMES.events]


def as_created(spec: TopicSpec, partitions: int = 8, replication: int = 3) -> ActualTopic:
    return ActualTopic(spec.partitions or partitions, replication, config(spec, replication))


def cluster(**changes: ActualTopic) -> dict[str, ActualTopic]:
    """All topics as created, some of them changed; by the names' fields."""
    found = {name: as_created(spec) for name, spec in SPECS.items()}
    return found | {getattr(NAMES, field): topic for field, topic in changes.items()}


def changed(spec: TopicSpec, **settings: str) -> ActualTopic:
    found = as_created(spec)
    named = {key.replace("_", "."): value for key, value in settings.items()}
    return ActualTopic(found.partitions, found.replication, {**found.config, **named})


def problems(**changes: ActualTopic) -> list[Problem]:
    return check_all(specs(NAMES), cluster(**changes))


@pytest.mark.parametrize("replication", [1, 2, 3, 5])
def test_what_we_create_has_no_problem(replication: int) -> None:
    found = {name: as_created(spec, replication=replication) for name, spec in SPECS.items()}
    assert [problem for problem in check_all(specs(NAMES), found) if problem.fatal] == []


def test_a_prefix_keeps_installations_apart() -> None:
    assert topics("blue.").events == "blue.responses.events"
    assert {spec.name for spec in specs(topics("a."))}.isdisjoint(SPECS)


def test_a_missing_topic_is_told_with_the_command_that_makes_it() -> None:
    found = cluster()
    del found[NAMES.executors]
    assert list(map(str, check_all(specs(NAMES), found))) == [
        "topic responses.executors: does not exist: rejoinder topics --create"
    ]
    assert {problem.mend for problem in check_all(specs(NAMES), {})} == {"rejoinder topics --create"}


def test_nobody_is_told_to_delete_what_cannot_be_said_again() -> None:
    found = cluster()
    found[NAMES.installation] = replace(found[NAMES.installation], partitions=8)
    [problem] = check_all(specs(NAMES), found)
    assert not problem.fatal
    assert "leave it as it is" in problem.mend


def test_a_wrong_setting_is_one_line_with_its_remedy() -> None:
    [problem] = problems(events=changed(EVENTS, message_timestamp_type="CreateTime"))
    assert problem.fatal
    assert problem.setting == ("message.timestamp.type", "LogAppendTime")
    assert str(problem).startswith(
        "topic responses.events: message.timestamp.type is CreateTime, must be LogAppendTime: "
        "rejoinder topics --fix, or kafka-configs.sh --alter --topic responses.events"
    )
    assert "\n" not in str(problem)


@pytest.mark.parametrize("policy", ["compact,delete", "delete,compact", "delete"])
def test_erasure_may_be_by_compaction_or_by_retention(policy: str) -> None:
    assert problems(events=changed(EVENTS, cleanup_policy=policy)) == []


def test_events_that_are_never_deleted_are_refused() -> None:
    [problem] = problems(events=changed(EVENTS, cleanup_policy="compact"))
    assert "must be compact,delete or delete" in str(problem)


def test_compaction_must_leave_alone_what_may_still_be_open() -> None:
    [problem] = problems(events=changed(EVENTS, min_compaction_lag_ms="0"))
    assert "min.compaction.lag.ms is 0, must be at least 86400000" in str(problem)


@pytest.mark.parametrize("retention", ["-1", "86400000", "99999999999"])
def test_longer_and_endless_retention_is_the_operators_choice(retention: str) -> None:
    assert problems(events=changed(EVENTS, retention_ms=retention)) == []


def test_retention_shorter_than_what_may_be_open_is_refused() -> None:
    [problem] = problems(events=changed(EVENTS, retention_ms="3600000"))
    assert problem.setting == ("retention.ms", "2592000000")


def test_what_may_be_open_for_long_is_kept_for_longer() -> None:
    week = 7 * DAY
    assert kept_ms() == kept_ms(HOUR) == DAY
    wanted = specs(NAMES, kept=kept_ms(week))
    problems = check_all(wanted, cluster(events=changed(EVENTS, retention_ms=str(week))))
    settings = [(problem.topic, (problem.setting or ("", ""))[0]) for problem in problems]
    lag = "min.compaction.lag.ms"
    kept = [(NAMES.transcripts, lag), (NAMES.index, lag)]
    assert settings == [(NAMES.events, lag), (NAMES.events, "retention.ms"), *kept]
    for problem in problems:
        assert f"must be at least {week + LONGEST_OUTAGE}" in problem.what
        assert problem.mend.endswith(", or lower REJOINDER_RUN_DEADLINE_S or REJOINDER_EPHEMERAL_S")
    assert config(specs(NAMES, kept=kept_ms(60 * DAY))[0], 3)["retention.ms"] == str(
        60 * DAY + LONGEST_OUTAGE
    )


def test_the_largest_record_fits_into_every_topic() -> None:
    [problem] = problems(responses=changed(SPECS["responses"], max_message_bytes=str(MAX_RECORD_BYTES)))
    assert "max.message.bytes" in str(problem)


@pytest.mark.parametrize("name", SPECS)
def test_a_topic_that_cannot_hold_the_largest_record_says_both_ways_to_mend_it(name: str) -> None:
    chosen = 3 << 20
    found = cluster()
    wanted = specs(NAMES, chosen)
    for spec in wanted:
        if spec.name != name:
            found[spec.name] = as_created(spec)
    [problem] = check_all(wanted, found)
    assert problem.fatal
    assert problem.what == f"max.message.bytes is {2 << 20}, must be at least {chosen + 4096}"
    assert problem.mend.startswith("rejoinder topics --fix, or kafka-configs.sh --alter")
    assert problem.mend.endswith(", or set REJOINDER_MAX_RECORD_BYTES 4096 bytes below it")


def test_views_have_as_many_partitions_as_the_events() -> None:
    few = as_created(SPECS["responses"], partitions=4)
    many = as_created(SPECS["transcripts"], partitions=9)
    first, second = problems(responses=few, transcripts=many)
    assert str(first) == "topic responses: has 4 partitions, must have 8: rejoinder topics --fix"
    assert first.partitions == 8
    assert second.partitions is None
    assert not second.fatal
    assert str(second) == (
        "warning: topic transcripts: has 9 partitions, more than 8: "
        "rejoinder topics --partitions 9 goes on where partitions were being added"
    )


def test_p143_the_events_get_partitions_last_and_an_interrupted_growth_goes_on() -> None:
    wanted = specs(NAMES)
    order = [spec.name for spec in wanted[1:] if spec.partitions is None] + [NAMES.events]
    assert growth(wanted, cluster(), 12) == order
    found = cluster()
    for done, name in enumerate(order):
        assert growth(wanted, found, 12) == order[done:]
        assert [problem for problem in check_all(wanted, found) if problem.fatal] == []
        found[name] = as_created(SPECS[name], partitions=12)
    assert growth(wanted, found, 12) == []
    assert check_all(wanted, found) == []


def test_partitions_are_never_taken_away_and_what_is_missing_is_told() -> None:
    with pytest.raises(TopicMisconfigured, match=r"responses\.events has 8 partitions: none can be taken"):
        growth(specs(NAMES), cluster(), 7)
    found = cluster()
    del found[NAMES.usage]
    with pytest.raises(TopicMisconfigured, match="topic usage does not exist: rejoinder topics --create"):
        growth(specs(NAMES), found, 12)


def test_a_lost_view_is_told_with_what_must_stand_still_meanwhile() -> None:
    found = cluster()
    del found["transcripts"]
    assert list(map(str, check_all(specs(NAMES), found))) == [
        "topic transcripts: does not exist: stop replay and the projector, run "
        "rejoinder topics --create, start them again: the projector fills it from responses.events"
    ]


def test_events_that_are_lost_come_back_with_a_partition_for_each_of_their_views() -> None:
    assert partitions_for(specs(NAMES), {}, None) == 8
    assert partitions_for(specs(NAMES), {}, 3) == 3
    found = cluster(transcripts=as_created(SPECS["transcripts"], partitions=16))
    assert partitions_for(specs(NAMES), found, 3) == 8
    del found[NAMES.events]
    assert partitions_for(specs(NAMES), found, 3) == 16


def test_closings_are_only_ever_appended_and_can_be_read_for_thirty_days_at_least() -> None:
    spec = SPECS[NAMES.closings]
    for policy in ("compact", "compact,delete"):
        [problem] = problems(closings=changed(spec, cleanup_policy=policy))
        assert problem.setting == ("cleanup.policy", "delete")
    [problem] = problems(closings=changed(spec, retention_ms=str(30 * DAY - 1)))
    assert problem.setting == ("retention.ms", str(30 * DAY))
    assert problems(closings=changed(spec, retention_ms="-1")) == []
    longer = specs(NAMES, closings_ms=60 * DAY)
    assert [problem.setting for problem in check_all(longer, cluster())] == [("retention.ms", str(60 * DAY))]


def test_what_is_counted_outlives_the_closings_and_what_was_overtaken_is_not_compacted_at_once() -> None:
    spec = SPECS[NAMES.usage]
    [problem] = problems(usage=changed(spec, min_compaction_lag_ms="0"))
    assert problem.setting == ("min.compaction.lag.ms", "3600000")
    [problem] = problems(usage=changed(spec, retention_ms=str(90 * DAY - 1)))
    assert problem.setting == ("retention.ms", str(90 * DAY))
    assert problems(usage=changed(spec, cleanup_policy="compact")) == []
    longer = [problem.setting for problem in check_all(specs(NAMES, closings_ms=120 * DAY), cluster())]
    assert longer == [("retention.ms", str(120 * DAY)), ("retention.ms", str(127 * DAY))]


def test_closings_have_as_many_partitions_as_the_events_and_are_not_filled_again() -> None:
    found = cluster()
    del found[NAMES.closings]
    assert list(map(str, check_all(specs(NAMES), found))) == [
        "topic closings: does not exist: rejoinder topics --create"
    ]
    few, many = (as_created(SPECS[NAMES.closings], partitions=n) for n in (4, 9))
    assert str(problems(closings=few)[0]).endswith("must have 8: rejoinder topics --fix")
    assert not problems(closings=many)[0].fatal
    assert partitions_for(specs(NAMES), {NAMES.closings: many}, 3) == 9


def test_beats_have_one_order() -> None:
    two = as_created(replace(SPECS[NAMES.executors], partitions=2))
    [problem] = problems(executors=two)
    assert str(problem).endswith(
        "has 2 partitions, must have 1: "
        "stop the executors, delete it, run rejoinder topics --create, start them again"
    )


@pytest.mark.parametrize(
    "replication, least, fatal, told",
    [
        (3, 4, True, "no append can succeed"),
        (2, 2, False, "one broker down stops all appends"),
        (3, 1, False, "an acknowledged record may be lost"),
    ],
)
def test_replicas_that_do_not_keep_the_promise_are_told(
    replication: int, least: int, fatal: bool, told: str
) -> None:
    found = as_created(EVENTS, replication=replication)
    settings = {**found.config, "min.insync.replicas": str(least)}
    [problem] = problems(events=ActualTopic(found.partitions, replication, settings))
    assert problem.fatal is fatal
    assert told in str(problem)
    assert str(problem).startswith("warning: ") is not fatal


def test_three_replicas_survive_the_loss_of_one() -> None:
    assert config(EVENTS, 3)["min.insync.replicas"] == "2"
    assert config(EVENTS, 1)["min.insync.replicas"] == "1"
