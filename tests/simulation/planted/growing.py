"""Partitions that are added amid everything else (P-139, P-144)."""

from collections.abc import Iterator
from unittest.mock import patch

from services.eventlog import installation, known_partitions
from services.replay.replay import Replay
from tests.simulation.planted.registry import GROWING, rule


@rule("P-139", "P-2", plan=GROWING)
def keys_are_spread_over_what_there_is_now() -> Iterator[None]:
    """A key leads to a partition by how many there are when it comes."""

    async def nothing(*_: object) -> None:
        """Whoever looks finds no count that holds."""

    with patch.object(installation, "key_partitions", nothing):
        yield


@rule("P-144", "P-80", plan=GROWING)
def what_is_not_known_is_not_there() -> Iterator[None]:
    """A replay that is asked of a partition that it does not know says that there is none. Whoever started
    later knows more.
    """

    async def reads(self: Replay, partition: int) -> bool:
        return partition < len(self.load().positions)

    with patch.object(Replay, "reads", reads), patch.object(known_partitions, "LOOK_S", 40):
        yield
