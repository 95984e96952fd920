"""Checks how executors behave where the log does not show it: who claims and when, and what runs take."""

from typing import TYPE_CHECKING

from schemas.ids import ExecutorId, ResponseId
from schemas.records import Claimed
from services.eventlog.port import TopicPartition
from tests.simulation.node import Node
from tests.simulation.processes import NAMES
from tests.simulation.truth import Story
from tests.simulation.upstream import Streams

if TYPE_CHECKING:
    from tests.simulation.world import World

MARGIN = 1.0
"""Seconds between the event that a run waits for and the one that it has got already."""


class Conduct:
    """Watches the executors of one world."""

    def __init__(self, world: "World", streams: Streams) -> None:
        self._world = world
        self._streams = streams
        self._ends: dict[tuple[str, int], int] = {}
        """Where a partition ended when an executor first heard that it owns it."""
        self._unheard: dict[tuple[ResponseId, Node], float] = {}
        """When a run got the first event that the log does not show yet."""

    def assigned(self, executor: str, owned: frozenset[int]) -> None:
        """An executor hears what it owns."""
        for number in owned:
            end = self._world.log.end(TopicPartition(NAMES.events, number))
            self._ends.setdefault((executor, number), end)

    def claim(self, partition: int, story: Story, entry: Claimed) -> None:
        """A claim arrives in the log, whether it counts or not (P-41, P-56, P-58)."""
        caught_up = self._ends.get((entry.executor, partition))
        if caught_up is None:
            self._world.bad("P-41 a claim of one who never owned the partition", story, entry.executor)
        elif 0 <= story.closed_offset < caught_up:
            self._world.bad("P-56 a claim of one who had not caught up", story, entry.executor)
        if entry.attempt == 1 and story.accepted is not None and not self._overdue(story):
            previous = story.accepted.previous
            while previous is not None:
                before = self._world.story(previous)
                if before.accepted is not None and not before.closed:
                    self._world.bad("P-58 claimed before what it follows has closed", story, before)
                # What follows a deleted response only ends: what came before that is never asked for.
                previous = before.accepted.previous if before.accepted and not before.deleted else None

    def heard(self, id: ResponseId) -> None:
        """A claim or an event of a response counts."""
        for key in [key for key in self._unheard if key[0] == id]:
            del self._unheard[key]

    def taken(self, id: ResponseId, node: Node, more: bool) -> None:
        """A run gets a batch from its upstream, or asks for `more` (P-33)."""
        now = self._world.loop.time()
        if not more:
            self._unheard.setdefault((id, node), now)
            return
        # A process that reads late hears late of its own claims, and begins to wait anew then.
        since = now if node.lag else max(self._unheard.get((id, node), now), node.disturbed_at)
        if now - since > self._world.settings.lease_s / 2 + MARGIN:
            self._world.bad("P-33 a run goes on taking, and nobody hears of it", id, node, now - since)

    def left(self, executor: ExecutorId | str) -> None:
        """An executor says that its runs are up for takeover (A-21)."""
        running = [
            id
            for id, node, kind in self._streams.values()
            if kind != "stubborn" and self._world.runs_at(executor, node)
        ]
        if running:
            self._world.bad("A-21 up for takeover, and running", executor, running)

    def _overdue(self, story: Story) -> bool:
        return story.accepted is not None and self._world.now() > story.accepted.deadline
