"""Entries of `transcripts.index`, and what is read back of the views (P-130 to P-134)."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from schemas.ids import ResponseId
from schemas.records import LogRecord, NewRecord
from services.eventlog.port import Ack, Batch, Log
from services.eventlog.shelf import Whereabouts
from services.eventlog.tail import Tail
from services.eventlog.transcript import request_key
from services.projector import rereader, views
from services.projector.closing import Closing
from services.projector.copies import Copies
from services.projector.ownership import Ownership
from services.projector.projection import FOREVER, End, Projection
from services.projector.rereader import Rereader
from services.projector.views import Views
from tests.simulation.plan import TOPICS, Plan, only
from tests.simulation.planted.registry import DELETING, OVERTAKEN, rule

SUCCEEDING = Plan(
    targets="p",
    faults=only(stun=4, expel=2, mute=2, kill=1),
    acts={"p": (TOPICS.transcripts, TOPICS.index)},
    trouble=0.2,
    rate=1,
    responses=14,
    max_queue=20,
    words=4,
    deletes=0,
)
"""Projectors follow each other while they write, and begin at watermarks that were committed long ago."""
LATE = replace(OVERTAKEN, deletes=0, overtaken=0.1)
"""Copies of transcripts come when no other projector lives, and nothing is deleted."""
ASLEEP = Plan(
    targets="p",
    faults=only(sleep=4, kill=1),
    rate=0.3,
    seconds=150,
    responses=40,
    max_queue=50,
    acts={"p": (TOPICS.transcripts, TOPICS.index)},
    trouble=0.2,
)
"""Projectors sleep for longer than they may write after that, and wake while others go on."""


@rule("P-130", "P-74", plan=SUCCEEDING)
def entry_not_waited_for() -> Iterator[None]:
    """The watermark does not wait until an entry is acknowledged."""
    original, under_way = Views.append, set[asyncio.Task[Any]]()

    async def later(*due: Any) -> None:
        await asyncio.sleep(3)
        await original(*due)

    async def append(self: Views, topic: str, partition: int, record: NewRecord) -> Ack | None:
        if topic != TOPICS.index:
            return await original(self, topic, partition, record)
        under_way.add(asyncio.get_running_loop().create_task(later(self, topic, partition, record)))
        return Ack(0, 0)

    with patch.object(Views, "append", append):
        yield


@rule("P-72", "P-72", "P-74", "P-130", plan=DELETING)
def gone_under_the_ids_key() -> Iterator[None]:
    """The entry of a deleted response is replaced by one that says so."""
    original = Views.append

    async def append(self: Views, topic: str, partition: int, record: NewRecord) -> Ack | None:
        if topic == TOPICS.index and record.key.endswith(b"/gone"):
            record = record._replace(key=record.key.removesuffix(b"/gone"))
        return await original(self, topic, partition, record)

    with patch.object(Views, "append", append):
        yield


@rule("P-131", "P-131", "P-133", plan=SUCCEEDING, seeds=200)
def placed_by_acknowledgement() -> Iterator[None]:
    """An entry names what its writer wrote, whatever came behind it, and nobody looks at that again."""
    original, acks = Views.append, dict[bytes, int]()

    async def append(self: Views, topic: str, partition: int, record: NewRecord) -> Ack | None:
        ack = await original(self, topic, partition, record)
        if topic == TOPICS.transcripts and ack is not None:
            acks[record.key] = ack.offset
        return ack

    async def placed(self: Rereader, _: int, id: ResponseId, offset: int) -> Whereabouts:
        del self
        return Whereabouts(acks[request_key(id)], (offset,), (0,))

    with patch.object(Views, "append", append), patch.object(Rereader, "placed", placed), not_mended():
        yield


@rule("P-132", plan=ASLEEP)
def written_by_whoever_wakes() -> Iterator[None]:
    """A projector that slept writes what it meant to, whoever owns the partition by then."""
    with patch.object(Ownership, "holds", lambda *_: True):
        yield


@rule("P-133", "P-131", "P-133", plan=LATE, seeds=200)
def late_copies_left_alone() -> Iterator[None]:
    """Nobody mends an entry that does not name the last copies."""
    with not_mended():
        yield


def not_mended() -> AbstractContextManager[object]:
    """Nothing is ever overdue."""
    return patch.object(Copies, "overdue", lambda *_: [])


@rule(
    "P-133", "P-73", "P-90", "P-130", plan=replace(OVERTAKEN, acceptance_ms=2_000, overtaken=0.1), seeds=200
)
def mended_without_asking() -> Iterator[None]:
    """What a late writer brought back is written again, though it was deleted meanwhile."""

    class Trusting(Projection):
        def apply(self, found: Iterable[LogRecord], next_offset: int) -> list[End]:
            return [end for end in super().apply(found, next_offset) if isinstance(end, Closing)]

    with patch.object(views, "Projection", Trusting):
        yield


@rule(
    "P-134",
    "P-131",
    "P-133",
    "P-73",
    "P-90",
    "P-130",
    plan=replace(LATE, acceptance_ms=2_000, seconds=80),
    seeds=300,
)
def watermark_past_what_is_read_back() -> Iterator[None]:
    """Projectors read entries back late, and their watermarks do not wait for that."""
    original = Projection.watermark

    def watermark(self: Projection, until: int = FOREVER) -> int:
        del until
        return original(self)

    with patch.object(Projection, "watermark", watermark), read_back_late():
        yield


def read_back_late() -> AbstractContextManager[object]:
    """Projectors read entries back every 6 s, now and then one at a time."""

    class Slow(Tail):
        def __init__(self, log: Log, topic: str) -> None:
            super().__init__(log, topic)
            self.pause_s = 6 if topic == TOPICS.index else 0

        async def read(self, max_wait: float | None = None) -> list[Batch]:
            await asyncio.sleep(self.pause_s)
            return await super().read(max_wait)

    return patch.object(rereader, "Tail", Slow)


@rule("P-92", "P-131", plan=replace(SUCCEEDING, lag_s=0, faults=only(stun=4, expel=2, compact=4)), seeds=200)
def entries_compacted_too_early() -> Iterator[None]:
    """Compaction takes what an entry names before the entry can name what overtook it."""
    yield
