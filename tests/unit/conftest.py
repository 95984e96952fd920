"""Fixtures of the executor's unit tests: one over a log in memory. Other files have their own instead."""

import pytest

from services.eventlog.memory import MemoryLog
from services.executor import beats
from tests.executing import Rig, memory


@pytest.fixture
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Executors of this process look at everything every 10 ms."""
    monkeypatch.setattr(beats, "BEAT_INTERVAL", 0.01)


@pytest.fixture
def log() -> MemoryLog:
    return memory()


@pytest.fixture
def rig(log: MemoryLog) -> Rig:
    return Rig(log)
