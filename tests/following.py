"""What happens to those that follow a log: they lose what they own, and their position in it."""

from collections.abc import Mapping
from typing import Any

import pytest

from services.eventlog.memory import MemoryLog, MemoryMembership
from services.eventlog.port import Batch, TopicPartition


def joining(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> list[MemoryMembership]:
    """Those that join a group of `log` from now on, in order: each can be expelled."""
    joined: list[MemoryMembership] = []
    join = log.join

    async def noted(*args: Any) -> MemoryMembership:
        joined.append(await join(*args))
        return joined[-1]

    monkeypatch.setattr(log, "join", noted)
    return joined


def lose_position(log: MemoryLog, source: TopicPartition, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The next fetch of `source` is told that its position is out of range, as when the log was cut.

    Returns a list that has that position then.
    """
    lost: list[int] = []
    fetch = log.fetch

    async def once(positions: Mapping[TopicPartition, int], **bounds: Any) -> list[Batch]:
        if source in positions and not lost:
            lost.append(positions[source])
            return [Batch(source, (), positions[source], positions[source], out_of_range=True)]
        return await fetch(positions, **bounds)

    monkeypatch.setattr(log, "fetch", once)
    return lost
