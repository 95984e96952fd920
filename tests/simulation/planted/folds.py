"""Folds and watermarks (P-60 to P-64)."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from schemas.fold import Fold
from services.eventlog.port import Log
from services.eventlog.start import StartingPoint, starting_points
from services.eventlog.tail import Tail
from services.executor import executor
from services.executor.acts import Act
from services.executor.partition import Partition
from services.executor.steward import Steward
from services.projector import projector
from services.replay import app
from services.replay.folding import Folding
from tests.points import when
from tests.simulation.plan import Plan, only
from tests.simulation.planted.registry import REPEATED, TARDY, rule

BEHIND = replace(
    REPEATED,
    faults=only(behind=2, stun=4),
    acts={"i": ("accepted",)},
    targets="xi",
    rate=2,
    words=2,
    deletes=0,
    responses=30,
    max_queue=40,
    kinds={"repeatable": 1},
)
"""Many an `accepted` comes again when its twin has closed, and executors read it long after."""

QUIET = replace(
    REPEATED, responses=6, seconds=80, words=4, faults=only(expel=4, storm=2), targets="x", rate=0.7
)


@rule(
    "P-60", "P-28", "P-42", "P-54", "P-43", "P-45", "P-48", "P-62", plan=replace(QUIET, acceptance_ms=6_000)
)
def rewound_fold() -> Iterator[None]:
    """An executor that gets a partition back reads it again, into the same fold."""

    def rewind(partitions: frozenset[int], tail: Tail) -> None:
        for partition in partitions & tail.followed:
            tail.follow(partition, max(0, tail.position(partition) - 20))

    with when("following", rewind):
        yield


@rule("P-61")
def early_watermark_of_executors() -> Iterator[None]:
    """An executor commits its position."""
    with patch.object(Partition, "watermark", lambda _, position: position):
        yield


@rule("P-62", "P-42", "P-54", "P-62", "P-28", plan=REPEATED)
def started_at_the_watermark() -> Iterator[None]:
    """A reader that starts reads nothing before the watermark."""

    async def starts(
        log: Log, group: str, topic: str, partitions: Any, *, memory_ms: int
    ) -> dict[int, StartingPoint]:
        found = await starting_points(log, group, topic, partitions, memory_ms=memory_ms)
        return {number: start._replace(offset=start.floor) for number, start in found.items()}

    with patch.object(executor, "starting_points", starts):
        yield


@rule("P-62", "P-42", "P-54", "P-70", "P-72", "P-74", "P-80", plan=REPEATED)
def acted_below_the_watermark() -> Iterator[None]:
    """A reader that starts takes everything for its own."""

    async def starts(
        log: Log, group: str, topic: str, partitions: Any, *, memory_ms: int
    ) -> dict[int, StartingPoint]:
        found = await starting_points(log, group, topic, partitions, memory_ms=memory_ms)
        return {number: start._replace(floor=start.offset) for number, start in found.items()}

    with (
        patch.object(executor, "starting_points", starts),
        patch.object(projector, "starting_points", starts),
    ):
        yield


@rule("P-62", "P-72", "P-80", plan=REPEATED)
def replay_without_a_floor() -> Iterator[None]:
    """A replay takes a repeated `accepted` for a new one."""

    class Grounded(Folding):
        floor = property(lambda _: 0, lambda *_: None)

    with patch.object(app, "Folding", Grounded):
        yield


@rule(
    "P-63",
    "P-42",
    "P-54",
    "P-62",
    plan=replace(TARDY, acceptance_ms=20_000, background=1, streams=0, leaves=0, breaks=0, unsure=0.3),
    seeds=120,
)
def forgotten_too_early() -> Iterator[None]:
    """A closed response is forgotten at once."""
    original = Fold.forget
    with patch.object(Fold, "forget", lambda self, before, kept: original(self, before + 20_000, kept)):
        yield


@rule("P-63", "P-42", "P-54", "P-62", plan=BEHIND)
def forgotten_by_another_clock() -> Iterator[None]:
    """What is remembered is measured by the beats, while the partition's tail may be behind."""
    original = Steward.beat

    def beat(self: Steward, now: float) -> list[Act]:
        for partition in self.engine.partitions.values():
            partition.time = self.engine.liveness.now
        return original(self, now)

    with patch.object(Steward, "beat", beat):
        yield


@rule(
    "P-64",
    "P-80",
    "P-81",
    "P-72",
    plan=Plan(faults=only(pause=6, retain=6), targets="r", seconds=90, responses=14, acceptance_ms=3_000),
)
def skipped_what_expired() -> Iterator[None]:
    """A reader that was away too long keeps its fold, and goes on behind the gap."""
    with patch.object(Folding, "clear", lambda _: None):
        yield
