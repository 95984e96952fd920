"""The projector reads its own output back: a deleted response stays erased (P-73).

A projector that was paused between its decision and its write, and has lost the partition meanwhile, may
bring a deleted response back. The owner sees it come and erases it again. Readers hide it whatever the order.
"""

from schemas.ids import ResponseId
from schemas.records import LogRecord, NewRecord, Unreadable
from services.eventlog.transcript import Gone, Tombstone, parse


class Readback:
    """The deleted responses of one partition, and what of them came back. O(1) a record."""

    def __init__(self) -> None:
        self._gone: dict[ResponseId, int] = {}

    def __len__(self) -> int:
        return len(self._gone)

    def hide(self, id: ResponseId, time: int) -> None:
        """`id` was deleted; `time` is the log's (ms)."""
        self._gone[id] = time

    def transcript(self, record: LogRecord) -> NewRecord | None:
        """The tombstone that the next record of `transcripts` calls for, if any."""
        match parse(record):
            case Gone(id=id):
                self.hide(id, record.timestamp)
            case Tombstone() | Unreadable():
                pass
            case written if written.id in self._gone and record.key is not None:
                return NewRecord(record.key, None)
        return None

    def response(self, record: LogRecord) -> NewRecord | None:
        """The tombstone that the next record of `responses` calls for, if any."""
        if (
            record.value is None
            or record.key is None
            or record.key.decode(errors="replace") not in self._gone
        ):
            return None
        return NewRecord(record.key, None)

    def forget(self, before: int) -> None:
        """Forget what was deleted before log time `before` (ms)."""
        self._gone = {id: time for id, time in self._gone.items() if time >= before}
