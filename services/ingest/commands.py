"""Commands: create, cancel, delete. What a client asks becomes one record, or a refusal and no record.

    create   the look-ups (Idempotency-Key, predecessor) → admission → id → append `accepted` → who won?
    cancel   look-up → may it be cancelled? → append `cancelled` → who won?
    delete   look-up → append `deleted`

An ack is not acceptance (P-30). With an id from fresh entropy no other `accepted` can have come first, so the
ack's own log time decides. With an id from an Idempotency-Key, and for a cancel, replay is asked past the
record's own offset. A delete always counts. Everything before the append refuses without a trace in the log.
"""

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from schemas import ids, response
from schemas.errors import ApiError, unavailable
from schemas.events import AcceptedValue
from schemas.ids import ResponseId, Tenant
from schemas.records import Accepted, Cancelled, Deleted
from schemas.request import CreateRequest, previous_not_found
from services.config import Agent, Config
from services.eventlog.port import Ack
from services.ingest.admission import Admission
from services.ingest.appends import Appends
from services.ingest.decide import already_cancelled, check_repeated, check_visible, visible, void
from services.ingest.replay_client import LOOKUP_S, ReplayClient
from services.web.internal import ResponseView

ABANDON_PAUSES_S = (0, 1, 4, 15)
"""Seconds before each try to cancel a response whose client is gone."""

log = structlog.get_logger()

Entropy = Callable[[int], bytes]
"""So many random bytes."""


class Terms(Struct, frozen=True):
    """What is settled for every new response: milliseconds, and how many partitions there are."""

    partitions: int
    window_ms: int
    run_deadline_ms: int


class Created(Struct, frozen=True):
    """What a create came to.

    `object` is the response's as it stands, as JSON; `offset` a barrier past which the log knows it. `mine`:
    this very command made it; false when an Idempotency-Key met an earlier one.
    """

    id: ResponseId
    tenant: Tenant
    offset: int
    object: bytes
    mine: bool


class Commands:
    """Carries out commands. `clock` is in milliseconds since the epoch."""

    def __init__(
        self,
        config: Config,
        terms: Terms,
        admission: Admission,
        appends: Appends,
        replay: ReplayClient,
        *,
        clock: Callable[[], int],
        entropy: Entropy,
    ) -> None:
        self._config = config
        self._terms = terms
        self._admission = admission
        self._appends = appends
        self._replay = replay
        self._clock = clock
        self._entropy = entropy

    async def create(self, request: CreateRequest, tenant: Tenant, key: str | None) -> Created:
        """Create a response, or meet the one that `key` (Idempotency-Key) made before. Raises ApiError."""
        route = self._config.validate(request.body)
        looked_up_at = self._clock()
        id = self._id(request, tenant, key)
        earlier = await self._look_up(id, request, tenant, key)
        if earlier:
            return earlier
        self._admission.admit(tenant)
        model = request.body.get("model") or (route.name if isinstance(route, Agent) else "")
        initial = response.initial(request.body, id, looked_up_at // 1000, model)
        accepted = self._accepted(id, request, tenant, looked_up_at)
        created = await self._append(accepted, request, msgspec.json.encode(initial), keyed=key is not None)
        if created.mine:
            self._admission.accepted(tenant)
        return created

    async def cancel(self, id: ResponseId, tenant: Tenant) -> bytes:
        """Cancel a response and return its object, as JSON. Raises ApiError."""
        view = check_visible(await self._replay.view(id), tenant)
        if not already_cancelled(view):
            ack = await self._append_cancelled(id, tenant, view.object)
            view = check_visible(await self._replay.view(id, ack.offset), tenant)
            if not already_cancelled(view):
                raise unavailable("The cancel has not been decided yet; try again.")
        return bytes(view.object)

    async def delete(self, id: ResponseId, tenant: Tenant) -> None:
        """Delete a response, whatever its state. Raises ApiError."""
        view = check_visible(await self._replay.view(id), tenant)
        record = Deleted(id, self._nonce(), tenant, view.accepted_offset).new()
        await self._appends.append(id, record, repeatable=True)

    async def abandon(self, created: Created) -> None:
        """Cancel a response whose client went away (A-7). Raises nothing: there is nobody to tell."""
        for pause in ABANDON_PAUSES_S:
            await asyncio.sleep(pause)
            try:
                await self._append_cancelled(created.id, created.tenant, created.object)
            except ApiError as error:
                log.warning("could not cancel an abandoned response", id=created.id, error=error.message)
            else:
                return

    def _id(self, request: CreateRequest, tenant: Tenant, key: str | None) -> ResponseId:
        """By the key (P-2), else in the predecessor's partition (P-3), else in any (P-1)."""
        if key:
            return ids.idempotent_response_id(tenant, key, self._terms.partitions)
        if request.previous:
            partition = ids.partition_of(request.previous)
        else:
            partition = int.from_bytes(self._entropy(4)) % self._terms.partitions
        return ids.response_id(partition, self._entropy(ids.ENTROPY_BYTES))

    async def _look_up(
        self, id: ResponseId, request: CreateRequest, tenant: Tenant, key: str | None
    ) -> Created | None:
        """What the key made before, if anything; then whether the predecessor is there."""
        try:
            async with asyncio.timeout(LOOKUP_S):
                if key:
                    view = await self._replay.view(id)
                    if view.found:
                        return _met(view, request, tenant)
                if request.previous and not visible(await self._replay.view(request.previous), tenant):
                    raise previous_not_found(request.previous)
        except TimeoutError as error:
            raise unavailable("The log cannot be looked up now; nothing was stored.") from error
        return None

    def _accepted(self, id: ResponseId, request: CreateRequest, tenant: Tenant, now: int) -> Accepted:
        return Accepted(
            id=id,
            nonce=self._nonce(),
            tenant=tenant,
            body_sha256=request.sha256,
            not_after=now + self._terms.window_ms,
            deadline=now + self._terms.run_deadline_ms,
            background=request.background,
            store=request.store,
            previous=request.previous,
        )

    async def _append(
        self, accepted: Accepted, request: CreateRequest, initial: bytes, *, keyed: bool
    ) -> Created:
        """Append `accepted` and find out who won. A key makes the command safe to repeat."""
        value = msgspec.json.encode(AcceptedValue(msgspec.Raw(request.raw), msgspec.Raw(initial)))
        ack = await self._appends.append(accepted.id, accepted.new(value), repeatable=keyed)
        if ack.timestamp > accepted.not_after:
            raise void()
        if keyed:
            view = await self._replay.view(accepted.id, ack.offset)
            if not view.found:
                raise void()
            if view.accepted_offset != ack.offset:
                return _met(view, request, accepted.tenant)
        return Created(accepted.id, accepted.tenant, ack.offset, initial, mine=True)

    async def _append_cancelled(self, id: ResponseId, tenant: Tenant, shown: bytes | msgspec.Raw) -> Ack:
        final = msgspec.json.encode(response.cancelled(msgspec.json.decode(shown)))
        record = Cancelled(id, self._nonce(), tenant).new(final)
        return await self._appends.append(id, record, repeatable=True)

    def _nonce(self) -> str:
        return self._entropy(ids.TOKEN_BYTES).hex()


def _met(view: ResponseView, request: CreateRequest, tenant: Tenant) -> Created:
    check_repeated(view, request)
    return Created(view.id, tenant, view.accepted_offset, bytes(view.object), mine=False)
