"""Ingest: its ids, answers and bounds (P-2, P-3, P-30, P-31, P-65)."""

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch
from weakref import WeakSet

from msgspec.structs import replace

from schemas import ids
from schemas.errors import AppendUnknown, Unsent
from schemas.ids import ResponseId, Tenant
from schemas.records import Accepted
from services.eventlog.port import Ack
from services.ingest import commands
from services.ingest.admission import Admission
from services.ingest.appends import Appends
from services.ingest.commands import Commands, Created
from services.ingest.decide import Settled, already_cancelled
from services.replay import door
from services.replay.door import FrontDoor
from services.web.internal import ResponseView
from tests.simulation.plan import Plan, only
from tests.simulation.planted.registry import ADMITTING, ASKING, TARDY, rule


@rule("P-2", plan=ASKING)
def key_not_in_the_id() -> Iterator[None]:
    """An Idempotency-Key that is sent again leads to a fresh id."""
    fresh = FrontDoor.mint
    with patch.object(
        FrontDoor, "mint", lambda self, tenant, _, partition: fresh(self, tenant, None, partition)
    ):
        yield


@rule("P-2", plan=ASKING)
def keyed_partition_by_chance() -> Iterator[None]:
    """Where a key leads depends on more than tenant and key."""
    original = FrontDoor.mint

    async def mint(self: FrontDoor, tenant: Tenant, key: str | None, partition: int | None) -> ResponseId:
        found = await original(self, tenant, key, partition)
        other = self.entropy(1)[0] % 2 if key else ids.partition_of(found)
        return ResponseId(f"resp_{other:04x}{found[9:]}")

    with patch.object(FrontDoor, "mint", mint):
        yield


@rule("P-3", plan=Plan(chained=0.8))
def away_from_its_predecessor() -> Iterator[None]:
    """A response with a predecessor goes anywhere."""
    with patch.object(Commands, "partition", lambda *_: None), patch.object(door, "hinted", lambda *_: None):
        yield


@rule("P-30", plan=ASKING)
def ack_taken_for_acceptance_at_ingest() -> Iterator[None]:
    """A POST with a key is answered when its record is in the log, even if another was first."""

    async def winner(_self: Commands, created: Created, *_: Any, **__: Any) -> Created:
        return created

    with patch.object(Commands, "winner", winner):
        yield


@rule(
    "P-30",
    plan=Plan(
        cancels=1,
        deletes=0,
        unstored=0,
        words=4,
        responses=14,
        max_queue=20,
        faults=only(stun=1),
        acts={"i": ("cancelled",)},
        targets="i",
        rate=2,
    ),
)
def cancel_answered_at_its_ack() -> Iterator[None]:
    """A cancel is answered when its record is in the log, whether or not it was first."""

    looked = WeakSet[asyncio.Task[Any]]()

    def cancelled(view: ResponseView) -> bool:
        task = asyncio.current_task()
        assert task is not None
        if task in looked:
            return True
        looked.add(task)
        return already_cancelled(view)

    with patch.object(commands, "already_cancelled", cancelled):
        yield


@rule("P-31", "P-30", "A-10", plan=ASKING)
def answered_before_the_ack() -> Iterator[None]:
    """A client hears of an id whose record is on its way."""

    original, under_way = Appends.append, set[asyncio.Task[Any]]()

    async def append(self: Appends, *what: Any, **terms: Any) -> Ack:
        under_way.add(asyncio.create_task(original(self, *what, **terms)))
        return Ack(-1, 0)

    with patch.object(Appends, "append", append):
        yield


@rule("P-65", "P-62", "P-28", "P-42", "P-54", "P-20", plan=replace(TARDY, unsure=0.8))
def validity_without_a_bound() -> Iterator[None]:
    """An `accepted` may reach the log at any time after the look-up."""

    def accepted(**fields: Any) -> Accepted:
        return Accepted(**fields | {"not_after": 1 << 50})  # a number of at most 16 digits (P-11)

    with patch.object(commands, "Accepted", accepted):
        yield


@rule("A-10", plan=ADMITTING)
def everybody_let_in() -> Iterator[None]:
    """Ingest counts nothing."""
    with patch.object(Admission, "full", lambda *_: None):
        yield


@rule("A-10", plan=Plan(max_queue=4, responses=12, words=4, cancels=0, faults={}))
def places_never_given_back() -> Iterator[None]:
    """What has closed still counts as open."""
    with patch.object(Admission, "loaded", lambda *_: None):
        yield


@rule("P-35", "A-10", plan=replace(ASKING, keyed=0, repeats=0, unsure=0.6))
def not_there_taken_for_void() -> Iterator[None]:
    """What the fold does not show when an append is given up is told to be repeated."""

    def settled(view: ResponseView, *_: int) -> Settled:
        return Settled.COUNTS if view.found else Settled.VOID

    with patch.object(commands, "settled", settled):
        yield


@rule("P-36", "A-10", plan=replace(ASKING, keyed=0, repeats=0, unsure=0.6))
def in_doubt_and_elsewhere() -> Iterator[None]:
    """What may be on its way is appended in another partition as well."""
    original = Appends.append

    async def append(self: Appends, *what: Any, **terms: Any) -> Ack:
        try:
            return await original(self, *what, **terms)
        except AppendUnknown as error:
            raise Unsent("it may be on its way") from error

    with patch.object(Appends, "append", append):
        yield
