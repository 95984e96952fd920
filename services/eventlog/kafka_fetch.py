"""Stateless fetches: one request to each leader, each on a connection of its own while it is under way.

    fetch → positions by leader → ask each leader, or take up what it was asked → the first answer

A broker answers the requests of a connection one after the other, so a long poll would hold up everything
behind it: each fetch uses a connection of its own (`_Slots`). With several leaders the first answer ends the
wait. The requests to the others stay under way, and the next fetch from the same positions takes them up
instead of asking again. A leader that fails does not delay the partitions of the others; its successor is
looked for at once. A batch with a wrong checksum stops its own partition only (`damage`).
The records are aiokafka's own (Cython) objects, handed on as they are: they already are what the port calls
a LogRecord. Transactions are not used (P-10), so nothing is filtered by isolation.
"""

import asyncio
from asyncio import Task
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from schemas.records import LogRecord
from services.eventlog.damage import Damage
from services.eventlog.kafka_borrowed import (
    CorruptRecordException,
    MemoryRecords,
    OffsetOutOfRangeError,
    StaleMetadata,
    UnsupportedCodecError,
    for_code,
)
from services.eventlog.kafka_link import FAILURES, PATIENCE, KafkaLink, no_leader
from services.eventlog.kafka_wire import Fetched, FetchRequest
from services.eventlog.port import Batch, TopicPartition

LONGEST_POLL = 5.0
"""Seconds that a broker may sit on one fetch."""
SOON = 0.5
"""The same, while other partitions wait for a leader, or rest because they are damaged."""
SILENCE = 2.0
"""Seconds beyond the asked wait after which a connection counts as dead."""
HOLD = 0.5
"""Seconds for which a leader's failure waits for other leaders' answers."""
UNCLAIMED = 5.0
"""Seconds that an answer waits for the next fetch from the same positions."""

_BROKEN = (CorruptRecordException, UnsupportedCodecError, UnicodeDecodeError)
"""What unpacking a batch raises: the batch is damaged, its codec's library is not installed, or a header's
name is not UTF-8."""

_Asked = tuple[int, frozenset[tuple[TopicPartition, int]]]
"""A node, and the positions it was asked to read on from."""


class UnreadablePlace(CorruptRecordException):  # type: ignore[misc]
    """Nothing can be read of a partition from a position on."""

    def __init__(self, source: TopicPartition, position: int, why: str) -> None:
        super().__init__(f"{source.topic}/{source.partition}@{position} cannot be read: {why}")
        self.source = source
        self.position = position

    def __str__(self) -> str:
        return str(self.args[0])


class _Answer(NamedTuple):
    batches: list[Batch]
    failures: list[Exception]

    @property
    def failed(self) -> bool:
        """Whether it brought failures and no batch. An empty answer has not failed: nothing was new."""
        return bool(self.failures) and not self.batches


class _Slots:
    """Names for connections: each is used by one fetch at a time, the most recently used one first."""

    def __init__(self) -> None:
        self._free: list[str] = []
        self._made = 0

    @asynccontextmanager
    async def one(self, busy: float) -> AsyncIterator[str]:
        """A free slot. A fetch that is given up leaves its broker busy for up to `busy` seconds more."""
        slot = self._free.pop() if self._free else self._new()
        try:
            yield slot
        except BaseException:
            asyncio.get_running_loop().call_later(busy, self._free.append, slot)
            raise
        else:
            self._free.append(slot)

    def _new(self) -> str:
        self._made += 1
        return f"fetch-{self._made}"


class KafkaFetcher:
    """Fetches for one process; keeps no positions."""

    def __init__(self, link: KafkaLink) -> None:
        self._link = link
        self._slots = _Slots()
        self._polls: dict[_Asked, Task[_Answer]] = {}
        self._turn = 0
        self._damage = Damage()

    async def fetch(
        self, positions: Mapping[TopicPartition, int], max_wait: float, max_bytes: int, partition_bytes: int
    ) -> list[Batch]:
        """Read on from `positions`; see the port. `max_wait` is cut to LONGEST_POLL, and to SOON while some
        of them cannot be read: the next fetch asks for them again.
        """
        if not positions:
            return []
        lacking = self._damage.resting(positions) or None in map(self._link.known_leader, positions)
        wait = min(max_wait, SOON if lacking else LONGEST_POLL)

        async def ask(node: int, sources: Iterable[TopicPartition]) -> _Answer:
            request = FetchRequest(int(wait * 1000), max_bytes, _topics(sources, positions, partition_bytes))
            try:
                async with self._slots.one(busy=wait) as slot:
                    found = await self._link.send(node, request, slot, timeout=wait + SILENCE)
                answer = self._noted(_read(found, positions), positions)
            except FAILURES as error:
                answer = _Answer([], [error])
            if any(not isinstance(failure, UnreadablePlace) for failure in answer.failures):
                self._link.stale()  # here: perhaps no fetch waits for this answer any more
            return answer

        return await self._link.retrying(lambda: self._fetch(positions, ask), wait + PATIENCE)

    async def close(self) -> None:
        """Give up what is under way."""
        for poll in self._polls.values():
            poll.cancel()
        await asyncio.gather(*self._polls.values(), return_exceptions=True)

    async def _fetch(self, positions: Mapping[TopicPartition, int], ask: "_Ask") -> list[Batch]:
        """The batches of the first answer.

        Raises a leader's failure only when no leader answered: `retrying` then asks again. Raises Unreadable
        only when none of `positions` can be read.
        """
        await self._link.client()
        resting = self._damage.resting(positions)
        by_leader, failures = self._by_leader([source for source in positions if source not in resting])
        if failures:
            self._link.stale()
        if len(by_leader) == 1:
            [(node, sources)] = by_leader.items()
            answers = [await ask(node, sources)]
        else:
            answers = await self._first(by_leader, positions, ask) if by_leader else []
        failures += [failure for answer in answers for failure in answer.failures]
        unreadable: list[Exception] = [each for each in failures if isinstance(each, UnreadablePlace)]
        trouble = [failure for failure in failures if not isinstance(failure, UnreadablePlace)]
        if trouble and all(answer.failed for answer in answers):
            raise trouble[0]
        unreadable += resting.values()
        if len(unreadable) == len(positions):
            raise unreadable[0]
        return [batch for answer in answers for batch in answer.batches]

    def _noted(self, answer: _Answer, positions: Mapping[TopicPartition, int]) -> _Answer:
        """Note which places could not be read, and which can be read again."""
        for batch in answer.batches:
            self._damage.passed(batch.source, positions[batch.source])
        for failure in answer.failures:
            if isinstance(failure, UnreadablePlace):
                self._damage.found(failure.source, failure.position, failure)
        return answer

    def _by_leader(
        self, order: Sequence[TopicPartition]
    ) -> tuple[dict[int, list[TopicPartition]], list[Exception]]:
        """The positions by leader, and a failure for each partition without one.

        Every call begins with another partition: brokers fill an answer in the order that was asked, so no
        partition is always the last.
        """
        self._turn += 1
        start = self._turn % len(order) if order else 0
        groups: defaultdict[int, list[TopicPartition]] = defaultdict(list)
        failures: list[Exception] = []
        for source in (*order[start:], *order[:start]):
            node = self._link.known_leader(source)
            if node is None:
                failures.append(StaleMetadata(no_leader(source)))
            else:
                groups[node].append(source)
        return groups, failures

    async def _first(
        self,
        by_leader: Mapping[int, list[TopicPartition]],
        positions: Mapping[TopicPartition, int],
        ask: "_Ask",
    ) -> list[_Answer]:
        """Ask several leaders, or take up what they were asked; return the first answers.

        Answers that failed are held back for up to `HOLD` seconds: another leader may bring records.
        """
        polls: dict[_Asked, Task[_Answer]] = {}
        for node, sources in by_leader.items():
            key = node, frozenset((source, positions[source]) for source in sources)
            polls[key] = self._take_up(key) or asyncio.create_task(ask(node, sources))
        try:
            done, under_way = await asyncio.wait(polls.values(), return_when=asyncio.FIRST_COMPLETED)
            hold_until = asyncio.get_running_loop().time() + HOLD
            while under_way and all(poll.result().failed for poll in done):
                left = hold_until - asyncio.get_running_loop().time()
                more, under_way = await asyncio.wait(
                    under_way, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
                )
                if not more:
                    break
                done |= more
            return [poll.result() for poll in done]
        finally:
            for key, poll in polls.items():
                if not poll.done():
                    self._keep(key, poll)

    def _take_up(self, key: _Asked) -> Task[_Answer] | None:
        """The kept request, if it is under way or brought records. One that came back empty is over."""
        poll = self._polls.pop(key, None)
        return None if poll is None or (poll.done() and not poll.result().batches) else poll

    def _keep(self, key: _Asked, poll: Task[_Answer]) -> None:
        """Let the next fetch take `poll` up, if it comes soon."""
        self._polls[key] = poll
        loop = asyncio.get_running_loop()
        poll.add_done_callback(lambda _: loop.call_later(UNCLAIMED, self._forget, key, poll))

    def _forget(self, key: _Asked, poll: Task[_Answer]) -> None:
        if self._polls.get(key) is poll:
            del self._polls[key]


_Ask = Callable[[int, Iterable[TopicPartition]], Coroutine[None, None, _Answer]]


def _topics(
    sources: Iterable[TopicPartition], positions: Mapping[TopicPartition, int], partition_bytes: int
) -> list[tuple[str, list[tuple[int, int, int]]]]:
    topics: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for source in sources:
        topics[source.topic].append((source.partition, positions[source], partition_bytes))
    return list(topics.items())


def _read(found: Iterable[Fetched], positions: Mapping[TopicPartition, int]) -> _Answer:
    """Sort what a broker answered into batches and failures; partitions with nothing new are left out."""
    answer = _Answer([], [])
    for topic, partition, code, end, data in found:
        source = TopicPartition(topic, partition)
        position = positions[source]
        if code == OffsetOutOfRangeError.errno:
            answer.batches.append(Batch(source, (), position, end, out_of_range=True))
        elif code == CorruptRecordException.errno:
            answer.failures.append(UnreadablePlace(source, position, "the broker says so"))
        elif code:
            answer.failures.append(for_code(code)(f"{topic}/{partition}"))
        elif data:
            try:
                records, next_offset = read_records(data, position)
            except CorruptRecordException as error:
                answer.failures.append(UnreadablePlace(source, position, str(error.args[0])))
                continue
            if next_offset > position:
                answer.batches.append(Batch(source, records, next_offset, end))
    return answer


def read_records(data: bytes, position: int) -> tuple[Sequence[LogRecord], int]:
    """The records in `data` from `position` on, and the offset to read on at, past compaction's holes.

    Checksums are verified: 0.1 of the 3 µs of CPU that a record costs, and it finds what TCP misses. An
    incomplete batch at the end is left for the next fetch. Raises CorruptRecordException when the first
    batch to read is broken.
    """
    records: list[LogRecord] = []
    next_offset = position
    log = MemoryRecords(data)
    while log.has_next():
        batch = log.next_batch()
        if not batch.validate_crc():
            if next_offset > position:
                break
            raise CorruptRecordException(f"bad checksum in the batch at offset {batch.base_offset}")
        if not batch.is_control_batch:
            try:
                found = list(batch)
            except _BROKEN as error:
                if next_offset > position:
                    break
                raise CorruptRecordException(f"the batch at offset {batch.base_offset}: {error}") from error
            if batch.base_offset < position:
                found = [record for record in found if record.offset >= position]
            records += found
        next_offset = batch.next_offset
    return records, next_offset
