"""What earlier versions left in the log, as text: files in `tests/versions`, from when each was released.

    python -m tests.versions     writes the files of this version: whoever releases does, after `make schemas`

A file is lines of JSON: the version; each record of each topic, with its log time; what the groups had
committed; what clients were shown of each response then. So a test can start today's services on that log,
and say that clients see what they saw, and that what was open goes on.
"""

import asyncio
import json
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, convert, to_builtins

from schemas.ids import ResponseId, partition_of
from schemas.records import NewRecord
from services.eventlog.memory import MemoryLog
from services.eventlog.memory_partition import MemoryRecord, record_size
from services.published.documents import VERSION
from tests.conftest import eventually
from tests.ingesting import NAMES, PARTITIONS, Ingesting, executing, started
from tests.projecting import Views, projecting
from tests.serving import ask

FOLDER = Path(__file__).parent / "versions"
KEY = "idempotency-key: a key"
KEYED = {"input": "keyed"}
"""The request that was made with `KEY`."""
FORMS: Mapping[str, Literal[1, 2]] = {"seven-headers": 1, "one-header": 2}
"""By name, the forms in which a version may write events."""


class Shown(Struct, frozen=True):
    """What a client was shown: the object, and of its stream the numbers and the sum of all bytes. One that
    cannot be streamed has neither.
    """

    object: Any
    numbers: Sequence[int]
    sha256: str


class Past(Struct, frozen=True):
    """A log that a version left. `shown` has the responses that had closed; `open` says how far each other
    was: `queued`, or `running` when its executor went.
    """

    version: str
    log: MemoryLog
    shown: Mapping[ResponseId, Shown]
    open: Mapping[ResponseId, str]
    end: int
    """The last log time in it, ms."""


def new_log() -> MemoryLog:
    """An empty log with all topics that front door, executors and the projector use."""
    alike = (NAMES.events, NAMES.transcripts, NAMES.index, NAMES.responses, NAMES.closings)
    return MemoryLog({**dict.fromkeys(alike, PARTITIONS), NAMES.executors: 1, NAMES.installation: 1})


def read(path: Path) -> Past:
    """The log of a file. Its clock goes on where that of the file ended."""
    log = new_log()
    version, shown, still_open, end = "", dict[ResponseId, Shown](), dict[ResponseId, str](), 0
    for line in map(json.loads, path.read_text().splitlines()):
        match line:
            case {"version": version}:
                pass
            case {"topic": topic, "partition": partition, "offset": offset, "timestamp": timestamp}:
                headers = [(name, text.encode()) for name, text in line["headers"]]
                new = NewRecord(line["key"].encode(), _bytes(line["value"]), headers)
                stored = log.stored[topic][partition]
                stored.records.append(MemoryRecord(offset, timestamp, *new, 64 + record_size(new)))
                stored.end, end = offset + 1, max(end, timestamp)
            case {"group": group, "topic": topic, "partition": partition}:
                log.groups[group].checkpoints[topic, partition] = line["offset"]
                log.groups[group].read[topic, partition] = line["read"]
            case {"shown": id, **what}:
                shown[ResponseId(id)] = convert(what, Shown)
            case {"open": id, "was": was}:
                still_open[ResponseId(id)] = was
            case _:
                raise ValueError(f"{path.name} has a line that says nothing known: {line}")
    began = time.monotonic()
    log.clock = lambda: end + 1 + int((time.monotonic() - began) * 1000)
    return Past(version, log, shown, still_open, end)


def lines_of(past: Past) -> Sequence[Mapping[str, Any]]:
    """The lines of a file."""
    log = past.log
    records = [
        {
            "topic": topic,
            "partition": number,
            "offset": record.offset,
            "timestamp": record.timestamp,
            "key": (record.key or b"").decode(),
            "headers": [[name, text.decode()] for name, text in record.headers],
            "value": _text(record.value),
        }
        for topic, partitions in log.stored.items()
        for number, partition in enumerate(partitions)
        for record in partition.records
    ]
    groups = [
        {
            "group": name,
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "read": group.read.get((topic, partition)),
        }
        for name, group in log.groups.items()
        for (topic, partition), offset in group.checkpoints.items()
    ]
    shown = [{"shown": id, **to_builtins(what)} for id, what in past.shown.items()]
    still_open = [{"open": id, "was": was} for id, was in past.open.items()]
    return [{"version": past.version}, *records, *groups, *shown, *still_open]


def _text(value: bytes | None) -> Any:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        assert value is not None
        return {"base64": b64encode(value).decode()}


def _bytes(value: Any) -> bytes | None:
    match value:
        case None:
            return None
        case {"base64": packed}:
            return b64decode(packed)
        case _:
            return str(value).encode()


async def shown(running: Ingesting, id: str) -> Shown:
    """What a client sees of a response now."""
    answer = await running.get(id)
    assert answer.status == 200, answer
    stream = await ask(running.public, f"GET /v1/responses/{id}?stream=true")
    if stream.status != 200:
        return Shown(json.loads(answer.body), [], "")
    found = [int(line.removeprefix(b"id: ")) for line in stream.body.splitlines() if line.startswith(b"id: ")]
    return Shown(json.loads(answer.body), found, sha256(stream.body).hexdigest())


async def closed(running: Ingesting, id: str) -> ResponseId:
    """Wait until a response has closed; its id."""

    async def over() -> bool:
        found = json.loads((await running.get(id)).body)
        return found["status"] not in ("queued", "in_progress")

    await eventually(over)
    return ResponseId(id)


async def live(form: Literal[1, 2]) -> Past:
    """Let this version's services live through what may happen to a response."""
    log = new_log()
    async with started(Ingesting(log, records=form)) as running:
        settings = running.ingest_settings
        async with projecting(log, NAMES, settings):
            async with executing(running):
                left = await _ways_of_life(running)
                slow = {"echo.tokens": "80", "echo.interval_ms": "100"}
                cut = (await running.create(input="cut off", metadata=slow))["id"]
                await eventually(lambda: len(_events(log, cut)) > 8)
                await eventually(lambda: any(record.value is None for record in _events(log)))
            queued = (await running.create(input="one two three", metadata={"echo.tokens": "3"}))["id"]
            views = Views(log, NAMES, settings)
            stored = [id for id in left if (await shown(running, id)).object["store"]]

            for id in stored:
                await eventually(partial(views.frames, id))
            seen = {id: await shown(running, id) for id in left}
    return Past(VERSION, log, seen, {cut: "running", queued: "queued"}, log.clock())


def _events(log: MemoryLog, id: str = "") -> Sequence[MemoryRecord]:
    """The records of `responses.events`, of one response if it is named."""
    records = (record for number in range(PARTITIONS) for record in log.records(NAMES.events, number))
    return [record for record in records if (record.key or b"").startswith(id.encode())]


async def _ways_of_life(running: Ingesting) -> Sequence[ResponseId]:
    """Have responses end in every way. Returns the ids of those that can still be read."""
    few = {"echo.tokens": "3"}
    first = await closed(running, (await running.create(input="one two three", metadata=few))["id"])
    chained = await closed(
        running, (await running.create(input="and on", previous_response_id=first, metadata=few))["id"]
    )
    failed = await closed(
        running, (await running.create(input="one two", metadata={"echo.fail_after": "1"}))["id"]
    )
    keyed = await closed(running, (await running.create(KEY, **KEYED))["id"])
    ephemeral = await closed(running, (await running.create(input="not stored", store=False))["id"])
    waited = await closed(running, json.loads((await running.post({"input": "waited for"})).body)["id"])
    slow = {"echo.tokens": "200", "echo.interval_ms": "50"}
    cancelled = (await running.create(input="to be cancelled", metadata=slow))["id"]
    await running.cancel(cancelled)
    cancelled = await closed(running, cancelled)
    for finished in (True, False):
        deleted = (await running.create(input="to be deleted", metadata=few if finished else slow))["id"]
        if finished:
            await closed(running, deleted)
        await running.delete(deleted)
    return [first, chained, failed, keyed, ephemeral, waited, cancelled]


def main() -> None:
    """Write the files of this version."""
    FOLDER.mkdir(exist_ok=True)
    for name, form in FORMS.items():
        past = asyncio.run(live(form))
        assert {partition_of(id) for id in past.shown} == set(range(PARTITIONS)), "make it again"
        text = "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines_of(past))
        (FOLDER / f"{VERSION}-{name}.jsonl").write_text(text)


if __name__ == "__main__":
    main()
