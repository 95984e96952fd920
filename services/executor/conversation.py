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

from msgspec.structs import replace

from schemas.ids import ResponseId, Tenant, parse_response_id, partition_of
from schemas.request import listing
from services.backoff import Backoff
from services.executor.backend import UpstreamError
from services.executor.partition import Partition
from services.executor.said import Said, said, unresolved
from services.loops import apart, in_turns
from services.web.internal import Found, NotYet, ReplayAway, Turn, Wanted
from services.web.replay_client import ReplayClient, UnreadableTurn

MAX_TURNS = 10_000
"""A chain longer than this is refused rather than walked for ever."""
MAX_ITEMS = 100_000
"""Items of all turns before at most. Work on them one by one then holds the loop for some 50 ms."""
RETRY_SECONDS = 0.5
LONGEST_RETRY_SECONDS = 4.0
"""Seconds between two tries. They grow while replay cannot be reached, and not while it answers "not yet"."""
UNREADABLE_TRIES = 5
"""Times that an unreadable turn is asked for: a replay of another version may answer with a good one."""

T = TypeVar("T")


class Conversation:
    """Walks chains, whose turns it asks of `replay`.

    A run gets at most `bound` bytes of turns, as JSON: it holds them as long as it runs.
    """

    def __init__(self, replay: ReplayClient, bound: float = math.inf) -> None:
        self._replay = replay
        self._bound = bound

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
            answer, size = await self._ask(partial(self._replay.items, wanted), "What the input refers to")
            total += size
            self._check_size(total)
            found.items.update(answer.items)
            found.names.update(answer.names)
            wanted = replace(wanted, ids=answer.left)
        return found

    async def _turn(self, partition: Partition, id: ResponseId) -> tuple[Turn | None, int]:
        kept = partition.turns.get(id)
        if kept is not None:
            return kept
        told = await self._ask(partial(self._replay.turn, id), f"Previous response with id '{id}'")
        if told is None:
            return None, 0
        turn, size = told
        before = partition.fold.get(id)
        if partition_of(id) == partition.number and not (before and before.deleted):
            partition.turns.keep(turn, size)
        return told

    async def _ask(self, once: Callable[[], Awaitable[T]], what: str) -> T:
        """Ask until replay knows `what`: a predecessor may still run, or a replay start up.

        A wrong URL says nothing about the conversation: the operator is told, and can mend it while runs
        wait. Raises UpstreamError when the answer stays unreadable: no wait would mend that.
        """
        backoff, unreadable = Backoff(RETRY_SECONDS, LONGEST_RETRY_SECONDS), 0
        while True:
            try:
                return await once()
            except NotYet:
                backoff.succeeded()
            except UnreadableTurn as error:
                unreadable += 1
                if unreadable == UNREADABLE_TRIES:
                    raise UpstreamError(f"{what} cannot be read.", type="conversation") from error
            except ReplayAway:
                pass  # the client has told the operator
            await backoff.wait()  # nothing that could be awaited says when replay is back
