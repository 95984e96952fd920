"""Over how many partitions Idempotency-Keys are spread: reads the topic `installation`, and writes it once.

    ingest starts → a count is there: it holds
                  → none is: append how many partitions the events have now, read back: the first holds
                    (P-141)
    a keyed POST  → the count that holds; while none does, partitions were never added (P-142), so it is how
                    many the events have

The count never changes, so whoever has read it keeps it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from schemas.errors import AppendUnknown, LogUnavailable
from schemas.installation import KeyPartitions, key_partitions_in
from schemas.records import LogRecord
from services.eventlog.port import Log, TopicPartition
from services.eventlog.topics import Topics

READ_S = 0.5
"""Seconds that one fetch waits for a record that is there."""


async def key_partitions(log: Log, names: Topics) -> int | None:
    """The count that holds; None if there is none yet. Raises LogUnavailable."""
    async for records in _read(log, names.installation):
        count = key_partitions_in(records)
        if count is not None:
            return count
    return None


async def freeze_key_partitions(log: Log, names: Topics, nonce: Callable[[], str]) -> int:
    """The count that holds, from now on if none did (P-141). Raises LogUnavailable, TopicMissing."""
    found = await key_partitions(log, names)
    if found is not None:
        return found
    count, writer = await log.partitions(names.events), log.writer()
    try:
        with suppress(AppendUnknown):  # the topic says whether it is there
            await writer.append(names.installation, 0, KeyPartitions(count).record(nonce()))
    finally:
        await writer.close()
    found = await key_partitions(log, names)
    if found is None:
        raise LogUnavailable(f"{names.installation} does not hold what was appended to it")
    return found


class KeySpread:
    """The same for one process that never writes it. `within_s`: seconds for an answer."""

    def __init__(self, log: Log, names: Topics, *, within_s: float) -> None:
        self._log = log
        self._names = names
        self._within_s = within_s
        self._known: int | None = None

    async def partitions(self) -> int:
        """Over how many partitions keys are spread. Raises LogUnavailable, TopicMissing."""
        if self._known is not None:
            return self._known
        try:
            async with asyncio.timeout(self._within_s):
                # Before the look: what is added after it does not count, as the record comes first (P-142).
                count = await self._log.partitions(self._names.events)
                self._known = await key_partitions(self._log, self._names)
        except TimeoutError as error:
            raise LogUnavailable(f"{self._names.installation} cannot be read in time") from error
        return count if self._known is None else self._known


async def _read(log: Log, topic: str) -> AsyncIterator[list[LogRecord]]:
    """All records of the topic, up to its end as of now, in pieces."""
    source = TopicPartition(topic, 0)
    position, end = (await log.bounds(topic, [0]))[0]
    while position < end:
        for batch in await log.fetch({source: position}, max_wait=READ_S):
            if batch.out_of_range:
                raise LogUnavailable(f"{topic} was made anew while it was read")
            position = batch.next_offset
            yield list(batch.records)
