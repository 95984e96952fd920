"""The executor over the log in memory: what is in the log afterwards is all that counts."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

import pytest

from schemas.errors import LogUnavailable
from schemas.events import accepted_value
from schemas.ids import ResponseId, response_id
from schemas.records import Accepted, Cancelled, Deleted, NewRecord
from schemas.steps import Steps
from services.config import load
from services.connect import executors_group
from services.eventlog.memory import MemoryLog, Outcome
from services.eventlog.port import Batch, Checkpoint, TopicPartition
from services.eventlog.tail import Tail
from services.eventlog.topics import MAX_RECORD_BYTES
from services.executor import liveness, metrics, narrator
from services.executor.backend import Resume, RunRequest, UpstreamEvent
from services.executor.backends import build
from services.executor.executor import Executor
from services.executor.scribe import STEP_DRAFTS, Draft, Ending, Scribe
from services.executor.steward import Steward
from services.loops import in_turns
from services.settings import Settings
from tests.conftest import PATIENCE, eventually
from tests.counted import value_of
from tests.executing import DEAD, FAR, NAMES, TENANT, Rig, away
from tests.following import joining, lose_position
from tests.points import when
from tests.steady import steady
from tests.written import claim_of

pytestmark = pytest.mark.usefixtures("quick_beats")


def text(events: list[dict[str, Any]]) -> str:
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


async def test_an_accepted_response_is_claimed_run_and_closed(rig: Rig) -> None:
    id = await rig.accept("one two three")
    async with rig.executor():
        state = await rig.closed(id)
    assert (state.status, state.attempt) == ("completed", 1)
    events = rig.events(id)
    assert [e["sequence_number"] for e in events] == list(range(2, 2 + len(events)))
    assert events[0]["type"] == "response.in_progress"
    assert text(events) == "one two three"
    assert events[-1]["response"]["id"] == id


async def test_a_gone_claimants_response_is_resumed_where_it_stood(rig: Rig) -> None:
    whole = await rig.accept("one two three")
    async with rig.executor():
        await rig.closed(whole)
    id = await rig.accept("one two three")
    await rig.claim(id)
    for number, event in enumerate(rig.events(whole)[:5], start=2):
        as_if = json.loads(json.dumps(event).replace(whole, id))
        await rig.event(id, number, as_if)
    async with rig.executor():
        state = await rig.closed(id)
    assert (state.status, state.attempt) == ("completed", 2)
    assert [e["type"] for e in rig.events(id)] == [e["type"] for e in rig.events(whole)]
    assert text(rig.events(id)) == "one two three"


async def test_a_living_claimants_response_is_left_alone(rig: Rig) -> None:
    id = await rig.accept()
    await rig.claim(id)
    alive = rig.log.writer()
    beat = NewRecord(b"x", b"{}", [("kind", b"beat"), ("executor", DEAD.encode())])
    async with rig.executor() as executor:
        for _ in range(40):
            await alive.append(NAMES.executors, 0, beat)
            await asyncio.sleep(0.01)
        await eventually(lambda: executor.not_ready() == [])
        assert rig.state(id).attempt == 1


async def test_an_append_error_costs_a_claim_and_no_event(rig: Rig, log: MemoryLog) -> None:
    id = await rig.accept("a b c d e f g h", metadata={"echo.interval_ms": "20"})

    failures: dict[int, Outcome] = {1: "unknown-appended", 2: "lost"}

    def heard(_: object) -> None:
        """The next append fails, a beat's or an event's, until that has cost two attempts their claims."""
        outcome = failures.get(rig.state(id).attempt)
        if outcome is not None and len(rig.events(id)) > 4:
            log.fail_next(outcome)

    with when("upstream heard", heard):
        async with rig.executor():
            state = await rig.closed(id)
    assert state.status == "completed"
    assert state.attempt >= 3
    assert text(rig.events(id)) == "a b c d e f g h"


async def test_an_append_error_costs_every_run_in_the_batch_a_claim(rig: Rig) -> None:
    long = {"echo.interval_ms": "20", "echo.tokens": "100000"}
    ids = [await rig.accept("a b c", metadata=long) for _ in range(2)]
    async with rig.executor() as executor:
        await eventually(lambda: all(rig.events(id) for id in ids))
        foreign = NewRecord(ids[0].encode() + b"\xff", None)  # erased with them, and nobody can read its key
        batch = [foreign, *(NewRecord(f"{id}/c/9".encode(), b"{}", []) for id in ids)]
        executor.append_failed(TopicPartition(NAMES.events, 0), batch, LogUnavailable("away"))
        await eventually(lambda: all(rig.state(id).attempt == 2 for id in ids))
        for id in ids:
            await rig.put(Cancelled(id, "n", TENANT).new(b"{}"))
            await rig.closed(id)


async def test_a_lost_claim_gives_its_slot_back(
    rig: Rig, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one slot: nothing that waits would be claimed any more, not even this response itself."""
    lost: list[bytes] = []
    failed = Executor.append_failed

    def claiming(*_: object) -> None:
        if not lost:
            log.fail_next("lost")

    def failing(self: Executor, source: Any, records: Sequence[NewRecord], error: Any) -> None:
        lost.extend(record.key for record in records if b"/claim/" in record.key)
        failed(self, source, records, error)

    monkeypatch.setattr(Executor, "append_failed", failing)
    ids = [await rig.accept("one two") for _ in range(3)]
    with when("claim made", claiming):
        async with rig.executor(slots=1):
            states = [await rig.closed(id) for id in ids]
    assert lost
    assert [(state.status, state.attempt) for state in states] == [("completed", 1)] * 3


async def test_a_claim_that_is_read_late_has_called_nobody(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """So what may be called only once is called still: under the next claim."""
    endless, read, now = Endless(), Tail.read, asyncio.get_running_loop().time
    registry = build(load("", {}), {})
    monkeypatch.setattr(registry, "resolve", lambda _: endless)
    claimed_at, behind = 0.0, asyncio.Event()

    def claiming(*_: object) -> None:
        nonlocal claimed_at
        claimed_at = claimed_at or now()

    async def reading(self: Tail, max_wait: float = 0.5) -> list[Batch]:
        batches = await read(self, max_wait)
        if claimed_at and self.followed == {0, 1}:  # the events' tail: the beats' is not behind
            await behind.wait()
        return batches

    monkeypatch.setattr(Tail, "read", reading)
    id = await rig.accept()
    with when("claim made", claiming):
        async with rig.executor(registry, lease_s=0.05):
            await eventually(lambda: 0 < claimed_at < now() - 0.5)
            behind.set()
            await eventually(lambda: rig.state(id).closed or endless.taken > 0)
            assert not rig.state(id).closed
            assert rig.state(id).attempt >= 2  # more on a machine that is too busy to keep to the lease
            await rig.put(Cancelled(id, "n", TENANT).new(b"{}"))


async def test_a_claim_that_is_won_while_leaving_is_left_to_others(rig: Rig) -> None:
    """My last beat gives it away at once: a call of mine would come after another's."""
    async with rig.executor() as executor:
        await eventually(lambda: executor.liveness.beats > 1)
        executor.engine.leaving = True
        id = await rig.accept()
        await eventually(lambda: rig.state(id).attempt > 0)
        now = executor.liveness.beats
        await eventually(lambda: executor.liveness.beats > now + 3)
        assert (executor.engine.runs, rig.events(id)) == ({}, [])


async def test_a_loop_that_ends_ends_the_executor(rig: Rig) -> None:
    """Else its beats would go on, and nobody take over what it does not hear of any more."""

    def deafen() -> None:
        raise asyncio.CancelledError

    async def deaf() -> None:
        async with rig.executor() as executor:
            await eventually(lambda: executor.liveness.beats > 1)
            with when("beat read back", deafen):
                await asyncio.wait([rig.running], timeout=PATIENCE)
            assert rig.running.done()

    with pytest.raises(ExceptionGroup, match="unhandled errors") as ended:
        await deaf()
    assert str(ended.value.exceptions[0]) == "Beats.read ended, which it never does"


async def test_a_cancel_stops_the_upstream(rig: Rig) -> None:
    id = await rig.accept("a b c", metadata={"echo.interval_ms": "20", "echo.tokens": "100000"})
    async with rig.executor() as executor:
        await eventually(lambda: len(rig.events(id)) > 4)
        await rig.put(Cancelled(id, "n", TENANT).new(b"{}"))
        await eventually(lambda: not executor.engine.runs)
        assert rig.state(id).status == "cancelled"


async def test_a_fenced_run_stops_and_says_nothing_that_counts(rig: Rig) -> None:
    id = await rig.accept("a b c", metadata={"echo.interval_ms": "20", "echo.tokens": "100000"})
    async with rig.executor() as executor:
        await eventually(lambda: len(rig.events(id)) > 4)
        await rig.claim(id, attempt=2, claim=claim_of("other"))
        await eventually(lambda: not executor.engine.runs)
        state = rig.state(id)
        assert (state.executor, state.claim) == (DEAD, claim_of("other"))


async def test_an_overdue_response_is_ended_by_the_owner(rig: Rig) -> None:
    id = await rig.accept(deadline=1)
    async with rig.executor():
        await rig.closed(id)
    assert rig.events(id)[-1]["response"]["error"]["type"] == "deadline"


async def test_an_unknown_model_ends_honestly(rig: Rig) -> None:
    id = await rig.accept(model="gone")
    async with rig.executor():
        state = await rig.closed(id)
    assert state.status == "failed"
    assert rig.events(id)[-1]["response"]["error"]["type"] == "no_backend"


async def test_poison_in_accepted_strands_nobody(rig: Rig) -> None:
    id = response_id(0, b"p" * 16)
    entry = Accepted(id, "n", TENANT, "sha", FAR, FAR, background=True, store=True)
    await rig.put(entry.new(b'{"request": [1], "respon'))
    await rig.put(NewRecord(b"\xff\xfe", b"x", [("kind", b"event")]))
    after = await rig.accept("fine")
    async with rig.executor():
        assert (await rig.closed(id)).status == "failed"
        assert (await rig.closed(after)).status == "completed"


async def test_slots_bound_what_runs_at_once(rig: Rig) -> None:
    ids = [await rig.accept("a b", metadata={"echo.interval_ms": "5"}) for _ in range(8)]
    most = 0
    async with rig.executor(slots=3) as executor:
        while not all(rig.state(id).closed for id in ids):
            most = max(most, len(executor.engine.runs))
            await asyncio.sleep(0.001)
    assert 1 <= most <= 3


async def test_the_watermark_follows_the_oldest_open_response(rig: Rig, log: MemoryLog) -> None:
    slow = await rig.accept("a b c", metadata={"echo.interval_ms": "20", "echo.tokens": "100000"})
    quick = await rig.accept("x")
    offset = rig.state(slow).offset

    async def committed() -> int | None:
        return (await log.committed("rejoinder-executors", NAMES.events, [0]))[0]

    async with rig.executor():
        await rig.closed(quick)
        await asyncio.sleep(0.1)
        assert (await committed() or 0) <= offset
        await rig.put(Cancelled(slow, "n", TENANT).new(b"{}"))
        await eventually(
            lambda: (log.groups["rejoinder-executors"].checkpoints.get((NAMES.events, 0)) or 0) > offset
        )


def left_of(log: MemoryLog) -> list[bytes]:
    """The keys in partition 0 that no tombstone names."""
    records = log.records(NAMES.events, 0)
    erased = {record.key for record in records if record.value is None}
    return [record.key or b"" for record in records if record.key not in erased]


async def test_a_delete_leaves_a_tombstone_for_every_key_but_its_own(rig: Rig, log: MemoryLog) -> None:
    id = await rig.accept("a b c")
    kept = await rig.accept("kept")
    async with rig.executor():
        await rig.closed(id)
        await rig.closed(kept)
        await rig.put(Deleted(id, "n", TENANT, rig.state(id).offset).new())
        await rig.event(id, 99, {"type": "response.output_text.delta"})  # a zombie's late event

        def values() -> list[bytes]:
            log.compact(NAMES.events)
            stored = log.records(NAMES.events, 0)
            return [
                r.key or b"" for r in stored if r.value is not None and (r.key or b"").startswith(id.encode())
            ]

        await eventually(lambda: values() == [f"{id}/deleted/n".encode()])
    assert len(rig.events(kept)) > 3


async def test_a_response_that_is_not_stored_is_erased_when_it_closes(rig: Rig, log: MemoryLog) -> None:
    id = await rig.accept("a b c", store=False, background=False)
    async with rig.executor():
        await rig.closed(id)
        await eventually(lambda: left_of(log) == [])


async def test_an_ephemeral_response_is_erased_when_beats_say_that_its_time_is_over() -> None:
    """Also by an executor that was not there when it closed, and not before."""
    now = [1_000_000]
    rig = Rig(log := MemoryLog({NAMES.events: 2, NAMES.executors: 1}, clock=lambda: now[0]))
    id = await rig.accept("a b c", store=False)
    async with rig.executor(ephemeral_s=60):
        closed = await rig.closed(id)
        await eventually(lambda: value_of(metrics.EPHEMERAL) == 1)
    now[0] = closed.touched + 60_000
    async with rig.executor(ephemeral_s=60) as executor:
        await eventually(lambda: executor.liveness.now == closed.touched + 60_000)
        await eventually(lambda: executor.liveness.beats > 1)
        assert executor.engine.partitions[0].watermark(1 << 60) == closed.offset
        assert len(left_of(log)) == len(log.records(NAMES.events, 0))
        now[0] += 1
        await eventually(lambda: left_of(log) == [])
        await eventually(lambda: executor.engine.partitions[0].watermark(1 << 60) == 1 << 60)


async def test_a_delete_erases_an_ephemeral_response_at_once_and_what_is_late_as_well(
    rig: Rig, log: MemoryLog
) -> None:
    id = await rig.accept("a b c", store=False)
    async with rig.executor():
        await rig.closed(id)
        await rig.event(id, 99, {"type": "late"})
        kept = len(log.records(NAMES.events, 0))
        await eventually(lambda: value_of(metrics.EPHEMERAL) == 1)
        assert len(left_of(log)) == kept
        await rig.put(Deleted(id, "n", TENANT, 0).new())
        await eventually(lambda: left_of(log) == [f"{id}/deleted/n".encode()])


async def test_requests_that_are_void_are_erased(rig: Rig, log: MemoryLog) -> None:
    """Nobody was told of them, so nobody will delete them: neither one alone nor one that repeats another."""
    kept = await rig.accept()
    ids = response_id(0, b"v" * 16), kept
    voids = [Accepted(id, "void", TENANT, "sha", 1, FAR, background=True, store=True) for id in ids]
    for void in voids:
        await rig.put(void.new(b"{}"))

    def tombstones() -> list[bytes | None]:
        return [record.key for record in log.records(NAMES.events, 0) if record.value is None]

    async with rig.executor():
        await rig.closed(kept)
        await eventually(lambda: len(tombstones()) == len(ids))
    assert tombstones() == [void.new(b"{}").key for void in voids]


@pytest.mark.parametrize("owned", [True, False])
async def test_a_run_whose_partition_is_out_of_range_goes_on_in_a_new_one(
    rig: Rig, log: MemoryLog, monkeypatch: pytest.MonkeyPatch, owned: bool
) -> None:
    """Owned or not: its executor is alive, so nobody else takes it over (P-43, P-64)."""
    joined = joining(log, monkeypatch)
    id = await rig.accept("a b c d e f g h", metadata={"echo.interval_ms": "20"})
    async with rig.executor() as executor:
        await eventually(lambda: len(rig.events(id)) > 4)
        if not owned:
            joined[0].expel()
            await eventually(lambda: not executor.engine.partitions[0].owned)
        lost = lose_position(log, TopicPartition(NAMES.events, 0), monkeypatch)
        state = await rig.closed(id)
    assert lost
    assert (state.status, state.attempt) == ("completed", 2)
    assert text(rig.events(id)) == "a b c d e f g h"


async def test_a_successor_waits_for_its_predecessor(rig: Rig) -> None:
    first = await rig.accept("a b c", metadata={"echo.interval_ms": "20", "echo.tokens": "100000"})
    second = await rig.accept("x", previous_response_id=first)
    async with rig.executor():
        await eventually(lambda: len(rig.events(first)) > 4)
        assert rig.state(second).attempt == 0
        await rig.put(Cancelled(first, "n", TENANT).new(b"{}"))
        await eventually(lambda: rig.state(second).attempt == 1)


async def test_draining_finishes_what_runs_and_claims_nothing_new(rig: Rig, log: MemoryLog) -> None:
    id = await rig.accept("a b c d e", metadata={"echo.interval_ms": "10"})
    async with rig.executor(grace_s=20):
        await eventually(lambda: len(rig.events(id)) > 3)
    assert rig.state(id).status == "completed"
    left = dict(log.records(NAMES.executors, 0)[-1].headers)
    assert left["leaving"] == b"1"


async def test_what_does_not_finish_within_the_grace_is_handed_over_not_ended(rig: Rig) -> None:
    id = await rig.accept("a b c", metadata={"echo.interval_ms": "20", "echo.tokens": "100"})
    async with rig.executor(grace_s=0.1):
        await eventually(lambda: len(rig.events(id)) > 3)
    assert not rig.state(id).closed
    async with rig.executor():
        state = await rig.closed(id)
    assert (state.status, state.attempt) == ("completed", 2)
    assert liveness.BEATS_TO_GONE > 1


class Endless:
    """A backend that never stops talking and never says anything that ends."""

    repeatable = resumable = pass_extensions = False

    def __init__(self) -> None:
        self.taken = 0

    async def stream(
        self,
        request: RunRequest,  # noqa: ARG002 - the port's
        resume: Resume | None = None,  # noqa: ARG002 - the port's
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        item = {"id": "m", "type": "message", "content": []}
        yield [UpstreamEvent({"type": "response.output_item.added", "output_index": 0, "item": item})]
        delta = {
            "type": "response.output_text.delta",
            "output_index": 0,
            "content_index": 0,
            "delta": "x" * 1_000,
        }
        while True:
            self.taken += 1
            yield [UpstreamEvent(delta)]
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Nothing to close."""


class Told:
    """A backend that notes, when its stream is closed, whether the upstream is left running for another."""

    resumable = True
    repeatable = pass_extensions = False

    def __init__(self) -> None:
        self.left_running: list[bool] = []

    async def stream(
        self,
        request: RunRequest,
        resume: Resume | None = None,  # noqa: ARG002 - the port's
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        try:
            yield [UpstreamEvent({"type": "response.in_progress"}, "resp_theirs", 0)]
            await asyncio.Event().wait()
        finally:
            self.left_running.append(request.abandoned())

    async def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_drain_leaves_an_upstream_running_and_a_cancel_does_not(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, *, cancelled: bool
) -> None:
    told, registry = Told(), build(load("", {}), {})
    monkeypatch.setattr(registry, "resolve", lambda _: told)
    id = await rig.accept()
    async with rig.executor(registry, grace_s=0.05):
        await eventually(lambda: rig.events(id))
        if cancelled:
            await rig.put(Cancelled(id, "n", TENANT).new(b"{}"))
            await eventually(lambda: told.left_running)
    assert told.left_running == [not cancelled]


class Deaf(Endless):
    """A backend whose stream does not end when it is cancelled once."""

    async def stream(
        self,
        request: RunRequest,  # noqa: ARG002 - the port's
        resume: Resume | None = None,  # noqa: ARG002 - the port's
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        try:
            yield [UpstreamEvent({"type": "response.in_progress"}, "resp_theirs", 0)]
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()


async def test_a_drain_does_not_wait_for_a_run_that_was_given_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf, registry = Deaf(), build(load("", {}), {})
    monkeypatch.setattr(registry, "resolve", lambda _: deaf)
    id = await rig.accept()
    async with rig.executor(registry, grace_s=3600) as executor:
        await eventually(lambda: rig.events(id))
        executor.do(executor.engine.give_up(executor.engine.runs[id]))


async def test_an_upstream_is_held_back_while_nothing_is_read_back(
    rig: Rig, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = Endless()
    registry = build(load("", {}), {})
    monkeypatch.setattr(registry, "resolve", lambda _: endless)
    id = await rig.accept()
    async with rig.executor(registry) as executor:
        await eventually(lambda: endless.taken > 10)
        log.available = False
        before = 0

        async def held_back() -> bool:
            nonlocal before
            before = endless.taken
            await asyncio.sleep(0.3)
            return endless.taken == before

        await eventually(held_back)
        assert executor.engine.runs
        log.available = True
        await eventually(lambda: endless.taken > before)
        await rig.put(Cancelled(id, "n", TENANT).new(b"{}"))
        await eventually(lambda: not executor.engine.runs)


def test_accepted_value_is_read_without_decoding_its_parts() -> None:
    value = accepted_value(b'{"request": {"a": 1.0}, "response": {"b":  2}}')
    assert bytes(value.response) == b'{"b":  2}'


class Chatty:
    """A backend that sends progress of its own kind, slowly, and then an answer."""

    repeatable = resumable = pass_extensions = False

    async def stream(
        self,
        request: RunRequest,  # noqa: ARG002 - the port's
        resume: Resume | None = None,  # noqa: ARG002 - the port's
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        for n in range(3):
            yield [UpstreamEvent({"type": "agent.progress", "n": n})]
            await asyncio.sleep(0.1)
        yield [UpstreamEvent({"type": "response.completed", "response": {"output": []}})]

    async def close(self) -> None:
        """Nothing to close."""


async def test_extensions_hold_nothing_back_once_they_are_in_the_log(
    rig: Rig, log: MemoryLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = build(load("", {}), {})
    monkeypatch.setattr(registry, "resolve", lambda _: Chatty())
    id = await rig.accept()
    async with rig.executor(registry, lease_s=0.05):  # patience is half of it: far less than the pauses
        state = await rig.closed(id)
    assert state.status == "completed"
    kinds = [dict(r.headers).get("kind") for r in log.records(NAMES.events, 0)]
    assert kinds.count(b"extension") == 3


class Odd:
    """A backend that says something that nobody can fold."""

    repeatable = resumable = pass_extensions = False

    def __init__(self, *events: dict[str, Any]) -> None:
        self._events = events

    async def stream(
        self,
        request: RunRequest,  # noqa: ARG002 - the port's
        resume: Resume | None = None,  # noqa: ARG002 - the port's
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        yield [UpstreamEvent(dict(event)) for event in self._events]

    async def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.output_text.delta", "output_index": 0, "content_index": None, "delta": "x"},
        {"type": "response.output_text.delta", "output_index": [], "delta": "x"},
        {"type": "response.output_text.done", "output_index": 0, "content_index": None, "text": "x"},
        {"type": "x" * 600_000},
        {"type": "response.completed", "response": {"output": 7}},
    ],
    ids=["null-index", "list-index", "done-null", "long-type", "odd-output"],
)
async def test_an_odd_event_ends_its_own_response_at_most(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, event: dict[str, Any]
) -> None:
    item = {"id": "m", "type": "message", "content": []}
    odd = Odd({"type": "response.output_item.added", "output_index": 0, "item": item}, event)
    registry = build(load("", {}), {})
    real = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda body: odd if body["input"] == "odd" else real(body))
    id, other = await rig.accept("odd"), await rig.accept("a b c")
    async with rig.executor(registry):
        assert (await rig.closed(id)).attempt == 1
        assert (await rig.closed(other)).status == "completed"


async def test_a_run_whose_output_cannot_be_told_ends_without_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Scribe, __: Ending) -> Steps[list[Draft]]:
        raise TypeError("no output to be had")

    id = await rig.accept(model="gone")
    with monkeypatch.context() as once:
        real, calls = Scribe.ending, 0

        def end(self: Scribe, ending: Ending) -> Steps[list[Draft]]:
            nonlocal calls
            calls += 1
            return broken(self, ending) if calls <= 2 else real(self, ending)

        once.setattr(Scribe, "ending", end)
        async with rig.executor():
            state = await rig.closed(id)
    assert (state.status, calls) == ("failed", 3)


async def test_stopping_takes_no_longer_without_the_log(rig: Rig, log: MemoryLog) -> None:
    id = await rig.accept("a b c", metadata={"echo.interval_ms": "20", "echo.tokens": "100000"})
    began = 0.0
    async with rig.executor(grace_s=0.2):
        await eventually(lambda: len(rig.events(id)) > 3)
        log.available = False
        began = steady()
    assert steady() - began < 8


async def test_an_item_larger_than_a_record_ends_its_response(rig: Rig) -> None:
    """Its `done` fits no record: the run must not wait for what was never appended."""
    id = await rig.accept("x" * 2_000, metadata={"echo.tokens": "1000"})
    async with rig.executor(max_record_bytes=MAX_RECORD_BYTES):
        state = await rig.closed(id)
    assert state.status == "failed"
    assert rig.events(id)[-1]["response"]["error"]["type"] == "event_too_large"


class Silent(Chatty):
    """A resumable backend that says that it has begun, and then thinks."""

    resumable = True

    async def stream(
        self,
        request: RunRequest,  # noqa: ARG002 - the port's
        resume: Resume | None = None,
    ) -> AsyncGenerator[Sequence[UpstreamEvent]]:
        if resume is None:
            yield [UpstreamEvent({"type": "response.created", "response": {}}, "resp_theirs", 0)]
            await asyncio.Event().wait()
        assert resume is not None
        assert (resume.upstream_id, resume.cursor) == ("resp_theirs", 0)
        yield [UpstreamEvent({"type": "response.completed", "response": {"output": []}}, "resp_theirs", 1)]


async def test_an_upstream_that_has_only_begun_is_resumed_by_the_next_executor(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = build(load("", {}), {})
    monkeypatch.setattr(registry, "resolve", lambda _: Silent())
    id = await rig.accept()
    async with rig.executor(registry, grace_s=0.1):
        await eventually(lambda: len(rig.events(id)) == 1)
    async with rig.executor(registry):
        state = await rig.closed(id)
    assert (state.status, state.attempt) == ("completed", 2)


async def test_a_deadline_in_the_middle_of_a_long_event_loses_nothing_of_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = in_turns

    async def stops(steps: Steps[Any]) -> Any:
        monkeypatch.setattr(narrator, "in_turns", real)
        next(steps)
        await asyncio.Event().wait()

    monkeypatch.setattr(narrator, "in_turns", stops)
    said = [{"type": "message", "content": f"{number}"} for number in range(STEP_DRAFTS)]
    odd = Odd({"type": "response.completed", "response": {"status": "completed", "output": said}})
    registry = build(load("", {}), {})
    monkeypatch.setattr(registry, "resolve", lambda _body: odd)
    id = await rig.accept(deadline=int(time.time() * 1000) + 1500)
    async with rig.executor(registry):
        assert (await rig.closed(id)).status == "completed"
    assert len(rig.events(id)[-1]["response"]["output"]) == STEP_DRAFTS


async def test_a_partition_whose_leader_is_away_holds_up_no_erasure_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig = Rig(MemoryLog({NAMES.events: 3, NAMES.executors: 1}))
    first, *others = [await rig.accept(partition=number) for number in range(3)]
    with away(rig.log, TopicPartition(NAMES.events, 0), monkeypatch) as leave:
        async with rig.executor():
            for id in (first, *others):
                await rig.closed(id)
            with when("response closed", lambda id: leave.set() if id == first else None):
                await rig.put(Deleted(first, "n", TENANT, 0).new())
                await eventually(leave.is_set)
            for round_ in range(2):  # also what is deleted while the first scan waits
                for number, id in enumerate(others, 1):
                    id = id if round_ == 0 else await rig.accept(partition=number)
                    await rig.put(Deleted(id, "n", TENANT, 0).new(), number)
                    await eventually(partial(_is_erased, rig, id, number))
            assert not _is_erased(rig, first, 0)
            leave.clear()
            await eventually(lambda: _is_erased(rig, first, 0))


def _is_erased(rig: Rig, id: ResponseId, partition: int) -> bool:
    records = rig.log.records(NAMES.events, partition)
    return any(r.key == f"{id}/accepted/n".encode() and r.value is None for r in records)


async def test_what_came_late_is_erased_by_the_next_owner_whatever_holds_the_watermark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """P-94: the next owner has not seen that the response was deleted, and what came late closes it anew."""
    now = [1_700_000_000_000]
    rig = Rig(MemoryLog({NAMES.events: 2, NAMES.executors: 1}, clock=lambda: now[0]))
    gone = await rig.accept()
    await rig.put(Deleted(gone, "n", TENANT, 0).new())
    now[0] += 600_000
    open_: dict[str, Any] = {"metadata": {"echo.tokens": "100", "echo.interval_ms": "60000"}}
    first, _ = await rig.accept(**open_), await rig.accept(**open_)
    offset = rig.state(first).offset
    late = Cancelled(gone, "late", TENANT).new(b"{}")

    def erased(key: bytes) -> bool:
        return any(r.key == key and r.value is None for r in rig.log.records(NAMES.events, 0))

    async def committed() -> bool:
        return (await rig.log.committed(executors_group(Settings()), NAMES.events, [0]))[0] == offset

    with monkeypatch.context() as dying:
        async with rig.executor():
            await eventually(lambda: erased(f"{gone}/accepted/n".encode()))
            await eventually(committed)
            dying.setattr(Steward, "erasures", lambda _: [])
            await rig.put(late)
            await rig.put(Cancelled(first, "n", TENANT).new(b"{}"))
            beats = len(rig.log.records(NAMES.executors, 0))
            await eventually(lambda: len(rig.log.records(NAMES.executors, 0)) > beats + 4)
    assert not erased(late.key)
    async with rig.executor():
        await eventually(lambda: erased(late.key))


async def test_p145_an_owner_commits_a_checkpoint_of_each_partition_that_has_none(
    rig: Rig, log: MemoryLog
) -> None:
    group = executors_group(Settings())

    async def said(partitions: int) -> bool:
        found = await log.checkpoints(group, NAMES.events, range(partitions))
        return set(found.values()) == {Checkpoint(0, 0)}

    async with rig.executor():
        await eventually(lambda: said(2))
        log.grow(NAMES.events, 5)
        await eventually(lambda: said(5))
