"""What is kept for some time after its end (P-37, P-63, P-66, P-67, P-85, P-86, P-89, P-93)."""

import time
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any
from unittest.mock import patch

from schemas.errors import not_found
from schemas.ids import ResponseId, Tenant
from services.executor import engine, erasures
from services.executor.erasures import Erasure, Erasures
from services.ingest import commands, decide
from services.projector import projector
from services.projector.projection import Projection
from services.replay.beats import LastBeat
from services.replay.folding import Folding
from services.web.internal import ResponseView
from tests.simulation.planted.registry import EPHEMERAL, EPHEMERAL_ASKED, rule


@rule("P-66", "P-67", plan=EPHEMERAL)
def ephemeral_not_held_by_executors() -> Iterator[None]:
    """The executors' watermark passes what is to be erased later."""

    def held(self: Erasures, position: int) -> int:
        return min((erasure.at for erasure in self.wanted.values() if not erasure.after), default=position)

    with patch.object(Erasures, "held", held):
        yield


@rule("P-67", plan=EPHEMERAL)
def ephemeral_not_held_by_projectors() -> Iterator[None]:
    """The projectors' watermark passes what has closed and goes to no view, though it is seen."""
    with patch.object(projector, "Projection", lambda *place, **_: Projection(*place)):
        yield


@rule("P-63", "P-80", plan=EPHEMERAL)
def ephemeral_forgotten_after_its_end() -> Iterator[None]:
    """A replay lets go of it as of any other that has closed."""
    original = Folding.forget

    def forget(self: Folding, before: int, elsewhere: Callable[[ResponseId], bool]) -> None:
        original(self, before + self.ephemeral_ms, elsewhere)

    with patch.object(Folding, "forget", forget):
        yield


@rule("P-37", plan=EPHEMERAL_ASKED)
def ephemeral_as_a_predecessor() -> Iterator[None]:
    """A response may follow one that will be erased."""

    def check(view: ResponseView, tenant: Tenant) -> None:
        if not decide.visible(view, tenant):
            raise not_found(view.id)

    with patch.object(commands, "check_predecessor", check):
        yield


@rule("P-89", "P-30", plan=EPHEMERAL_ASKED)
def ephemeral_hidden_from_its_tenant() -> Iterator[None]:
    """What is not stored is a 404 also in the background."""

    def visible(view: ResponseView, tenant: Tenant) -> bool:
        return view.store and original(view, tenant)

    original = decide.visible
    with patch.object(decide, "visible", visible):
        yield


@rule("P-85", plan=EPHEMERAL)
def ephemeral_shown_for_ever() -> Iterator[None]:
    """A replay knows no end of its time."""
    with patch.object(Folding, "kept_until", lambda *_: 1 << 60):
        yield


@rule("P-86", "P-85", plan=EPHEMERAL)
def dated_by_the_partition_alone() -> Iterator[None]:
    """A replay takes no notice of the beats: where nothing happens it shows on."""

    async def never(_: LastBeat) -> float:
        return 0

    with patch.object(LastBeat, "time", never):
        yield


@rule("P-86", "P-80", "P-85", plan=EPHEMERAL)
def dated_by_the_readers_clock() -> Iterator[None]:
    """Each replay asks its own clock, which is early or late."""
    skews, original = cycle((-2_000, 2_000)), LastBeat.__init__

    def init(self: LastBeat, *given: Any) -> None:
        original(self, *given)
        self.skew = next(skews)  # type: ignore[attr-defined]

    async def clock(self: LastBeat) -> float:
        return time.time() * 1000 + self.skew  # type: ignore[attr-defined, no-any-return]

    with patch.object(LastBeat, "__init__", init), patch.object(LastBeat, "time", clock):
        yield


@rule("P-93", plan=EPHEMERAL)
def ephemeral_erased_at_its_end() -> Iterator[None]:
    """The owner erases all that is not stored when it closes."""
    with (
        patch.object(engine, "erased_after", lambda *_: 0),
        patch.object(erasures, "erased_after", lambda *_: 0),
    ):
        yield


@rule("P-93", "P-90", "P-96", plan=EPHEMERAL)
def ephemeral_never_erased() -> Iterator[None]:
    """The owner waits for ever."""

    def due(self: Erasures, _: int) -> list[Erasure]:
        return [erasure for erasure in self.wanted.values() if not erasure.after]

    with patch.object(Erasures, "due", due):
        yield
