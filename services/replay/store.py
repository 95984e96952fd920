"""What the library knows of stored responses, as rows on a disk: the entries of `transcripts.index`.

    e{id}   an entry: where it stood in the index, the oldest offset that it names, and its value
    g{id}   that the response is gone: where that stood in the index
    c{p}    how far partition p of the index is in the rows (`Standing`), written with the rows themselves
    v       the form of the rows, and the topic that they are of

An id is 18 bytes, its partition first, so all of a partition lies together. Rows are a cache of the index:
what may have missed anything is made anew (P-137).
"""

from collections.abc import Callable, Collection, Sequence
from struct import Struct as Packing

import msgspec
import structlog
from msgspec import Struct

from schemas.ids import MAX_PARTITIONS, ResponseId
from schemas.records import LogRecord, Unreadable
from schemas.steps import Steps
from services.eventlog import shelf
from services.eventlog.port import Bounds
from services.eventlog.shelf import Shelved, entry_of
from services.eventlog.topics import DAY, LONGEST_ABSENCE
from services.eventlog.transcript import Gone, Tombstone
from services.replay.disk import Disk, Row

log = structlog.get_logger()

FORM = 1
"""The form of the rows. Rows of another form are made anew."""
ABSENT_MS = LONGEST_ABSENCE - DAY
"""Milliseconds of log time after which tombstones may be compacted away that the rows have not met (P-92),
with a day to spare for whoever's clock is wrong."""
SWEPT = 500
"""Rows that are looked through in one go: 1 to 2 ms."""

_ENTRY = Packing(">qq")
_GONE = Packing(">q")
_PARTITION = Packing(">H")
_FIRST, _END = b"", b"\xff"


class Standing(Struct, frozen=True):
    """How far a partition of the index is in the rows: the next offset, and the log time (ms) of the last
    record before it.
    """

    offset: int
    time: int


class Store:
    """The rows. Every method but those of `Standing` may raise StoreFailed."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._times: dict[int, int] = {}
        """By partition, the log time (ms) of the last record of the index that was taken."""

    def close(self) -> None:
        """Close the disk."""
        self._disk.close()

    def reopen(self) -> None:
        """Open the disk anew after a failure; call `belongs_to` then."""
        self._disk.reopen()

    def belongs_to(self, topic_id: str) -> None:
        """Keep the rows if they are of this form and of the topic with `topic_id`; else drop all."""
        said = msgspec.json.encode([FORM, topic_id])
        found = self._disk.get(b"v")
        if found == said:
            return
        if found is not None:
            log.warning("the store is of another version or another topic, making it anew", found=str(found))
        self._disk.clear(_FIRST, _END)
        self._disk.write([(b"v", said)])

    def resume(self, partition: int, bounds: Bounds, now_ms: int) -> int:
        """Where to read a partition of the index on. Its rows are dropped if they may have missed anything.

        `bounds` are those of the partition, `now_ms` is the time now.
        """
        found = self._disk.get(b"c" + _PARTITION.pack(partition))
        if found is None:
            return bounds.start
        standing = msgspec.json.decode(found, type=Standing)
        missed = standing.offset < bounds.end and now_ms - standing.time > ABSENT_MS
        if bounds.start <= standing.offset <= bounds.end and not missed:
            self._times[partition] = standing.time
            return standing.offset
        log.warning("the store was away for too long, reading its partition anew", partition=partition)
        self.drop(partition)
        return bounds.start

    def keep_only(self, partitions: Collection[int]) -> None:
        """Drop the rows of all other partitions. Nobody keeps them up to date, so what is deleted from now on
        would stay in them.
        """
        for key, _ in self._disk.some(b"c", b"d", MAX_PARTITIONS):
            (partition,) = _PARTITION.unpack_from(key, 1)
            if partition not in partitions:
                log.info("the store drops a partition that is not served here", partition=partition)
                self.drop(partition)

    def drop(self, partition: int) -> None:
        """Drop all rows of a partition."""
        number = _PARTITION.pack(partition)
        self._disk.write([(b"c" + number, None)])
        for kind in (b"e", b"g"):
            self._disk.clear(kind + number, kind + number + _END * 17)

    def entry(self, id: ResponseId) -> tuple[Shelved, int] | None:
        """The entry of a response, and where it stood in the index; None if there is none."""
        row = self._disk.get(b"e" + _key(id))
        if row is None:
            return None
        return entry_of(row[_ENTRY.size :]), _ENTRY.unpack_from(row)[0]

    def gone(self, id: ResponseId) -> int | None:
        """Where in the index it stood that a response is gone; None if it does not say so."""
        row = self._disk.get(b"g" + _key(id))
        return None if row is None else _GONE.unpack(row)[0]

    def take(
        self,
        partition: int,
        records: Sequence[LogRecord],
        next_offset: int,
        on_gone: Callable[[ResponseId], None],
    ) -> list[tuple[LogRecord, str]]:
        """Write what the next records of the index say, and how far they go, in one write (P-137).

        Calls `on_gone` for each response that is gone. Returns what cannot be read, and why.
        """
        rows: list[Row] = []
        unread: list[tuple[LogRecord, str]] = []
        for record in records:
            id, entry = shelf.parse(record, partition)
            match entry:
                case Shelved(where=where):
                    placed = _ENTRY.pack(record.offset, where.oldest)
                    rows.append((b"e" + _key(id), placed + (record.value or b"")))
                case Gone():
                    rows.append((b"g" + _key(id), _GONE.pack(record.offset)))
                    on_gone(id)
                case Tombstone(part=part):
                    rows.append(((b"g" if part else b"e") + _key(id), None))
                case Unreadable(why=why):
                    unread.append((record, why))
        if records:
            self._times[partition] = records[-1].timestamp
        standing = msgspec.json.encode(Standing(next_offset, self._times.get(partition, 0)))
        self._disk.write([*rows, (b"c" + _PARTITION.pack(partition), standing)])
        return unread

    def expire(self, kept: Callable[[int, int, int], bool]) -> Steps[int]:
        """Erase what has expired; returns how many rows. `kept` says, for partition, place in the index and
        oldest place in `transcripts` (-1: none), whether that is still there.
        """
        erased = 0
        for kind in (b"e", b"g"):
            begin = kind
            while rows := self._disk.some(begin, kind + _END * 20, SWEPT):
                old = [(key, None) for key, value in rows if not kept(*_places(key, value))]
                if old:
                    self._disk.write(old)
                    erased += len(old)
                begin = rows[-1][0] + b"\x00"
                yield
        return erased


def _places(key: bytes, value: bytes) -> tuple[int, int, int]:
    (partition,) = _PARTITION.unpack_from(key, 1)
    if key[:1] == b"g":
        return partition, _GONE.unpack(value)[0], -1
    return (partition, *_ENTRY.unpack_from(value))


def _key(id: ResponseId) -> bytes:
    """The 18 bytes of an id."""
    return bytes.fromhex(id[5:])
