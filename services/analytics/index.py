"""What stands in `usage`, by hour and partition: from these rows every question is answered.

    take    a record of the topic
    pack    rows that change no more: a packed row takes some 100 bytes, a loose one 1,250
    sums    what some minutes come to, for an answer
    of      what a partition is counted on from

A row is kept as it stands in the topic, and decoded when it is asked for. The sum of an hour is kept, encoded
too, until one of its rows changes: a month is hundreds of hours and not millions of rows.

Whatever goes through many rows does so in parts, so that other tasks get a turn in between.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from schemas.records import LogRecord, Unreadable
from schemas.steps import Steps
from schemas.usage import (
    MINUTE_MS,
    OPEN_MINUTES,
    MarkKey,
    NamesKey,
    RowKey,
    UsageKey,
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
    stands,
)
from services.analytics.packed_rows import PART, PackedRows, Row, packed
from services.kept import Kept

HOUR = 60
"""Minutes."""
_LAST = 1 << 62
"""After every minute."""
SUMS_BYTES = 80 << 20
"""Bytes that the sums of hours take which are kept."""
SUM_BYTES = 500
"""Bytes that a sum of an hour and a group takes beyond its own."""


class UsageGroup(NamedTuple):
    """Whose rows, of which model."""

    tenant: str
    model: str | None
    agent: str | None


Sums = Mapping[UsageGroup, UsageRow]
_Loose = dict[RowKey, tuple[int, bytes]]
_Rows = _Loose | Sequence[PackedRows]
_Encoded = list[tuple[UsageGroup, bytes]]


class UsageIndex:
    """Of each key the record that stands (P-117)."""

    def __init__(self) -> None:
        self._hours: dict[int, dict[int, _Rows]] = {}
        """By hour and partition the rows."""
        self._loose: set[tuple[int, int]] = set()
        """The hours and partitions that are not packed."""
        self._newest: dict[int, int] = {}
        """By partition the latest minute that has a row."""
        self._others: dict[NamesKey | MarkKey, UsageValue] = {}
        self._sums: Kept[int, _Encoded] = Kept(SUMS_BYTES)
        self._summing: dict[int, object] = {}
        """By hour who adds it up. Whoever is not there any more has missed a change."""
        self._overtaken: dict[bytes, int] = {}

    def __repr__(self) -> str:
        return f"<UsageIndex of {len(self._hours)} hours>"

    def take(self, record: LogRecord, partition: int) -> Unreadable | None:
        """Take a record over, if no other with its key has counted more. Returns what cannot be read."""
        found = read_usage(record, partition)
        if isinstance(found, Unreadable):
            return found
        assert record.key is not None
        assert record.value is not None
        if isinstance(found.key, RowKey) and isinstance(found.value, UsageRow):
            newest = self._take_row(found.key, found.value, record.value)
        else:
            assert not isinstance(found.key, RowKey)
            known = self._others.get(found.key)
            newest = known is None or stands(found.value.progress, known.progress)
            if newest:
                self._others[found.key] = found.value
        if newest:
            self._overtaken.pop(record.key, None)
        else:
            self._overtaken[record.key] = partition
        return None

    def _take_row(self, key: RowKey, row: UsageRow, value: bytes) -> bool:
        rows = self._unpacked(key.minute // HOUR, key.partition)
        if not stands(row.responses, rows.get(key, (0, b""))[0]):
            return False
        rows[key] = row.responses, value
        self._newest[key.partition] = max(key.minute, self._newest.get(key.partition, 0))
        self._forget_sum(key.minute // HOUR)
        return True

    def _unpacked(self, hour: int, partition: int) -> _Loose:
        """The rows of an hour, to be changed: packed ones are opened, which is rare."""
        partitions = self._hours.setdefault(hour, {})
        rows = partitions.get(partition, {})
        if not isinstance(rows, dict):
            rows = {key: (counted, value) for part in rows for key, counted, value in part.rows()}
        partitions[partition] = rows
        self._loose.add((hour, partition))
        return rows

    def pack(self) -> Steps[None]:
        """Pack the rows that change no more, in steps. No record may be taken meanwhile."""
        for hour, partition in list(self._loose):
            if (hour + 1) * HOUR + OPEN_MINUTES > self._newest.get(partition, 0):
                continue
            parts = []
            rows = self._hours[hour][partition]
            assert isinstance(rows, dict)
            for part in packed((key, *said) for key, said in rows.items()):
                parts.append(part)
                yield
            self._hours[hour][partition] = parts
            self._loose.discard((hour, partition))

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
            return self._unpacked(known.minute // HOUR, known.partition)[known][1]
        return encoded_value(self._others[known])

    def of(self, partition: int) -> Steps[list[UsageRecord]]:
        """What stands in a partition as of now, of rows those that may be open. The caller may change it."""
        found = [
            UsageRecord(key, read_value(encoded_value(value)))
            for key, value in self._others.items()
            if key.partition == partition
        ]
        newest = max((each.value.minute for each in found if isinstance(each.value, UsageMark)), default=0)
        oldest = newest - OPEN_MINUTES
        hours = [hour for hour in self._hours if (hour + 1) * HOUR > oldest]
        for rows in [_copied(self._hours[hour].get(partition, ())) for hour in hours]:
            for part in _parts(rows, oldest, _LAST):
                found += [UsageRecord(key, decoded_row(value)) for key, _, value in part]
                yield
        return found

    def forget(self, before_ms: int) -> None:
        """Let go of all hours that ended before a time, as retention does."""
        for hour in [hour for hour in self._hours if (hour + 1) * HOUR * MINUTE_MS <= before_ms]:
            for partition in self._hours.pop(hour):
                self._loose.discard((hour, partition))
            self._forget_sum(hour)
        self._forget_overtaken(lambda key: isinstance(key, RowKey) and key.minute // HOUR not in self._hours)

    def drop(self, partition: int) -> None:
        """Let go of a partition: it is read anew."""
        for hour, partitions in self._hours.items():
            if partitions.pop(partition, None) is not None:
                self._loose.discard((hour, partition))
                self._forget_sum(hour)
        self._newest.pop(partition, None)
        self._others = {key: value for key, value in self._others.items() if key.partition != partition}
        self._forget_overtaken(lambda key: key.partition == partition)

    def _forget_overtaken(self, gone: Callable[[UsageKey], bool]) -> None:
        for key in [key for key in self._overtaken if gone(decoded_key(key))]:
            del self._overtaken[key]

    def sums(self, first: int, end: int) -> Iterator[Sums]:
        """What the minutes from `first` to before `end` come to, in parts that add up. A part may be empty:
        it took a while to come so far.
        """
        minute = first
        while minute < end:
            hour = minute // HOUR
            until = min(hour * HOUR + HOUR, end)
            if hour not in self._hours:
                yield {}
            elif until - minute == HOUR:
                yield from self._hour(hour)
            else:
                yield from self._added(hour, minute, until)
            minute = until

    def _hour(self, hour: int) -> Iterator[Sums]:
        found = self._sums.get(hour)
        if found is None:
            found = yield from self._sum(hour)
        for start in range(0, len(found), PART):
            yield {group: decoded_row(value) for group, value in found[start : start + PART]}

    def _sum(self, hour: int) -> Generator[Sums, None, _Encoded]:
        """Add an hour up, in empty parts, and keep what it comes to. Returns that."""
        me = self._summing[hour] = object()
        total: dict[UsageGroup, UsageRow] = {}
        for part in self._added(hour, hour * HOUR, hour * HOUR + HOUR):
            for group, row in part.items():
                add(total.setdefault(group, UsageRow(counted={})), row)
            yield {}
        found = []
        for group, row in total.items():
            found.append((group, encoded_value(row)))
            if len(found) % PART == 0:
                yield {}
        if self._summing.get(hour) is me:
            del self._summing[hour]
            self._sums.put(hour, found, sum(SUM_BYTES + len(value) for _, value in found))
        return found

    def _forget_sum(self, hour: int) -> None:
        self._summing.pop(hour, None)
        self._sums.pop(hour)

    def _added(self, hour: int, first: int, end: int) -> Iterator[Sums]:
        """What minutes of an hour come to, in a part for at most PART rows each."""
        for rows in [_copied(rows) for rows in self._hours[hour].values()]:
            for part in _parts(rows, first, end):
                sums: dict[UsageGroup, UsageRow] = {}
                for key, _, value in part:
                    group = UsageGroup(key.tenant, key.model, key.agent)
                    add(sums.setdefault(group, UsageRow(counted={})), decoded_row(value))
                yield sums


def _copied(rows: _Rows) -> _Rows:
    """The rows as they stand: `take` changes nothing of it."""
    return dict(rows) if isinstance(rows, dict) else rows


def _parts(rows: _Rows, first: int, end: int) -> Iterator[list[Row]]:
    """The rows of the minutes from `first` to before `end`, at most PART at a time."""
    if not isinstance(rows, dict):
        for part in rows:
            if part.first < end and part.last >= first:
                yield [row for row in part.rows() if first <= row[0].minute < end]
        return
    found = [(key, *said) for key, said in rows.items() if first <= key.minute < end]
    for start in range(0, len(found), PART):
        yield found[start : start + PART]
