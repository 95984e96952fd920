"""What the front door asks of ingest, over ingest's internal port (`services.web.commands`).

    ingest's own refusal    the ApiError that its envelope says: for the client
    it has heard nothing    Unheard: nobody listens there, it is stopping, or it is not ingest's internal port
    no answer came back     BrokenOff: it may have taken the command

Both ways are bounded: what is sent by who has read it, what comes back by `bound` bytes.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping

import aiohttp
import msgspec
import structlog
from structlog.contextvars import get_contextvars

from schemas.errors import ApiError, RejoinderError
from schemas.ids import ResponseId, Tenant
from services.web.commands import DRAINING, ORDER, TENANT, Command, Elsewhere, Made, Order, command_path
from services.web.internal import Report
from services.web.peer import Peer
from services.web.pulse import Silent
from services.web.secret import MEND

COMMAND_S = 19.5
"""Seconds from a request's arrival in which ingest has answered, whatever Kafka does: 20 for clients."""
PIECE_BYTES = 256 << 10
"""Bytes that are written at once: a large body must not hold the loop."""
_KEPT = ("retry-after", "x-should-retry")
"""Headers of a refusal that are the client's."""

log = structlog.get_logger()


class Unheard(RejoinderError):
    """Ingest cannot be asked and has heard nothing: why."""


class BrokenOff(RejoinderError):
    """Ingest may have taken a command, and its answer did not come: why."""


class _Error(msgspec.Struct):
    message: str
    type: str
    param: str | None = None
    code: str | None = None


class _Envelope(msgspec.Struct):
    error: _Error


_created = msgspec.json.Decoder(Made | Elsewhere).decode
_envelope = msgspec.json.Decoder(_Envelope).decode


class IngestClient:
    """Ingest, as the front door sees it. Its operator is told once when it cannot be asked."""

    def __init__(self, peer: Peer, bound: int) -> None:
        self._peer = peer
        self._bound = bound
        where = "REJOINDER_INGEST_URL must be the URL of ingest's internal port"
        self.report = Report(str(peer.url("")), "ingest", where)
        """Tells the operator how it goes."""

    async def create(self, id: ResponseId, order: Order, raw: bytes) -> Made | Elsewhere:
        """Have response `id` created from the body `raw`. Raises ApiError, Unheard, BrokenOff."""
        headers = {ORDER: msgspec.json.encode(order).decode()}
        left = COMMAND_S - order.waited_s
        return _decoded(await self._ask("create", id, headers, raw, left))

    async def cancel(self, id: ResponseId, tenant: Tenant) -> bytes:
        """Cancel `id`: its object, as JSON. Raises as `create`."""
        return await self._ask("cancel", id, {TENANT: tenant})

    async def delete(self, id: ResponseId, tenant: Tenant) -> None:
        """Delete `id`. Raises as `create`."""
        await self._ask("delete", id, {TENANT: tenant})

    async def abandon(self, id: ResponseId, tenant: Tenant) -> None:
        """Cancel `id`, for which nobody waits any more. Raises as `create`."""
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
            status, kept, body = await self.read(command_path(command, id), headers, raw, within_s)
            if status not in (200, 204):
                raise _refusal(status, kept, body)
        except (Unheard, BrokenOff) as error:
            self.report.failed(error)
            raise
        except ApiError:
            self.report.succeeded()
            raise
        self.report.succeeded()
        return body

    async def read(
        self, path: str, headers: Mapping[str, str], raw: bytes, within_s: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, the headers that are for clients, and body of one answer. Raises Unheard, BrokenOff."""
        sent = _Body(raw)
        named = {"x-request-id": str(get_contextvars().get("request_id", ""))}
        request = self._peer.session.post(
            self._peer.url(path),
            data=raw if len(raw) <= PIECE_BYTES else sent,
            headers={**headers, **named, "content-length": str(len(raw))},
            allow_redirects=False,
        )
        try:
            async with asyncio.timeout(within_s), self._peer.while_alive(sent.gone), request as answer:
                body = await self._peer.read(answer, self._bound)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unheard(str(error) or "no connection in time") from error
        except (aiohttp.ClientError, OSError, Silent) as error:  # TimeoutError is one of the second
            raise BrokenOff(str(error) or "no answer in time") from error
        return answer.status, {name: answer.headers[name] for name in _KEPT if name in answer.headers}, body


class _Body:
    """A large body on its way, in pieces."""

    def __init__(self, raw: bytes) -> None:
        self._raw = memoryview(raw)
        self._left = len(raw) if len(raw) > PIECE_BYTES else 0

    def gone(self) -> bool:
        """Whether all of it has been passed on."""
        return not self._left

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._raw), PIECE_BYTES):
            yield bytes(self._raw[start : start + PIECE_BYTES])
        self._left = 0


def _decoded(body: bytes) -> Made | Elsewhere:
    try:
        came_of_it: Made | Elsewhere = _created(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BrokenOff("it answered with something else than what came of a create") from None
    return came_of_it


def _refusal(status: int, kept: Mapping[str, str], body: bytes) -> ApiError:
    """The client's refusal in an answer. Raises Unheard or BrokenOff where it is no word of ingest about the
    command: a proxy's 502, say, comes when ingest may have taken it.
    """
    try:
        error = _envelope(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        what = f"what is there is not ingest: it answered {status} in words of its own"
        raise (Unheard(what) if status < 500 else BrokenOff(what)) from None
    if status >= 500 and status != 503:
        raise BrokenOff(f"answered {status} ({error.code})")
    if error.code == DRAINING:
        raise Unheard("it is stopping")
    if error.code == "wrong_internal_secret":
        raise Unheard(f"it does not know our secret: {MEND}")
    if status in (405, 421) or (status == 404 and error.param is None):
        raise Unheard("what is there is not ingest's internal port: it does not know the path")
    return ApiError(
        status,
        error.message,
        type=error.type,
        param=error.param,
        code=error.code,
        headers=kept,
        reason="ingest",
    )
