"""What stands in `usage`, by minute: from these rows every question is answered.

A row is kept as it stands in the topic, and decoded when it is asked for. The sum of an hour is kept until
one of its rows changes: a month is hundreds of hours and not millions of rows.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from schemas.records import LogRecord, Unreadable
from schemas.usage import (
    MINUTE_MS,
    OPEN_MINUTES,
    MarkKey,
    NamesKey,
    RowKey,
    UsageMark,
    UsageRecord,
    UsageRow,
    UsageValue,
    add,
    decoded_key,
    decoded_row,
    encoded_value,
    read_usage,
    read_value,
)

HOUR = 60
"""Minutes."""
MOST_HOURS = 24 * 31
"""Hours of which the sums are kept."""


class UsageGroup(NamedTuple):
    """Whose rows, of which model."""

    tenant: str
    model: str | None
    agent: str | None


Sums = Mapping[UsageGroup, UsageRow]


class UsageIndex:
    """Of each key the record that stands (P-117)."""

    def __init__(self) -> None:
        self._minutes: dict[int, dict[RowKey, tuple[int, bytes]]] = {}
        self._others: dict[NamesKey | MarkKey, UsageValue] = {}
        self._hours: dict[int, Sums] = {}
        self._overtaken: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<UsageIndex of {len(self._minutes)} minutes>"

    def take(self, record: LogRecord, partition: int) -> Unreadable | None:
        """Take a record over, if no other with its key has counted more. Returns what cannot be read."""
        found = read_usage(record, partition)
        if isinstance(found, Unreadable):
            return found
        assert record.key is not None
        assert record.value is not None
        if isinstance(found.key, RowKey) and isinstance(found.value, UsageRow):
            rows = self._minutes.setdefault(found.key.minute, {})
            stands = found.value.responses >= rows.get(found.key, (0, b""))[0]
            if stands:
                rows[found.key] = found.value.responses, record.value
                self._hours.pop(found.key.minute // HOUR, None)
        else:
            assert not isinstance(found.key, RowKey)
            known = self._others.get(found.key)
            stands = known is None or found.value.progress >= known.progress
            if stands:
                self._others[found.key] = found.value
        if stands:
            self._overtaken.pop(record.key, None)
        else:
            self._overtaken[record.key] = partition
        return None

    def overtaken(self, partitions: Iterable[int]) -> Mapping[int, list[tuple[bytes, bytes]]]:
        """By partition the records that stand, behind which one was appended that has counted less."""
        wanted = set(partitions)
        found: dict[int, list[tuple[bytes, bytes]]] = {}
        for key, partition in self._overtaken.items():
            if partition in wanted:
                found.setdefault(partition, []).append((key, self._value(key)))
        return found

    def _value(self, key: bytes) -> bytes:
        known = decoded_key(key)
        if isinstance(known, RowKey):
            return self._minutes[known.minute][known][1]
        return encoded_value(self._others[known])

    def of(self, partition: int) -> list[UsageRecord]:
        """What stands in a partition, read anew: the caller may change it. Of rows those that may be open."""
        found = [
            UsageRecord(key, read_value(encoded_value(value)))
            for key, value in self._others.items()
            if key.partition == partition
        ]
        newest = max((each.value.minute for each in found if isinstance(each.value, UsageMark)), default=0)
        for minute in [minute for minute in self._minutes if minute >= newest - OPEN_MINUTES]:
            for key, (_, value) in self._minutes[minute].items():
                if key.partition == partition:
                    found.append(UsageRecord(key, decoded_row(value)))
        return found

    def forget(self, before_ms: int) -> None:
        """Let go of all minutes that began before a time, as retention does."""
        for minute in [minute for minute in self._minutes if minute * MINUTE_MS < before_ms]:
            del self._minutes[minute]
            self._hours.pop(minute // HOUR, None)

    def drop(self, partition: int) -> None:
        """Let go of a partition: it is read anew."""
        for rows in self._minutes.values():
            for key in [key for key in rows if key.partition == partition]:
                del rows[key]
        self._others = {key: value for key, value in self._others.items() if key.partition != partition}
        self._hours.clear()

    def sums(self, first: int, end: int) -> Iterator[Sums]:
        """What the minutes from `first` to before `end` come to, in parts that add up."""
        minute = first
        while minute < end:
            if minute % HOUR == 0 and minute + HOUR <= end:
                yield self._hour(minute // HOUR)
                minute += HOUR
            else:
                yield self._added([minute])
                minute += 1

    def _hour(self, hour: int) -> Sums:
        found = self._hours.get(hour)
        if found is None:
            found = self._added(range(hour * HOUR, hour * HOUR + HOUR))
            if len(self._hours) >= MOST_HOURS:
                self._hours.pop(next(iter(self._hours)))
            self._hours[hour] = found
        return found

    def _added(self, minutes: Iterable[int]) -> Sums:
        sums: dict[UsageGroup, UsageRow] = {}
        for minute in minutes:
            for key, (_, value) in self._minutes.get(minute, {}).items():
                total = sums.setdefault(UsageGroup(key.tenant, key.model, key.agent), UsageRow(counted={}))
                add(total, decoded_row(value))
        return sums
