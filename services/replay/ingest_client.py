"""Hands the front door's commands to ingest, over ingest's internal port (`services.web.commands`).

    ingest refuses            ApiError, as in its envelope: for the client
    ingest has heard nothing  Unheard: no process listens, it is stopping, or this is not its internal port
    no answer came back       BrokenOff: ingest may have taken the command

An answer may have `bound` bytes; the body of the command was bounded when it was read.
"""

from collections.abc import Mapping

import msgspec

from schemas.errors import ApiError
from schemas.ids import ResponseId, Tenant
from services.web.ask import BrokenOff, PeerAnswer, Question, Unheard, ask, refusal_of
from services.web.commands import DRAINING, ORDER, TENANT, Command, Elsewhere, Made, Order, command_path
from services.web.internal import Report
from services.web.peer import Peer

COMMAND_S = 19.5
"""Seconds from a request's arrival by which ingest has answered, whatever Kafka does: 20 for clients."""

_created = msgspec.json.Decoder(Made | Elsewhere).decode


class IngestClient:
    """Ingest, as the front door sees it. Logs once for the operator that ingest cannot be asked."""

    def __init__(self, peer: Peer, bound: int) -> None:
        self._peer = peer
        self._bound = bound
        where = "REJOINDER_INGEST_URL must be the URL of ingest's internal port"
        self.report = Report(str(peer.url("")), "ingest", where)
        """Logs for the operator whether ingest can be asked."""

    async def create(self, id: ResponseId, order: Order, raw: bytes) -> Made | Elsewhere:
        """Let ingest create response `id` from the body `raw`. Raises ApiError, Unheard, BrokenOff."""
        headers = {ORDER: msgspec.json.encode(order).decode()}
        left = COMMAND_S - order.waited_s
        return _decoded(await self._ask("create", id, headers, raw, left))

    async def cancel(self, id: ResponseId, tenant: Tenant) -> bytes:
        """Cancel `id`. Returns its object, as JSON. Raises as `create`."""
        return await self._ask("cancel", id, {TENANT: tenant})

    async def delete(self, id: ResponseId, tenant: Tenant) -> None:
        """Delete `id`. Raises as `create`."""
        await self._ask("delete", id, {TENANT: tenant})

    async def abandon(self, id: ResponseId, tenant: Tenant) -> None:
        """Cancel `id`, because its client is gone. Raises as `create`."""
        await self._ask("abandon", id, {TENANT: tenant})

    async def _ask(
        self,
        command: Command,
        id: ResponseId,
        headers: Mapping[str, str],
        raw: bytes = b"",
        within_s: float = COMMAND_S,
    ) -> bytes:
        try:
            answered = await self.read(command_path(command, id), headers, raw, within_s)
            if answered.status not in (200, 204):
                raise _refusal(answered)
        except (Unheard, BrokenOff) as error:
            self.report.failed(error)
            raise
        except ApiError:
            self.report.succeeded()
            raise
        self.report.succeeded()
        return answered.body

    async def read(self, path: str, headers: Mapping[str, str], raw: bytes, within_s: float) -> PeerAnswer:
        """One answer. Raises Unheard, BrokenOff."""
        return await ask(self._peer, Question("POST", path, headers, raw, within_s, self._bound))


def _decoded(body: bytes) -> Made | Elsewhere:
    try:
        came_of_it: Made | Elsewhere = _created(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BrokenOff("it answered with something else than what came of a create") from None
    return came_of_it


def _refusal(answered: PeerAnswer) -> ApiError:
    """The refusal in an answer, for the client. Raises Unheard or BrokenOff if the answer is not ingest's
    word on the command.
    """
    envelope = refusal_of("ingest", answered)
    status, code = answered.status, envelope.error.code
    if status >= 500 and status != 503:
        raise BrokenOff(f"answered {status} ({code})")
    if code == DRAINING:
        raise Unheard("it is stopping")
    return answered.refusal(envelope, "ingest")
