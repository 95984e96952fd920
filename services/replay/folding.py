"""One partition as replay holds it: the fold, a window for each response, and the readers to tell.

The feed gives every record to `apply`, in log order, and takes the steps of `settle` after each batch, which
push to each reader what the batch brought, and keep the memory bound. Nothing here waits, and no event costs
O(n).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from schemas.events import cancelled_frame, frame, opening_frames
from schemas.fold import Fold, State, Verdict
from schemas.ids import ResponseId, Tenant
from schemas.records import (
    OPEN_STATUSES,
    Accepted,
    Cancelled,
    Deleted,
    EventRecord,
    LogRecord,
    Unreadable,
    parse,
)
from schemas.steps import Steps, each
from services.replay.window import Memory, Window

FORGOTTEN = 200
"""Windows that are looked at in one go, each with a look into the store: 5 ms."""
TOLD = 500
"""Pages that are pushed in one go: 5 ms."""


class Foldings(Mapping[int, "Folding"]):
    """The partitions that this process serves, each folded; more may come. `make` makes the fold of one.

    `count`: how many partitions the log has, as far as this process knows. It serves those of them that it
    has folded; other shards serve the rest.
    """

    def __init__(self, make: Callable[[int], "Folding"], partitions: Iterable[int], count: int) -> None:
        self._make = make
        self._by_partition: dict[int, Folding] = {}
        self.count = count
        for partition in sorted(partitions):
            self.serve(partition)

    def serve(self, partition: int) -> "Folding":
        """Serve one more partition. Returns its fold, which is empty."""
        folding = self._by_partition[partition] = self._make(partition)
        return folding

    def is_far(self, partition: int) -> bool:
        """Whether another shard serves the partition. One that was added since the start is not known."""
        return partition not in self and partition < self.count

    def grow(self, count: int) -> list[int]:
        """Serve what was added: the log has `count` partitions now. Returns the new ones, whose folds are
        empty. None without all the others: a shard's partitions are other ones then.
        """
        if len(self) < self.count:
            return []
        added = list(range(self.count, count))
        for partition in added:
            self.serve(partition)
        self.count = count
        return added

    def __getitem__(self, partition: int) -> "Folding":
        return self._by_partition[partition]

    def __contains__(self, partition: object) -> bool:
        return partition in self._by_partition

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_partition)

    def __len__(self) -> int:
        return len(self._by_partition)


class Folding:
    """The fold and the windows of one partition."""

    def __init__(
        self,
        partition: int,
        memory: Memory,
        on_deleted: Callable[[ResponseId], None],
        on_closed: Callable[[ResponseId], None],
        *,
        ephemeral_ms: int,
    ) -> None:
        """`on_deleted` is called for every `deleted`, `on_closed` for every open response that closes, or is
        dropped with the fold. `ephemeral_ms`: how long (log time) an ephemeral one is kept after its end.
        """
        self.partition = partition
        self.fold = Fold()
        self.windows: dict[ResponseId, Window] = {}
        """The windows of all responses accepted since the floor and not deleted or forgotten."""
        self.open: Counter[Tenant] = Counter()
        """How many responses of each tenant are open."""
        self.floor = 0
        """A response that was accepted before this offset gets no window: it had closed and is served from
        its transcript, or its `accepted` is a repetition (P-62)."""
        self.time = 0
        """Log time of the last record folded, ms."""
        self.ephemeral_ms = ephemeral_ms
        self._memory = memory
        self._on_deleted = on_deleted
        self._on_closed = on_closed
        self._touched: set[Window] = set()

    def apply(self, record: LogRecord) -> str | None:
        """Fold the next record of the partition. Returns why it cannot be read (P-8); None if it can."""
        entry = parse(record, self.partition)
        verdict = self.fold.apply(record.offset, record.timestamp, entry)
        if verdict is not Verdict.COUNTS:
            return entry.why if type(entry) is Unreadable else None
        match entry:
            case EventRecord() if (window := self.windows.get(entry.id)) is not None:
                number = entry.sequence_number
                window.append(
                    frame(entry.type, number, record.value or b""), record.offset, window.state.claim
                )
                if window.readers:
                    self._touched.add(window)
                if entry.terminal:
                    self._closed(window.state)
            case Accepted() if record.offset >= self.floor:
                self._accepted(record, entry)
            case Cancelled() if (window := self.windows.get(entry.id)) is not None:
                window.append(cancelled_frame(window.last + 1, record.value or b""), record.offset, None)
                self._touched.add(window)
                self._closed(window.state)
            case Deleted():
                self._deleted(entry)
            case _:
                pass
        return None

    def settle(self) -> Steps[None]:
        """End a batch: tell the readers that it concerns, some at a time, and keep the memory bound."""
        touched, self._touched = self._touched, set()
        told = 0
        for window in touched:
            for _ in window.tell():
                told += 1
                if told % TOLD == 0:
                    yield
        self._memory.shed()

    def forget(self, before: int, elsewhere: Callable[[ResponseId], bool]) -> Steps[None]:
        """Drop the windows of closed responses that are untouched since log time `before` (ms). O(responses).

        A window with readers stays. So does that of a response that `transcripts` must have, until
        `elsewhere` says that it is there.
        """
        self.fold.forget(before, self.ephemeral_ms)
        closed = [w for w in self.windows.values() if w.state.closed and self.kept_until(w.state) < before]
        for window, pause in each(closed, FORGOTTEN):
            here = self.windows.get(window.id) is window and not window.readers
            if here and (not window.lasting or elsewhere(window.id)):
                self.windows.pop(window.id).drop()
            if pause:
                yield

    def kept_until(self, state: State) -> int:
        """The last log time (ms) at which clients see a closed response that `transcripts` does not get."""
        return state.kept_until(self.ephemeral_ms)

    def clear(self) -> None:
        """Drop everything, to start again (P-64). All readers are cut."""
        for id, window in self.windows.items():
            self._on_closed(id)
            window.drop()
        self.windows.clear()
        self.open.clear()
        self.fold = Fold()

    def _accepted(self, record: LogRecord, entry: Accepted) -> None:
        state = self.fold.responses[entry.id]
        window = self.windows[entry.id] = Window(state, self._memory)
        self.open[state.tenant] += 1
        for opening in opening_frames(entry.id, record.value or b"", entry.background):
            window.append(opening, record.offset, None)

    def _deleted(self, entry: Deleted) -> None:
        window = self.windows.pop(entry.id, None)
        if window is not None:
            if window.state.status in OPEN_STATUSES:
                self._closed(window.state)
            window.drop()
        self._on_deleted(entry.id)

    def _closed(self, state: State) -> None:
        self._on_closed(state.id)
        self.open[state.tenant] -= 1
        if not self.open[state.tenant]:
            del self.open[state.tenant]
