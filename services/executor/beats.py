"""The executor's own beat: append it, read it back, wait, again (P-50).

The topic has one partition. Only one beat of an executor is ever under way, so no beats queue up while a
broker pauses, and none can count another executor out at once afterwards. Deadlines are held against one
clock alone: the log time of this executor's last beat.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog
from msgspec import Struct

from schemas.errors import LogError
from schemas.ids import ExecutorId
from schemas.models import KIND
from schemas.records import MALFORMED, LogRecord, NewRecord
from services import points
from services.eventlog.patience import patiently
from services.eventlog.port import Log, Writer
from services.eventlog.tail import Tail
from services.executor import metrics
from services.executor.liveness import BEAT_INTERVAL, Liveness

log = structlog.get_logger()

HISTORY = 2_000
"""Beats before the topic's end that a start reads: minutes of a large fleet."""


class BeatValue(Struct, frozen=True):
    """The value of a beat."""

    executor: ExecutorId


def beat_record(executor: ExecutorId, *, leaving: bool = False) -> NewRecord:
    """A beat of `executor`. `leaving`: its last one, by which its runs are up for takeover at once."""
    headers = [("kind", b"beat"), ("executor", executor.encode())]
    if leaving:
        headers.append(("leaving", b"1"))
    return NewRecord(executor.encode(), msgspec.json.encode(BeatValue(executor)), headers)


class Beats:
    """Beats of `me` in `topic`. `on_own` is called when one is read back."""

    def __init__(
        self,
        me: ExecutorId,
        log_: Log,
        topic: str,
        writer: Writer,
        liveness: Liveness,
        on_own: Callable[[], None],
        *,
        lease: float,
    ) -> None:
        self._me = me
        self._log = log_
        self._topic = topic
        self._writer = writer
        self._liveness = liveness
        self._on_own = on_own
        self._lease = lease
        self._tail = Tail(log_, topic)
        self._read_back = asyncio.Event()
        self._sent_at = 0.0
        self._has_left = False

    async def start(self) -> None:
        """Begin a little before the topic's end. The last beats of executors that are gone are known then, so
        this executor's own beats count against them at once.
        """
        bounds = (await self._log.bounds(self._topic, [0]))[0]
        self._tail.follow(0, max(bounds.start, bounds.end - HISTORY))

    async def write(self) -> None:
        """Beat for ever."""
        while True:
            await self.beat()
            await asyncio.sleep(BEAT_INTERVAL)

    async def beat(self) -> None:
        """Beat once, and wait until it is read back; nothing follows the last beat."""
        if self._has_left:
            return
        self._read_back.clear()
        self._sent_at = asyncio.get_running_loop().time()
        points.at("beat due")
        with suppress(LogError):  # not acknowledged: the next beat is due all the same
            await self._writer.append(self._topic, 0, beat_record(self._me))
            await self._read_back.wait()

    async def read(self) -> None:
        """Count the beats of all executors for ever."""
        while True:
            for batch in await self._tail.read():
                if batch.out_of_range:
                    await patiently(self.start)
                for record in batch.records:
                    self.count(record)

    async def leave(self) -> None:
        """Append the last beat, which says that this executor's runs are stopped and up for takeover."""
        self._has_left = True
        points.at("last beat due")
        with suppress(LogError):  # the missing beats will say it
            await self._writer.append(self._topic, 0, beat_record(self._me, leaving=True))

    def count(self, record: LogRecord) -> None:
        """Take a beat that was read for a sign of life; what is none is passed over."""
        if dict(record.headers).get("kind") == KIND:
            return  # a listing of models is no sign of life (P-51)
        try:
            executor, leaving = _parse(record)
        except MALFORMED as error:
            metrics.UNREADABLE.inc()
            at = f"{self._topic}/0@{record.offset}"
            log.warning("unreadable record passed over", at=at, why=f"{type(error).__name__}: {error}")
            return
        self._liveness.beat(executor, leaving=leaving)
        if executor == self._me:
            self._read_back.set()
            now = asyncio.get_running_loop().time()
            self._liveness.own_beat(self._sent_at, now, self._lease, record.timestamp)
            self._on_own()
            points.at("beat read back")


def _parse(record: LogRecord) -> tuple[ExecutorId, bool]:
    """The executor of a beat, and whether it is its last one. Raises what is MALFORMED."""
    headers = dict(record.headers)
    if headers["kind"] != b"beat":
        raise ValueError(f"unknown kind {headers['kind']!r}")
    return ExecutorId(headers["executor"].decode()), headers.get("leaving") == b"1"
