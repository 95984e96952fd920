"""What can be asked about usage, what is wrong with a question, and what the answer adds up to."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import pytest
from msgspec.structs import replace

from schemas.closings import ClosingRecord, TokenCounts
from schemas.errors import ApiError
from schemas.ids import Tenant
from schemas.records import NewRecord
from schemas.usage import MarkKey, UsageMark, encoded_key, encoded_value
from services.analytics.answers import Results, answer, completions, costs, latency
from services.analytics.counting import PartitionCount
from services.analytics.index import UsageIndex
from services.analytics.lag import STUCK_S, LagWatch, Stuck
from services.analytics.prices import Prices
from services.analytics.queries import COSTS, USAGE, Query, UsageQuestion, asked
from services.config import Price
from services.eventlog.memory_partition import MemoryPartition
from services.web.forwarded import Caller
from tests.usage import ended

ADMIN = Caller(None, True)
NOW = 1_796_060_000
DAY = 86_400
PRICES = Prices(
    [Price(model="gpt-*", input=1, output=2), Price(model="*", input=3, output=0, currency="eur")]
)


def question(query: str, kind: UsageQuestion = USAGE, caller: Caller = ADMIN) -> Query:
    return asked(parse_qsl(query, keep_blank_values=True), kind, caller, NOW)


@pytest.mark.parametrize(
    "query, field, told",
    [
        ("", "start_time", "missing"),
        ("start_time=soon", "start_time", "Unix seconds"),
        ("start_time=-5", "start_time", "Unix seconds"),
        ("start_time=999999999999", "start_time", "Unix seconds"),
        (f"start_time={NOW + DAY}", "start_time", "in the future"),
        (f"start_time={NOW + DAY}&end_time={NOW + 2 * DAY}", "start_time", "in the future"),
        (f"start_time={NOW + 120}&bucket_width=1m", "start_time", "in the future"),
        ("start_time=0&project_id=acme", "project_id", "no such field here; there are start_time"),
        ("start_time=0&line_items=gpt-5", "line_items", "no such field"),
        ("start_time=200&end_time=100", "end_time", "after start_time"),
        ("start_time=200&end_time=200", "end_time", "after start_time"),
        ("start_time=0&start_time=1", "start_time", "once"),
        ("start_time=0&bucket_width=1s", "bucket_width", "1m or 1h or 1d, not '1s'"),
        ("start_time=0&limit=32", "limit", "1 to 31"),
        ("start_time=0&bucket_width=1h&limit=169", "limit", "1 to 168"),
        ("start_time=0&bucket_width=1m&limit=1441", "limit", "1 to 1440"),
        ("start_time=0&limit=0", "limit", "1 to 31"),
        ("start_time=0&limit=x", "limit", "1 to 31"),
        ("start_time=0&group_by=colour", "group_by", "'colour' is no group; it takes project_id or model"),
        ("start_time=0&group_by[]=user_id", "group_by", "not known of what has ended"),
        ("start_time=0&user_ids=1", "user_ids", "leave it out"),
        ("start_time=0&api_key_ids[]=1", "api_key_ids", "leave it out"),
        ("start_time=0&batch=true", "batch", "no batches"),
        ("start_time=0&page=2", "page", "next_page"),
        ("start_time=0&page=page_5", "page", "next_page"),
        ("start_time=86400&page=page_0", "page", "next_page"),
    ],
)
def test_a33_a_wrong_question_is_a_400_that_names_the_field(query: str, field: str, told: str) -> None:
    with pytest.raises(ApiError, match=told) as caught:
        question(query)
    assert (caught.value.status, caught.value.param) == (400, field)


def test_costs_are_by_day() -> None:
    with pytest.raises(ApiError, match="bucket_width must be 1d, not '1h'"):
        question("start_time=0&bucket_width=1h", COSTS)
    assert question("start_time=0&limit=180", COSTS).limit == 180
    with pytest.raises(ApiError, match="models: there is no such field here"):
        question("start_time=0&models=gpt-5", COSTS)
    with pytest.raises(ApiError, match="it takes project_id or line_item"):
        question("start_time=0&group_by=model", COSTS)


@pytest.mark.parametrize(
    "query",
    [
        "group_by=project_id,model",
        "group_by[]=project_id&group_by[]=model",
        "group_by=project_id&group_by[]=model",
    ],
)
def test_groups_are_taken_in_every_form(query: str) -> None:
    assert list(question(f"start_time=0&{query}").groups) == ["project_id", "model"]


def test_buckets_are_cut_to_the_range_and_pages_follow_each_other() -> None:
    first = question(f"start_time={DAY + 60}&end_time={4 * DAY + 120}&limit=2")
    assert list(first.buckets) == [(DAY + 60, 2 * DAY), (2 * DAY, 3 * DAY)]
    second = question(f"start_time={DAY + 60}&end_time={4 * DAY + 120}&limit=2&page={first.next_page}")
    assert list(second.buckets) == [(3 * DAY, 4 * DAY), (4 * DAY, 4 * DAY + 120)]
    assert second.next_page is None


def test_a30_a_range_is_rounded_down_to_minutes_and_its_buckets_say_so() -> None:
    assert list(question(f"start_time={DAY + 119}&end_time={DAY + 3661}").buckets) == [(DAY + 60, DAY + 3660)]
    edges = [DAY + 7, DAY + 130, DAY + 150, DAY + 3600]
    found = [list(question(f"start_time={one}&end_time={other}").buckets) for one, other in pairwise(edges)]
    assert found == [[(DAY, DAY + 120)], [], [(DAY + 120, DAY + 3600)]]


def test_without_an_end_the_bucket_of_now_is_the_last() -> None:
    query = question(f"start_time={NOW - 30}&bucket_width=1m")
    assert list(query.buckets)[-1][1] == NOW - NOW % 60 + 60


def records(closings: Sequence[ClosingRecord], partitions: int = 1) -> list[tuple[int, NewRecord]]:
    """The records of `usage` that these closings come to."""
    found = list[tuple[int, NewRecord]]()
    for number in range(partitions):
        count = PartitionCount(number, "topic", PRICES, [])
        count.begin(0)
        for offset, closing in enumerate(closings[number::partitions]):
            count.take(offset, closing)
            changes = count.written()
            found += [(number, NewRecord(*pair)) for pair in [*changes.names, *changes.rows, *changes.mark]]
    return found


def index_of(closings: Sequence[ClosingRecord], partitions: int = 1) -> UsageIndex:
    index, logs = UsageIndex(), [MemoryPartition() for _ in range(partitions)]
    for number, record in records(closings, partitions):
        logs[number].append(record, 0)
    for number, stored in enumerate(logs):
        for found in stored.records:
            assert index.take(found, number) is None
    return index


def page(index: UsageIndex, query: str, kind: UsageQuestion, results: Results, caller: Caller = ADMIN) -> Any:
    steps = answer(question(query, kind, caller), index.sums, results)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


START = ended(0).closed_at // 1000


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("width", ["1m", "1h", "1d"])
def test_a30_buckets_of_any_width_over_any_partitions_come_to_the_same(partitions: int, width: str) -> None:
    closings = [ended(number) for number in range(400)]
    found = page(
        index_of(closings, partitions), f"start_time={START}&bucket_width={width}", USAGE, completions
    )
    results = [result for bucket in found.data for result in bucket.results]
    told = [closing.usage for closing in closings if closing.usage is not None]
    assert sum(result.num_model_requests for result in results) == 400
    for name in ("input_tokens", "output_tokens"):
        assert sum(getattr(result, name) for result in results) == sum(getattr(use, name) for use in told)


def test_a30_groups_and_filters_come_to_the_parts_of_the_whole() -> None:
    index = index_of([ended(number) for number in range(120)])
    query = f"start_time={START}&group_by=project_id,model&project_ids=acme&project_ids[]=blue&models[]=gpt-1"
    (bucket,) = page(index, query, USAGE, completions).data
    assert [(one.project_id, one.model, one.num_model_requests) for one in bucket.results] == [
        ("acme", "gpt-1", 10),
        ("blue", "gpt-1", 10),
    ]


def test_a_tenant_sees_the_tenant_and_whoever_is_none_sees_nothing() -> None:
    index = index_of([ended(number) for number in range(120)])

    def tenants(query: str, caller: Caller) -> set[str | None]:
        found = page(index, f"start_time={START}&group_by=project_id{query}", USAGE, completions, caller)
        return {result.project_id for bucket in found.data for result in bucket.results}

    acme = Caller(Tenant("acme"), False)
    assert tenants("", ADMIN) == {"acme", "blue", "cyan"}
    assert tenants("", acme) == {"acme"}
    assert tenants("&project_ids=acme&project_ids=blue", acme) == {"acme"}
    assert tenants("&project_ids=blue", acme) == set()
    assert tenants("", Caller(None, False)) == set()


def test_a31_costs_are_exact_and_apart_by_currency() -> None:
    usage = TokenCounts(input_tokens=100_000, output_tokens=50_000)
    closings = [ended(number, usage=usage, model="llama" if number % 2 else "gpt-5") for number in range(10)]
    (bucket,) = page(index_of(closings), f"start_time={START}&group_by=line_item", COSTS, costs).data
    told = [(one.line_item, one.amount.currency, one.amount.value) for one in bucket.results]
    assert told == [("gpt-5", "usd", 1.0), ("llama", "eur", 1.5)]


def test_a32_latency_tells_percentiles_and_ends() -> None:
    closings = [
        replace(
            ended(number),
            claimed_at=None,
            first_output_at=None,
            accepted_at=ended(number).closed_at - 100 * number,
        )
        for number in range(1, 101)
    ]
    (bucket,) = page(index_of(closings), f"start_time={START}", USAGE, latency).data
    (result,) = bucket.results
    assert result.first_output is None
    took = result.duration
    assert (took.count, took.mean_ms, took.max_ms) == (100, 5050.0, 10_000.0)
    assert 2_560 < took.p50_ms <= 5_120 < took.p90_ms <= 10_000
    assert sum(result.outcomes.values()) == 100
    assert set(result.errors) == {"server_error"}


def test_p117_what_has_counted_more_stands_and_is_to_be_appended_again() -> None:
    made = records([ended(number) for number in range(40)])
    index, stored = UsageIndex(), MemoryPartition()
    for place, (_, record) in enumerate([*made, made[0], made[1], (0, mark(passed=1))]):
        stored.append(record, place)
    for found in stored.records:
        index.take(found, 0)
    again = index.overtaken([0])[0]
    assert {key for key, _ in again} == {made[0][1].key, made[1][1].key, encoded_key(MarkKey(0))}
    assert index.overtaken([1]) == {}
    for place, (key, value) in enumerate(again):
        stored.append(NewRecord(key, value), place)
    for found in stored.records[-len(again) :]:
        index.take(found, 0)
    assert index.overtaken([0]) == {}
    (bucket,) = page(index, f"start_time={START}", USAGE, completions).data
    assert bucket.results[0].num_model_requests == 40


def mark(passed: int) -> NewRecord:
    value = UsageMark(next=0, topic="topic", marks={}, passed=passed, minute=0)
    return NewRecord(encoded_key(MarkKey(0)), encoded_value(value))


def test_what_has_expired_and_what_is_dropped_is_gone() -> None:
    hours = range(0, 40_000, 100)
    index = index_of([ended(number) for number in hours], 2)
    query = f"start_time={START}"
    whole = page(index, query, USAGE, completions).data[0].results[0]
    assert whole.num_model_requests == 400
    index.forget(ended(20_000).closed_at)
    half = page(index, query, USAGE, completions).data[0].results[0]
    assert 100 < half.num_model_requests < 300
    index.drop(0)
    index.drop(1)
    assert page(index, query, USAGE, completions).data[0].results == []


def test_a_lag_that_does_not_move_ends_the_process() -> None:
    watch = LagWatch()
    watch.look(5, 0, 0.0)
    watch.look(5, 1, STUCK_S)
    watch.look(0, 1, 2 * STUCK_S)
    watch.look(7, 1, 2.5 * STUCK_S)
    watch.look(7, 1, 4 * STUCK_S, reading=True)
    watch.look(7, 1, 5 * STUCK_S)
    with pytest.raises(Stuck, match="7 closings wait"):
        watch.look(7, 1, 5.1 * STUCK_S)
