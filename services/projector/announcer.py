"""The second listener: announces each closing in `closings`, at once, whatever the views have still to do.

    closing → record → the lane of its partition → appended in the order of `closed_offset` → acknowledged

A lane sends all that waits in it together, and sends no more before all of that is acknowledged or has
failed. After a failure it begins with the first that is not acknowledged (P-104). So before any closing there
stand all that closed before it; one that was in doubt may stand there twice, and consumers count it once.

Only the owner announces (P-106, `ownership`).
"""

import asyncio
from asyncio import Lock
from itertools import islice

import structlog
from msgspec import Struct, field

from schemas.closings import ClosingRecord, final_facts, word
from schemas.errors import RecordTooLarge, Unsent
from schemas.ids import ExecutorId
from schemas.records import NewRecord
from services import points
from services.backoff import Backoff
from services.eventlog.port import Ack, Log
from services.eventlog.topics import Topics
from services.projector import metrics
from services.projector.closing import Closing
from services.projector.ownership import OWNED_S, SEND_S, Ownership

log = structlog.get_logger()

MOST = 1_000
"""Closings that a lane sends together, at most."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries."""


class _Due(Struct, eq=False):
    """An announcement to be made, and the loop time since which it waits."""

    record: NewRecord
    since: float
    made: bool = False


class _Lane(Struct, eq=False):
    """What is to be announced of one partition, in the order of `closed_offset`."""

    waiting: dict[_Due, None] = field(default_factory=dict)
    turn: Lock = field(default_factory=Lock)
    """Held by the call that sends."""
    backoff: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE, LONGEST_PAUSE))


class Announcer:
    """Appends to `closings` in the partitions that this process owns."""

    def __init__(self, log_: Log, names: Topics, ownership: Ownership) -> None:
        self._topic = names.closings
        self._ownership = ownership
        self._writer = log_.writer(delivery_timeout=OWNED_S - SEND_S)
        self._lanes: dict[int, _Lane] = {}

    async def close(self) -> None:
        """Close the writer. The partition's next owner announces what is not acknowledged."""
        await self._writer.close(timeout=2)

    async def closed(self, partition: int, closing: Closing) -> None:
        """Announce a closing; returns when that is acknowledged (P-102, P-105)."""
        lane = self._lanes.setdefault(partition, _Lane())
        due = _Due(closing_record(closing).new(), asyncio.get_running_loop().time())
        lane.waiting[due] = None
        try:
            while not due.made:
                async with lane.turn:
                    if not due.made:  # else it was sent with those before it
                        await self._send(partition, lane)
        finally:
            lane.waiting.pop(due, None)

    def measure(self) -> None:
        """Let the gauges read how much waits, and how long the oldest does."""
        now = asyncio.get_running_loop().time()
        since = [due.since for lane in self._lanes.values() for due in islice(lane.waiting, 1)]
        metrics.UNANNOUNCED.set(sum(len(lane.waiting) for lane in self._lanes.values()))
        metrics.ANNOUNCEMENT_LAG.set(now - min(since, default=now))

    async def _send(self, partition: int, lane: _Lane) -> None:
        """Send what waits in a lane, in order, and wait for all of it."""
        await self._ownership.wait(partition)
        group = list(islice(lane.waiting, MOST))
        points.at("closings due", partition, group)
        appends = (self._append(partition, due.record) for due in group)
        results = await asyncio.gather(*appends, return_exceptions=True)
        for due, result in zip(group, results, strict=True):
            if isinstance(result, RecordTooLarge):  # no topic takes it: it must not hold the others up
                metrics.POISON.labels(self._topic).inc()
                log.warning("not announced", response=due.record.key.decode(), why=str(result))
            elif isinstance(result, BaseException):  # not raised: the closing keeps its place
                await self._failed(partition, lane, result)
                return
            else:
                metrics.ANNOUNCED.inc()
            due.made = True
            lane.waiting.pop(due, None)
        lane.backoff.succeeded()

    async def _append(self, partition: int, record: NewRecord) -> Ack:
        """Append in the step that looks at the ownership: a process may be stopped between two steps."""
        if not self._ownership.holds(partition):
            raise Unsent("the group has not answered for too long")
        return await self._writer.append(self._topic, partition, record)

    async def _failed(self, partition: int, lane: _Lane, error: BaseException) -> None:
        metrics.ANNOUNCEMENTS_FAILED.inc()
        log.warning("closings not announced, trying again", partition=partition, error=repr(error))
        await lane.backoff.wait()


def closing_record(closing: Closing) -> ClosingRecord:
    """A closing as `closings` has it. Every projector makes the same of the same log (P-107)."""
    facts = final_facts(closing.terminal)
    return ClosingRecord(
        id=closing.id,
        tenant=closing.tenant,
        log=closing.log,
        status=closing.status,
        model=word(closing.model),
        served=facts.served,
        route=word(closing.route),
        agent=word(closing.route) if closing.to_agent else None,
        error_type=facts.error_type,
        incomplete_reason=facts.incomplete_reason,
        background=closing.background,
        store=closing.store,
        accepted_at=closing.accepted_at,
        claimed_at=closing.claimed_at,
        first_output_at=closing.first_output_at,
        last_output_at=closing.last_output_at,
        closed_at=closing.closed_at,
        accepted_offset=closing.accepted_offset,
        closed_offset=closing.closed_offset,
        events=closing.events,
        deltas=closing.deltas,
        attempts=closing.attempts,
        executors=tuple(ExecutorId(word(executor) or "") for executor in closing.executors),
        usage=facts.usage,
    )
