"""What an operator sees of an executor: what waits, and what went wrong."""

import pytest
from prometheus_client import REGISTRY

from schemas.records import Cancelled
from services.eventlog.memory import MemoryLog
from tests.conftest import eventually
from tests.executing import NAMES, TENANT, Rig
from tests.written import claim_of

LONG = {"echo.interval_ms": "20", "echo.tokens": "100000"}

pytestmark = pytest.mark.usefixtures("quick_beats")


def shown(name: str) -> float:
    return REGISTRY.get_sample_value(f"rejoinder_executor_{name}") or 0


async def test_what_waits_is_shown_and_how_old_the_oldest_is() -> None:
    now = 1_000
    rig = Rig(MemoryLog({NAMES.events: 1, NAMES.executors: 1}, clock=lambda: now))
    first = await rig.accept(metadata=LONG)
    now = 8_000
    later = [await rig.accept(metadata=LONG) for _ in range(3)]
    async with rig.executor(slots=2, grace_s=0.01):
        await eventually(lambda: (shown("queued_responses"), shown("free_slots")) == (2, 0))
        assert shown("oldest_open_seconds") == 7
        for id in (first, *later):
            await rig.put(Cancelled(id, "n", TENANT).new(b"{}"))
        await eventually(lambda: (shown("queued_responses"), shown("free_slots")) == (0, 2))
        await eventually(lambda: shown("oldest_open_seconds") == 0)


async def test_a_run_that_another_executor_took_over_is_counted(rig: Rig) -> None:
    before = shown("runs_fenced_total")
    id = await rig.accept(metadata=LONG)
    async with rig.executor():
        await eventually(lambda: rig.events(id))
        await rig.claim(id, attempt=2, claim=claim_of("other"))
        await eventually(lambda: shown("runs_fenced_total") == before + 1)


async def test_records_that_are_not_acknowledged_are_counted(rig: Rig, log: MemoryLog) -> None:
    before = shown("appends_failed_total")
    id = await rig.accept(metadata=LONG)
    async with rig.executor(grace_s=0.01):
        await eventually(lambda: rig.events(id))

        def failed() -> bool:
            """The next append fails: a beat's, which nobody posts, or an event's."""
            log.fail_next("lost")
            return shown("appends_failed_total") > before

        await eventually(failed)
