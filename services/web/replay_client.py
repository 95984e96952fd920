"""What ingest and executors ask replay, over replay's internal port (`services.web.internal`).

view, missing    look-ups for a client's request: without an answer in time a 503, never a guess
load             a look-up for ingest's admission
turn, items      parts of a run's input: while the response is open NotYet, and the run asks again
result, stream   waits of a client: they may outlive a replay; then ReplayAway, and the caller asks again
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import aiohttp
import msgspec

from schemas.errors import not_found, unavailable
from schemas.events import UNDECODABLE
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
    Turn,
    Wanted,
    check_refusal,
    result_path,
    stream_path,
    turn_path,
    view_path,
)
from services.web.peer import Peer
from services.web.pulse import Silent

T = TypeVar("T")

LOOKUP_S = 1.5
"""Seconds for the look-ups before an append; see `appends.DOUBT_S` of ingest."""
START_S = 10.0
"""Seconds after our start in which no operator is told that replay does not listen: both may just have been
started."""
BARRIER_S = 5.0
"""Seconds for any other look-up of a client's request."""
RUN_S = 75.0
"""Seconds for a question of a run. Replay answers within a minute, if only that it cannot tell yet."""


class UnreadableTurn(ReplayAway):
    """Replay answered with the turn, and the turn cannot be read."""


class _Whose(msgspec.Struct):
    id: str


_view = msgspec.json.Decoder(ResponseView).decode
_found = msgspec.json.Decoder(Found).decode
_load = msgspec.json.Decoder(Load).decode
_turn = msgspec.json.Decoder(Turn).decode
_whose = msgspec.json.Decoder(_Whose).decode


class ReplayClient:
    """Replay, as ingest and executors see it. Logs once for the operator that replay cannot be asked."""

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
            found = await self._ask(view_path(id, offset), min(within_s, BARRIER_S), _view)
        except ReplayAway as error:
            what = "The state of the response cannot be looked up now."
            raise unavailable(what, reason="replay_away") from error
        return found or ResponseView(id, found=False)

    async def missing(self, wanted: Wanted) -> list[str]:
        """Which of the `wanted` items cannot be referred to. Raises ApiError 503."""
        try:
            found, _ = await self.items(wanted, within_s=BARRIER_S)
        except ReplayAway as error:
            raise unavailable("The items cannot be looked up now.", reason="replay_away") from error
        return found.missing

    async def load(self) -> Load:
        """How many responses are open. Raises ReplayAway."""
        return _there(await self._ask(LOAD_PATH, LOOKUP_S, _load))

    async def turn(self, id: ResponseId) -> tuple[Turn, int] | None:
        """The turn of response `id`, and its bytes; None if there is no such response.

        Raises NotYet while it is open, UnreadableTurn, or ReplayAway.
        """
        return await self._ask(turn_path(id), RUN_S, partial(_turn_of, id))

    async def items(self, wanted: Wanted, *, within_s: float = RUN_S) -> tuple[Found, int]:
        """Some of the `wanted` items, and the bytes of the answer. Raises NotYet or ReplayAway."""
        asked = msgspec.json.encode(wanted)
        return _there(await self._ask(ITEMS_PATH, within_s, lambda body: (_found(body), len(body)), asked))

    async def result(self, id: ResponseId, offset: int) -> bytes:
        """Wait for `id` to close. Returns its final object, as JSON.

        Raises ApiError 404 if it was deleted, ReplayAway if replay went or gave up waiting.
        """
        found = await self._ask(result_path(id, offset), None, bytes)
        if found is None:
            raise not_found(id)
        return found

    async def stream(self, id: ResponseId, offset: int) -> aiohttp.ClientResponse:
        """The stream of `id` from event 0; the caller closes it. Raises ApiError 404 and ReplayAway."""
        with self._reported():
            async with self._peer.while_alive():
                answer = await self._peer.session.get(self._peer.url(stream_path(id, offset)))
            if answer.status == 200:
                return answer
            async with answer:
                check_refusal(answer.status, await answer.read())
        raise not_found(id)

    async def read(self, path: str, within_s: float | None, asked: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of one answer. `asked` is posted, if given.

        `within_s`: seconds for the answer; None: as long as replay lives. Raises Silent, OSError or aiohttp's
        ClientError.
        """
        bound = self._peer.while_alive() if within_s is None else asyncio.timeout(within_s)
        method, url = "GET" if asked is None else "POST", self._peer.url(path)
        async with bound, self._peer.session.request(method, url, data=asked) as answer:
            return answer.status, await answer.read()

    async def _ask(
        self, path: str, within_s: float | None, decode: Callable[[bytes], T], asked: bytes | None = None
    ) -> T | None:
        """Replay's answer, decoded; None if there is no such response, or (204) it was deleted.

        Raises NotYet or ReplayAway.
        """
        with self._reported():
            status, body = await self.read(path, within_s, asked)
            if status == 200:
                return _decoded(decode, body)
            if status != 204:
                check_refusal(status, body)
        return None

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
    except UNDECODABLE:
        raise ReplayAway("what is there is not replay: it answered with something else") from None


def _turn_of(id: ResponseId, body: bytes) -> tuple[Turn, int]:
    """The turn in an answer. Raises UnreadableTurn if the answer names the response, so that it is replay's,
    and cannot be read.
    """
    try:
        return _turn(body), len(body)
    except UNDECODABLE:
        with suppress(*UNDECODABLE):
            if _whose(body).id == id:
                raise UnreadableTurn(f"its turn of {id} cannot be read") from None
        raise


def _there(answer: T | None) -> T:
    if answer is None:
        raise ReplayAway("what is there is not replay: it has nothing to say")
    return answer
