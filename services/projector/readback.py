"""The projector reads its own output back: a deleted response stays erased (P-73).

A projector that was paused between its decision and its write, and has lost the partition meanwhile, may
bring a deleted response back. The owner reads that and erases it again. Readers hide it whatever the order.

The two views are read independently: an object may be read before the `gone` that was written before it. So
the keys of objects are kept until `transcripts` is read past their time. A `gone` that is read by then erases
the object too.

`copies` has where the last copies of transcripts lie, and which entries do not say so (P-131, P-133).
"""

from schemas.ids import ResponseId
from schemas.records import LogRecord, NewRecord, Unreadable
from services.eventlog import shelf
from services.eventlog.shelf import Shelved
from services.eventlog.transcript import Gone, Tombstone, parse
from services.projector.copies import Copies


class Readback:
    """The deleted responses of one partition, and what of them came back. O(1) a record."""

    def __init__(self) -> None:
        self.copies = Copies()
        self._gone: dict[ResponseId, int] = {}
        self._objects: dict[bytes, int] = {}
        """The keys of objects that are there, and when they were written (ms)."""
        self._overtaken: list[NewRecord] = []
        self._read_to = 0
        """The log time (ms) up to which `transcripts` is read."""

    def __len__(self) -> int:
        return len(self._gone)

    def hide(self, id: ResponseId, time: int) -> None:
        """Note that `id` was deleted, at log time `time` (ms)."""
        self._gone[id] = time
        self.copies.drop(id)

    def transcript(self, record: LogRecord, now: float) -> NewRecord | None:
        """The tombstone that the next record of `transcripts` calls for, if any. Ask `overtaken` then.

        `now` is the loop time.
        """
        self._read_to = max(self._read_to, record.timestamp)
        match parse(record):
            case Gone(id=id):
                self.hide(id, record.timestamp)
                if self._objects.pop(key := id.encode(), None) is not None:
                    self._overtaken.append(NewRecord(key, None))
            case Tombstone() | Unreadable():
                pass
            case written if written.id in self._gone and record.key is not None:
                return NewRecord(record.key, None)
            case copy:
                self.copies.copied(copy, record.offset, record.timestamp, now)
        return None

    def entry(self, record: LogRecord, now: float) -> NewRecord | None:
        """The tombstone that the next record of `transcripts.index` calls for, if any."""
        match shelf.parse(record):
            case id, Gone():
                self.hide(id, record.timestamp)
            case id, Shelved() if id in self._gone and record.key is not None:
                return NewRecord(record.key, None)
            case id, Shelved() as entry:
                self.copies.named(id, entry, record.timestamp, now)
            case _:
                pass
        return None

    def response(self, record: LogRecord) -> NewRecord | None:
        """The tombstone that the next record of `responses` calls for, if any."""
        if record.key is None:
            return None
        if record.value is None:
            self._objects.pop(record.key, None)
            return None
        if record.key.decode(errors="replace") in self._gone:
            return NewRecord(record.key, None)
        self._objects[record.key] = record.timestamp
        return None

    def overtaken(self) -> list[NewRecord]:
        """Take the tombstones for objects that were read in `responses` before their `gone` was."""
        overtaken, self._overtaken = self._overtaken, []
        return overtaken

    def forget(self, before: int, keep_ms: int) -> None:
        """Forget what was deleted before log time `before` (ms), and objects that `transcripts` is read past.

        The clocks of the two views may differ by `keep_ms`. An object follows its transcript, so the time to
        which `transcripts` is read moves on as objects come.
        """
        self._gone = {id: time for id, time in self._gone.items() if time >= before}
        kept = self._read_to - keep_ms
        self._objects = {key: time for key, time in self._objects.items() if time >= kept}
