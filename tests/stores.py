"""A store in memory, for tests that start many replays: the same promises as on a disk."""

from collections.abc import Iterable

from services.eventlog.topics import topics
from services.replay.disk import Row, StoreFailed
from services.replay.store import Store

INDEX_ID = f"{topics().index}-1"
"""The id that a log in memory gives `transcripts.index`."""


class MemoryDisk:
    """`Disk` in memory. `failing`: what each call raises; None: nothing."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.failing: StoreFailed | None = None
        self.reopened = 0

    def get(self, key: bytes) -> bytes | None:
        self._check()
        return self.rows.get(key)

    def write(self, rows: Iterable[Row]) -> None:
        self._check()
        for key, value in rows:
            if value is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = value

    def clear(self, begin: bytes, end: bytes) -> None:
        self._check()
        self.rows = {key: value for key, value in self.rows.items() if not begin <= key < end}

    def some(self, begin: bytes, end: bytes, count: int) -> list[tuple[bytes, bytes]]:
        self._check()
        return [(key, self.rows[key]) for key in sorted(self.rows) if begin <= key < end][:count]

    def reopen(self) -> None:
        self.reopened += 1

    def close(self) -> None:
        """Nothing to close."""

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing


def memory_store() -> Store:
    """A store that is empty, of the index of a log in memory."""
    store = Store(MemoryDisk())
    store.belongs_to(INDEX_ID)
    return store
