"""Counts `closings` with Faust: the shell around `PartitionCount`.

    a batch of closings, of all partitions → names, rows, marks, each acknowledged → the batch is acknowledged

Faust gives the group, the stream and the table, whose changelog is the topic `usage`. What it does not
promise is made sure of here (docs/decisions):

- A partition begins with all that stands in `usage`, as the reader of this process has it.
- Each offset is looked at: what is counted already is passed over, and a gap that retention did not make ends
  the process.
- Events of an earlier generation of the group are dropped, unacknowledged, and so is what was counted of
  them.
"""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import faust
import structlog
from faust import Stream
from faust.types import EventT, StreamT
from mode.supervisors import CrashingSupervisor

from schemas.closings import Lost, lost, parse
from schemas.errors import LogError, RejoinderError
from schemas.records import Headers, Unreadable
from services import points
from services.analytics import metrics
from services.analytics.changelog import Changelog
from services.analytics.counting import Changes, Pair, PartitionCount
from services.analytics.faust_settings import faust_settings, quieten
from services.analytics.lag import LagWatch
from services.analytics.mended import mend_faust
from services.analytics.prices import Prices
from services.analytics.reader import UsageReader
from services.connect import analytics_group, topic_names
from services.eventlog.port import Bounds, Log
from services.loops import in_turns
from services.settings import Settings

MOST_EVENTS = 5000
"""Closings of one batch at most."""
WITHIN_S = 1.0
"""Seconds that a batch gathers: so long a row waits to be written, and so often at most it is."""

LOOK_S = 5.0
"""Seconds between two looks at the lag."""
FEW = 100
"""Closings after which other tasks get a turn: each takes some 20 µs."""

log = structlog.get_logger(__name__)


class FaustMessage:
    """A message of Faust's as the log's port has records."""

    __slots__ = ("headers", "key", "offset", "timestamp", "value")

    def __init__(self, message: Any) -> None:
        self.offset: int = message.offset
        self.timestamp = round(message.timestamp * 1000)
        self.key: bytes | None = message.key
        self.value: bytes | None = message.value
        self.headers: Headers = message.headers or ()


class ClosingsMissing(RejoinderError):
    """The group's position is past closings that are there: what to do."""


class UsageGrown(RejoinderError):
    """There are more partitions than Faust was told of: what happens now."""


class App(faust.App):
    """Faust's app, without a directory on disk: nothing is stored there."""

    async def on_first_start(self) -> None:
        """Make no directory."""


class Counter:
    """Counts what Faust's group assigns to this process."""

    def __init__(
        self, settings: Settings, eventlog: Log, prices: Prices, partitions: int, reader: UsageReader
    ) -> None:
        """`partitions`: how many `usage` has."""
        mend_faust()
        quieten()
        self._log = eventlog
        self._names = topic_names(settings)
        self._prices = prices
        self._reader = reader
        self._group = analytics_group(settings)
        self._partitions = partitions
        self._topic_id = ""
        self._counts: dict[int, PartitionCount] = {}
        self._generation = 0
        self._started = False
        self._acknowledged = 0
        self._watch = LagWatch()
        self._checked: set[int] = set()
        """The partitions of which this batch had something that was known, and the topic was looked at."""
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._app = App(self._group, **faust_settings(settings, partitions))
        source = self._app.topic(self._names.closings, key_type=bytes, value_type=bytes)
        self.changelog = Changelog(self._app, eventlog, self._names.usage, partitions)
        agent = self._app.agent(source, name="count", supervisor_strategy=CrashingSupervisor)
        agent(self._agent)

    def __repr__(self) -> str:
        return f"<Counter of {list(self._counts.values())}>"

    def not_ready(self) -> Sequence[str]:
        """Why nothing is counted yet."""
        return [] if self._started else ["Faust has not started yet"]

    async def run(self) -> None:
        """Count until cancelled. Raises what keeps it from counting right."""
        self._topic_id = await self._log.topic_id(self._names.closings)
        starting = asyncio.create_task(self._app.start())
        crashed = asyncio.create_task(self._app.wait_until_stopped())
        try:
            await asyncio.wait({starting, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                self._started = True
                await asyncio.wait({self._failed, crashed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failed.done():
                self._failed.result()
            if (crash := self._app.crash_reason) is not None:
                raise crash
            raise RuntimeError("Faust stopped by itself")
        finally:
            starting.cancel()
            await self._app.stop()
            crashed.cancel()

    async def watch(self) -> None:
        """Tell the lag, and mend what was overtaken, for ever. Raises Stuck if the lag does not move, and
        UsageGrown if partitions were added: Faust's table keeps the count that it began with.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._started:
                continue
            owned = {
                tp.partition for tp in self._app.consumer.assignment() if tp.topic == self._names.closings
            }
            metrics.OWNED.set(len(owned))
            self._settle()
            reading = bool(self._reader.not_ready())
            try:
                await self._check_partitions()
                if not reading:
                    await self._mend(owned)
                lag = await self._lag(owned)
            except LogError as error:
                log.info("cannot look at the lag, trying again", why=str(error))
                continue
            metrics.LAG.set(lag)
            now = asyncio.get_running_loop().time()
            self._watch.look(lag, self._acknowledged, now, reading=reading)

    async def _check_partitions(self) -> None:
        count = await self._log.partitions(self._names.usage)
        if count > self._partitions:
            what = f"{self._names.usage} has {count} partitions, and had {self._partitions} at the start"
            raise UsageGrown(f"{what}: this process ends, and counts all of them when it is started again")

    async def _mend(self, owned: Collection[int]) -> None:
        """Append what stands again, behind what was overtaken (P-117)."""
        for number, pairs in self._reader.index.overtaken(owned).items():
            log.warning(
                "an earlier owner wrote late, its records are overtaken", partition=number, records=len(pairs)
            )
            metrics.OVERTAKEN.inc(len(pairs))
            await self.changelog.again(number, pairs)

    async def _lag(self, owned: Collection[int]) -> int:
        """Closings that are there and not counted."""
        bounds = await self._log.bounds(self._names.closings, owned)
        committed = await self._log.committed(self._group, self._names.closings, owned)
        begun = {number: count.next for number, count in self._counts.items()}
        return sum(
            max(0, found.end - max(found.start, begun.get(number) or committed[number] or 0))
            for number, found in bounds.items()
        )

    async def _agent(self, stream: StreamT[bytes]) -> None:
        assert isinstance(stream, Stream)
        try:
            async for events in stream.noack_take(MOST_EVENTS, within=WITHIN_S):
                await self._batch(stream, events)
        except Exception as error:
            if not self._failed.done():
                self._failed.set_exception(error)
            raise

    async def _batch(self, stream: Stream[bytes], events: Sequence[Any]) -> None:
        """Count a batch, unless the group moves on meanwhile: then whoever owns its partitions reads it."""
        generation = self._settle()
        self._checked.clear()
        ours = [event for event in events if event.message.generation_id == generation]
        for place, event in enumerate(ours):
            await self._take(event)
            if place % FEW == 0:
                await asyncio.sleep(0)
            if self._moved(generation):
                return
        touched = {event.message.partition for event in ours}
        changed = {number: self._counts[number].written() for number in touched}
        points.at("usage counted", changed)
        if await self._write(changed, generation):
            for event in ours:
                await stream.ack(event)
            self._acknowledged += len(ours)
            points.at("usage acknowledged", changed)
            metrics.COUNTED.inc(len(ours))
            metrics.count(closing for found in changed.values() for closing in found.counted)

    def _settle(self) -> int:
        """The generation of the group. What was counted in an earlier one is dropped: others own it since."""
        generation: int = self._app.consumer_generation_id
        if generation != self._generation:
            self._generation = generation
            self._drop()
        return generation

    def _drop(self) -> None:
        self._counts.clear()
        self.changelog.clear()

    def _moved(self, generation: int) -> bool:
        """Whether the group has moved on: what was counted since is dropped."""
        if generation == self._app.consumer_generation_id:
            return False
        self._drop()
        self._generation = 0
        return True

    async def _write(self, changed: Mapping[int, Changes], generation: int) -> bool:
        """Write names, then rows, then marks, each when all before are acknowledged (P-115)."""
        for group in ("names", "rows", "mark"):
            pairs: dict[int, list[Pair]] = {
                number: getattr(found, group) for number, found in changed.items()
            }
            points.at("usage due", group, pairs)
            await asyncio.gather(*(self.changelog.write(number, found) for number, found in pairs.items()))
            if self._moved(generation):
                return False
            points.at("usage written", group, pairs)
        for found in changed.values():
            self.changelog.forget(found.closed)
        return True

    async def _take(self, event: EventT[bytes]) -> None:
        message = event.message
        number, offset = message.partition, message.offset
        count = self._counts.get(number)
        if count is None:
            count = self._counts[number] = await self._begin(number)
        expected = count.next
        assert expected is not None
        if offset < expected:
            await self._check_topic(count)
            return
        if offset > expected:
            await self._passed_over(count, expected, offset)
        closing = parse(FaustMessage(message), number)
        if isinstance(closing, Unreadable):
            where = {"topic": message.topic, "partition": number, "offset": offset}
            log.warning("passed over an unreadable record", **where, why=closing.why)
            metrics.POISON.labels(message.topic).inc()
        count.take(offset, None if isinstance(closing, Unreadable) else closing)

    async def _begin(self, number: int) -> PartitionCount:
        """The count of a newly assigned partition, from all that stands in `usage`."""
        topic = self._names.usage
        await self._reader.read_to(number, (await self._log.bounds(topic, [number]))[number].end)
        stored = await in_turns(self._reader.index.of(number))
        count = PartitionCount(number, self._topic_id, self._prices, stored)
        bounds = await self._bounds(number)
        if count.anew:
            report(Lost(number, count.gone_from, None))
        if count.next is None:
            count.begin(bounds.start)
        return count

    async def _passed_over(self, count: PartitionCount, expected: int, offset: int) -> None:
        """A gap: retention's is reported (P-110), and any other ends the process (P-119)."""
        bounds = await self._bounds(count.partition)
        gone = lost(count.partition, expected, bounds.start, bounds.end)
        if gone is None or gone.last is None or offset > gone.last + 1:
            what = f"closings {expected} to {offset - 1} of partition {count.partition} were not delivered"
            mend = f"if it says so again after a restart, stop it, delete the group {self._group}, start it"
            raise ClosingsMissing(f"{what}, though they are there: {mend}")
        report(Lost(gone.partition, gone.first, offset - 1))
        count.begin(offset)

    async def _check_topic(self, count: PartitionCount) -> None:
        """What is before the mark is known, unless the topic was made anew meanwhile."""
        if count.partition in self._checked:
            return
        self._checked.add(count.partition)
        if await self._log.topic_id(self._names.closings) != self._topic_id:
            raise ClosingsMissing(f"the topic {self._names.closings} was made anew: starting again with it")

    async def _bounds(self, number: int) -> Bounds:
        return (await self._log.bounds(self._names.closings, [number]))[number]


def report(gone: Lost) -> None:
    """Tell the operator what was lost."""
    log.error(str(gone))
    metrics.LOST.inc(0 if gone.last is None else gone.last - gone.first + 1)
