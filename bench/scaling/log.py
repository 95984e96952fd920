"""What the log costs: brokers and clients a request. No HTTP, no fold, no model.

Writers append events of a stream's size as an executor does, and read them back as it does; readers follow
everything, as a replay does. How many requests come of that is counted, not assumed, so that a busy machine
changes the figures little.
"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from anyio.from_thread import BlockingPortal
from msgspec import Struct

from bench.limits import TYPE, VALUE
from bench.scaling.fitting import solved
from schemas.ids import ENTROPY_BYTES, TOKEN_BYTES, Tenant, claim_id, response_id
from schemas.records import EventHeaders
from services.eventlog.kafka import KafkaLog
from services.eventlog.pace import Pace
from services.eventlog.port import Writer
from services.eventlog.tail import Tail
from services.executor.executor import BUSY, LEAST_PACE_S, LONGEST_PACE_S
from tests.points import when
from tests.reliability.cluster import Cluster
from tests.reliability.rig import Broker, portal

TOPIC, PARTITIONS = "scaling", 16
TICK_S = 0.001
COMPILED_S, SECONDS, SETTLE_S = 25.0, 8.0, 2.0
"""Seconds until the broker's Java is compiled, of a measurement, and before it."""


class Traffic(Struct, frozen=True):
    """So many writers with `per_second` events between them, and readers of everything."""

    writers: int
    readers: int
    per_second: int


ALONE, SPLIT, FOLLOWED = Traffic(1, 1, 2_500), Traffic(4, 1, 2_500), Traffic(4, 4, 10_000)


class Seen(Struct):
    """What came of a traffic, a second, and the cores that it took."""

    appends: float = 0
    fetches: float = 0
    written: float = 0
    read: float = 0
    brokers: float = 0
    clients: float = 0

    @property
    def requests(self) -> float:
        """Appends and fetches."""
        return self.appends + self.fetches


class LogCosts(Struct, frozen=True):
    """As `services.planning.costs` has them."""

    broker_busy_cores: float
    request_us: float
    copy_us: float
    exchange_us: float


class Counting(Pace):
    """A tail's pace that counts its fetches."""

    def __init__(self, seen: Seen, least: float = 0.0, longest: float = 0.0, busy: float = 0.0) -> None:
        super().__init__(least, longest, busy)
        self._seen = seen

    def took(self, records: int, now: float) -> None:
        """Count a fetch."""
        self._seen.fetches += 1
        self._seen.read += records
        super().took(records, now)


def measured(idle_cores: float, record_us: float, part: float = 1.0) -> LogCosts:
    """The log's costs, given what a broker takes that idles, and for a record. `part` of the usual seconds.

    A record costs so little beside a request that it is found from whole systems (`system`), not from here.
    """
    with tempfile.TemporaryDirectory(prefix="rejoinder-bench-") as folder, portal() as loop:
        with Broker(loop, Path(folder) / "one") as broker:
            seen = _all(loop, broker.bootstrap, [broker.pid], 1, (ALONE, SPLIT, FOLLOWED), part)
        with Cluster(loop, Path(folder)) as cluster:
            pids = [broker.pid for broker in cluster.brokers.values()]
            (copied,) = _all(loop, cluster.bootstrap, pids, len(pids), (SPLIT,), part)
    record = record_us / 1e6
    used = [one.brokers - idle_cores - (one.read + one.written) * record for one in seen]
    busy, request = solved([(1.0, one.requests) for one in seen], used)
    copies = len(pids) - 1
    known = len(pids) * (idle_cores + busy) + copied.requests * request
    known += (copied.read + copied.written * (1 + 2 * copies)) * record
    alone, split, _ = seen
    exchange = (split.clients - alone.clients) / (split.requests - alone.requests)
    return LogCosts(
        broker_busy_cores=busy,
        request_us=request * 1e6,
        copy_us=max(0.0, copied.brokers - known) / copies / copied.appends * 1e6,
        exchange_us=max(0.0, exchange) * 1e6,
    )


def _all(
    loop: BlockingPortal,
    bootstrap: str,
    pids: Sequence[int],
    replication: int,
    traffics: Sequence[Traffic],
    part: float,
) -> list[Seen]:
    loop.call(_topic, bootstrap, replication)
    loop.call(_seen, bootstrap, pids, FOLLOWED, COMPILED_S * part)
    found = [loop.call(_seen, bootstrap, pids, traffic, SECONDS * part) for traffic in traffics]
    for traffic, one in zip(traffics, found, strict=True):
        print(
            f"| {len(pids)} | {traffic.writers} | {traffic.readers} | {one.written:,.0f} "
            f"| {one.appends:,.0f} | {one.fetches:,.0f} | {one.brokers:.3f} | {one.clients:.3f} |",
            flush=True,
        )
    return found


async def _topic(bootstrap: str, replication: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, PARTITIONS, replication)])
    finally:
        await admin.close()


async def _seen(bootstrap: str, pids: Sequence[int], traffic: Traffic, seconds: float) -> Seen:
    """Run a traffic for so many seconds."""
    seen = Seen()
    logs = [KafkaLog(bootstrap, "rejoinder-bench") for _ in range(traffic.writers + traffic.readers)]
    own = [[p for p in range(PARTITIONS) if p % traffic.writers == n] for n in range(traffic.writers)]
    writers = [log.writer() for log in logs[: traffic.writers]]
    tails = [
        Tail(log, TOPIC, pace=Counting(seen, LEAST_PACE_S, LONGEST_PACE_S, BUSY)) for log in logs[: len(own)]
    ]
    tails += [Tail(log, TOPIC, pace=Counting(seen)) for log in logs[len(own) :]]
    everything = [list(range(PARTITIONS))] * traffic.readers
    for log, tail, partitions in zip(logs, tails, [*own, *everything], strict=True):
        for partition, bounds in (await log.bounds(TOPIC, partitions)).items():
            tail.follow(partition, bounds.end)
    following = [asyncio.create_task(_follow(tail)) for tail in tails]
    try:
        with when("request made", lambda _: _count_append(seen)):
            return await _measured(
                seen, list(zip(writers, own, strict=True)), pids, traffic.per_second, seconds
            )
    finally:
        for task in following:
            task.cancel()
        for writer in writers:
            await writer.close()
        for log in logs:
            await log.close()


async def _measured(
    seen: Seen,
    writers: Sequence[tuple[Writer, list[int]]],
    pids: Sequence[int],
    per_second: int,
    seconds: float,
) -> Seen:
    loop = asyncio.get_running_loop()
    id, claim = response_id(3, bytes(ENTROPY_BYTES)), claim_id(bytes(TOKEN_BYTES))
    events = EventHeaders(id, claim, 1, Tenant("default"))
    begun, count = loop.time(), 0

    async def write(until: float) -> None:
        nonlocal count
        while loop.time() < until:
            await asyncio.sleep(TICK_S)
            while count < (loop.time() - begun) * per_second:
                writer, own = writers[count % len(writers)]
                partition = own[count // len(writers) % len(own)]
                writer.post(TOPIC, partition, events.event(count, TYPE, VALUE), patient=True)
                count += 1

    await write(begun + SETTLE_S)
    seen.appends = seen.fetches = seen.read = 0
    at, before, brokers, clients = loop.time(), count, _cpu(pids), time.process_time()
    await write(at + seconds)
    took = loop.time() - at
    return Seen(
        appends=seen.appends / took,
        fetches=seen.fetches / took,
        written=(count - before) / took,
        read=seen.read / took,
        brokers=(_cpu(pids) - brokers) / took,
        clients=(time.process_time() - clients) / took,
    )


def _count_append(seen: Seen) -> None:
    seen.appends += 1


async def _follow(tail: Tail) -> None:
    while True:
        await tail.read()


def _cpu(pids: Sequence[int]) -> float:
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(float(used.user + used.system) for used in times)
