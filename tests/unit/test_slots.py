"""Who gets a slot of a running executor, over the log in memory: the oldest, each tenant within its quota."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count

import pytest

from schemas.ids import ResponseId, Tenant
from schemas.records import Claimed, EventRecord, parse
from services import config
from services.config import Quota, unbounded
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.executor import beats
from services.executor.backends import build
from services.executor.conversation import Conversation
from services.executor.executor import Executor
from services.settings import Settings
from tests.conftest import eventually
from tests.responses import Author

NAMES = topics()


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beats, "BEAT_INTERVAL", 0.01)


@pytest.fixture
def log() -> MemoryLog:
    """A log of two partitions whose every record has a time of its own."""
    ticks = count(1)
    return MemoryLog({NAMES.events: 2, NAMES.executors: 1}, clock=lambda: next(ticks))


@asynccontextmanager
async def executor(
    log: MemoryLog, slots: int, quota: Callable[[Tenant], Quota] = unbounded
) -> AsyncIterator[None]:
    stop = asyncio.Event()
    conversation = Conversation("http://127.0.0.1:9")  # nobody listens there
    settings = Settings(grace_s=1, slots=slots)
    registry = build(config.load("", {}), {})
    running = Executor(settings, log, NAMES, registry, conversation, quota=quota)
    task = asyncio.create_task(running.run(stop))
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait_for(task, 10)
        await conversation.close()


def steps(log: MemoryLog) -> list[tuple[str, ResponseId]]:
    """What was claimed and what closed, in the order of log time."""
    records = [record for partition in (0, 1) for record in log.records(NAMES.events, partition)]
    found: list[tuple[str, ResponseId]] = []
    for record in sorted(records, key=lambda record: record.timestamp):
        entry = parse(record)
        if isinstance(entry, Claimed):
            found.append(("claimed", entry.id))
        elif isinstance(entry, EventRecord) and entry.terminal:
            found.append(("closed", entry.id))
    return found


async def run_all(log: MemoryLog, waiting: int, slots: int, quota: Callable[[Tenant], Quota]) -> None:
    async with executor(log, slots, quota):
        await eventually(lambda: sum(step == "closed" for step, _ in steps(log)) == waiting)


async def test_what_waits_longest_is_claimed_first_whatever_its_partition(log: MemoryLog) -> None:
    places = (1, 1, 0, 1, 0)
    ids = [
        (await Author(log.writer(), number, partition).accept()).id for number, partition in enumerate(places)
    ]
    await run_all(log, len(ids), 1, unbounded)
    assert [id for step, id in steps(log) if step == "claimed"] == ids


async def test_a_tenant_runs_no_more_at_once_than_its_quota_lets_it(log: MemoryLog) -> None:
    for number in range(6):
        await Author(log.writer(), number).accept(tenant="trial")
    await run_all(log, 6, 20, lambda _: Quota(match="*", max_running=2))
    running = most = 0
    for step, _ in steps(log):
        running += 1 if step == "claimed" else -1
        most = max(most, running)
    assert most == 2
