"""Reads a bounded stretch of one partition, beside the tail."""

import asyncio
from collections.abc import AsyncIterator

from schemas.errors import LogUnavailable
from schemas.records import LogRecord
from services.eventlog.port import Log, TopicPartition

RETRY_SECONDS = 0.5


async def scan(log: Log, source: TopicPartition, start: int, stop: int) -> AsyncIterator[LogRecord]:
    """The records of a partition with offsets in [start, stop), waiting out an unavailable log.

    Records that retention has taken meanwhile are passed over: none of them is of an open response.
    """
    while start < stop:
        try:
            batches = await log.fetch({source: start}, max_wait=RETRY_SECONDS)
            if batches and batches[0].out_of_range:
                bounds = await log.bounds(source.topic, [source.partition])
                start = max(start + 1, bounds[source.partition].start)
                continue
        except LogUnavailable:
            await asyncio.sleep(RETRY_SECONDS)  # nothing that could be awaited says when the log is back
            continue
        for batch in batches:
            for record in batch.records:
                if record.offset < stop:
                    yield record
            start = batch.next_offset
