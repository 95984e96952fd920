"""Faust's table of what is counted. Its changelog is the topic `usage`."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import faust
import msgspec
import structlog
from faust.types import TP, EventT

from schemas.records import MALFORMED, Unreadable
from schemas.usage import UsageRecord, counted_more, read_pair
from services.analytics.counting import Pair

FROM_THE_START = -1

log = structlog.get_logger(__name__)


class UsageTable(faust.Table[bytes, bytes]):
    """A table that is restored from its changelog's start each time, by `restore`."""

    changelog: "Changelog"

    def apply_changelog_batch(self, batch: Iterable[EventT[Any]]) -> None:
        """Take over what a recovery has read. Faust would let the last record of a key stand (P-117)."""
        for event in batch:
            message = event.message
            self.changelog.restore(message.partition, message.key, message.value, message.offset)

    def persisted_offset(self, _: TP) -> int | None:
        """From where on a partition is to be restored. Faust's own note may be of an earlier generation."""
        return FROM_THE_START


class Changelog:
    """The records of `usage` in the partitions that were counted here, by key."""

    def __init__(self, app: faust.App, topic: str, partitions: int) -> None:
        self._app = app
        self._topic = topic
        self._table = UsageTable(
            app,
            name="usage",
            key_type=bytes,
            value_type=bytes,
            partitions=partitions,
            changelog_topic=app.topic(topic, key_type=bytes, value_type=bytes, partitions=partitions),
        )
        self._table.changelog = self
        app.tables.add(self._table)
        self._keys: dict[int, set[bytes]] = {}
        self._restored: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"<Changelog of {self._topic}>"

    def restored_to(self, partition: int) -> int:
        """The last offset that was restored; -1 for none."""
        return self._restored.get(partition, -1)

    def of(self, partition: int) -> Sequence[UsageRecord]:
        """What stands in a partition, read anew: the caller may change it."""
        keys = self._keys.get(partition, ())
        found = (read_pair(key, self._table.data[key], partition) for key in keys)
        return [record for record in found if isinstance(record, UsageRecord)]

    def restore(self, partition: int, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Take over a record, if it has counted more than what is there."""
        self._restored[partition] = max(offset, self.restored_to(partition))
        found = _read(key, value, partition)
        if isinstance(found, Unreadable):
            where = {"topic": self._topic, "partition": partition, "offset": offset}
            log.warning("passed over an unreadable record", **where, why=found.why)
            return
        assert key is not None
        assert value is not None
        known = _read(key, self._table.data.get(key), partition)
        if isinstance(known, Unreadable) or counted_more(found.value, known.value):
            self._table.data[key] = value
            self._keys.setdefault(partition, set()).add(key)

    async def write(self, partition: int, pairs: Sequence[Pair]) -> None:
        """Append records to a partition; keep them when all are acknowledged. Raises what kept one out."""
        sent = [self._table.send_changelog(partition, key, value) for key, value in pairs]
        await asyncio.gather(*sent)
        for key, value in pairs:
            self._table.data[key] = value
        self._keys.setdefault(partition, set()).update(key for key, _ in pairs)

    async def again(self, partition: int, pairs: Sequence[Pair]) -> None:
        """Append records that stand once more; of a row that is open its newest."""
        newest = [(key, self._table.data.get(key, value)) for key, value in pairs]
        await asyncio.gather(*(self._table.send_changelog(partition, key, value) for key, value in newest))

    def forget(self, partition: int, keys: Iterable[bytes]) -> None:
        """Let go of rows that are never written again."""
        for key in keys:
            self._table.data.pop(key, None)
            self._keys.get(partition, set()).discard(key)


def _read(key: bytes | None, value: bytes | None, partition: int) -> UsageRecord | Unreadable:
    try:
        return read_pair(key or b"", value or b"", partition)
    except (*MALFORMED, msgspec.MsgspecError) as error:
        return Unreadable(f"{type(error).__name__}: {error}")
