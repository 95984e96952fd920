"""Erases what is to be erased from the log: tombstones for every key of a response but its `deleted` (P-90).

    what is asked for → its stretch of the log, bounded → one scan for stretches that overlap → tombstones,
    acknowledged → no longer asked for

The watermark waits until then (P-96), so when the owner dies on the way the next owner does it again.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping

import structlog

from schemas.errors import LogUnavailable, RejoinderError
from schemas.records import Accepted, Deleted, NewRecord, parse
from services.eventlog.port import Log, TopicPartition, Writer
from services.eventlog.scan import scan
from services.executor import metrics
from services.executor.erasures import Erasure
from services.executor.partition import Partition

log = structlog.get_logger()

_ID_BYTES = 41
SLICE = 256
"""Tombstones that are under way at once. A response may have a million events, and the records of other
responses wait behind its tombstones in the writer's lane."""
LATEST_RECORD_MS = 3_600_000
"""Milliseconds of log time after its deadline from which on nothing of a response is appended any more: its
executor has ended or lost it. A delete of an old response need not read the log from then to now."""


async def erase(
    log_: Log, writer: Writer, topic: str, partition: Partition, erasures: Iterable[Erasure]
) -> None:
    """Erase all of `erasures`, which are the partition's; what fails stays wanted and is tried again."""
    source = TopicPartition(topic, partition.number)
    try:
        stretches = [(erasure, await _stretch(log_, source, erasure)) for erasure in erasures]
        for group in _overlapping(stretches):
            await _erase_group(log_, writer, source, group)
            for erasure, _ in group:
                partition.erasures.done(erasure)
                metrics.ERASED.inc()
    except RejoinderError as error:
        log.warning("erasure will be tried again", partition=partition.number, why=str(error))


async def erased_by_others(log_: Log, group: str, topic: str, partitions: Iterable[Partition]) -> None:
    """Forget the erasures that the owners of `partitions`, others than me, have worked off."""
    others = [partition for partition in partitions if partition.erasures.wanted and not partition.owned]
    if not others:
        return
    try:
        marks = await log_.committed(group, topic, [partition.number for partition in others])
    except LogUnavailable:
        return
    for partition in others:
        partition.erasures.erased(before=marks[partition.number] or 0)


Stretch = tuple[int, int]
"""The first offset, and the one after the last."""


async def _stretch(log_: Log, source: TopicPartition, erasure: Erasure) -> Stretch:
    """Where the records of `erasure` are; empty when the log has nothing but what asked for it."""
    if erasure.start < 0:
        return (erasure.end, erasure.end)
    if erasure.stray:
        return (erasure.start, erasure.end)
    async for record in scan(log_, source, erasure.start, erasure.start + 1):
        entry = parse(record)
        if isinstance(entry, Accepted) and entry.id == erasure.id:
            last = entry.deadline + LATEST_RECORD_MS
            ends = await log_.offsets_at(source.topic, {source.partition: last})
            return (erasure.start, min(erasure.end, ends[source.partition]))
    return (erasure.start, erasure.end)


def _overlapping(
    stretches: Iterable[tuple[Erasure, Stretch]],
) -> Iterator[list[tuple[Erasure, Stretch]]]:
    """Groups whose stretches overlap: one scan serves a group, and none reads what lies between two."""
    group: list[tuple[Erasure, Stretch]] = []
    end = -1
    for erasure, stretch in sorted(stretches, key=lambda pair: pair[1]):
        if group and stretch[0] > end:
            yield group
            group = []
        group.append((erasure, stretch))
        end = max(end, stretch[1])
    if group:
        yield group


async def _erase_group(
    log_: Log, writer: Writer, source: TopicPartition, group: list[tuple[Erasure, Stretch]]
) -> None:
    wanted: defaultdict[bytes, list[Stretch]] = defaultdict(list)
    for erasure, stretch in group:
        wanted[erasure.id.encode()].append(stretch)
    keys: list[bytes] = []
    async for key in keys_of(log_, source, wanted):
        keys.append(key)
        if len(keys) == SLICE:
            await _tombstone(writer, source, keys)
            keys.clear()
    await _tombstone(writer, source, keys)


async def _tombstone(writer: Writer, source: TopicPartition, keys: list[bytes]) -> None:
    for key in keys[:-1]:
        writer.post(source.topic, source.partition, NewRecord(key, None))
    for key in keys[-1:]:  # order is kept: with the last one, all are acknowledged
        await writer.append(source.topic, source.partition, NewRecord(key, None))


async def keys_of(
    log_: Log, source: TopicPartition, wanted: Mapping[bytes, list[Stretch]]
) -> AsyncIterator[bytes]:
    """The keys of those records that are in one of the stretches `wanted` of their response."""
    stretches = [stretch for of_one in wanted.values() for stretch in of_one]
    start, end = min(first for first, _ in stretches), max(end for _, end in stretches)
    async for record in scan(log_, source, start, end):
        key = record.key or b""
        of_one = wanted.get(key[:_ID_BYTES], ())
        inside = any(first <= record.offset < last for first, last in of_one)
        if inside and record.value is not None and not isinstance(parse(record), Deleted):
            yield key
