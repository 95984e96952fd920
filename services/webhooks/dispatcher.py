"""Attempts what is due: takes it from the schedule, sends it, has the outcome appended.

    due → does the worker own the partition still? is the endpoint there? → sign, send → append what came of
    it

An attempt keeps its place until its outcome is in the log. So with the log away nothing more is sent than
what can be recorded.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog
from msgspec.structs import replace

from schemas.errors import invalid
from schemas.ids import ResponseId, partition_of
from schemas.records import NewRecord
from schemas.webhooks import DeliveryRecord, EndpointId
from services import points
from services.loops import Tasks
from services.webhooks import metrics
from services.webhooks.attempts import FIRST_PAUSE_MS, AttemptResult, after
from services.webhooks.endpoints import Endpoint
from services.webhooks.registry import EndpointRegistry
from services.webhooks.schedule import Schedule
from services.webhooks.sealing import CannotOpen, Sealer
from services.webhooks.sender import Sender
from services.webhooks.signing import body_of, event_body, holding, signed

LOOK_S = 1.0
"""Seconds between two looks at the clock, at most: it may be set."""

log = structlog.get_logger(__name__)


class Attempter:
    """Signs for an endpoint, and sends. `clock` returns milliseconds since the epoch."""

    def __init__(self, sender: Sender, sealer: Sealer, clock: Callable[[], int]) -> None:
        self._sender = sender
        self._sealer = sealer
        self._clock = clock

    async def attempt(self, endpoint: Endpoint, id: str, body: bytes) -> AttemptResult:
        """Send `body` under the `webhook-id` `id`. Whatever happens is a result."""
        now_ms = self._clock()
        secrets = list(self._opened(endpoint, now_ms))
        if not secrets:
            return AttemptResult("no_key")
        return await self._sender.send(endpoint.url, body, signed(secrets, id, now_ms // 1000, body))

    def _opened(self, endpoint: Endpoint, now_ms: int) -> Iterator[bytes]:
        """The secrets that sign at `now_ms`, without those whose key is gone: a receiver takes any one that
        it knows.
        """
        for sealed in holding(endpoint.secrets, now_ms):
            try:
                yield self._sealer.open(sealed, endpoint.id)
            except CannotOpen as error:
                log.warning("a webhook secret does not open", endpoint=endpoint.id, why=str(error))

    async def test(self, endpoint: Endpoint, type: str, response: ResponseId, id: str) -> int:
        """Send a sample event. Returns the status that the endpoint answered. Raises ApiError (400)."""
        result = await self.attempt(endpoint, id, event_body(response, type, self._clock()))
        if result.status is None:
            what = f"The webhook endpoint could not be tested: {result.outcome.replace('_', ' ')}."
            raise invalid(what, "url", "webhook_test_failed")
        return result.status


class Owner(Protocol):
    """Who owns partitions, and appends to their deliveries."""

    async def owned(self, partition: int) -> bool:
        """Whether this worker may begin an attempt of the partition (P-129), as soon as that is known."""
        ...

    async def append(self, partition: int, record: NewRecord, *, late: bool = False) -> bool:
        """Append to the deliveries of an owned partition. False: it is owned no longer.

        `late`: also for a while after it was lost, since it harms no other owner to know.
        """
        ...


class Dispatcher:
    """Attempts what `schedule` has, for `owner`. `stirred` is set when there may be more; `chance` returns a
    number from 0 to 1.
    """

    def __init__(
        self,
        schedule: Schedule,
        stirred: asyncio.Event,
        owner: Owner,
        registry: EndpointRegistry,
        attempter: Attempter,
        *,
        clock: Callable[[], int],
        chance: Callable[[], float],
    ) -> None:
        self._schedule = schedule
        self._stirred = stirred
        self._owner = owner
        self._registry = registry
        self._attempter = attempter
        self._clock = clock
        self._chance = chance
        self._tasks = Tasks()

    async def close(self, within_s: float) -> None:
        """Give what is under way some seconds. The next owner attempts again what is not recorded."""
        await self._tasks.close(within_s)

    async def run(self) -> None:
        """Attempt for ever."""
        while True:
            self._stirred.clear()
            while (delivery := self._schedule.next(self._clock())) is not None:
                self._tasks.spawn(self._deal_with(delivery))
            metrics.UNDER_WAY.set(self._schedule.running)
            due_in = self._schedule.due_in(self._clock())
            pause = LOOK_S if due_in is None else min(due_in / 1000, LOOK_S)
            try:
                async with asyncio.timeout(max(pause, 0.001)):
                    await self._stirred.wait()
            except TimeoutError:
                pass

    async def _deal_with(self, delivery: DeliveryRecord) -> None:
        """Attempt a delivery if it is this worker's, and record what came of it."""
        ok, recorded = True, False
        try:
            if await self._owner.owned(partition_of(delivery.response)):
                ok, recorded = await self._attempt(delivery)
        except Exception:  # nobody awaits this task: the delivery must not be lost with it
            log.exception("a webhook was not dealt with, trying again", delivery=delivery.id)
            self._schedule.put(replace(delivery, next_at=self._clock() + FIRST_PAUSE_MS))
        finally:
            self._schedule.ended(delivery, ok=ok, recorded=recorded)

    async def _attempt(self, delivery: DeliveryRecord) -> tuple[bool, bool]:
        """Whether the endpoint took it, and whether what came of it is in the log."""
        partition, endpoint = partition_of(delivery.response), await self._endpoint(delivery.endpoint)
        if endpoint is None:
            metrics.DROPPED.inc()
            return True, await self._owner.append(partition, NewRecord(delivery.id.encode(), None))
        points.at("attempt due", delivery)
        result = await self._result(endpoint, delivery)
        now = self._clock()
        outcome = after(delivery, result, now, self._chance())
        points.at("attempt over", outcome)
        if outcome.state == "failed":
            metrics.FAILED.inc()
            log.warning(
                "webhook given up", delivery=delivery.id, endpoint=endpoint.id, outcome=result.outcome
            )
        ok = result.outcome == "delivered"
        if ok:
            metrics.DELIVERY_SECONDS.observe(max(0, now - delivery.closed_at) / 1000)
        return ok, await self._owner.append(partition, outcome.new(), late=ok)

    async def _endpoint(self, id: EndpointId) -> Endpoint | None:
        """The endpoint; None if it was deleted, which only a whole registry can say."""
        found = self._registry.endpoints.get(id)
        if found is None:
            await self._registry.known()
            found = self._registry.endpoints.get(id)
        return found

    async def _result(self, endpoint: Endpoint, delivery: DeliveryRecord) -> AttemptResult:
        began = time.perf_counter()
        result = await self._attempter.attempt(endpoint, delivery.id, body_of(delivery))
        metrics.ATTEMPT_SECONDS.observe(time.perf_counter() - began)
        metrics.ATTEMPTS.labels(result.outcome).inc()
        return result
