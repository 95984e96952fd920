"""What ingest asks replay, over replay's internal port (`services.web.internal`).

A look-up without an answer in time becomes a 503: ingest never guesses what the log says. `result` and
`stream` last as long as their response, which may be longer than a replay lives. They raise ReplayAway when
replay goes or shows no life, and the caller asks again.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import aiohttp
import msgspec

from schemas.errors import not_found, unavailable
from schemas.ids import ResponseId
from services.web.internal import (
    ITEMS_PATH,
    LOAD_PATH,
    Found,
    Load,
    NotYet,
    ReplayAway,
    Report,
    ResponseView,
    Wanted,
    refused,
    result_path,
    stream_path,
    view_path,
)
from services.web.peer import Peer
from services.web.pulse import Silent

T = TypeVar("T")

LOOKUP_S = 1.5
"""Seconds for the look-ups before an append; see `appends.DOUBT_S`."""
START_S = 10.0
"""Seconds after our start in which no operator is told that replay does not listen: both may just have been
started."""
BARRIER_S = 5.0
"""Seconds for any other look-up."""

_view = msgspec.json.Decoder(ResponseView).decode
_found = msgspec.json.Decoder(Found).decode
_load = msgspec.json.Decoder(Load).decode


class ReplayClient:
    """Replay, as ingest sees it. Logs once for the operator that replay cannot be asked."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._report = Report(str(peer.url("")))
        self._made = time.monotonic()

    async def view(
        self, id: ResponseId, offset: int | None = None, *, within_s: float = BARRIER_S
    ) -> ResponseView:
        """What the log says of `id`, past `offset` (None: past the partition's end as of now).

        Raises ApiError 503 when there is no answer within `within_s` seconds.
        """
        try:
            status, body = await self.read(view_path(id, offset), min(within_s, BARRIER_S))
            return ResponseView(id, found=False) if status == 404 else _decoded(_view, body)
        except ReplayAway as error:
            what = "The state of the response cannot be looked up now."
            raise unavailable(what, reason="replay_away") from error

    async def missing(self, wanted: Wanted) -> list[str]:
        """Which of the `wanted` items cannot be referred to. Raises ApiError 503."""
        try:
            _, body = await self.read(ITEMS_PATH, BARRIER_S, msgspec.json.encode(wanted))
            return _decoded(_found, body).missing
        except ReplayAway as error:
            raise unavailable("The items cannot be looked up now.", reason="replay_away") from error

    async def load(self) -> Load:
        """How many responses are open. Raises ReplayAway."""
        _, body = await self.read(LOAD_PATH, LOOKUP_S)
        return _decoded(_load, body)

    async def result(self, id: ResponseId, offset: int) -> bytes:
        """Wait for `id` to close. Returns its final object, as JSON.

        Raises ApiError 404 if it was deleted, ReplayAway if replay went or gave up waiting.
        """
        status, body = await self.read(result_path(id, offset), None)
        if status != 200:
            raise not_found(id)
        return body

    async def stream(self, id: ResponseId, offset: int) -> aiohttp.ClientResponse:
        """The stream of `id` from event 0; the caller closes it. Raises ApiError 404 and ReplayAway."""
        with self._reported():
            async with self._peer.while_alive():
                answer = await self._peer.session.get(self._peer.url(stream_path(id, offset)))
            if answer.status == 200:
                return answer
            async with answer:
                refused(answer.status, await answer.read())
        raise not_found(id)

    async def read(self, path: str, within_s: float | None, asked: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of an answer that tells something: 200, 204 (deleted) or 404 (no such response).

        `within_s`: seconds for the answer; None: as long as replay lives. `asked` is posted, if given. Raises
        ReplayAway.
        """
        bound = self._peer.while_alive() if within_s is None else asyncio.timeout(within_s)
        method, url = "GET" if asked is None else "POST", self._peer.url(path)
        with self._reported():
            async with bound, self._peer.session.request(method, url, data=asked) as answer:
                body = await answer.read()
            if answer.status not in (200, 204):
                refused(answer.status, body)
        return answer.status, body

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Make ReplayAway of every error on the way, and log it for the operator."""
        try:
            yield
        except NotYet:
            self._report.succeeded()
            raise
        except (ReplayAway, Silent, aiohttp.ClientError, OSError) as error:  # TimeoutError is one of the last
            raise self._told(error) from error
        self._report.succeeded()

    def _told(self, error: Exception) -> ReplayAway:
        away = error if isinstance(error, ReplayAway) else ReplayAway(str(error) or "no answer in time")
        if not isinstance(error, aiohttp.ClientConnectorError) or time.monotonic() > self._made + START_S:
            self._report.failed(away)
        return away


def _decoded(decode: Callable[[bytes], T], body: bytes) -> T:
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ReplayAway("what is there is not replay: it answered with something else") from None
