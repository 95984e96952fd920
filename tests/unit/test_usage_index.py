"""The index of `usage`: packed or not it says the same, and nobody holds the loop with it."""

from collections.abc import Iterable
from random import Random

import pytest

from schemas.closings import ClosingRecord
from schemas.records import NewRecord
from schemas.steps import finished
from schemas.usage import RowKey, UsageRow, decoded_key, decoded_row, encoded_key, encoded_value
from services.analytics.answers import PACE, answer, completions
from services.analytics.counting import PartitionCount
from services.analytics.index import HOUR, UsageIndex
from services.analytics.packed_rows import PART, packed
from services.analytics.prices import Prices
from services.analytics.queries import Query
from services.eventlog.memory_partition import MemoryPartition
from tests.usage import Totals, ended, plain_sum, row_sum

FIRST = ended(0).closed_at // 60_000
HOURS = 5
CLOSINGS = [ended(number, model="gpt-5") for number in range(0, HOURS * 7200, 12)]
PARTITIONS = 3


def rows_of(closings: Iterable[ClosingRecord], partition: int) -> list[NewRecord]:
    """The records of `usage` that these closings of a partition come to, whenever a row has grown."""
    count = PartitionCount(partition, "topic", Prices(), [])
    count.begin(0)
    made = []
    for offset, closing in enumerate(closings):
        count.take(offset, closing)
        changes = count.written()
        made += [NewRecord(*pair) for pair in [*changes.names, *changes.rows, *changes.mark]]
    return made


class Indexed:
    """An index, and what it was told."""

    def __init__(self) -> None:
        self.index = UsageIndex()
        self._stored = [MemoryPartition() for _ in range(PARTITIONS)]

    def tell(self, record: NewRecord, partition: int) -> None:
        stored = self._stored[partition]
        stored.append(record, 0)
        assert self.index.take(stored.records[-1], partition) is None

    def tell_all(self, *, packing: bool) -> "Indexed":
        for number in range(PARTITIONS):
            for place, record in enumerate(rows_of(CLOSINGS[number::PARTITIONS], number)):
                self.tell(record, number)
                if packing and place % 50 == 0:
                    finished(self.index.pack())
        if packing:
            finished(self.index.pack())
        return self

    def totals(self, first: int = 0, end: int = HOURS * HOUR) -> Totals:
        found = [
            (group.tenant, row)
            for sums in self.index.sums(FIRST + first, FIRST + end)
            for group, row in sums.items()
        ]
        return row_sum(found)


def test_packed_rows_say_the_same() -> None:
    loose, packed_ = Indexed().tell_all(packing=False), Indexed().tell_all(packing=True)
    assert packed_.totals() == packed_.totals() == loose.totals() == plain_sum(CLOSINGS)
    chance = Random(3)
    for _ in range(30):
        first = chance.randrange(HOURS * HOUR)
        end = chance.randrange(first, HOURS * HOUR) + 1
        wanted = [one for one in CLOSINGS if first <= one.closed_at // 60_000 - FIRST < end]
        assert packed_.totals(first, end) == loose.totals(first, end) == plain_sum(wanted)
    for number in range(PARTITIONS):
        assert finished(packed_.index.of(number)) == finished(loose.index.of(number))


def overtaken(records: list[NewRecord]) -> tuple[NewRecord, NewRecord]:
    """The first record of a row that has grown since, and its last."""
    first, last = dict[bytes, NewRecord](), dict[bytes, NewRecord]()
    for record in records:
        if b"row" in (record.value or b""):
            last[record.key] = record
            first.setdefault(record.key, record)
    return next((early, last[key]) for key, early in first.items() if early is not last[key])


def test_p117_what_stands_is_found_among_packed_rows_too() -> None:
    indexed = Indexed().tell_all(packing=True)
    late, stands = overtaken(rows_of(CLOSINGS[::PARTITIONS], 0))
    indexed.tell(late, 0)
    finished(indexed.index.pack())
    ((key, value),) = indexed.index.overtaken([0])[0]
    assert (key, value) == (stands.key, stands.value)
    assert indexed.totals() == plain_sum(CLOSINGS)
    indexed.tell(NewRecord(key, value), 0)
    assert indexed.index.overtaken([0]) == {}
    finished(indexed.index.pack())
    assert indexed.totals() == plain_sum(CLOSINGS)


@pytest.mark.parametrize("how", ["dropped", "forgotten"])
def test_what_is_forgotten_or_dropped_was_not_overtaken(how: str) -> None:
    indexed = Indexed().tell_all(packing=True)
    indexed.tell(overtaken(rows_of(CLOSINGS[::PARTITIONS], 0))[0], 0)
    assert indexed.index.overtaken([0])
    if how == "dropped":
        indexed.index.drop(0)
    else:
        indexed.index.forget(ended(HOURS * 7200).closed_at)
    assert indexed.index.overtaken([0]) == {}


def test_a_row_that_comes_while_its_hour_is_added_up_is_in_the_next_sum() -> None:
    indexed = Indexed().tell_all(packing=True)
    hour = FIRST - FIRST % HOUR + HOUR
    adding = indexed.index.sums(hour, hour + HOUR)
    next(adding)
    late = UsageRow(counted={}, responses=5)
    key = encoded_key(RowKey(0, "late", None, None, hour + 1))
    indexed.tell(NewRecord(key, encoded_value(late)), 0)
    assert len(list(adding)) > 1
    assert (
        sum(
            sums[group].responses
            for sums in indexed.index.sums(hour, hour + HOUR)
            for group in sums
            if group.tenant == "late"
        )
        == 5
    )


MANY = 2000
"""Models that are asked for in one minute."""


def test_nobody_holds_the_loop_with_many_rows_or_results() -> None:
    indexed = Indexed()
    row = encoded_value(UsageRow(counted={}, responses=1))
    hour = FIRST - FIRST % HOUR
    for number in range(MANY):
        indexed.tell(NewRecord(encoded_key(RowKey(0, "acme", f"m{number}", None, hour)), row), 0)
    later = encoded_key(RowKey(0, "acme", "m", None, hour + 3 * HOUR))
    indexed.tell(NewRecord(later, row), 0)
    assert len(list(indexed.index.pack())) >= MANY // PART
    for first, end in ((hour, hour + 1), (hour, hour + HOUR)):
        for _ in range(2):
            parts = list(indexed.index.sums(first, end))
            assert max(map(len, parts)) <= PART
            assert len(parts) >= MANY // PART
    query = Query(hour * 60, hour * 60 + 60, 60, 1, {"model": "model"}, {})
    steps = answer(query, indexed.index.sums, completions)
    assert sum(1 for _ in steps) >= MANY // PART + MANY // PACE


def test_packed_rows_take_a_fraction_of_the_memory() -> None:
    chance, count = Random(5), PartitionCount(0, "topic", Prices(), [])
    count.begin(0)
    for offset in range(3000):
        count.take(offset, ended(20_000 + 2 * offset, tenant="acme", accepted_at=chance.randrange(10**12)))
    rows = []
    for key, value in count.written().rows:
        found = decoded_key(key)
        assert isinstance(found, RowKey)
        rows.append((found, decoded_row(value).responses, value))
    parts = list(packed(rows))
    assert [row for part in parts for row in part.rows()] == sorted(rows, key=lambda row: row[0].minute)
    assert 4 * sum(len(part.data) for part in parts) < sum(len(value) for _, _, value in rows)
