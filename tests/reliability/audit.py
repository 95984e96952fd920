"""Audits every response from outside: over HTTP as clients do, and in the log itself."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from schemas.fold import Fold, Verdict
from schemas.ids import ResponseId
from schemas.records import Accepted, Cancelled, Claimed, Deleted, EventRecord, LogRecord, parse
from services.eventlog.port import TopicPartition
from services.eventlog.topics import topics
from tests.api import TERMINAL, Api
from tests.reliability.rig import Rig
from tests.steady import steady
from tests.wire import Frame

ENDS_S = 90.0
"""Seconds within which every response of these tests ends, whatever happens to it."""


class Life(NamedTuple):
    """A response as the records that count tell it."""

    status: str
    deleted: bool
    attempts: int
    executors: list[str]
    values: dict[int, bytes]
    """By number, the values of the events that count."""
    terminals: int
    not_counting: list[str]
    """The records that do not count, and why."""
    at: list[int]
    """The log time of each record that counts, in milliseconds."""


def records(rig: Rig, topic: str) -> list[LogRecord]:
    """All records of a topic, partition by partition."""
    with rig.log() as log:

        async def read() -> list[LogRecord]:
            found: list[LogRecord] = []
            bounds = await log.bounds(topic, range(await log.partitions(topic)))
            for partition, (start, end) in bounds.items():
                source, at = TopicPartition(topic, partition), start
                while at < end:
                    for batch in await log.fetch({source: at}):
                        found += batch.records
                        at = batch.next_offset
            return found

        return rig.run(read)


def lives(rig: Rig) -> dict[str, Life]:
    """Every response in the log."""
    fold = Fold()
    made: dict[str, Life] = {}
    for record in records(rig, topics(rig.settings.topic_prefix).events):
        entry = parse(record)
        verdict = fold.apply(record.offset, record.timestamp, entry)
        id = getattr(entry, "id", None)
        if id is None:
            continue
        life = made.setdefault(id, Life("", False, 0, [], {}, 0, [], []))
        if verdict is not Verdict.COUNTS:
            life.not_counting.append(f"{entry.kind} {verdict.value}")
            continue
        life.at.append(record.timestamp)
        match entry:
            case EventRecord(sequence_number=number, terminal=terminal):
                assert number not in life.values, f"{id}: {number} counts twice"
                life.values[number] = record.value or b""
                life = life._replace(terminals=life.terminals + bool(terminal))
            case Cancelled():
                life = life._replace(terminals=life.terminals + 1)
            case Claimed(executor=executor):
                life.executors.append(executor)
            case Accepted() | Deleted():
                pass
        made[id] = life
    return {id: _now(life, fold, id) for id, life in made.items()}


def _now(life: Life, fold: Fold, id: str) -> Life:
    state = fold.get(ResponseId(id))
    if state is None:
        return life
    return life._replace(status=state.status, deleted=state.deleted, attempts=state.attempt)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` (0 to 1) of them lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def whole(frames: list[Frame]) -> None:
    """A stream has every number once, in order, and exactly one terminal event, the last."""
    assert [frame.number for frame in frames] == list(range(len(frames)))
    ends = [frame.number for frame in frames if frame.type in TERMINAL]
    assert ends == [len(frames) - 1], f"terminal events at {ends} of {len(frames)}"


class Watched(NamedTuple):
    """A stream as it came, to its clean end; the longest silence before a frame is in seconds."""

    frames: list[Frame]
    silence: float
    keep_alives: int


def watch(api: Api, id: str, timeout: float = ENDS_S) -> Watched:
    """Read a stream from 0 to its end. Fails when it does not end in time."""
    frames: list[Frame] = []
    began = last = steady()
    silence, keep_alives = 0.0, 0
    with api.stream(id) as stream:
        assert stream.status == 200, stream.body()
        for part in stream.parts():
            now = steady()
            assert now - began < timeout, f"{id} is still open after {timeout:g} s: {api.get(id).body!r:.500}"
            if isinstance(part, Frame):
                silence, last = max(silence, now - last), now
                frames.append(part)
            else:
                keep_alives += 1
    return Watched(frames, silence, keep_alives)


def streams(api: Api, ids: Iterable[str], at_once: int = 16) -> dict[str, list[Frame]]:
    """The whole stream of each response; waits for the open ones."""
    ids = list(ids)
    with ThreadPoolExecutor(at_once) as pool:
        return dict(zip(ids, pool.map(lambda id: watch(api, id).frames, ids), strict=True))


def check(rig: Rig, ids: Iterable[str]) -> tuple[dict[str, list[Frame]], dict[str, Life]]:
    """Check each response: its stream is whole and as the log says, and its snapshot is its last event."""
    api = rig.api
    found = streams(api, ids)
    known = lives(rig)
    with ThreadPoolExecutor(16) as pool:
        snapshots = dict(zip(found, pool.map(api.response, found), strict=True))
    for id, frames in found.items():
        whole(frames)
        life = known[id]
        assert life.terminals == 1, f"{id}: {life.terminals} terminal events count"
        seen = {frame.number: frame.data for frame in frames if frame.number in life.values}
        assert seen == life.values, f"{id}: the stream is not the log"
        assert snapshots[id] == frames[-1].event["response"], f"{id}: the snapshot is not the last word"
    return found, known
