"""The records of `usage`: what the closings of `closings` come to, and no content.

    key                                        value
    [partition, tenant, model, agent, minute]  row: the closings of one minute, counted
    [partition, tenant, route]                 names: the models that have rows of their own under that route
    [partition]                                mark: how far the partition of `closings` is counted

Keys are JSON arrays, values JSON objects with a `kind`. `minute` is `closed_at` (ms) div 60,000; `model` and
`agent` are null where there is none. Each partition counts for itself, so rows that differ in the partition
only are parts of one sum. All that a row holds adds up, percentiles included: histograms have fixed bounds.

Of two records with the same key the one that has counted more stands, wherever it is (P-117).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

from schemas.closings import ClosingRecord, Count, Offset
from schemas.records import MALFORMED, SHOWN, LogRecord, Unreadable

MINUTE_MS = 60_000
UNIT = 10**12
"""Amounts of a cost in one unit of its currency."""
OPEN_MINUTES = 60
"""Minutes for which rows are open. A closing that is told later is counted in the oldest open one (P-118)."""
MOST_ERRORS = 32
"""Types of errors, and statuses, that one row tells apart; further ones are counted as OTHER."""
OTHER = "other"

Minute = Annotated[int, Meta(ge=0)]


class RowKey(NamedTuple):
    """Which closings a row counts."""

    partition: int
    tenant: str
    model: str | None
    agent: str | None
    minute: Minute


class NamesKey(NamedTuple):
    """The route of a tenant in a partition. "": the closings name none."""

    partition: int
    tenant: str
    route: str


class MarkKey(NamedTuple):
    """A partition of `closings`."""

    partition: int


UsageKey = RowKey | NamesKey | MarkKey
_KEYS: Mapping[int, msgspec.json.Decoder[UsageKey]] = {
    len(kind.__annotations__): msgspec.json.Decoder(kind) for kind in (RowKey, NamesKey, MarkKey)
}
_any_array = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _seconds(*bounds: float) -> tuple[int, ...]:
    return tuple(round(bound * 1_000_000) for bound in bounds)


def _doubled(first: float, last: float) -> tuple[int, ...]:
    return _seconds(first) if first >= last else (*_seconds(first), *_doubled(2 * first, last))


# The bounds (µs) begin with OpenTelemetry's: gen_ai.server.time_to_first_token, .time_per_output_token and
# .request.duration. Those end where a long response has hardly begun, so there are more: each twice the one
# before, up to some ten minutes, ten seconds and a day.
FIRST_OUTPUT = _seconds(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
FIRST_OUTPUT += _doubled(20, 640)
BETWEEN_OUTPUTS = _seconds(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
BETWEEN_OUTPUTS += _doubled(5, 10)
DURATION = _seconds(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
DURATION += _doubled(163.84, 83_886.08)


class Histogram(Struct):
    """Times in microseconds. `counts` has how many are at most each bound and above the one before; the last
    one counts those above all bounds. `sum` and `max` are exact. A later version may have more bounds behind
    the last one.
    """

    counts: list[Count]
    sum: Count = 0
    max: Count = 0


class UsageRow(Struct, tag_field="kind", tag="row", omit_defaults=True, kw_only=True):
    """What the closings of a minute come to. A member that is left out is 0, or empty."""

    counted: dict[str, Offset]
    """By log, the `closed_offset` that was counted last."""
    responses: Count = 0
    outcomes: dict[str, Count] = msgspec.field(default_factory=dict)
    """Responses by status."""
    errors: dict[str, Count] = msgspec.field(default_factory=dict)
    """Responses that have an error, by its type."""
    input_tokens: Count = 0
    cached_tokens: Count = 0
    cache_write_tokens: Count = 0
    output_tokens: Count = 0
    reasoning_tokens: Count = 0
    events: Count = 0
    attempts: Count = 0
    executors: Count = 0
    """The executors of each response, added up."""
    first_output: Histogram | None = None
    """From `accepted` to the first output."""
    between_outputs: Histogram | None = None
    """The mean time between two outputs of a response."""
    duration: Histogram | None = None
    """From `accepted` to the end."""
    queued: Histogram | None = None
    """From `accepted` to the first claim."""
    cost: dict[str, Count] = msgspec.field(default_factory=dict)
    """By currency, in 10^-12 of its unit, by the prices that held when it was counted."""

    def __post_init__(self) -> None:
        """Take over the histograms of a version that has fewer bounds, or more."""
        for name, bounds in HISTOGRAMS.items():
            histogram = getattr(self, name)
            if histogram is not None and len(histogram.counts) != len(bounds) + 1:
                histogram.counts = _fitted(histogram.counts, len(bounds))

    @property
    def progress(self) -> int:
        """How much it has counted (P-117)."""
        return self.responses


class UsageNames(Struct, tag_field="kind", tag="names"):
    """Models that have rows of their own under a route. Further ones are counted under the route's name."""

    names: list[str]

    @property
    def progress(self) -> int:
        """How much it has counted (P-117)."""
        return len(self.names)


class UsageMark(Struct, tag_field="kind", tag="mark", kw_only=True):
    """How far a partition of `closings` is counted. It is written when all rows up to there are."""

    next: Offset
    """The offset in `closings` that is counted next."""
    topic: str
    """The topic id of `closings`."""
    marks: dict[str, Offset]
    """By log, the `closed_offset` that was counted last (P-108)."""
    passed: Count
    """How many records of `closings` were gone through so far, over all topics of that name."""
    minute: Minute
    """The latest minute that a closing was counted in."""

    @property
    def progress(self) -> int:
        """How much it has counted (P-117)."""
        return self.passed


UsageValue = UsageRow | UsageNames | UsageMark
_values: msgspec.json.Decoder[UsageValue] = msgspec.json.Decoder(UsageValue)
_OF: Mapping[type, type] = {RowKey: UsageRow, NamesKey: UsageNames, MarkKey: UsageMark}


class UsageRecord(NamedTuple):
    """A record of `usage` that could be read."""

    key: UsageKey
    value: UsageValue


def encoded_key(key: UsageKey) -> bytes:
    """The key as it stands in the topic."""
    return msgspec.json.encode(key)


def encoded_value(value: UsageValue) -> bytes:
    """The value as it stands in the topic."""
    return msgspec.json.encode(value)


def read_usage(record: LogRecord, partition: int) -> UsageRecord | Unreadable:
    """What a record in this partition of `usage` says. Never raises (P-8, P-11)."""
    try:
        return read_pair(record.key or b"", record.value or b"", partition)
    except (*MALFORMED, msgspec.MsgspecError) as error:
        return Unreadable(f"{type(error).__name__}: {error}"[: 2 * SHOWN])


def read_pair(key: bytes, value: bytes, partition: int) -> UsageRecord | Unreadable:
    """As `read_usage`, of key and value. Raises msgspec's errors and `MALFORMED`."""
    known = _KEYS.get(len(_any_array(key)))
    if known is None:
        return Unreadable(f"unknown key: {key[:SHOWN]!r}")
    found, said = known.decode(key), _values.decode(value)
    if found.partition != partition or not isinstance(said, _OF[type(found)]):
        return Unreadable(f"a key of another partition or kind: {key[:SHOWN]!r}")
    return UsageRecord(found, said)


def decoded_key(key: bytes) -> UsageKey:
    """A key that was read before."""
    return _KEYS[len(_any_array(key))].decode(key)


read_value = _values.decode
"""A value that was read before."""
decoded_row = msgspec.json.Decoder(UsageRow).decode
"""A row of a value that was read before."""


def stands(progress: int, known: int) -> bool:
    """Whether a record that counted `progress` stands beside an earlier one that counted `known` (P-117)."""
    return progress >= known


# Counting.


def counts_in(row: UsageRow, closing: ClosingRecord, cost: Mapping[str, int]) -> bool:
    """Count a closing in its row, with its cost. Returns whether it was not counted before (P-116)."""
    if closing.closed_offset <= row.counted.get(closing.log, -1):
        return False
    row.counted[closing.log] = closing.closed_offset
    row.responses += 1
    _one_more(row.outcomes, closing.status)
    if closing.error_type:
        _one_more(row.errors, closing.error_type)
    row.events += closing.events
    row.attempts += closing.attempts
    row.executors += len(closing.executors)
    if closing.usage is not None:
        for name in TOKENS:
            setattr(row, name, getattr(row, name) + getattr(closing.usage, name))
    for currency, amount in cost.items():
        row.cost[currency] = row.cost.get(currency, 0) + amount
    for name, took in _times(closing):
        setattr(row, name, _observed(name, getattr(row, name), took))
    return True


TOKENS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")
NUMBERS = ("responses", *TOKENS, "events", "attempts", "executors")
HISTOGRAMS: Mapping[str, Sequence[int]] = {
    "first_output": FIRST_OUTPUT,
    "between_outputs": BETWEEN_OUTPUTS,
    "duration": DURATION,
    "queued": DURATION,
}


def _fitted(counts: Sequence[int], bounds: int) -> list[int]:
    """The counts with so many bounds. What was above all bounds stays there, or comes there."""
    known = [*counts[:-1][:bounds]]
    return [*known, *[0] * (bounds - len(known)), sum(counts) - sum(known)]


def _one_more(counts: dict[str, int], what: str) -> None:
    name = what if what in counts or len(counts) < MOST_ERRORS else OTHER
    counts[name] = counts.get(name, 0) + 1


def _times(closing: ClosingRecord) -> Iterator[tuple[str, int]]:
    """The times of a closing (µs). One that is negative is 0: another leader's clock was behind."""
    first, last, deltas = closing.first_output_at, closing.last_output_at, closing.deltas
    if first is not None:
        yield "first_output", max(0, first - closing.accepted_at) * 1000
        if last is not None and deltas > 1:
            yield "between_outputs", max(0, last - first) * 1000 // (deltas - 1)
    if closing.claimed_at is not None:
        yield "queued", max(0, closing.claimed_at - closing.accepted_at) * 1000
    yield "duration", max(0, closing.closed_at - closing.accepted_at) * 1000


def _observed(name: str, found: Histogram | None, took: int) -> Histogram:
    bounds = HISTOGRAMS[name]
    histogram = found or Histogram([0] * (len(bounds) + 1))
    place = next((place for place, bound in enumerate(bounds) if took <= bound), len(bounds))
    histogram.counts[place] += 1
    histogram.sum += took
    histogram.max = max(histogram.max, took)
    return histogram


# Adding up.


def add(total: UsageRow, row: UsageRow) -> None:
    """Add `row` to `total`. `counted` is left alone: it says something of one partition only."""
    for name in NUMBERS:
        setattr(total, name, getattr(total, name) + getattr(row, name))
    for counts, more in ((total.outcomes, row.outcomes), (total.errors, row.errors), (total.cost, row.cost)):
        for what, number in more.items():
            counts[what] = counts.get(what, 0) + number
    for name in HISTOGRAMS:
        setattr(total, name, _added(getattr(total, name), getattr(row, name)))


def _added(one: Histogram | None, other: Histogram | None) -> Histogram | None:
    if one is None or other is None:
        found = one or other
        return found and Histogram([*found.counts], found.sum, found.max)
    counts = [a + b for a, b in zip(one.counts, other.counts, strict=True)]
    return Histogram(counts, one.sum + other.sum, max(one.max, other.max))


def percentile(histogram: Histogram, bounds: Sequence[int], share: float) -> int:
    """The time (µs) that a `share` of the times (0 to 1) do not exceed, as near as the buckets tell."""
    wanted, below = share * sum(histogram.counts), 0
    edges = pairwise((0, *bounds, max(histogram.max, bounds[-1])))
    for count, (low, high) in zip(histogram.counts, edges, strict=True):
        if count and below + count >= wanted:
            high = min(high, histogram.max)
            return low + round((high - low) * max(0.0, wanted - below) / count) if high > low else high
        below += count
    return histogram.max
