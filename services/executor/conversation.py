"""The whole input of a run: what the chain of predecessors said and put out, then its own (A-13), and what
these refer to (A-26).

A response stores its own input only; its predecessors' turns are asked of replay, which answers when they
have closed. The cost of a turn therefore does not grow with copies. Turns of the run's own partition are kept
there (`turns`): a conversation stays in one partition, unless an Idempotency-Key leads it out. Items that are
referred to are asked for when the run begins. They are done, so no run waits for another one's end.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import aiohttp
import msgspec
from msgspec.structs import replace

from schemas.ids import ResponseId, Tenant, parse_response_id, partition_of
from schemas.request import listing
from services.backoff import Backoff
from services.executor.backend import UpstreamError
from services.executor.partition import Partition
from services.executor.said import Said, said, unresolved
from services.loops import apart, in_turns
from services.web.internal import (
    ITEMS_PATH,
    Found,
    NotYet,
    ReplayAway,
    Report,
    Turn,
    Wanted,
    refused,
    turn_path,
)
from services.web.secret import secret_headers

MAX_TURNS = 10_000
"""A chain longer than this is refused rather than walked for ever."""
MAX_ITEMS = 100_000
"""Items of all turns before at most. Work on them one by one then holds the loop for some 50 ms."""
RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 4.0
"""Seconds between two tries. They grow while replay cannot be reached, and not while it answers "not yet"."""
UNREADABLE_TRIES = 5
"""Times that an unreadable turn is asked for: a replay of another version may answer with a good one."""
CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 75.0
"""Seconds after which replay is asked anew. It answers within a minute, be it "not yet"."""

T = TypeVar("T")

_found = msgspec.json.Decoder(Found).decode
_turn = msgspec.json.Decoder(Turn).decode


class _Whose(msgspec.Struct):
    id: str


_whose = msgspec.json.Decoder(_Whose).decode


class _UnreadableTurn(ReplayAway):
    """Replay answered with the turn that was asked for, and it cannot be read."""


class Conversation:
    """Walks chains through replay's internal port at `replay_url`, which may ask for `secret`.

    A run gets at most `bound` bytes of turns, as JSON: it holds them as long as it runs.
    """

    def __init__(self, replay_url: str, bound: float = math.inf, secret: str = "") -> None:
        self._bound = bound
        self._secret = secret
        self._base = replay_url.rstrip("/")
        self._report = Report(replay_url)
        self._session: aiohttp.ClientSession | None = None

    async def input(
        self, partition: Partition, tenant: Tenant, body: Mapping[str, Any], named: bool = True
    ) -> Said:
        """The items of all turns before, oldest first, and of this one, with those that they refer to; where
        they are `named` by upstreams, with all such names.

        Raises UpstreamError when a predecessor or an item is gone: it was deleted, or has expired, after this
        request was accepted; or one further back was before. Also when one cannot be read, or they are too
        much.
        """
        turns: list[Turn] = []
        total = items = 0
        previous = body.get("previous_response_id")
        async for before, turn, size in self._back(partition, previous):
            if turn is None or turn.tenant != tenant:
                what = f"Previous response with id '{before}' not found."
                raise UpstreamError(what, code="invalid_prompt", type="conversation")
            turns.append(turn)
            if len(turns) > MAX_TURNS:
                what = f"The conversation is longer than {MAX_TURNS} turns: begin a new one."
                raise UpstreamError(what, code="invalid_prompt", type="conversation")
            total += size
            self._check_size(total)
            items += len(turn.input) + len(turn.output)
            if items > MAX_ITEMS:
                what = f"The conversation has more than {MAX_ITEMS} items: begin a new one."
                raise UpstreamError(what, code="invalid_prompt", type="conversation")
        turns.reverse()
        own = await in_turns(listing(body))
        before_it = parse_response_id(previous) if isinstance(previous, str) else None
        items += len(own)
        ids = await apart(items, lambda: unresolved(turns, own, named=named))
        found = await self._items(Wanted(tenant, before_it, ids), total)
        return await apart(items, lambda: said(turns, own, found))

    async def settle(self, partition: Partition, id: ResponseId) -> None:
        """Wait until response `id` and all before it have closed, or are gone, or cannot be read: the run
        then ends by that.
        """
        turns = 0
        with suppress(UpstreamError):
            async for _ in self._back(partition, id):
                turns += 1
                if turns > MAX_TURNS:
                    return

    async def close(self) -> None:
        """Close the connections to replay."""
        if self._session is not None:
            await self._session.close()

    async def _back(
        self, partition: Partition, text: str | None
    ) -> AsyncIterator[tuple[str, Turn | None, int]]:
        """The turns, with their bytes, from the one with id `text` to the first one, or to one that is gone
        (None).
        """
        while text is not None:
            id = parse_response_id(text)
            turn, size = await self._turn(partition, id) if id else (None, 0)
            yield text, turn, size
            text = turn.previous if turn else None

    def _check_size(self, total: int) -> None:
        if total > self._bound:
            what = f"The conversation is longer than {self._bound} bytes: begin a new one."
            raise UpstreamError(what, code="invalid_prompt", type="conversation")

    async def _items(self, wanted: Wanted, total: int) -> Found:
        """What there is of the items that are wanted, beside `total` bytes of turns. Raises UpstreamError."""
        found = Found(missing=[])
        while wanted.ids:
            raw, answer = await self._ask(partial(self._some_items, wanted), "What the input refers to")
            total += len(raw)
            self._check_size(total)
            found.items.update(answer.items)
            found.names.update(answer.names)
            wanted = replace(wanted, ids=answer.left)
        return found

    async def _turn(self, partition: Partition, id: ResponseId) -> tuple[Turn | None, int]:
        kept = partition.turns.get(id)
        if kept is not None:
            return kept
        raw, turn = await self._ask(partial(self._answer, id), f"Previous response with id '{id}'")
        before = partition.fold.get(id)
        if turn and partition_of(id) == partition.number and not (before and before.deleted):
            partition.turns.keep(turn, len(raw))
        return turn, len(raw)

    async def _ask(self, once: Callable[[], Awaitable[T]], what: str) -> T:
        """Ask until replay knows `what`: a predecessor may still run, or a replay start up.

        A wrong URL says nothing about the conversation: the operator is told, and can mend it while runs
        wait. Raises UpstreamError when the answer stays unreadable: no wait would mend that.
        """
        backoff, unreadable = Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS), 0
        while True:
            try:
                answer = await once()
            except NotYet:
                self._report.succeeded()
                backoff.succeeded()
            except _UnreadableTurn as error:
                self._report.failed(error)
                unreadable += 1
                if unreadable == UNREADABLE_TRIES:
                    raise UpstreamError(f"{what} cannot be read.", type="conversation") from error
            except (ReplayAway, aiohttp.ClientError, TimeoutError) as error:
                self._report.failed(error)
            else:
                self._report.succeeded()
                return answer
            await backoff.wait()  # nothing that could be awaited says when replay is back

    async def _answer(self, id: ResponseId) -> tuple[bytes, Turn | None]:
        """One answer, and the turn in it, None when there is no such response. Raises as `_ask` expects."""
        status, raw = await self._read("GET", turn_path(id))
        if status != 200:
            refused(status, raw)
            return raw, None
        try:
            return raw, _turn(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _unreadable(id, raw) from None

    async def _some_items(self, wanted: Wanted) -> tuple[bytes, Found]:
        """One answer, with some of the items that are wanted. Raises as `_ask` expects."""
        status, raw = await self._read("POST", ITEMS_PATH, msgspec.json.encode(wanted))
        if status != 200:
            refused(status, raw)
        try:
            return raw, _found(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ReplayAway("what is there is not replay: it answered with what are no items") from None

    async def _read(self, method: str, path: str, asked: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of one answer of replay."""
        if self._session is None:
            # Bounded by who asks: runs by their slots, waiting predecessors by their places.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=SILENCE_SECONDS, sock_connect=CONNECT_SECONDS),
                headers=secret_headers(self._secret),
            )
        async with self._session.request(method, self._base + path, data=asked) as answer:
            return answer.status, await answer.read()


def _unreadable(id: ResponseId, raw: bytes) -> ReplayAway:
    """The error for a 200 that holds no turn. If the body names the response, it is replay that answered."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if _whose(raw).id == id:
            return _UnreadableTurn(f"its turn of {id} cannot be read")
    return ReplayAway("what is there is not replay: it answered with what is no turn")
