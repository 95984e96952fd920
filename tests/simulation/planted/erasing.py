"""What an owner erases, and what it must leave (P-90, P-97, P-99); `views` has the other rules of erasure."""

from collections.abc import Iterator
from unittest.mock import patch

from schemas.fold import State
from services.eventlog.port import Checkpoint
from services.executor import engine
from services.executor.erasures import stored
from services.executor.steward import Steward
from tests.simulation.plan import Plan
from tests.simulation.planted.registry import DELETING, LASTING, rule


@rule("P-90", "P-90", "P-96", plan=DELETING)
def deletes_erase_nothing() -> Iterator[None]:
    """What is deleted stays in the log."""
    with patch.object(Steward, "erasures", lambda _: []):
        yield


@rule("P-99", "P-90", "P-96", plan=Plan(unstored=0.7))
def closes_erase_nothing() -> Iterator[None]:
    """The close of a response that is not stored asks for nothing, unless the response is ephemeral."""

    def stays(state: State) -> bool:
        return stored(state) or not state.ephemeral

    with patch.object(engine, "stored", stays):
        yield


@rule("P-97", "P-28", plan=LASTING)
def counted_and_unseen_taken_for_late() -> Iterator[None]:
    """A checkpoint says that its owner had read nothing: what began before is late, also what counted."""
    original = Steward.checkpoints

    def unread(self: Steward) -> dict[int, Checkpoint]:
        return {partition: mark._replace(read=0) for partition, mark in original(self).items()}

    with patch.object(Steward, "checkpoints", unread):
        yield
