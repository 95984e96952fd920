"""Faust's table of what is counted. Its changelog is the topic `usage`.

Nothing is restored by Faust: its recovery reads all versions of all rows, again at each rebalance, and may
end early. The reader of this process knows the topic already (`counter`), so the table says that it is whole.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import faust
from faust.types import TP

from services.analytics.counting import Pair
from services.eventlog.port import Log


class UsageTable(faust.Table[bytes, bytes]):
    """A table that is whole up to where its changelog ends when the group assigns partitions."""

    eventlog: Log
    ends: dict[int, int]

    async def on_rebalance(self, assigned: set[TP], *more: Any, **named: Any) -> None:
        """Look where the changelog's partitions end, before Faust asks from where on to restore them."""
        topic = self.changelog_topic_name
        numbers = [tp.partition for tp in assigned if tp.topic == topic]
        bounds = await self.eventlog.bounds(topic, numbers)
        self.ends = {number: found.end for number, found in bounds.items()}
        await super().on_rebalance(assigned, *more, **named)

    def persisted_offset(self, tp: TP) -> int | None:
        """The last offset that need not be restored; None: all of the partition is."""
        end = self.ends.get(tp.partition)
        return None if end is None else end - 1


class Changelog:
    """Appends records to `usage`."""

    def __init__(self, app: faust.App, eventlog: Log, topic: str, partitions: int) -> None:
        self._table = UsageTable(
            app,
            name="usage",
            key_type=bytes,
            value_type=bytes,
            partitions=partitions,
            changelog_topic=app.topic(topic, key_type=bytes, value_type=bytes, partitions=partitions),
        )
        self._table.eventlog = eventlog
        self._table.ends = {}
        app.tables.add(self._table)

    def __repr__(self) -> str:
        return f"<Changelog {self._table.changelog_topic_name}>"

    async def write(self, partition: int, pairs: Sequence[Pair]) -> None:
        """Append records to a partition; keep them when all are acknowledged. Raises what kept one out."""
        await self._send(partition, pairs)
        for key, value in pairs:
            self._table.data[key] = value

    async def again(self, partition: int, pairs: Sequence[Pair]) -> None:
        """Append records that stand once more; of a row that was written here its newest."""
        await self._send(partition, [(key, self._table.data.get(key, value)) for key, value in pairs])

    async def _send(self, partition: int, pairs: Sequence[Pair]) -> None:
        await asyncio.gather(*(self._table.send_changelog(partition, key, value) for key, value in pairs))

    def clear(self) -> None:
        """Let go of all that was written here: another may have written since."""
        self._table.data.clear()

    def forget(self, keys: Iterable[bytes]) -> None:
        """Let go of rows that are never written again."""
        for key in keys:
            self._table.data.pop(key, None)
