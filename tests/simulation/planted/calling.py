"""How long a claim is good, and for how many calls (P-53, P-54); P-52 is in `running`."""

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

from services.executor.run import Run
from services.executor.work import Worker
from tests.simulation.planted.registry import rule
from tests.simulation.planted.running import STALLING


@rule("P-53", "P-52", plan=STALLING)
def called_however_long_it_waited() -> Iterator[None]:
    """An executor looks whether its claim is good when it reads it back, and not again when it calls."""
    with patch.object(Run, "lapsed", lambda *_: False):
        yield


@rule("P-54")
def called_twice_for_a_claim() -> Iterator[None]:
    """A claim that won is worked off by two tasks."""
    original = Worker.work

    async def twice(self: Worker, *job: Any) -> None:
        await asyncio.gather(original(self, *job), original(self, *job))

    with patch.object(Worker, "work", twice):
        yield
