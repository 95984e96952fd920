"""Whether this process may write to the views of a partition: it owns it, as the group has told (P-132).

A process that was stopped, or cut off from its group, cannot know whether it still is the owner. It waits
until the group has answered, or takes the partition away.
"""

import asyncio
from collections.abc import Callable

from services.backoff import Backoff

OWNED_S = 30.0
"""If the group's last answer is older than this many seconds, another projector may own the partition: this
one writes nothing there (P-106, P-132)."""
SEND_S = OWNED_S / 2
"""Seconds of these within which a projector begins to send. The writer has the rest to deliver."""
LOOK_S = 0.2
"""Seconds between two looks whether the group has answered."""


class Ownership:
    """`owned_at` says when, in loop time, the group last knew this process for the owner of a partition."""

    def __init__(self, owned_at: Callable[[int], float]) -> None:
        self._owned_at = owned_at

    def holds(self, partition: int) -> bool:
        """Whether the group knew this process for the owner a short while ago. Send in the step that asks: a
        process may be stopped between two steps.
        """
        return asyncio.get_running_loop().time() - self._owned_at(partition) <= SEND_S

    async def wait(self, partition: int) -> None:
        """Return when it `holds`: at once if it does."""
        looks = Backoff(LOOK_S, LOOK_S)
        while not self.holds(partition):
            await looks.wait()
