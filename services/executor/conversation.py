"""The whole input of a run: what the chain of predecessors said and put out, then its own (A-13).

A response stores its own input only; its predecessors' turns are asked of replay, which answers when they
have closed. The cost of a turn therefore does not grow with copies. Turns of the run's own partition are kept
there (`turns`): a conversation stays in one partition, unless an Idempotency-Key leads it out.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
import msgspec

from schemas.ids import ResponseId, Tenant, parse_response_id, partition_of
from schemas.request import input_items
from services.executor.backend import UpstreamError
from services.executor.partition import Partition
from services.web.internal import NotYet, ReplayAway, Report, Turn, refused, turn_path

MAX_TURNS = 10_000
"""A chain longer than this is refused rather than walked for ever."""
RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 4.0
"""A replay that cannot be asked is tried less and less often, one that cannot say yet as often as ever."""
UNREADABLE_TRIES = 5
"""A turn that cannot be read is asked for so often: another replay, of another version, may say it better."""
CONNECT_SECONDS = 2.0
SILENCE_SECONDS = 75.0
"""Replay answers within a minute, were it that a response is open still; one that does not is asked anew."""

Item = dict[str, Any]
_turn = msgspec.json.Decoder(Turn).decode


class _Whose(msgspec.Struct):
    id: str


_whose = msgspec.json.Decoder(_Whose).decode


class _UnreadableTurn(ReplayAway):
    """Replay answered with the turn that was asked for, and it cannot be read."""


class Conversation:
    """Walks chains through replay's internal port at `replay_url`.

    A run gets at most `bound` bytes of turns, as JSON: it holds them as long as it runs.
    """

    def __init__(self, replay_url: str, bound: float = math.inf) -> None:
        self._bound = bound
        self._base = replay_url.rstrip("/")
        self._report = Report(replay_url)
        self._session: aiohttp.ClientSession | None = None

    async def input(self, partition: Partition, tenant: Tenant, body: Mapping[str, Any]) -> list[Item]:
        """The items of all turns before, oldest first, and of this one.

        Raises UpstreamError when a predecessor is gone: it was deleted, or has expired, after this request
        was accepted; or one further back was before. Also when one cannot be read, or they are too much.
        """
        turns: list[Turn] = []
        total = 0
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
            if total > self._bound:
                what = f"The conversation is longer than {self._bound} bytes: begin a new one."
                raise UpstreamError(what, code="invalid_prompt", type="conversation")
        items = [item for turn in reversed(turns) for item in (*turn.input, *turn.output)]
        return items + input_items(body)

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

    async def _turn(self, partition: Partition, id: ResponseId) -> tuple[Turn | None, int]:
        kept = partition.turns.get(id)
        if kept is not None:
            return kept
        raw, turn = await self._ask(id)
        before = partition.fold.get(id)
        if turn and partition_of(id) == partition.number and not (before and before.deleted):
            partition.turns.keep(turn, len(raw))
        return turn, len(raw)

    async def _ask(self, id: ResponseId) -> tuple[bytes, Turn | None]:
        """Asks until replay knows: a predecessor may still be running, a replay be on its way up. A wrong URL
        says nothing about the conversation: the operator is told, and can mend it while runs wait. A turn
        that stays unreadable does, and nobody waits for it: raises UpstreamError.
        """
        pause, unreadable = RETRY_SECONDS, 0
        while True:
            try:
                answer = await self._answer(id)
            except NotYet:
                self._report.succeeded()
                pause = RETRY_SECONDS
            except _UnreadableTurn as error:
                self._report.failed(error)
                unreadable += 1
                if unreadable == UNREADABLE_TRIES:
                    what = f"Previous response with id '{id}' cannot be read."
                    raise UpstreamError(what, type="conversation") from error
            except (ReplayAway, aiohttp.ClientError, TimeoutError) as error:
                self._report.failed(error)
            else:
                self._report.succeeded()
                return answer
            await asyncio.sleep(pause)  # nobody tells us when replay is back
            pause = min(pause * 2, LONGEST_RETRY_SECONDS)

    async def _answer(self, id: ResponseId) -> tuple[bytes, Turn | None]:
        """One answer, and the turn in it, None when there is no such response. Raises as `_ask` expects."""
        if self._session is None:
            # Bounded by who asks: runs by their slots, waiting predecessors by their places.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=SILENCE_SECONDS, sock_connect=CONNECT_SECONDS),
            )
        async with self._session.get(self._base + turn_path(id)) as answer:
            raw = await answer.read()
        if answer.status != 200:
            refused(answer.status, raw)
            return raw, None
        try:
            return raw, _turn(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise _unreadable(id, raw) from None


def _unreadable(id: ResponseId, raw: bytes) -> ReplayAway:
    """What a 200 is that holds no turn: whoever names the response is replay."""
    with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if _whose(raw).id == id:
            return _UnreadableTurn(f"its turn of {id} cannot be read")
    return ReplayAway("what is there is not replay: it answered with what is no turn")
