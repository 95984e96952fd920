"""What other processes ask replay, over replay's internal port (`services.web.internal`).

view, missing    look-ups for a client's request: without an answer in time a 503, never a guess
loads            a look-up for ingest's admission
turn, items      parts of a run's input: while the response is open NotYet, and the run asks again
result, stream   waits of a client: they may outlive a replay; then ReplayAway, and the caller asks again

Each question goes to a replay that serves the response's partition (`services.web.replays`), and on to the
next one that may if nobody listens there, or it does not serve the partition after all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

import aiohttp
import msgspec

from schemas.errors import ApiError, misrouted, not_found, unavailable
from schemas.events import UNDECODABLE
from schemas.ids import ResponseId, partition_of
from services.web.internal import (
    ITEMS_PATH,
    LOAD_PATH,
    Found,
    Load,
    NotServed,
    NotYet,
    ReplayAway,
    ResponseView,
    Turn,
    Wanted,
    check_refusal,
    result_path,
    stream_path,
    turn_path,
    view_path,
)
from services.web.items_apart import found_apart
from services.web.peer import Peer
from services.web.pulse import Silent
from services.web.replays import ReplayPort, Replays

T = TypeVar("T")

LOOKUP_S = 1.5
"""Seconds for the look-ups before an append; see `appends.DOUBT_S` of ingest."""
START_S = 10.0
"""Seconds after our start in which no operator is told that replay does not listen: both may just have been
started."""
BARRIER_S = 5.0
"""Seconds for any other look-up of a client's request."""
AWAY_S = 10.0
"""Seconds for which the wait of a client is taken up again while replay is away."""
PAUSE_S = 0.25
"""Seconds between two tries of that."""
RUN_S = 75.0
"""Seconds for a question of a run. Replay answers within a minute, if only that it cannot tell yet."""


class _NotHeard(ReplayAway):
    """Nobody listens there."""


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
    """The `replays`, as other processes see them. Logs once for the operator that one cannot be asked."""

    def __init__(self, replays: Replays) -> None:
        self._replays = replays
        self._made = time.monotonic()

    async def view(
        self, id: ResponseId, offset: int | None = None, *, within_s: float = BARRIER_S
    ) -> ResponseView:
        """What the log says of `id`, past `offset` (None: past the partition's end as of now).

        Raises ApiError 503 when there is no answer within `within_s` seconds.
        """
        with _refused(partition_of(id), "The state of the response cannot be looked up now."):
            found = await self._ask(partition_of(id), view_path(id, offset), min(within_s, BARRIER_S), _view)
        return found or ResponseView(id, found=False)

    async def missing(self, wanted: Wanted) -> list[str]:
        """Which of the `wanted` items cannot be referred to. Raises ApiError 503."""
        try:
            found, _ = await self.items(wanted, within_s=BARRIER_S)
        except ReplayAway as error:
            raise unavailable("The items cannot be looked up now.", reason="replay_away") from error
        return found.missing

    async def loads(self) -> list[Load]:
        """How many responses are open, as each replay says that answers. Raises ReplayAway if none does.

        One that does not is not asked again before it has said what it serves: it would hold up the others.
        """
        asked = self._replays.answering()
        asking = [self._ask_at(port, LOAD_PATH, LOOKUP_S, _load) for port in asked]
        told = await asyncio.gather(*asking, return_exceptions=True)
        loads = [_there(load) for load in told if not isinstance(load, BaseException)]
        for failure in told:
            if isinstance(failure, BaseException) and not (loads and isinstance(failure, ReplayAway)):
                raise failure
        return loads

    async def turn(self, id: ResponseId) -> tuple[Turn, int] | None:
        """The turn of response `id`, and its bytes; None if there is no such response.

        Raises NotYet while it is open, UnreadableTurn, or ReplayAway.
        """
        return await self._ask(partition_of(id), turn_path(id), RUN_S, partial(_turn_of, id))

    async def items(self, wanted: Wanted, *, within_s: float = RUN_S) -> tuple[Found, int]:
        """Some of the `wanted` items, and the bytes of the answers. Raises NotYet or ReplayAway."""
        size = 0

        async def ask(partition: int, part: Wanted) -> Found:
            nonlocal size
            body = _there(await self._ask(partition, ITEMS_PATH, within_s, bytes, msgspec.json.encode(part)))
            size += len(body)
            return _decoded(_found, body)

        found = await found_apart(wanted, self._replays.owner, ask)
        return found, size

    async def items_at(self, partition: int, wanted: Wanted) -> Found:
        """What a replay that serves `partition` says of the `wanted` items. Raises ApiError 503."""
        asked = msgspec.json.encode(wanted)
        with _refused(partition, "The items cannot be looked up now."):
            return _there(await self._ask(partition, ITEMS_PATH, BARRIER_S, _found, asked))

    async def result(self, id: ResponseId, offset: int) -> bytes:
        """Wait for `id` to close. Returns its final object, as JSON.

        Raises ApiError 404 if it was deleted, ReplayAway if replay went or gave up waiting.
        """
        found = await self._ask(partition_of(id), result_path(id, offset), None, bytes)
        if found is None:
            raise not_found(id)
        return found

    async def stream(self, id: ResponseId, offset: int) -> tuple[Peer, aiohttp.ClientResponse]:
        """The stream of `id` from event 0, and whose it is; the caller closes it. Raises ApiError 404 and
        ReplayAway.
        """
        found = await self._one_of(partition_of(id), lambda port: self._stream_at(port, id, offset))
        if found is None:
            raise not_found(id)
        return found

    async def read(
        self, port: ReplayPort, path: str, within_s: float | None, asked: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body of one answer. `asked` is posted, if given.

        `within_s`: seconds for the answer; None: as long as replay lives. Raises Silent, OSError or aiohttp's
        ClientError.
        """
        peer = port.peer
        bound = peer.while_alive() if within_s is None else asyncio.timeout(within_s)
        method, url = "GET" if asked is None else "POST", peer.url(path)
        async with bound, peer.session.request(method, url, data=asked) as answer:
            return answer.status, await answer.read()

    async def _ask(
        self,
        partition: int,
        path: str,
        within_s: float | None,
        decode: Callable[[bytes], T],
        asked: bytes | None = None,
    ) -> T | None:
        """The answer of a replay that serves `partition`, decoded; None if there is no such response, or
        (204) it was deleted.

        Raises NotYet or ReplayAway.
        """
        return await self._one_of(partition, lambda port: self._ask_at(port, path, within_s, decode, asked))

    async def _one_of(self, partition: int, ask: Callable[[ReplayPort], Awaitable[T]]) -> T:
        """What `ask` returns for the first replay that listens and serves `partition`. Raises as `_ask`."""
        failed: ReplayAway = NotServed(f"no replay serves partition {partition}")
        for port in self._replays.serving(partition):
            try:
                return await ask(port)
            except (NotServed, _NotHeard) as error:
                # Who does not listen may serve it all the same, so that is what the caller is to hear.
                failed = error if isinstance(failed, NotServed) else failed
        raise failed

    async def _ask_at(
        self,
        port: ReplayPort,
        path: str,
        within_s: float | None,
        decode: Callable[[bytes], T],
        asked: bytes | None = None,
    ) -> T | None:
        with self._reported(port):
            status, body = await self.read(port, path, within_s, asked)
            if status == 200:
                return _decoded(decode, body)
            if status != 204:
                check_refusal(status, body)
        return None

    async def _stream_at(
        self, port: ReplayPort, id: ResponseId, offset: int
    ) -> tuple[Peer, aiohttp.ClientResponse] | None:
        with self._reported(port):
            async with port.peer.while_alive():
                answer = await port.peer.session.get(port.peer.url(stream_path(id, offset)))
            if answer.status == 200:
                return port.peer, answer
            async with answer:
                check_refusal(answer.status, await answer.read())
        return None

    @contextmanager
    def _reported(self, port: ReplayPort) -> Iterator[None]:
        """Make ReplayAway of every error on the way, and log it for the operator."""
        try:
            yield
        except (NotYet, NotServed):
            port.report.succeeded()
            raise
        except (ReplayAway, Silent, aiohttp.ClientError, OSError) as error:  # TimeoutError is one of the last
            port.answers = False
            raise self._told(port, error) from error
        port.answers = True
        port.report.succeeded()

    def _told(self, port: ReplayPort, error: Exception) -> ReplayAway:
        is_away = isinstance(error, aiohttp.ClientConnectorError)
        away = error if isinstance(error, ReplayAway) else ReplayAway(str(error) or "no answer in time")
        if not is_away or time.monotonic() > self._made + START_S:
            port.report.failed(away)
        return _NotHeard(str(error)) if is_away else away


@contextmanager
def _refused(partition: int, what: str) -> Iterator[None]:
    """Make an ApiError 503 for a client of what keeps a look-up in `partition` from its answer."""
    try:
        yield
    except NotServed as error:
        raise misrouted(partition) from error
    except ReplayAway as error:
        raise unavailable(what, reason="replay_away") from error


async def persistently(ask: Callable[[], Awaitable[T]], gone: Callable[[str], ApiError]) -> T:
    """The result of `ask`, which is repeated while replay is away, for up to `AWAY_S` at a stretch.

    Raises what `gone` makes of the reason after that.
    """
    clock = asyncio.get_running_loop().time
    away_since = None
    while True:
        asked_at = clock()
        try:
            return await ask()
        except ReplayAway as error:
            # An ask that lasted long shows that replay was there meanwhile.
            lasted = clock() - asked_at > AWAY_S / 2
            away_since = clock() if lasted or away_since is None else away_since
            if clock() - away_since > AWAY_S:
                raise gone("The stream cannot be reached now") from error
        await asyncio.sleep(PAUSE_S)


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
