"""A directory on disk that keeps rows by key: RocksDB, whose errors are translated here, once.

Writes go through the log of RocksDB: one write is there as a whole or not at all, whenever the process ends.
Its calls hold the GIL, so a thread would not help the event loop: callers keep writes and scans small. No
write waits for compaction.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from schemas.errors import LogUnavailable, RejoinderError

if TYPE_CHECKING:  # who only keeps rows in memory needs no RocksDB
    from rocksdict import Rdict

log = structlog.get_logger()

FOLDER = "library"
"""The directory in which the rows lie, within the one that the operator names. All of it is ours."""
MEMTABLE_BYTES = 16 << 20
MEMTABLES = 4
CACHE_BYTES = 16 << 20
BLOCK_BYTES = 16 << 10
BLOOM_BITS = 10
"""Bits a row of the filter that answers for rows which are not there: 12 MB for ten million."""
NEVER = 1 << 30
"""Files in the first level at which a write would wait."""

Row = tuple[bytes, bytes | None]
"""Key and value; None: the row is erased."""


class StoreFailed(LogUnavailable):
    """The store in DIRECTORY …: what failed and how to mend it."""


class StoreUnusable(RejoinderError):
    """The store cannot be opened in DIRECTORY: why, and how to mend it."""


class Disk(Protocol):
    """Rows by key, in the order of the keys. Every method may raise StoreFailed."""

    def get(self, key: bytes) -> bytes | None:
        """The value of a row; None: there is none."""
        ...

    def write(self, rows: Iterable[Row]) -> None:
        """Write rows, all of them or none."""
        ...

    def clear(self, begin: bytes, end: bytes) -> None:
        """Erase the rows with keys in [begin, end)."""
        ...

    def some(self, begin: bytes, end: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The first `count` rows with keys in [begin, end)."""
        ...

    def reopen(self) -> None:
        """Open it anew after a failure; empty, if it was broken."""
        ...

    def close(self) -> None:
        """Close it. What was written stays."""
        ...


class RocksDisk:
    """Rows in `directory`. Raises StoreUnusable when it cannot be opened; what is broken is begun anew."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FOLDER
        self._broken = False
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnusable(f"{self._path} cannot be made: {error.strerror}") from error
        self._rows = self._opened()

    def get(self, key: bytes) -> bytes | None:
        """The value of a row; None: there is none."""
        try:
            value: bytes | None = self._rows.get(key)
        except Exception as error:
            raise self._failed(error) from error
        return value

    def write(self, rows: Iterable[Row]) -> None:
        """Write rows, all of them or none."""
        from rocksdict import WriteBatch

        batch = WriteBatch(raw_mode=True)
        for key, value in rows:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        try:
            self._rows.write(batch)
        except Exception as error:
            raise self._failed(error) from error

    def clear(self, begin: bytes, end: bytes) -> None:
        """Erase the rows with keys in [begin, end)."""
        try:
            self._rows.delete_range(begin, end)
        except Exception as error:
            raise self._failed(error) from error

    def some(self, begin: bytes, end: bytes, count: int) -> list[tuple[bytes, bytes]]:
        """The first `count` rows with keys in [begin, end)."""
        found: list[tuple[bytes, bytes]] = []
        try:
            rows = self._rows.iter()
            rows.seek(begin)
            while len(found) < count and rows.valid() and (key := rows.key()) < end:
                found.append((key, rows.value()))
                rows.next()
        except Exception as error:
            raise self._failed(error) from error
        return found

    def reopen(self) -> None:
        """Open it anew after a failure; empty, if it was broken."""
        self.close()
        if self._broken:
            self._discard("a row of it cannot be read")
        self._rows = self._opened()

    def close(self) -> None:
        """Close it. What was written stays."""
        try:
            self._rows.close()
        except Exception as error:
            log.warning("the store was not closed well", directory=str(self._path), error=str(error))

    def _opened(self) -> "Rdict":
        try:
            return _open(self._path)
        except Exception as error:
            if (why := _unusable(str(error))) is not None:
                raise StoreUnusable(f"{self._path} {why} ({error})") from error
            self._discard(str(error))
        try:
            return _open(self._path)
        except Exception as error:
            raise StoreUnusable(f"{self._path} cannot be opened: {error}") from error

    def _discard(self, why: str) -> None:
        """Begin anew: everything in the store can be read again from `transcripts.index`."""
        log.warning("the store is broken, making it anew", directory=str(self._path), why=why)
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir(parents=True, exist_ok=True)
        self._broken = False

    def _failed(self, error: Exception) -> StoreFailed:
        text = str(error)
        why = _unusable(text)
        self._broken = self._broken or why is None
        return StoreFailed(f"{self._path} {why or 'is broken, and is made anew'} ({text})")


def _unusable(error: str) -> str | None:
    """What an operator must do, for an error that another try does not mend; None: the store is broken."""
    if "No space left" in error or "Disk quota exceeded" in error:
        return "is on a full disk: free some space"
    if "lock hold by" in error or "LOCK:" in error:
        return "is used by another process: give each replay a REJOINDER_STORE_DIR of its own"
    if "Permission denied" in error or "Read-only file system" in error:
        return "cannot be written: let this user write there"
    return None


def _open(path: Path) -> "Rdict":
    from rocksdict import BlockBasedOptions, Cache, DBCompressionType, Options, Rdict

    tables = BlockBasedOptions()
    tables.set_block_cache(Cache(CACHE_BYTES))
    tables.set_block_size(BLOCK_BYTES)
    tables.set_bloom_filter(BLOOM_BITS, False)
    tables.set_format_version(5)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(tables)
    options.set_compression_type(DBCompressionType.lz4())
    options.set_write_buffer_size(MEMTABLE_BYTES)
    options.set_max_write_buffer_number(MEMTABLES)
    options.set_level_zero_slowdown_writes_trigger(NEVER)
    options.set_level_zero_stop_writes_trigger(NEVER)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_hard_pending_compaction_bytes_limit(0)
    options.set_max_background_jobs(2)
    options.set_max_open_files(256)
    options.set_keep_log_file_num(2)
    return Rdict(str(path), options)
