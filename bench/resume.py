"""Resumes right after a start of replay: the time from a client's connecting to its first event.

    closed  a response that has ended, after any of its events: from its transcript
    older   a response that has not ended, after an event that does not fit into memory: by seek in the log
    open    the same, after any event of one that is young: from memory

The clients come one after the other, each for another place. Each checks that the first event is the one
after its cursor, and goes. Meanwhile responses tick, 500 to 600 events/s in all partitions, and replay has to
read up to the end of a partition before it answers (P-80). Replay is started again before each kind, so its
caches have what a start brings. Then the same clients come again.
"""

import sys
from array import array
from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from random import Random
from time import monotonic, perf_counter_ns

import msgspec
import uvloop

from bench.latency import Latency, summary
from bench.load import OVERHEAD, Load, Outcome, Reader
from bench.replay import OPENING, PATIENCE_S, OpenLoad, made, metric, start_again, stream_of
from bench.target import Target
from bench.upstream import before_upstream

LITTLE_BYTES, ROOM_BYTES = 8 << 20, 128 << 20
"""Bytes of events that replay keeps: fewer than the older responses have; and more than all of them have."""
HEAD = """| response | resumes | sought | first event, p50, ms | p99 | worst | again, p50 | p99 |
|---|---:|---:|---:|---:|---:|---:|---:|"""


class Stock(msgspec.Struct, frozen=True):
    """The responses that there are: how many, and of how many events."""

    closed: int = 2_000
    closed_events: int = 200
    older: int = 100
    older_events: int = 1_000
    open: int = 20
    open_events: int = 200
    resumes: int = 200


STOCK = Stock()


class Cursor(msgspec.Struct, frozen=True):
    """What a client asks for: the events of a response after a number."""

    id: str
    number: int


class FirstReader(Reader):
    """Is done when the first event has come."""

    def __init__(self) -> None:
        super().__init__(Outcome())
        self._held = b""
        self.number = -1
        """The number of the first event."""
        self.at = 0
        """When it came, ns."""

    def data_received(self, data: bytes) -> None:
        """Look for the first event."""
        self._held += data
        _, found, after = self._held.partition(b"\nid: ")
        if found and b"\n\n" in after and not self.at:
            self.at, self.number = perf_counter_ns(), int(after.partition(b"\n")[0])
            self.connection_lost(None)


class ResumeLoad(Load):
    """Clients that resume, one after the other."""

    def __init__(self, url: str) -> None:
        super().__init__(url, 0)

    def reader(self) -> Reader:
        """A reader of the first event."""
        return FirstReader()

    async def resumed(self, cursors: Sequence[Cursor]) -> Latency:
        """The times to the first event. Exits if that is not the one after the cursor."""
        ages = array("q")
        began = perf_counter_ns()
        for cursor in cursors:
            sent = perf_counter_ns()
            path = f"{stream_of(cursor.id)}&starting_after={cursor.number}"
            transport, first = await self.open("GET", path)
            assert isinstance(first, FirstReader)
            await first.closed
            transport.abort()
            if first.number != cursor.number + 1:
                sys.exit(f"{cursor}: the first event is {first.number}")
            ages.append(first.at - sent)
        return summary(ages, (perf_counter_ns() - began) / 1e9)


def run(stock: Stock = STOCK) -> None:
    """Print the table."""
    print(f"\n## Resumes right after a start\n\n{HEAD}", flush=True)
    for memory_bytes, kinds in ((LITTLE_BYTES, _out_of_memory), (ROOM_BYTES, _in_memory)):
        with before_upstream("--replay-memory-bytes", str(memory_bytes)) as ours:
            for name, cursors in kinds(ours, stock):
                first, seeks = _after_a_start(ours, cursors, sought=name == "older")
                again = uvloop.run(ResumeLoad(ours.base_url).resumed(cursors))
                row = f"| {name} | {len(cursors)} | {seeks} | {first.p50:.1f} | {first.p99:.1f} "
                print(f"{row}| {first.worst:.1f} | {again.p50:.1f} | {again.p99:.1f} |", flush=True)


def _after_a_start(ours: Target, cursors: Sequence[Cursor], *, sought: bool) -> tuple[Latency, int]:
    """The times right after a start, and how many pages were read from the log for them. They count if one
    was `sought` there for half of the clients, or none: what has closed may not be packed yet, and then has
    no transcript.
    """
    deadline = monotonic() + PATIENCE_S
    while monotonic() < deadline:
        start_again(ours)
        begun = metric(ours, "rejoinder_replay_seeks")
        found = uvloop.run(ResumeLoad(ours.base_url).resumed(cursors))
        seeks = int(metric(ours, "rejoinder_replay_seeks") - begun)
        if seeks >= len(cursors) / 2 if sought else not seeks:
            return found, seeks
    raise RuntimeError(f"{seeks} of {len(cursors)} resumes sought events in the log")


def _out_of_memory(ours: Target, stock: Stock) -> Iterator[tuple[str, Sequence[Cursor]]]:
    """Places to resume at in responses that have closed, and in older ones."""
    closed_load = Load(ours.base_url, stock.closed_events, tokens=stock.closed_events - OVERHEAD)
    closed = made(closed_load, stock.closed)
    older = made(_ticking(ours, stock.older_events), stock.older)
    yield "closed", _somewhere(closed, stock.closed_events - 1, stock.resumes)
    yield "older", _somewhere(older, stock.older_events // 2, stock.resumes)


def _in_memory(ours: Target, stock: Stock) -> Iterator[tuple[str, Sequence[Cursor]]]:
    """Places to resume at in young responses; older ones tick meanwhile."""
    made(_ticking(ours, stock.older_events), stock.older)
    youngest = made(_ticking(ours, stock.open_events), stock.open)
    yield "open", _somewhere(youngest, stock.open_events - 1, stock.resumes)


def _ticking(ours: Target, events: int) -> OpenLoad:
    return OpenLoad(ours.base_url, f"responses-{events - OPENING}-0-100000-200", events)


def _somewhere(ids: Sequence[str], numbers: int, resumes: int) -> Sequence[Cursor]:
    chance = Random(len(ids))
    chosen = chance.sample(ids, min(len(ids), resumes))
    return [Cursor(id, chance.randrange(numbers)) for id in islice(cycle(chosen), resumes)]
