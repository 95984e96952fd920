"""Commands: create, cancel, delete, abandon. Each becomes one record, or a refusal and no record.

    create   what did the Idempotency-Key make before? → does the configuration serve the request, and does
             the id name its partition? → admission → does the predecessor exist? → do the items exist that
             the request refers to? → append `accepted` → with a key: which `accepted` won?
    cancel   look up → may it be cancelled? → append `cancelled` → which record closed the response?
    delete   look up → append `deleted`
    abandon  look up → may a client still come back for it? → append `cancelled`

A refusal before the append leaves no trace in the log. An ack is not acceptance (P-30): another ingest may be
appending the same id. Only the fold says which `accepted` counts. Ingest asks replay past the record's own
offset for a cancel, and for a create whose id is that of an Idempotency-Key. For any other create the front
door asks its own fold. A delete always counts.

The fold settles an append in doubt (P-35). If a record was never sent, and may go anywhere, ingest says so to
the front door, which mints another id (P-36).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, assert_never

import msgspec
from msgspec import Struct

from schemas import ids, response
from schemas.errors import ApiError, AppendUnknown, LogError, Unsent, away, unavailable, unconfirmed, void
from schemas.events import AcceptedValue
from schemas.fold import TERMINAL_STATUSES
from schemas.ids import ResponseId, Tenant
from schemas.records import Accepted, Cancelled, Deleted, NewRecord
from schemas.references import Reference, checked_references, item_not_found, references, source_of
from schemas.request import CreateRequest
from services.config import Agent, Config, Route
from services.eventlog.known_partitions import KnownPartitions
from services.ingest.admission import Admission
from services.ingest.appends import Appends, Patience
from services.ingest.decide import (
    Settled,
    already_cancelled,
    check_predecessor,
    check_repeated,
    check_visible,
    ended,
    settled,
)
from services.ingest.gauge import Gauge
from services.ingest.metrics import APPENDS_SETTLED
from services.placement import Places
from services.traces.port import here
from services.web.commands import Elsewhere, Order
from services.web.internal import ResponseView, Wanted
from services.web.replay_client import LOOKUP_S, ReplayClient

Entropy = Callable[[int], bytes]
"""Returns so many random bytes."""


class Terms(Struct, frozen=True):
    """What holds for every new response: over how many partitions keys are spread (P-139), and bounds in
    milliseconds.
    """

    key_partitions: int
    acceptance_ms: int
    skew_ms: int
    run_deadline_ms: int


class Created(Struct, frozen=True):
    """The response that a create made or met.

    `object` is the response object as it stands, as JSON. A fold past `offset` knows the response.
    `retrievable`: the tenant can get it on other connections as well (A-9). `open`: it has not closed.
    """

    id: ResponseId
    tenant: Tenant
    offset: int
    object: bytes
    retrievable: bool
    open: bool = True


class Proposal(Struct, frozen=True):
    """An `accepted` that is to be appended, with its value and the initial response object."""

    accepted: Accepted
    value: bytes
    object: bytes

    @property
    def record(self) -> NewRecord:
        """The `accepted` as a record."""
        return self.accepted.new(self.value)

    def created(self, offset: int) -> Created:
        """The response, once its `accepted` is in the log at `offset`."""
        accepted = self.accepted
        retrievable = accepted.store or accepted.background
        return Created(accepted.id, accepted.tenant, offset, self.object, retrievable=retrievable)


class Commands:
    """Carries out commands. `clock` returns milliseconds since the epoch."""

    def __init__(
        self,
        config: Config,
        terms: Terms,
        partitions: KnownPartitions,
        admission: Admission,
        appends: Appends,
        places: Places,
        replay: ReplayClient,
        gauge: Gauge,
        *,
        clock: Callable[[], int],
        entropy: Entropy,
    ) -> None:
        self._config = config
        self._terms = terms
        self._partitions = partitions
        self._admission = admission
        self._appends = appends
        self._places = places
        self._replay = replay
        self._gauge = gauge
        self._clock = clock
        self._entropy = entropy

    async def create(
        self, id: ResponseId, order: Order, request: CreateRequest, patience: Patience
    ) -> Created | Elsewhere:
        """Create response `id`, or meet the one that its Idempotency-Key made before. Raises ApiError.

        The key is looked up first: the response that it made stays, even if the configuration would refuse
        the request now, or too many responses are open.
        """
        now, by = self._clock(), asyncio.get_running_loop().time() + LOOKUP_S
        if order.keyed:
            earlier = await self._look_up(id, by)
            if earlier.found:
                return _met(earlier, request, order.tenant)
        route = self._config.validate(request.body)
        referred = checked_references(request.body)
        there = None if order.keyed else self.partition(request)
        if there is not None and there != ids.partition_of(id):
            return Elsewhere(there)
        if there is None and not await self._includes(ids.partition_of(id)):
            return Elsewhere(None)
        model = request.body.get("model") or (route.name if isinstance(route, Agent) else "")
        initial = msgspec.json.encode(response.initial(request.body, id, now // 1000, model))
        value = msgspec.json.encode(AcceptedValue(msgspec.Raw(request.raw), msgspec.Raw(initial)))
        draft = Proposal(self._accepted(id, request, order, now, route), value, initial)
        movable = there is None and not order.keyed
        try:
            created = await self._append_accepted(
                draft, request, order, referred, by, patience, movable=movable
            )
        except Unsent:
            return Elsewhere(None)
        return await self.winner(created, request, patience, keyed=True) if order.keyed else created

    def partition(self, request: CreateRequest) -> int | None:
        """The partition of a response without Idempotency-Key: that of its predecessor, else that of the
        items that it refers to (P-3); None if it may be in any.
        """
        if request.previous:
            return ids.partition_of(request.previous)
        said = source_of(references(request.body))
        return ids.partition_of(said) if said and ids.partition_of(said) < self._partitions.value else None

    async def _includes(self, partition: int) -> bool:
        """Whether the log has the partition: the front door may know of it before this process does (P-144).

        Raises ApiError 503.
        """
        try:
            return await self._partitions.includes(partition)
        except LogError as error:
            raise away() from error

    def id(self, request: CreateRequest, tenant: Tenant, key: str | None) -> ResponseId:
        """An id for a create that came without one: derived from the key (P-2), else fresh."""
        if key:
            return ids.idempotent_response_id(tenant, key, self._terms.key_partitions)
        partition = self.partition(request)
        if partition is None:
            partition = self._places.place(int.from_bytes(self._entropy(4)) / (1 << 32))
        return ids.response_id(partition, self._entropy(ids.ENTROPY_BYTES))

    async def winner(
        self, created: Created, request: CreateRequest, patience: Patience, *, keyed: bool
    ) -> Created:
        """The response that has the id of `created`: another `accepted` may have been first in the log.

        Raises ApiError. If the fold cannot tell, the error says that only a `keyed` create may be repeated.
        """
        try:
            view = await self._replay.view(created.id, created.offset, within_s=patience.look_up_s)
        except ApiError as error:
            raise unconfirmed(repeatable=keyed) from error
        if not view.found:
            raise void()
        return created if view.accepted_offset == created.offset else _met(view, request, created.tenant)

    async def cancel(self, id: ResponseId, tenant: Tenant) -> bytes:
        """Cancel a response and return its object, as JSON. Raises ApiError."""
        patience = Patience()
        view = check_visible(await self._replay.view(id), tenant)
        if not already_cancelled(view):
            offset = await self._append_cancelled(id, tenant, view.object, patience)
            now = await self._replay.view(id, offset, within_s=patience.look_up_s)
            view = check_visible(now, tenant)
            if not already_cancelled(view):
                raise unavailable("The cancel has not been decided yet; try again.")
        return bytes(view.object)

    async def delete(self, id: ResponseId, tenant: Tenant) -> None:
        """Delete a response, whatever its state. Raises ApiError."""
        patience = Patience()
        view = check_visible(await self._replay.view(id), tenant)
        record = Deleted(id, self._nonce(), tenant, view.accepted_offset).new()
        in_doubt = await self._append(id, record, patience) is None
        if in_doubt and not (await self._replay.view(id, within_s=patience.look_up_s)).deleted:
            raise unconfirmed(repeatable=True)

    async def abandon(self, id: ResponseId, tenant: Tenant) -> None:
        """Cancel a response that ends with its client, because the client went away (A-7). Raises ApiError.

        Ingest asks the fold before. A response that has closed may be erased and forgotten by now, and a
        `cancelled` that comes after that would never be erased (P-95).
        """
        view = await self._replay.view(id)
        if ended(view) or view.background or view.tenant != tenant:
            return
        if await self._append_cancelled(id, tenant, view.object, Patience()) is None:
            raise unconfirmed(repeatable=True)

    async def _look_up(self, id: ResponseId, by: float) -> ResponseView:
        """What the log says of `id`. Raises ApiError (503) when there is no answer by loop time `by`."""
        async with _in_time(by):
            return await self._replay.view(id)

    async def _check_there(
        self, referred: Sequence[Reference], tenant: Tenant, previous: ResponseId | None, by: float
    ) -> None:
        """Raises ApiError: 400 for the first reference to an item that does not exist, 503 when there is no
        answer by loop time `by`.
        """
        if not referred:
            return
        wanted = Wanted(tenant, previous, [reference.id for reference in referred], contents=False)
        async with _in_time(by):
            missing = set(await self._replay.missing(wanted))
        for reference in referred:
            if reference.id in missing:
                raise item_not_found(reference)

    def _accepted(
        self, id: ResponseId, request: CreateRequest, order: Order, now: int, route: Route
    ) -> Accepted:
        return Accepted(
            id=id,
            nonce=self._nonce(),
            tenant=order.tenant,
            body_sha256=request.sha256,
            not_after=min(order.not_after, now + self._terms.acceptance_ms),
            deadline=now + self._terms.run_deadline_ms,
            background=request.background,
            store=request.store,
            previous=request.previous,
            keyed=order.keyed,
            model=request.body.get("model") or "",
            route=route.label,
            to_agent=isinstance(route, Agent),
            traceparent=here.get(),
        )

    async def _append_accepted(
        self,
        draft: Proposal,
        request: CreateRequest,
        order: Order,
        referred: Sequence[Reference],
        by: float,
        patience: Patience,
        *,
        movable: bool,
    ) -> Created:
        """Append `accepted`, if there is room, and the predecessor and all items referred to exist.

        The look-ups must be answered by loop time `by`. Raises ApiError, and Unsent if it is `movable`.
        """
        id, tenant = draft.accepted.id, order.tenant
        if self._admission.full(tenant):
            await self._gauge.refresh()
        with self._admission.place(tenant) as hold:
            previous = request.previous
            if previous:
                check_predecessor(await self._look_up(previous, by), tenant)
            await self._check_there(referred, tenant, previous, by)
            try:
                ack = await self._appends.append(id, draft.record, patience, movable=movable)
                created = draft.created(ack.offset)
            except AppendUnknown:
                created = await self._settled(draft, request, order, patience)
            except ApiError as error:
                if error.status == 413:
                    error.param = _largest(request.body)
                raise
            hold(ids.partition_of(id), created.offset)
        return created

    async def _settled(
        self, draft: Proposal, request: CreateRequest, order: Order, patience: Patience
    ) -> Created:
        """The response, if the fold shows that an append in doubt counts (P-35). Raises ApiError."""
        try:
            view = await self._replay.view(draft.accepted.id, within_s=patience.look_up_s)
        except ApiError as error:
            APPENDS_SETTLED.labels(Settled.UNKNOWN.value).inc()
            raise unconfirmed(repeatable=order.keyed) from error
        if order.keyed and view.found:  # another ingest may have made it: for a key that is the same
            return _met(view, request, order.tenant)
        how = settled(view, order.not_after, self._terms.skew_ms)
        APPENDS_SETTLED.labels(how.value).inc()
        match how:
            case Settled.COUNTS:
                return _shown(view, order.tenant)
            case Settled.VOID:
                raise void()
            case Settled.UNKNOWN:
                raise unconfirmed(repeatable=order.keyed)
        assert_never(how)

    async def _append_cancelled(
        self, id: ResponseId, tenant: Tenant, shown: bytes | msgspec.Raw, patience: Patience
    ) -> int | None:
        final = msgspec.json.encode(response.cancelled(msgspec.json.decode(shown)))
        return await self._append(id, Cancelled(id, self._nonce(), tenant).new(final), patience)

    async def _append(self, id: ResponseId, record: NewRecord, patience: Patience) -> int | None:
        """Append a record that may be appended twice: its offset, None if in doubt. Raises ApiError."""
        try:
            return (await self._appends.append(id, record, patience)).offset
        except AppendUnknown:
            return None

    def _nonce(self) -> str:
        return self._entropy(ids.TOKEN_BYTES).hex()


@asynccontextmanager
async def _in_time(by: float) -> AsyncIterator[None]:
    """Bound a look-up by loop time `by`. Raises ApiError (503)."""
    try:
        async with asyncio.timeout_at(by):
            yield
    except TimeoutError as error:
        what = "The log cannot be looked up now; nothing was stored."
        raise unavailable(what, reason="replay_away") from error


def _largest(body: dict[str, Any]) -> str:
    return max(body, key=lambda field: len(msgspec.json.encode(body[field])))


def _met(view: ResponseView, request: CreateRequest, tenant: Tenant) -> Created:
    check_repeated(view, request)
    return _shown(view, tenant)


def _shown(view: ResponseView, tenant: Tenant) -> Created:
    shown = bytes(view.object)
    is_open, retrievable = view.status not in TERMINAL_STATUSES, view.store or view.background
    return Created(view.id, tenant, view.accepted_offset, shown, retrievable=retrievable, open=is_open)
