"""Hands the front door's commands to ingest, over ingest's internal port (`services.web.commands`).

    ingest refuses            ApiError, as in its envelope: for the client
    ingest has heard nothing  Unheard: no process listens, it is stopping, or this is not its internal port
    no answer came back       BrokenOff: ingest may have taken the command

An answer may have `bound` bytes; the body of the command was bounded when it was read.
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
"""Seconds from a request's arrival by which ingest has answered, whatever Kafka does: 20 for clients."""
PIECE_BYTES = 256 << 10
"""Bytes that are written at once: a large body must not hold the loop."""
_KEPT = ("retry-after", "x-should-retry")
"""Headers of a refusal that are passed on to the client."""

log = structlog.get_logger()


class Unheard(RejoinderError):
    """Ingest has not heard of a command. The message says why."""


class BrokenOff(RejoinderError):
    """Ingest may have taken a command, and no answer came. The message says why."""


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
        """Status, headers for the client, and body of one answer. Raises Unheard, BrokenOff."""
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
    """Sends a large body in pieces."""

    def __init__(self, raw: bytes) -> None:
        self._raw = memoryview(raw)
        self._left = len(raw) if len(raw) > PIECE_BYTES else 0

    def gone(self) -> bool:
        """Whether the whole body was handed to the connection."""
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
    """The refusal in an answer, for the client. Raises Unheard or BrokenOff if the answer is not ingest's
    word on the command: a proxy's 502, for example, may come after ingest has taken it.
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
