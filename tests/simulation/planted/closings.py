"""What is announced in `closings`, and how it is counted (P-102 to P-112)."""

import asyncio
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from schemas.closings import ClosingRecord, Marks
from schemas.records import LogRecord
from services.eventlog.follower import Follower
from services.eventlog.port import Ack
from services.projector import announcer
from services.projector.announcer import Announcer
from services.projector.closing import Closing, Counts
from services.projector.projection import End, Projection
from tests.points import when
from tests.simulation.node import NodeWriter
from tests.simulation.plan import TOPICS, Plan, only
from tests.simulation.planted.registry import rule

TROUBLED = Plan(targets="p", trouble=0.2, faults=only(kill=3, stun=3, expel=2, pause=2), rate=1)
"""Appends fail, and projectors follow each other."""
SLEEPING = Plan(
    targets="p",
    faults=only(sleep=4, kill=1),
    rate=0.3,
    seconds=150,
    responses=40,
    max_queue=50,
    acts={"p": (TOPICS.closings,)},
    trouble=0.2,
)
"""Projectors sleep for longer than they may announce after that, and wake while others go on."""
OLD_WATERMARK = Plan(targets="p", faults=only(mute=4, kill=4, expel=1), rate=1)
"""Projectors follow each other, and begin at watermarks that were committed long ago."""


@rule("P-102", "P-102", "P-105", plan=Plan(unstored=0.7))
def unstored_not_announced() -> Iterator[None]:
    """Nobody hears that a response has closed which is not stored."""
    original = Announcer.closed

    async def closed(self: Announcer, partition: int, closing: Closing) -> None:
        if closing.store:
            await original(self, partition, closing)

    with patch.object(Announcer, "closed", closed):
        yield


@rule("P-104", "P-104", plan=TROUBLED)
def announced_in_any_order() -> Iterator[None]:
    """What waits together is sent the last one first."""
    with when("closings due", lambda _, dues: dues.reverse()):
        yield


@rule("P-104", "P-104", "P-105", plan=TROUBLED)
def failures_passed_over() -> Iterator[None]:
    """After a failure the announcer goes on behind what failed."""
    original = NodeWriter.append

    async def append(self: NodeWriter, topic: str, *rest: Any, **options: Any) -> Ack:
        try:
            return await original(self, topic, *rest, **options)
        except Exception:
            if topic != TOPICS.closings:
                raise
            return Ack(0, 0)

    with patch.object(NodeWriter, "append", append):
        yield


@rule("P-105", plan=TROUBLED)
def watermark_before_the_announcement() -> Iterator[None]:
    """The watermark does not wait until a closing is announced."""
    original = Announcer.closed

    async def closed(self: Announcer, partition: int, closing: Closing) -> None:
        task = asyncio.get_running_loop().create_task(original(self, partition, closing))
        under_way.add(task)

    under_way: set[asyncio.Task[None]] = set()
    with patch.object(Announcer, "closed", closed):
        yield


@rule("P-106", plan=SLEEPING)
def announced_by_whoever_wakes() -> Iterator[None]:
    """A projector that slept announces what it meant to, whoever owns the partition by then."""
    with patch.object(Follower, "owned_at", lambda *_: asyncio.get_running_loop().time()):
        yield


@rule("P-107", plan=OLD_WATERMARK)
def told_by_the_announcers_clock() -> Iterator[None]:
    """A closing says when it was announced."""
    original, clock = announcer.closing_record, count(1)

    def closing_record(closing: Closing) -> ClosingRecord:
        return replace(original(closing), closed_at=next(clock))

    with patch.object(announcer, "closing_record", closing_record):
        yield


@rule("P-108", plan=OLD_WATERMARK)
def counted_without_a_mark() -> Iterator[None]:
    """A consumer counts every closing that it reads."""
    with patch.object(Marks, "fresh", lambda *_: True):
        yield


@rule("P-112")
def announced_while_open() -> Iterator[None]:
    """What has not closed is announced."""
    original = Projection.apply

    def apply(self: Projection, found: Iterable[LogRecord], next_offset: int) -> list[End]:
        ends = original(self, found, next_offset)
        opened = (state for state in self.fold.open() if state.offset >= self.floor)
        return ends + [Counts().closing(state, self.log, next_offset, b"", None) for state in opened]

    with patch.object(Projection, "apply", apply):
        yield
