"""One partition as an executor sees it: the fold, what it owns, what waits, what it has sent."""

from msgspec import Struct, field

from schemas.fold import CANCELLED, Fold, State
from schemas.ids import ClaimId, ExecutorId, ResponseId, Tenant
from schemas.records import OPEN_STATUSES, LogRecord
from services.config import Route
from services.executor.fairness import Queue
from services.executor.turns import Turns

VALUES_BYTES = 32 << 20
"""Accepted values of unclaimed responses are held up to so many bytes per partition; others are read
again.
"""


class Sent(Struct, frozen=True):
    """A claim that was sent and not read back. `at` is loop time, seconds."""

    id: ResponseId
    attempt: int
    at: float


class Erasure(Struct, frozen=True):
    """Records to be erased: those with offsets in [`start`, `end`); `start` is -1 when there are none.

    `at` is where whoever starts must see why, so the watermark must not pass it. A `stray` is one record:
    what else there is of its response may be there to stay. Nothing is erased while log time has not passed
    `after` (ms): an ephemeral response is seen until then (P-93). `late`: nothing at or behind `at` says why,
    but that it came when all of its response had been erased.
    """

    id: ResponseId
    start: int
    end: int
    at: int
    stray: bool = False
    after: int = 0
    late: bool = False

    @property
    def key(self) -> tuple[ResponseId, int]:
        """One for all that is asked for of a response, and one for each stray."""
        return (self.id, self.start if self.stray else -1)


class Orphan(Struct, frozen=True):
    """A response that was cancelled or deleted with no run here that would stop its upstream.

    `start` is the offset of its `accepted`, `end` that of the record that closed it; `executor` ran it last,
    and `beats` of mine had been read back when the close was.
    """

    id: ResponseId
    start: int
    end: int
    executor: ExecutorId
    beats: int


class Partition(Struct):
    """A followed partition. Acts are for its owner, and only past `acts_from` (P-41)."""

    number: int
    floor: int
    """Responses accepted before this offset are known and not acted on (P-62)."""
    floor_read: int | None = None
    """How far the log was read when the floor was committed; None: unknown. Responses accepted before the
    floor had closed before this offset (P-61)."""
    fold: Fold = field(default_factory=Fold)
    time: int = 0
    """Log time of the last record folded, ms: what is remembered is measured by it, however far the tail is
    behind (P-63)."""
    owned: bool = False
    acts_from: int = 0
    """The partition's end as of the assignment."""
    routes: dict[ResponseId, Route | None] = field(default_factory=dict)
    """Where open responses go; None where nobody can say."""
    unclaimed: dict[Route | None, dict[Tenant, dict[ResponseId, None]]] = field(default_factory=dict)
    """Open and never claimed, oldest first, by route and tenant: a full route is passed over as one."""
    sent: dict[ClaimId, Sent] = field(default_factory=dict)
    latest: dict[ResponseId, Sent] = field(default_factory=dict)
    """The last claim sent for a response, until it is read back or outdated."""
    erasures: dict[tuple[ResponseId, int], Erasure] = field(default_factory=dict)
    """Asked for and not acknowledged; whoever owns the partition works them off (P-90)."""
    unknown: dict[ResponseId, list[int] | None] = field(default_factory=dict)
    """Offsets, up to `acts_from`, of records of responses that were accepted before anything was folded here;
    None when a record that closes is among them."""
    past: set[ResponseId] = field(default_factory=set)
    """Those of `unknown` that had closed, as a tombstone up to `acts_from` says."""
    orphans: dict[ResponseId, Orphan] = field(default_factory=dict)
    """Whoever owns the partition tells the upstreams of those whose executor is gone (P-46)."""
    uncalled: dict[ResponseId, int] = field(default_factory=dict)
    """The last attempt of responses whose attempts were all mine, and none called its upstream (P-42)."""
    values: dict[ResponseId, bytes] = field(default_factory=dict)
    values_bytes: int = 0
    turns: Turns = field(default_factory=Turns)
    committed: int = -1

    def acting(self, position: int) -> bool:
        """Whether its owner may act, with the tail at `position`."""
        return self.owned and position >= self.acts_from

    def own(self, acts_from: int, committed: int) -> None:
        """Take the partition over, with its end and its committed watermark as of the assignment.

        What the watermark has passed was erased by the owner before.
        """
        self.acts_from, self.committed = acts_from, committed
        self.erased(before=committed)

    def accept(self, state: State, value: bytes | None, route: Route | None) -> None:
        """A response was accepted: it waits for a claim."""
        if state.offset < self.floor:
            return
        self.routes[state.id] = route
        self.unclaimed.setdefault(route, {}).setdefault(state.tenant, {})[state.id] = None
        if value is not None and self.values_bytes + len(value) <= VALUES_BYTES:
            self.values[state.id] = value
            self.values_bytes += len(value)

    def erase(
        self,
        id: ResponseId,
        start: int,
        record: LogRecord,
        *,
        at: int | None = None,
        after: int = 0,
        late: bool = False,
    ) -> None:
        """`record` asks to erase all of `id` from offset `start` (-1: unknown) up to itself (P-90).

        `at`: the offset that the watermark must not pass before, where that is not the record's own. `after`:
        the log time (ms) to wait for. What lies before the floor was erased before the watermark passed it.
        """
        if record.offset < self.floor:
            return
        at = record.offset if at is None else at
        asked = self.erasures.get((id, -1))
        if asked is not None:
            start = min(start, asked.start) if min(start, asked.start) >= 0 else max(start, asked.start)
            at, after, late = min(at, asked.at), min(after, asked.after), late and asked.late
        erasure = Erasure(id, start, record.offset + 1, at, after=after, late=late)
        self.erasures[erasure.key] = erasure

    def erase_stray(self, id: ResponseId, offset: int) -> None:
        """The record at `offset` never counts, and what else there is of `id` may: erase it alone (P-90)."""
        if offset >= self.floor:
            erasure = Erasure(id, offset, offset + 1, offset, stray=True, late=True)
            self.erasures[erasure.key] = erasure

    def unknown_read(self, id: ResponseId, offset: int, *, closes: bool) -> None:
        """The record at `offset` is of a response of which the fold knows nothing.

        It was closed when the watermark was committed (P-61). What comes behind what was read by then is
        late, and so is all past the end as of the assignment. Before that it is late if it closed before the
        floor. A longer one closed behind the floor, and what led there counted: that must stay.
        """
        late_from = self.acts_from if self.floor_read is None else min(self.acts_from, self.floor_read)
        if offset >= late_from or id in self.past:
            self.erase_stray(id, offset)
        elif offset >= self.floor and closes:
            self.unknown[id] = None
        elif offset >= self.floor and (offsets := self.unknown.setdefault(id, [])) is not None:
            offsets.append(offset)

    def unknown_erased(self, id: ResponseId) -> None:
        """A record that is no `accepted` was erased, of a response of which the fold knows nothing.

        Nobody does that to one that is open: whatever comes behind the tombstone is late.
        """
        self.past.add(id)

    def caught_up(self) -> None:
        """All is read up to `acts_from`: what did not close in there had closed before, and is late."""
        for id, offsets in self.unknown.items():
            for offset in offsets or ():
                self.erase_stray(id, offset)
        self.unknown.clear()
        self.past.clear()

    def orphaned(self, state: State, end: int, beats: int) -> None:
        """A response was closed from outside, at offset `end`, and no run here stops its upstream."""
        running = state.status in OPEN_STATUSES or (state.status == CANCELLED and not state.deleted)
        if running and state.executor is not None and state.offset >= self.floor:
            self.orphans[state.id] = Orphan(state.id, state.offset, end, state.executor, beats)

    def due(self, now: int) -> list[Erasure]:
        """What is to be erased at log time `now` (ms)."""
        return [erasure for erasure in self.erasures.values() if erasure.after < now]

    def erased(self, before: int) -> None:
        """The owner's watermark is at offset `before`: what was asked for before it is erased."""
        self.erasures = {key: erasure for key, erasure in self.erasures.items() if erasure.end > before}

    def queue(self, state: State) -> Queue:
        """Whose response it is, and where it goes."""
        return Queue(state.tenant, self.routes.get(state.id))

    def take_value(self, id: ResponseId) -> bytes | None:
        """The accepted value, if it was held; it is not held any longer."""
        value = self.values.pop(id, None)
        if value is not None:
            self.values_bytes -= len(value)
        return value

    def claimed(self, id: ResponseId) -> None:
        """Somebody's claim won."""
        self.latest.pop(id, None)
        tenant, route = self.queue(self.fold.responses[id])
        if ids := self.unclaimed.get(route, {}).get(tenant):
            ids.pop(id, None)
            if not ids:
                del self.unclaimed[route][tenant]

    def closed(self, id: ResponseId) -> None:
        """The response closed: nothing of it waits any more."""
        self.claimed(id)
        self.routes.pop(id, None)
        self.take_value(id)
        self.uncalled.pop(id, None)

    def not_called(self, state: State) -> None:
        """Under none of its attempts, which are mine, the upstream of the response was called."""
        self.uncalled[state.id] = state.attempt

    def first_call(self, id: ResponseId, attempt: int) -> bool:
        """Whether nobody can have called the upstream of the response under a claim before `attempt`."""
        return attempt == 1 or self.uncalled.get(id) == attempt - 1

    def send(self, claim: ClaimId, sent: Sent) -> None:
        """A claim was sent."""
        self.sent[claim] = sent
        self.latest[sent.id] = sent

    def read_back(self, claim: ClaimId) -> Sent | None:
        """A claim was read back: when it was sent, if it is one of ours."""
        sent = self.sent.pop(claim, None)
        if sent is not None and self.latest.get(sent.id) == sent:
            del self.latest[sent.id]
        return sent

    def lost(self, claim: ClaimId) -> None:
        """An append of a claim failed: nothing is kept free for it. It may be in the log all the same."""
        sent = self.sent.get(claim)
        if sent is not None and self.latest.get(sent.id) == sent:
            del self.latest[sent.id]

    def expire(self, before: float) -> None:
        """Forget claims sent before loop time `before`: they are lost."""
        self.sent = {claim: sent for claim, sent in self.sent.items() if sent.at >= before}

    def oldest(self) -> State | None:
        """The oldest open response that is acted on."""
        return next((state for state in self.fold.open() if state.offset >= self.floor), None)

    @property
    def is_rid(self) -> bool:
        """Whether all that came late is erased: a checkpoint says how far was read, and who starts from it
        takes what is unknown before that for what may have counted (P-94).
        """
        return not any(erasure.late for erasure in self.erasures.values())

    def watermark(self, position: int) -> int:
        """The low watermark (P-61), erasures held, with the tail at `position`."""
        held = min((erasure.at for erasure in self.erasures.values()), default=position)
        return min(held, self.fold.low_watermark(position, self.floor))
