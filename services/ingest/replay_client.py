"""What ingest asks replay, over replay's internal port (`services.web.internal`).

A look-up that gets no answer in time becomes a 503: ingest never guesses what the log says. What a client
waits for (`result`, `stream`) may outlive a replay: whoever asks asks again.
"""

import asyncio

import aiohttp
import msgspec

from schemas.errors import RejoinderError, not_found, unavailable
from schemas.ids import ResponseId
from services.web.forward import Upstream
from services.web.internal import LOAD_PATH, Load, ResponseView, result_path, stream_path, view_path

LOOKUP_S = 1.5
"""Seconds for the look-ups before an append; see `appends.DELIVERY_S`."""
BARRIER_S = 5.0
"""Seconds for any other look-up."""

_view = msgspec.json.Decoder(ResponseView).decode
_load = msgspec.json.Decoder(Load).decode


class ReplayAway(RejoinderError):
    """Replay did not answer, or could not: what happened instead."""


class ReplayClient:
    """Replay, as ingest sees it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    async def view(self, id: ResponseId, offset: int | None = None) -> ResponseView:
        """What the log says of `id`, past `offset`, or past its end as of now. Raises ApiError 503."""
        try:
            status, body = await self._read(view_path(id, offset), BARRIER_S)
        except ReplayAway as error:
            raise unavailable("The state of the response cannot be looked up now.") from error
        return ResponseView(id, found=False) if status == 404 else _view(body)

    async def load(self) -> Load:
        """How much is open. Raises ReplayAway."""
        _, body = await self._read(LOAD_PATH, LOOKUP_S)
        return _load(body)

    async def result(self, id: ResponseId, offset: int) -> bytes:
        """Wait for `id` to close: its final object, as JSON.

        Raises ApiError 404 when it was deleted, ReplayAway when replay went, or gave up waiting.
        """
        status, body = await self._read(result_path(id, offset), None)
        if status != 200:
            raise not_found(id)
        return body

    async def stream(self, id: ResponseId, offset: int) -> aiohttp.ClientResponse:
        """The stream of `id` from event 0; the caller closes it. Raises ApiError 404 and ReplayAway."""
        answer = await self._ask(stream_path(id, offset))
        if answer.status != 200:
            answer.close()
            raise not_found(id)
        return answer

    async def _read(self, path: str, within_s: float | None) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(within_s):
                async with await self._ask(path) as answer:
                    return answer.status, await answer.read()
        except TimeoutError as error:
            raise ReplayAway(f"{path}: no answer within {within_s} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ReplayAway(f"{path}: {error!r}") from error

    async def _ask(self, path: str) -> aiohttp.ClientResponse:
        """An answer that says something: found, nothing there (204) or not found."""
        try:
            answer = await self._upstream.session.get(self._upstream.url(path))
        except (aiohttp.ClientError, OSError) as error:
            raise ReplayAway(f"{path}: {error!r}") from error
        if answer.status not in (200, 204, 404):
            answer.close()
            raise ReplayAway(f"{path}: answered {answer.status}")
        return answer
