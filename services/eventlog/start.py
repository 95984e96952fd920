"""Where a reader of the log starts (P-62).

    committed low watermark → its log time → the first record one acceptance window and the skew earlier

Every response accepted before the watermark is closed and dealt with. The reader folds the stretch before it
only to recognise repetitions: an `accepted` that comes a second time must meet its first (P-20, P-65).
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

from schemas.errors import LogUnavailable
from services.eventlog.port import Bounds, Log, TopicPartition

PROBE_BYTES = 4096
"""Bytes of a fetch that looks for the time of one record: the log returns a whole one, however large."""


class StartingPoint(NamedTuple):
    """Read from `offset` on; act only on responses accepted at or after `floor`.

    `since` is the log time (ms) at `offset`: the views' records of what follows there were written after it.
    `read` is how far the log was read when `floor` was committed, None where that is unknown: every response
    accepted before `floor` had closed before `read` (P-68).
    """

    offset: int
    floor: int
    since: int = 0
    read: int | None = None


async def starting_points(
    log: Log, group: str, topic: str, partitions: Collection[int], *, memory_ms: int
) -> dict[int, StartingPoint]:
    """Per partition where to start, from the watermarks that `group` committed on `topic`.

    `memory_ms` is acceptance window + skew. Raises LogUnavailable: try again.
    """
    found = await log.checkpoints(group, topic, partitions)
    committed = {number: at and at.offset for number, at in found.items()}
    starts = await starting_points_at(log, topic, committed, memory_ms=memory_ms)
    holding = {n: at.read for n, at in found.items() if at is not None and at.offset == starts[n].floor}
    return {number: start._replace(read=holding.get(number)) for number, start in starts.items()}


async def starting_points_at(
    log: Log, topic: str, committed: Mapping[int, int | None], *, memory_ms: int
) -> dict[int, StartingPoint]:
    """Per partition where to start, from watermarks that are known; None: never committed."""
    bounds = await log.bounds(topic, list(committed))
    floors = {partition: floor(offset, bounds[partition]) for partition, offset in committed.items()}
    times: dict[int, int] = {}
    for partition, at in floors.items():
        time = await _time_at(log, TopicPartition(topic, partition), bounds[partition], at)
        if time is not None:
            times[partition] = max(0, time - memory_ms)
    found = await log.offsets_at(topic, times) if times else {}
    return {
        partition: StartingPoint(min(found.get(partition, at), at), at, times.get(partition, 0))
        for partition, at in floors.items()
    }


def floor(committed: int | None, bounds: Bounds) -> int:
    """The watermark to go by: `committed`, or the log's start if the log does not hold that offset."""
    if committed is None or committed > bounds.end:
        return bounds.start
    return max(committed, bounds.start)


def probes(at: int, bounds: Bounds) -> list[int]:
    """Offsets to try in turn for the log time at `at`: it, then ever further back, past compaction's holes.

    The time of an earlier record is safe: the reader then starts earlier than it must.
    """
    found = [at] if at < bounds.end else []
    step = 1
    while at - step > bounds.start:
        found.append(at - step)
        step *= 16
    return [*found, bounds.start] if bounds.start < bounds.end else []


async def _time_at(log: Log, source: TopicPartition, bounds: Bounds, at: int) -> int | None:
    """The log time (ms) of the first record at or after `at`, or of one before; None without any."""
    for offset in probes(at, bounds):
        for batch in await log.fetch({source: offset}, max_wait=0, partition_bytes=PROBE_BYTES):
            if batch.out_of_range:
                raise LogUnavailable(
                    f"{source.topic}/{source.partition} moved while its start was looked for"
                )
            if batch.records:
                return batch.records[0].timestamp
    return None
