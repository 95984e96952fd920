"""A rolling upgrade: what earlier versions wrote, mixed with what this one writes, through one fold.

The logs are those of `tests/versions`. Today's services start on them: clients see what they saw, what was
open goes on, and what is new stands beside and between.
"""

import json
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from schemas.closings import ClosingRecord, Marks
from schemas.closings import parse as parse_closing
from schemas.fold import Fold, State, Verdict
from schemas.ids import ClaimId, partition_of
from schemas.records import (
    ONE_HEADER,
    SEVEN_HEADERS,
    Claimed,
    EventRecord,
    LogRecord,
    Unreadable,
    parse,
)
from services.eventlog.memory import MemoryLog
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.transcript import unpack
from services.published.documents import BASELINE, released
from services.web.callers import DEFAULT_TENANT
from tests.conftest import eventually
from tests.ingesting import NAMES, PARTITIONS, Ingesting, executing, started
from tests.projecting import projecting
from tests.simulation.truth import Truth
from tests.versions import FOLDER, KEY, KEYED, Past, closed, lines_of, read, shown

PASTS = sorted(FOLDER.glob("*.jsonl"))
BASELINE_DOCUMENTS = released(Path(__file__).parents[2] / BASELINE)
SEVEN = {"kind", "v", "tenant", "attempt", "claim", "type", "sequence_number"}
"""The headers of an event of the earlier form that are not there for a reason of their own."""
EACH = pytest.mark.parametrize("path", PASTS, ids=lambda path: path.stem)


@asynccontextmanager
async def upgraded(path: Path) -> AsyncIterator[tuple[Past, Ingesting]]:
    """Today's services on the log of a file. The projector is there first: it makes the index (P-138)."""
    past = read(path)
    pair = Ingesting(past.log)
    async with (
        projecting(past.log, NAMES, pair.ingest_settings),
        started(pair) as running,
        executing(running),
    ):
        yield past, running
    audit(past.log)


def audit(log: MemoryLog) -> None:
    """The fold and a second reading of the protocol say the same of the whole log, old and new."""
    for number in range(PARTITIONS):
        fold, truth = Fold(), Truth(ephemeral_ms=600_000)
        for record in log.records(NAMES.events, number):
            entry = parse(record, number)
            assert not isinstance(entry, Unreadable)
            counts = fold.apply(record.offset, record.timestamp, entry) is Verdict.COUNTS
            assert counts == truth.append(record, entry)
        for id, state in fold.responses.items():
            story = truth.story(id)
            assert (state.closed, state.attempt, state.last) == (
                story.closed,
                story.attempt,
                len(story.frames) - 1,
            )


def test_there_are_logs_of_the_last_release_in_both_forms() -> None:
    version = BASELINE_DOCUMENTS["asyncapi.json"]["info"]["version"]
    assert {path.stem for path in PASTS} >= {f"{version}-one-header", f"{version}-seven-headers"}


@EACH
def test_a_file_holds_what_it_was_written_of(path: Path) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines_of(read(path)) == lines


@pytest.mark.parametrize(
    "path",
    [path for path in PASTS if path.stem.startswith(BASELINE_DOCUMENTS["asyncapi.json"]["info"]["version"])],
    ids=lambda path: path.stem,
)
def test_what_was_written_is_what_was_published(path: Path) -> None:
    past = read(path)
    seen = Counter[str]()
    for topic, partitions in past.log.stored.items():
        for record in (record for partition in partitions for record in partition.records):
            kind = (
                "tombstone" if record.value is None else dict(record.headers).get("kind", b"event").decode()
            )
            schema = BASELINE_DOCUMENTS[f"records/{topic}.{kind}.json"]
            packed = "contentEncoding" in schema["properties"]["value"]
            value: Any = "" if packed else None if record.value is None else msgspec.json.decode(record.value)
            headers = {name: text.decode() for name, text in record.headers}
            whole = {"key": (record.key or b"").decode(), "headers": headers, "value": value}
            Draft202012Validator(schema).validate(whole)
            assert not packed or unpack(record.value or b"")
            seen[f"{topic}.{kind}"] += 1
    events = ("accepted", "claimed", "event", "cancelled", "deleted", "tombstone")
    assert seen.keys() >= {f"responses.events.{kind}" for kind in events}
    assert seen.keys() >= {"transcripts.chunk", "transcripts.gone", "responses.response", "closings.closing"}


@EACH
async def test_clients_see_what_they_saw(path: Path) -> None:
    async with upgraded(path) as (past, running):
        for id, before in past.shown.items():
            assert await shown(running, id) == before


@EACH
async def test_what_was_open_goes_on(path: Path) -> None:
    async with upgraded(path) as (past, running):
        for id, was in past.open.items():
            told = [
                parse(record)
                for record in past.log.records(NAMES.events, partition_of(id))
                if record.timestamp <= past.end
            ]
            before = max(
                (
                    event.sequence_number
                    for event in told
                    if isinstance(event, EventRecord) and event.id == id
                ),
                default=-1,
            )
            assert (was == "running") == (before > 0)
            now = await shown(running, await closed(running, id))
            assert now.object["status"] == "completed"
            assert now.numbers == list(range(len(now.numbers)))
            assert len(now.numbers) > before + 1


@EACH
async def test_old_and_new_responses_meet(path: Path) -> None:
    """A chain goes on, a repeated key finds its response, a delete and a cancel hold."""
    async with upgraded(path) as (past, running):
        keyed = json.loads((await running.post({"background": True} | KEYED, KEY)).body)
        assert keyed["id"] in past.shown
        (chained,) = (id for id, seen in past.shown.items() if seen.object["previous_response_id"])
        more = await running.create(input="and again", previous_response_id=chained)
        assert partition_of(more["id"]) == partition_of(chained)
        assert (await shown(running, await closed(running, more["id"]))).object["status"] == "completed"
        (cut,) = (id for id, was in past.open.items() if was == "running")
        assert json.loads((await running.cancel(cut)).body)["status"] == "cancelled"
        assert (await running.delete(chained)).status == 200
        assert (await running.get(chained)).status == 404
        for id, before in past.shown.items():
            if id != chained:
                assert await shown(running, id) == before


@EACH
async def test_a_consumer_counts_each_end_once(path: Path) -> None:
    """Closings behind the watermark are announced again, by another version too: marks tell them (P-108)."""

    def counted(log: MemoryLog) -> Counter[str]:
        found = Counter[str]()
        for number in range(PARTITIONS):
            marks = Marks()
            for record in log.records(NAMES.closings, number):
                closing = parse_closing(record, number)
                assert isinstance(closing, ClosingRecord)
                found[closing.id] += marks.fresh(closing)
        return found

    before = counted(read(path).log)
    assert set(before.values()) == {1}
    async with upgraded(path) as (past, running):
        for id in past.open:
            await closed(running, id)
        await eventually(lambda: past.open.keys() <= counted(past.log).keys())
    assert counted(past.log) == before + Counter(past.open.keys())
    again: dict[bytes, set[bytes | None]] = {}
    for number in range(PARTITIONS):
        for record in past.log.records(NAMES.closings, number):
            again.setdefault(record.key or b"", set()).add(record.value)
    assert all(len(values) == 1 for values in again.values())


def in_form(record: MemoryRecord, form: int, attempts: Mapping[ClaimId, int]) -> MemoryRecord:
    """`record` as a writer of that form writes it, if it is an event."""
    entry = parse(record)
    if not isinstance(entry, EventRecord):
        return record
    headers = dict(record.headers)
    more = [(name, value) for name, value in record.headers if name not in SEVEN]
    if form == ONE_HEADER:
        return record._replace(headers=[("type", headers["type"]), *more])
    said = {
        "kind": "event",
        "v": "1",
        "tenant": DEFAULT_TENANT,
        "attempt": attempts[entry.claim],
        "claim": entry.claim,
        "type": headers["type"].decode(),
        "sequence_number": entry.sequence_number,
    }
    return record._replace(headers=[*((name, str(value).encode()) for name, value in said.items()), *more])


def facts(records: Iterable[LogRecord]) -> Mapping[str, Any]:
    """What the fold knows of each response at the end."""
    fold = Fold()
    for record in records:
        fold.apply(record.offset, record.timestamp, parse(record))
    names = [name for name in State.__slots__ if name != "accepted"]
    return {id: {name: getattr(state, name) for name in names} for id, state in fold.responses.items()}


@EACH
def test_wherever_writers_change_their_form_the_fold_is_the_same(path: Path) -> None:
    """P-15: executors of both forms may run together for any time, and one may take over from the other."""
    log = read(path).log
    for number in range(PARTITIONS):
        records = log.records(NAMES.events, number)
        entries = [parse(record) for record in records]
        attempts = {entry.claim: entry.attempt for entry in entries if isinstance(entry, Claimed)}
        one, seven = (
            [in_form(record, form, attempts) for record in records] for form in (ONE_HEADER, SEVEN_HEADERS)
        )
        assert records in (one, seven)
        wanted = facts(records)
        assert len(wanted) > 2
        for cut in range(len(records) + 1):
            assert facts([*seven[:cut], *one[cut:]]) == wanted
            assert facts([*one[:cut], *seven[cut:]]) == wanted
