"""The front door: a hop that breaks, an attempt that does not count, a client that goes (P-20, P-30, A-7)."""

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from schemas.errors import ApiError, void
from services.ingest import routes
from services.replay import door, door_routes
from services.replay.door import Visit
from services.replay.ingest_client import IngestClient
from services.web.ask import BrokenOff
from services.web.commands import ABANDON_PAUSES_S, Elsewhere, Made, Order
from services.web.sse import EventStream
from tests.points import when
from tests.simulation.plan import Plan
from tests.simulation.planted.registry import rule

BROKEN = Plan(breaks=0.6, keyed=0, repeats=0, leaves=0, deletes=0, responses=14, max_queue=20)
"""The hop breaks more often than not."""
LATE = Plan(
    breaks=0.5, unsure=0.5, keyed=0, repeats=0, leaves=0, acceptance_ms=1_000, responses=14, max_queue=20
)
"""The same, and much reaches the log too late."""
DOUBTFUL = Plan(breaks=0.8, unsure=0.9, keyed=0, repeats=0, leaves=0, responses=24, max_queue=40)
"""Hardly any client hears at once what became of an attempt."""
UNKNOWN = Plan(
    breaks=0.8,
    unsure=0.9,
    keyed=0,
    repeats=0,
    leaves=0,
    background=0,
    unstored=0,
    kinds={"silent": 1},
    endless=0,
    responses=24,
    max_queue=40,
    faults={},
)
"""Hardly any client hears what became of an attempt, and no response ends by itself."""
LEAVING = Plan(
    leaves=1,
    background=0,
    unstored=0,
    keyed=0,
    repeats=0,
    kinds={"silent": 1},
    endless=0,
    responses=14,
    max_queue=20,
    faults={},
    breaks=0.3,
)
"""All clients go, and no response ends by itself."""


@rule("P-30", plan=LATE)
def answered_without_the_fold() -> Iterator[None]:
    """A POST is answered by what ingest says, as if its record had come in time."""

    async def said(self: Visit) -> tuple[bytes, bool]:
        assert self.made is not None
        return bytes(self.made.object), True

    with patch.object(Visit, "object", said):
        yield


@rule("P-20", plan=BROKEN)
def told_of_the_last_attempt() -> Iterator[None]:
    """A POST is answered with the object of the attempt whose answer came, whichever counts."""
    counted = Visit.object

    async def said(self: Visit) -> tuple[bytes, bool]:
        _, is_open = await counted(self)
        assert self.made is not None
        return bytes(self.made.object), is_open

    with patch.object(Visit, "object", said):
        yield


@rule("P-36", "A-10", plan=BROKEN)
def minted_anew_when_the_hop_breaks() -> Iterator[None]:
    """What ingest may have taken is sent under another id."""
    create = IngestClient.create

    async def anew(self: IngestClient, id: Any, order: Order, raw: bytes) -> Made | Elsewhere:
        try:
            return await create(self, id, order, raw)
        except BrokenOff:
            return Elsewhere(None)

    with patch.object(IngestClient, "create", anew):
        yield


@rule("P-35", "A-10", plan=DOUBTFUL)
def one_attempt_for_all() -> Iterator[None]:
    """An attempt that was void speaks for those whose answers were lost."""

    def uncounted(*_: Any) -> ApiError:
        return void()

    with patch.object(Visit, "uncounted", uncounted):
        yield


@rule(
    "A-7", "A-21", plan=Plan(unstored=0.6, keyed=1, repeats=0, cancels=0, deletes=0, leaves=1, background=0)
)
def cancelled_though_its_client_may_come_back() -> Iterator[None]:
    """A client that goes takes its response with it, whether or not it has a key."""
    with (
        patch.object(routes, "ends_with_its_client", lambda request, **_: not request.background),
        patch.object(Visit, "cancels", property(lambda self: self.made is not None and self.made.cancels)),
    ):
        yield


@rule("A-7", plan=LEAVING)
def half_a_create() -> Iterator[None]:
    """A client that goes takes the create under way with it."""

    def cut(_: Visit, making: asyncio.Task[Made] | None) -> None:
        if making is not None:
            making.cancel()

    with when("client left", cut):
        yield


@rule("A-7", plan=LEAVING)
def abandoned_once() -> Iterator[None]:
    """A front door that abandons a response tries once."""
    once = ABANDON_PAUSES_S[:1]
    with patch.object(door, "ABANDON_PAUSES_S", once), patch.object(door, "repeat", lambda _: ()):
        yield


@rule("A-7", plan=LEAVING)
def stalled_and_waited_for() -> Iterator[None]:
    """A client that takes nothing more is waited for, though its connection was cut."""

    def stream(*what: Any, on_end: Any, **terms: Any) -> EventStream:
        return EventStream(*what, on_end=lambda end: None if end == "stalled" else on_end(end), **terms)

    with patch.object(door_routes, "EventStream", stream):
        yield


@rule("A-7", plan=UNKNOWN)
def left_to_run_by_whom_nobody_could_tell() -> Iterator[None]:
    """A client hears that nobody knows what came of its POST, and nobody finds out."""
    with patch.object(Visit, "is_lost_by", lambda *_: False):
        yield


@rule(
    "A-21",
    plan=Plan(faults={"restart": 1}, targets="r", rate=1, leaves=0, background=0, cancels=0, words=200),
)
def a_drain_cancels() -> Iterator[None]:
    """A stream that the server cuts counts as a client that went."""

    leaving = set[asyncio.Task[None]]()

    def left(visit: Visit, _: object) -> None:
        if visit.cancels:
            leaving.add(asyncio.create_task(visit.abandon()))

    def stream(*what: Any, on_end: Any, **terms: Any) -> EventStream:
        return EventStream(*what, on_end=lambda _: on_end("disconnected"), **terms)

    with patch.object(door_routes, "EventStream", stream), when("client left", left):
        yield
