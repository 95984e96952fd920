"""What an operator sees of an executor: what waits, and what went wrong."""

from typing import Any

import pytest

from schemas.records import Cancelled
from services.eventlog.memory import MemoryLog
from services.executor.backends import upstream
from tests.conftest import eventually
from tests.executing import DEAD, NAMES, TENANT, Rig
from tests.shown import sample
from tests.upstreams import Call, Script, raw, registry
from tests.written import claim_of

LONG = {"echo.interval_ms": "20", "echo.tokens": "100000"}

pytestmark = pytest.mark.usefixtures("quick_beats")


def shown(name: str, **labels: str) -> float:
    return sample(f"rejoinder_executor_{name}", **labels)


def waits_and_runs() -> tuple[float, ...]:
    """What waits for model `echo`, its places that are taken, and free slots."""
    by_route = (shown(name, route="echo") for name in ("queued_responses", "places_taken"))
    return (*by_route, shown("free_slots"))


async def test_what_waits_is_shown_and_how_old_the_oldest_is() -> None:
    now = 1_000
    rig = Rig(MemoryLog({NAMES.events: 1, NAMES.executors: 1}, clock=lambda: now))
    first = await rig.accept(metadata=LONG)
    now = 8_000
    later = [await rig.accept(metadata=LONG) for _ in range(3)]
    async with rig.executor(slots=2, grace_s=0.01):
        await eventually(lambda: waits_and_runs() == (2, 2, 0))
        assert shown("oldest_open_seconds") == 7
        for id in (first, *later):
            await rig.put(Cancelled(id, "n", TENANT).new(b"{}"))
        await eventually(lambda: waits_and_runs() == (0, 0, 2))
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


async def test_how_long_a_response_waited_is_shown_once_whoever_runs_it_then() -> None:
    now = 1_000
    rig = Rig(MemoryLog({NAMES.events: 1, NAMES.executors: 1}, clock=lambda: now))
    counted, summed = (shown(f"queue_seconds_{end}", route="echo") for end in ("count", "sum"))
    await rig.accept()
    other = await rig.accept()
    now = 4_000
    await rig.claim(other)
    async with rig.executor():
        await eventually(lambda: shown("queue_seconds_count", route="echo") == counted + 1)
        await rig.closed(other)  # taken over: it waited for another executor
    assert rig.state(other).executor != DEAD
    assert shown("queue_seconds_count", route="echo") == counted + 1
    assert shown("queue_seconds_sum", route="echo") == summed + 3


async def test_records_that_are_not_folded_yet_are_shown(rig: Rig) -> None:
    id = await rig.accept()
    async with rig.executor() as executor:
        await rig.closed(id)
        await eventually(lambda: shown("lag_records") == 0)

        def behind() -> bool:
            """The log has seven records more than it has folded."""
            partition = executor.engine.partitions[0]
            partition.end = partition.position + 7
            return shown("lag_records") == 7

        await eventually(behind)


DELTA = {"type": "response.output_text.delta", "delta": "hi", "output_index": 0, "content_index": 0}
CREATED = {"type": "response.created", "response": {"id": "resp_u", "status": "in_progress", "output": []}}
FAILED = {"type": "response.failed", "response": {"id": "resp_u", "status": "failed", "output": []}}


def saying(*events: dict[str, Any], cut: bool = False) -> Script:
    async def script(call: Call) -> None:
        await call.head()
        await call.events(*events)
        if cut:
            call.cut()

    return script


def answering(status: int) -> Script:
    async def script(call: Call) -> None:
        await call.answer(status, {"error": {"message": "no"}})

    return script


@pytest.mark.parametrize(
    ("kind", "script", "answered"),
    [
        ("http_429", answering(429), 0),
        ("http_500", answering(500), 0),
        ("upstream_truncated", saying(CREATED, DELTA, cut=True), 1),
        ("upstream_truncated", saying(CREATED), 1),
        ("upstream_malformed", saying({"type": ""}), 1),
        ("upstream_error", saying({"type": "error", "message": "no"}), 1),
        ("response_failed", saying(CREATED, FAILED), 1),
    ],
)
async def test_an_upstream_that_fails_is_shown_by_route_model_and_kind(
    rig: Rig, kind: str, script: Script, answered: int
) -> None:
    labels = {"route": "*", "model": "m"}

    def counts() -> tuple[float, float]:
        failures = sample("rejoinder_upstream_errors_total", **labels, kind=kind)
        return failures, sample("rejoinder_upstream_first_byte_seconds_count", **labels)

    before = counts()
    async with raw(script) as server:
        backends = registry(server.url)
        async with rig.executor(backends, grace_s=0.01):
            state = await rig.closed(await rig.accept(model="m"))
        await backends.close()
    assert state.status == "failed"
    assert counts() == (before[0] + 1, before[1] + answered)


async def test_an_upstream_that_is_away_is_called_again_and_that_is_shown(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "CONNECT_PAUSE", 0.001)
    repeated = sample("rejoinder_upstream_calls_repeated_total", route="*", why="unreachable")
    labels = {"route": "*", "model": "m", "kind": "upstream_unreachable"}
    failed = sample("rejoinder_upstream_errors_total", **labels)
    backends = registry("http://127.0.0.1:9")
    async with rig.executor(backends, grace_s=0.01):
        await rig.closed(await rig.accept(model="m"))
    await backends.close()
    assert sample("rejoinder_upstream_calls_repeated_total", route="*", why="unreachable") == repeated + 3
    assert sample("rejoinder_upstream_errors_total", **labels) == failed + 1
