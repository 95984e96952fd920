"""Who gets a slot of a running executor, over the log in memory.

What lost its executor, then the oldest, each tenant within its quota. What is overdue is ended without one.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import count
from typing import Any

import pytest

from schemas.ids import ResponseId, Tenant
from schemas.records import Cancelled, Claimed, EventRecord, parse
from services import config
from services.config import Quota, unbounded
from services.eventlog.memory import MemoryLog
from services.eventlog.topics import topics
from services.executor import steward
from services.executor.backend import Resume, RunRequest, UpstreamEvent
from services.executor.backends import Registry, build
from services.executor.executor import Executor
from services.settings import Settings
from tests.conftest import PATIENCE, eventually
from tests.executing import TENANT, Rig, conversing, memory
from tests.responses import Author

NAMES = topics()

pytestmark = pytest.mark.usefixtures("quick_beats")


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
    settings = Settings(grace_s=1, slots=slots)
    registry = build(config.load("", {}), {})
    async with conversing() as conversation:
        running = Executor(settings, log, NAMES, registry, conversation, quota=quota)
        task = asyncio.create_task(running.run(stop))
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait_for(task, PATIENCE)


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


class Deaf:
    """A backend that says nothing, and does not stop when it is told to."""

    repeatable = resumable = pass_extensions = False

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def stream(
        self,
        request: RunRequest,
        resume: Resume | None = None,  # noqa: ARG002 - the port's
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        request.calling()
        while not self.over.is_set():
            with suppress(asyncio.CancelledError):
                await self.over.wait()
        yield ()

    async def stop(self, upstream_id: str) -> None:  # noqa: ARG002 - the port's
        raise AssertionError("it has no id")

    async def close(self) -> None:
        """Nothing to close."""


class Only(Registry):
    """Every request is for this backend."""

    def __init__(self, backend: Deaf) -> None:
        super().__init__(config.load("", {}), {})
        self._backend = backend

    def resolve(self, body: object) -> Deaf:  # noqa: ARG002 - the registry's
        return self._backend

    def backend(self, route: object) -> Deaf:  # noqa: ARG002 - the registry's
        return self._backend


LONG: dict[str, Any] = {"metadata": {"echo.interval_ms": "20", "echo.tokens": "100000"}}


async def test_what_hangs_in_every_slot_is_ended_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward, "DEADLINE_GRACE", 10)
    rig, deaf = Rig(memory()), Deaf()
    hung = await rig.accept(deadline=int(time.time() * 1000) + 100)
    async with rig.executor(Only(deaf), slots=1):
        try:
            await rig.closed(hung)
        finally:
            deaf.over.set()
    assert rig.events(hung)[-1]["response"]["error"]["type"] == "deadline"


async def test_an_overdue_response_is_ended_though_every_slot_is_taken() -> None:
    rig = Rig(memory())
    first = await rig.accept(**LONG)
    async with rig.executor(slots=1) as executor:
        await eventually(lambda: executor.engine.runs)
        late = await rig.accept(deadline=1)
        await rig.closed(late)
        assert not rig.state(first).closed
        await rig.put(Cancelled(first, "n", TENANT).new(b"{}"))
    assert rig.events(late)[-1]["response"]["error"]["type"] == "deadline"


async def test_what_lost_its_executor_comes_before_what_waits() -> None:
    rig = Rig(memory())
    first = await rig.accept(**LONG)
    async with rig.executor(slots=1) as executor:
        await eventually(lambda: executor.engine.runs)
        waiting = await rig.accept()
        lost = await rig.accept()
        await rig.claim(lost)
        await eventually(lambda: executor.liveness.gone(rig.state(lost).executor or executor.me))
        await rig.put(Cancelled(first, "n", TENANT).new(b"{}"))
        await rig.closed(lost)
        await rig.closed(waiting)
    claims = [entry.id for r in rig.log.records(NAMES.events, 0) if isinstance(entry := parse(r), Claimed)]
    assert claims == [first, lost, lost, waiting]
