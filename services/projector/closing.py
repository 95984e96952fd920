"""The closing of a response in the projector's fold, and the listeners that hear of each one.

    accepted, claims, events → Tally → the record that closes it → Closing → every Listener

Every response that the fold accepted and closed makes one closing, stored or not; so does one that is deleted
while it is open. A void `accepted`, the delete of a closed response and that of an id never seen make none.

A projector that takes a partition over folds again from its watermark, so a listener may hear of a closing a
second time. The second one is the same, with the same `closed_offset`.
"""

from typing import Protocol

from msgspec import Struct

from schemas.events import DELTA_EVENTS, LIFECYCLE
from schemas.fold import DELETED, State
from schemas.ids import ExecutorId, ResponseId, Tenant
from services.projector.writes import Work


class Closing(Struct, frozen=True, kw_only=True):
    """A response that was accepted and has closed. Times are log time, ms; None: that never happened.

    Its request and metadata are in the log at `accepted_offset`.
    """

    id: ResponseId
    tenant: Tenant
    log: str
    """The topic id of the `responses.events` in which the offsets are."""
    status: str
    """The status in the record that closed it; `deleted` if it was deleted while open."""
    model: str
    """The model asked for; "" if only an agent was named."""
    route: str
    """The route by which it was accepted; "" in records of earlier versions."""
    to_agent: bool
    """Whether the route leads to an agent."""
    background: bool
    store: bool
    accepted_offset: int
    """The watermark waits there until every listener has acknowledged the closing."""
    closed_offset: int
    accepted_at: int
    claimed_at: int | None
    """When its first claim won."""
    first_output_at: int | None
    last_output_at: int | None
    """The first and the last of its events that bring output: all but those of its lifecycle."""
    closed_at: int
    events: int
    """Its stream events, the derived ones included."""
    deltas: int
    attempts: int
    executors: tuple[ExecutorId, ...]
    """The executors whose claims won, each once, in that order."""
    terminal: bytes
    """The value of the terminal event, with usage, error and the model that served; b"" if deleted."""
    work: Work | None
    """The work for the views."""

    @property
    def at(self) -> int:
        """The offset that the watermark must not pass before the closing is acknowledged."""
        return self.accepted_offset


class Listener(Protocol):
    """Hears of every closing in the partitions that its projector owns."""

    async def closed(self, partition: int, closing: Closing) -> None:
        """Do what a closing asks for, and return when that is acknowledged: the watermark waits (P-74).

        Calls begin in the order of `closed_offset` in each partition, and none waits for another to return. A
        call runs undisturbed up to its first await: there a listener that keeps an order takes its place. The
        call is cancelled when the partition is lost; the next owner tells the closing again.

        A listener repeats what fails. If it raises, the projector calls it again for the same closing, after
        a pause and behind calls that began meanwhile. As long as it does not return, the partition's closings
        add up; when the projector holds too many of them, it reads no more of that partition.
        """
        ...


class Counts:
    """Counts the claims and events of an open response. O(1) an event."""

    __slots__ = ("claimed_at", "deltas", "executors", "first_output_at", "last_output_at")

    def __init__(self) -> None:
        self.claimed_at: int | None = None
        self.first_output_at: int | None = None
        self.last_output_at: int | None = None
        self.deltas = 0
        self.executors: tuple[ExecutorId, ...] = ()

    def claimed(self, executor: ExecutorId, time: int) -> None:
        """Note that a claim of `executor` won, at log time `time` (ms)."""
        if self.claimed_at is None:
            self.claimed_at = time
        if executor not in self.executors:
            self.executors += (executor,)

    def event(self, type: str, time: int) -> None:
        """Note that an event counts, at log time `time` (ms)."""
        if type in DELTA_EVENTS:
            self.deltas += 1
        elif type in LIFECYCLE:
            return
        if self.first_output_at is None:
            self.first_output_at = time
        self.last_output_at = time

    def closing(self, state: State, log: str, offset: int, terminal: bytes, work: Work | None) -> Closing:
        """The closing of the response with this `state`, by the record at `offset` of `log`."""
        assert state.accepted is not None
        return Closing(
            id=state.id,
            tenant=state.tenant,
            log=log,
            status=DELETED if state.deleted else state.status,
            model=state.accepted.model,
            route=state.accepted.route,
            to_agent=state.accepted.to_agent,
            background=state.accepted.background,
            store=state.accepted.store,
            accepted_offset=state.offset,
            closed_offset=offset,
            accepted_at=state.accepted_at,
            claimed_at=self.claimed_at,
            first_output_at=self.first_output_at,
            last_output_at=self.last_output_at,
            closed_at=state.touched,
            events=state.last + 1,
            deltas=self.deltas,
            attempts=state.attempt,
            executors=self.executors,
            terminal=terminal,
            work=work,
        )
