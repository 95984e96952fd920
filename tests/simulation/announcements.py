"""Checks what is announced in `closings`, and what a consumer that keeps marks makes of it."""

from typing import TYPE_CHECKING

import msgspec

from schemas.closings import ClosingRecord, Marks, parse
from schemas.ids import ResponseId
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import TopicPartition
from services.projector.ownership import OWNED_S
from tests.simulation.node import Node
from tests.simulation.processes import NAMES

if TYPE_CHECKING:
    from tests.simulation.world import World


class Announcements:
    """Reads `closings` of one world from its start, as it is written, and counts."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._marks = [Marks() for _ in world.truth]
        self._counted: list[dict[ResponseId, ClosingRecord]] = [{} for _ in world.truth]

    def asked(self, node: Node, source: TopicPartition) -> None:
        """A projector has just asked for an append."""
        owned_at = max(membership.owned_at(source.partition) for membership in node.memberships)
        if self._world.loop.time() - owned_at > OWNED_S:
            rule = "P-106 announced" if source.topic == NAMES.closings else "P-132 written"
            self._world.bad(f"{rule} by one that owned the partition long ago", node, source)

    def appended(self, partition: int, record: MemoryRecord) -> None:
        """A record is in `closings`."""
        world, entry = self._world, parse(record, partition)
        if not isinstance(entry, ClosingRecord):
            world.bad("P-107 a closing that cannot be read", record.key)
            return
        story = world.story(entry.id)
        world.say("closing", f"{partition}@{record.offset}", entry.id, entry.closed_offset)
        if story.told is None:
            world.bad("P-112 announced, and it has not closed", story)
            return
        said = msgspec.to_builtins(entry)
        if wrong := {name: said[name] for name, value in story.told.items() if said[name] != value}:
            world.bad("P-107 a closing that is not the log's", story, wrong)
        if self._marks[partition].fresh(entry):
            self._count(partition, entry)

    def _count(self, partition: int, entry: ClosingRecord) -> None:
        counted, ends = self._counted[partition], self._world.truth[partition].ends
        if entry.id in counted:
            self._world.bad("P-108 counted twice", entry.id)
        elif ends[len(counted)] != entry.id:
            self._world.bad("P-104 not in the order of the log", entry.id, ends[len(counted)])
        counted[entry.id] = entry

    def committed(self, partition: int, mark: int) -> None:
        """The projectors commit their watermark of a partition."""
        for id in self.left(partition):
            if self._world.story(id).offset < mark:
                self._world.bad("P-105 a watermark past what is not announced", id, mark)

    def left(self, partition: int) -> list[ResponseId]:
        """What has closed, and is not counted."""
        return [id for id in self._world.truth[partition].ends if id not in self._counted[partition]]
