"""One partition of the log in memory: what a broker keeps in its segments."""

from bisect import bisect_left
from typing import NamedTuple

from schemas.records import Headers, NewRecord
from services.eventlog.port import Ack


class MemoryRecord(NamedTuple):
    """One stored record."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    size: int
    """What it counts for in a fetch's bounds, in bytes."""


def record_size(record: NewRecord) -> int:
    """About what `record` takes in a batch, in bytes."""
    headers = sum(len(name) + len(value) + 4 for name, value in record.headers)
    return 32 + len(record.key) + len(record.value or b"") + headers


class MemoryPartition:
    """Records in offset order; compaction leaves holes, retention moves the start."""

    def __init__(self) -> None:
        self.records: list[MemoryRecord] = []
        self.start = 0
        self.end = 0

    def append(self, record: NewRecord, now: int) -> Ack:
        """Append at the end; log time never goes back."""
        timestamp = max(now, self.records[-1].timestamp if self.records else now)
        self.records.append(MemoryRecord(self.end, timestamp, *record, 64 + record_size(record)))
        self.end += 1
        return Ack(self.end - 1, timestamp)

    def index(self, offset: int) -> int:
        """The index in `records` of the first record at or after `offset`."""
        return bisect_left(self.records, offset, key=lambda record: record.offset)

    def read(self, offset: int, bound: int) -> list[MemoryRecord]:
        """The records from `offset` on, up to `bound` bytes but at least one."""
        found: list[MemoryRecord] = []
        for record in self.records[self.index(offset) :]:
            bound -= record.size
            if found and bound < 0:
                break
            found.append(record)
        return found

    def compact(self) -> None:
        """Keep the last record of each key."""
        last = {record.key: record.offset for record in self.records}
        self.records = [record for record in self.records if last[record.key] == record.offset]
