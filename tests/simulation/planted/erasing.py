"""What an owner erases, and what it must leave (P-90, P-97); the other rules of erasure are in `views`."""

from collections.abc import Iterable, Iterator
from unittest.mock import patch

from services.executor.steward import Steward
from tests.simulation.planted.registry import DELETING, LASTING, rule


@rule("P-90", "P-90", "P-96", plan=DELETING)
def deletes_erase_nothing() -> Iterator[None]:
    """What is deleted stays in the log."""
    with patch.object(Steward, "erasures", lambda _: []):
        yield


@rule("P-97", "P-28", plan=LASTING)
def counted_and_unseen_taken_for_late() -> Iterator[None]:
    """A checkpoint says that its owner had read nothing: what began before is late, also what counted."""

    def read(_: Steward, partitions: Iterable[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, 0)

    with patch.object(Steward, "read", read):
        yield
