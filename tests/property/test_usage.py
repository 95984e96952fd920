"""Rows of `usage` come to the plain sum of the closings, however they are split, told again and cut off."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import json
from msgspec.structs import replace

from schemas.closings import ClosingRecord
from schemas.usage import (
    HISTOGRAMS,
    OPEN_MINUTES,
    MarkKey,
    NamesKey,
    RowKey,
    UsageRecord,
    UsageRow,
    add,
    counts_in,
    encoded_key,
    percentile,
    read_pair,
    stands,
)
from services.analytics.counting import MOST_MODELS, Changes, Pair, PartitionCount
from services.analytics.prices import Prices
from services.config import Price
from tests.long import examples
from tests.usage import ended, plain_sum, row_sum

PRICES = Prices([Price(model="gpt-*", input=1.25, output=10.000001)])
ROUTED = MOST_MODELS + 20


class Partition:
    """A partition of `closings`, and what workers have written of it into `usage`. `without`: a rule that
    does not hold.
    """

    def __init__(self, closings: Sequence[ClosingRecord], chance: Random, without: str = "") -> None:
        self.closings = closings
        self.chance = chance
        self.without = without
        self.usage: list[Pair] = []
        self.late: list[Pair] = []
        """What a worker has sent that is not there yet."""

    def standing(self) -> list[UsageRecord]:
        best: dict[object, UsageRecord] = {}
        for key, value in self.usage:
            found = read_pair(key, value, 0)
            assert isinstance(found, UsageRecord)
            known = best.get(found.key)
            if known is None or self.without == "P-117" or stands(found.value.progress, known.value.progress):
                best[found.key] = found
        return list(best.values())

    def work(self, batches: int, batch: int, lives: bool) -> int:
        """A worker's life: some batches, the last of which it does not finish, unless it `lives`. Returns
        how far it came.
        """
        stored = self.standing()
        for _, value in stored if self.without == "P-116" else ():
            if isinstance(value, UsageRow):
                value.counted.clear()
        count = PartitionCount(0, "topic", PRICES, stored)
        if count.next is None:
            count.begin(0)
        for number in range(batches):
            assert count.next is not None
            for offset in range(count.next, min(count.next + batch, len(self.closings))):
                count.take(offset, self.closings[offset])
            changes = count.written()
            if number < batches - 1 or lives:
                self.usage += [*changes.names, *changes.rows, *changes.mark]
            else:
                self._die(changes)
            self.chance.shuffle(self.late)
            if self.late and self.chance.random() < 0.5:
                self.usage.append(self.late.pop())
        return count.next or 0

    def _die(self, changes: Changes) -> None:
        """Of what it had sent last some is appended by and by: it was paused, say."""
        groups = [changes.names, changes.rows, changes.mark]
        if self.without == "P-115":
            groups = [[pair for group in groups for pair in group]]
        for group in groups[: self.chance.randint(0, len(groups))]:
            self.usage += self.late
            self.late = [*group]
            self.chance.shuffle(self.late)
        there = self.chance.randint(0, len(self.late))
        self.usage += self.late[:there]
        self.late = self.late[there:]

    def rows(self) -> list[tuple[RowKey, UsageRow]]:
        return [(k, v) for k, v in self.standing() if isinstance(k, RowKey) and isinstance(v, UsageRow)]

    def outlived(self) -> "Partition":
        """After some deaths, and a life in which all was counted."""
        for _ in range(self.chance.randint(0, 6)):
            self.work(self.chance.randint(1, 4), self.chance.randint(1, 40), lives=False)
        while self.work(3, 50, lives=True) < len(self.closings):
            pass
        self.usage += self.late
        return self

    def right(self) -> bool:
        """Whether the rows come to the plain sum."""
        return row_sum((key.tenant, row) for key, row in self.rows()) == plain_sum(self.closings)


def told(numbers: Sequence[int], chance: Random, many_models: bool) -> list[ClosingRecord]:
    """The closings of these responses as a projector tells them: in their order, and some of it again."""
    found = list[ClosingRecord]()
    for number in numbers:
        more = {"model": f"gpt-5-{number % ROUTED}", "tenant": "acme"} if many_models else {}
        found.append(replace(ended(number), **more))
        if chance.random() < 0.1:
            found += found[-chance.randint(1, 10) :]
    return found


@given(
    st.lists(st.integers(0, 400), unique=True, min_size=1, max_size=200).map(sorted),
    st.randoms(use_true_random=False),
    st.booleans(),
)
@settings(max_examples=examples(200), deadline=None)
def test_p115_p116_p117_deaths_and_late_writes_change_no_sum(
    numbers: list[int], chance: Random, many_models: bool
) -> None:
    partition = Partition(told(numbers, chance, many_models), chance).outlived()
    assert partition.right()
    rows = partition.rows()
    cost = sum(row.cost.get("usd", 0) for _, row in rows)
    once = {closing.id: closing for closing in partition.closings}.values()
    assert cost == sum(PRICES.cost(closing).get("usd", 0) for closing in once)
    models = {key.model for key, _ in rows}
    assert len(models) <= MOST_MODELS + 1


@pytest.mark.parametrize("rule", ["P-115", "P-116", "P-117"])
def test_without_the_rule_some_sum_is_wrong(rule: str) -> None:
    def right(seed: int) -> bool:
        chance = Random(seed)
        numbers = sorted(chance.sample(range(400), 150))
        return Partition(told(numbers, chance, seed % 2 > 0), chance, rule).outlived().right()

    assert not all(map(right, range(40)))


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60), st.integers(1, 7))
@settings(max_examples=examples(100), deadline=None)
def test_the_sum_over_any_split_is_the_sum_of_all(numbers: list[int], parts: int) -> None:
    closings = [ended(number, closed_offset=offset + 1000) for offset, number in enumerate(numbers)]
    whole = UsageRow(counted={})
    split = [UsageRow(counted={}) for _ in range(parts)]
    for place, closing in enumerate(closings):
        counts_in(whole, closing, PRICES.cost(closing))
        counts_in(split[place % parts], closing, PRICES.cost(closing))
    total = UsageRow(counted=whole.counted)
    for row in split:
        add(total, row)
    assert total == whole


@given(st.lists(st.integers(0, 200_000_000), min_size=1, max_size=200), st.floats(0, 1))
@settings(max_examples=examples(200), deadline=None)
def test_a_percentile_lies_in_the_bucket_of_the_true_one(times: list[int], share: float) -> None:
    row = UsageRow(counted={})
    for number, took in enumerate(times):
        closing = ended(1, closed_offset=number + 10, closed_at=took // 1000 + 10**9, accepted_at=10**9)
        counts_in(row, closing, {})
    assert row.duration is not None
    bounds = HISTOGRAMS["duration"]
    true = sorted(took // 1000 * 1000 for took in times)[max(0, -(-int(share * len(times)) // 1) - 1)]
    said = percentile(row.duration, bounds, share)
    assert said <= row.duration.max
    edges = (0, *bounds, 1 << 60)
    place = next(n for n, bound in enumerate(edges) if true <= bound)
    assert edges[max(0, place - 1)] <= said or said == row.duration.max


@pytest.mark.parametrize("minutes", [3, 12, 45, 200])
def test_the_percentiles_of_responses_of_minutes_and_hours_are_near(minutes: int) -> None:
    row = UsageRow(counted={})
    for number in range(100):
        ms = 10 * 3_600_000 if number == 99 else minutes * 60_000
        counts_in(row, ended(1, closed_offset=number + 10, closed_at=ms + 10**9, accepted_at=10**9), {})
    assert row.duration is not None
    said = percentile(row.duration, HISTOGRAMS["duration"], 0.5)
    assert minutes * 60_000_000 / 2 < said < minutes * 60_000_000 * 2


@given(st.lists(st.integers(0, 9), max_size=60))
def test_a_row_with_other_bounds_is_read_and_adds_up(counts: list[int]) -> None:
    said = {"counts": counts, "sum": 7, "max": 5}
    value = {"kind": "row", "counted": {}, "responses": 1, **dict.fromkeys(HISTOGRAMS, said)}
    found = read_pair(encoded_key(RowKey(0, "acme", None, None, 5)), json.encode(value), 0)
    assert isinstance(found, UsageRecord)
    assert isinstance(found.value, UsageRow)
    total = UsageRow(counted={})
    counts_in(total, ended(1), {})
    before = sum(total.duration.counts) if total.duration else 0
    add(total, found.value)
    assert total.duration is not None
    assert sum(total.duration.counts) == before + sum(counts)
    assert percentile(total.duration, HISTOGRAMS["duration"], 0.99) <= total.duration.max


def test_p118_what_is_told_late_is_counted_in_the_oldest_open_minute() -> None:
    hours = 5 * 3_600_000
    first, later = ended(10), ended(11, closed_at=ended(10).closed_at + hours)
    late = ended(10, log="topic-0")  # of an earlier log, whose projector slept
    count = PartitionCount(0, "topic", PRICES, [])
    count.begin(0)
    rows = {}
    for offset, closing in enumerate((first, later, late)):
        count.take(offset, closing)
        for key, value in count.written().rows:
            found = read_pair(key, value, 0)
            assert isinstance(found, UsageRecord)
            rows[found.key] = found.value
    minutes = sorted(key.minute for key in rows if isinstance(key, RowKey))
    newest = later.closed_at // 60_000
    assert minutes == [first.closed_at // 60_000, newest - OPEN_MINUTES, newest]


@pytest.mark.parametrize("key", [MarkKey(3), NamesKey(3, "acme", "gpt-*"), RowKey(3, "a", None, "b", 7)])
def test_a_record_of_another_partition_is_unreadable(key: MarkKey) -> None:
    count = PartitionCount(3, "topic", PRICES, [])
    count.begin(0)
    count.take(0, ended(3, 3, route="gpt-*"))
    for pairs in (count.written().names, count.written().mark):
        for found, value in pairs:
            assert isinstance(read_pair(found, value, 3), UsageRecord)
            assert not isinstance(read_pair(found, value, 2), UsageRecord)
