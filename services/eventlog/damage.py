"""Remembers the places of the log that cannot be read: batches with a wrong checksum.

Fetches leave such a place out for a while, longer each time, and then try it again: by then the disk may be
mended, or an undamaged replica may lead. Other partitions are read meanwhile.
"""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

import structlog

from services.eventlog.port import TopicPartition

log = structlog.get_logger(__name__)

FIRST_REST = 0.2
LONGEST_REST = 30.0
"""Seconds between two tries of one place."""


class _Place(NamedTuple):
    error: Exception
    rest: float
    due: float


class Damage:
    """The places that could not be read when they were last tried."""

    def __init__(self) -> None:
        self._places: dict[tuple[TopicPartition, int], _Place] = {}

    def resting(self, positions: Mapping[TopicPartition, int]) -> dict[TopicPartition, Exception]:
        """The `positions` that must not be tried yet, each with the error of its last try."""
        if not self._places:
            return {}
        now = asyncio.get_running_loop().time()
        places = {source: self._places.get((source, position)) for source, position in positions.items()}
        return {source: place.error for source, place in places.items() if place and place.due > now}

    def found(self, source: TopicPartition, position: int, error: Exception) -> None:
        """Note that reading on from `position` failed: the place rests, longer each time."""
        last = self._places.get((source, position))
        rest = min(last.rest * 2, LONGEST_REST) if last else FIRST_REST
        self._places[source, position] = _Place(error, rest, asyncio.get_running_loop().time() + rest)
        where = {"topic": source.topic, "partition": source.partition, "offset": position}
        log.error("cannot read on in this partition, trying again", why=str(error), **where, in_s=rest)

    def passed(self, source: TopicPartition, position: int) -> None:
        """Note that reading on from `position` succeeded."""
        if (source, position) in self._places:
            del self._places[source, position]
            where = {"topic": source.topic, "partition": source.partition, "offset": position}
            log.info("reading on in this partition", **where)
