"""Counts the closings of one partition into rows. Pure: it takes records, and says what is to be written.

    take      each record of `closings`, in the order of its offsets
    written   names, then rows, then the mark: what has changed since

Whoever writes waits for the acknowledgements of each group before the next (P-115). If it dies in between,
the next one begins at the mark. It counts the same closings again, in the same order, and comes to the same
rows: names were written before any row that needs them, and a row knows what it has counted (P-116).
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from schemas.closings import ClosingRecord, Marks
from schemas.usage import (
    MINUTE_MS,
    OPEN_MINUTES,
    MarkKey,
    NamesKey,
    RowKey,
    UsageKey,
    UsageMark,
    UsageNames,
    UsageRecord,
    UsageRow,
    UsageValue,
    counts_in,
    encoded_key,
    encoded_value,
)
from services.analytics.prices import Prices, model_named

MOST_MODELS = 100
"""Models of a tenant that have rows of their own under one route."""

Pair = tuple[bytes, bytes]
"""Key and value of a record."""


class Changes(NamedTuple):
    """What is to be written: each group when the one before is acknowledged."""

    names: list[Pair]
    rows: list[Pair]
    mark: list[Pair]
    closed: list[bytes]
    """Keys of rows that are never written again."""
    counted: list[tuple[ClosingRecord, Mapping[str, int]]]
    """What was counted, and its cost."""


class PartitionCount:
    """What is counted of one partition, from what is stored of it."""

    def __init__(self, partition: int, topic: str, prices: Prices, stored: Iterable[UsageRecord]) -> None:
        self.partition = partition
        self._topic = topic
        self._prices = prices
        self._rows: dict[RowKey, UsageRow] = {}
        self._names: dict[NamesKey, list[str]] = {}
        self._mark = UsageMark(next=0, topic="", marks={}, passed=0, minute=0)
        for key, value in stored:
            self._restore(key, value)
        self._marks = Marks(self._mark.marks)
        self._closed = self._close()
        self._changed: dict[UsageKey, UsageValue] = {}
        self._counted: list[tuple[ClosingRecord, Mapping[str, int]]] = []

    def __repr__(self) -> str:
        return f"<count of partition {self.partition} at {self._mark.next}, {len(self._rows)} rows>"

    def _restore(self, key: UsageKey, value: UsageValue) -> None:
        if isinstance(key, RowKey) and isinstance(value, UsageRow):
            self._rows[key] = value
        elif isinstance(key, NamesKey) and isinstance(value, UsageNames):
            self._names[key] = value.names
        elif isinstance(value, UsageMark):
            self._mark = value

    @property
    def next(self) -> int | None:
        """The offset in `closings` that is counted next; None if nothing of this topic is counted."""
        return self._mark.next if self._mark.topic == self._topic else None

    @property
    def gone_from(self) -> int:
        """The offset that was next in the topic that was counted last."""
        return self._mark.next

    @property
    def anew(self) -> bool:
        """Whether an earlier topic `closings` was counted: what it held beyond that is lost."""
        return self._mark.topic not in ("", self._topic)

    def begin(self, offset: int) -> None:
        """Go on at `offset`: what stood before it is counted, or gone."""
        self._mark.next, self._mark.topic = offset, self._topic

    def take(self, offset: int, closing: ClosingRecord | None) -> None:
        """Count the record at the offset that is `next`; None: it could not be read."""
        assert offset == self.next, f"{offset} is not the next offset of {self!r}"
        self._mark.next = offset + 1
        self._mark.passed += 1
        if closing is None or not self._marks.fresh(closing):
            return
        minute = closing.closed_at // MINUTE_MS
        self._mark.minute = max(self._mark.minute, minute)
        minute = max(minute, self._mark.minute - OPEN_MINUTES)
        key = RowKey(self.partition, closing.tenant, self._model(closing), closing.agent, minute)
        row = self._rows.setdefault(key, UsageRow(counted={}))
        cost = self._prices.cost(closing)
        if counts_in(row, closing, cost):
            self._changed[key] = row
            self._counted.append((closing, cost))

    def written(self) -> Changes:
        """What has changed since the last call, and where the partition stands now."""
        changed, self._changed = self._changed, {}
        groups: dict[type, list[Pair]] = {NamesKey: [], RowKey: []}
        for key, value in changed.items():
            groups[type(key)].append((encoded_key(key), encoded_value(value)))
        self._mark.marks = self._marks.kept
        mark = [(encoded_key(MarkKey(self.partition)), encoded_value(self._mark))]
        closed, self._closed = [*self._closed, *self._close()], []
        counted, self._counted = self._counted, []
        return Changes(groups[NamesKey], groups[RowKey], mark, closed, counted)

    def _close(self) -> list[bytes]:
        """Forget the rows that are not open any more. Returns their keys."""
        oldest = self._mark.minute - OPEN_MINUTES
        closed = [key for key in self._rows if key.minute < oldest]
        for key in closed:
            del self._rows[key]
        return [encoded_key(key) for key in closed]

    def _model(self, closing: ClosingRecord) -> str | None:
        """The name by which a row counts the model: a client chooses it, so beyond a bound the route's."""
        model, route = model_named(closing), closing.route or ""
        if model is None or model == route:
            return model
        key = NamesKey(self.partition, closing.tenant, route)
        names = self._names.setdefault(key, [])
        if model in names:
            return model
        if len(names) >= MOST_MODELS:
            return closing.route
        names.append(model)
        self._changed[key] = UsageNames(names)
        return model
