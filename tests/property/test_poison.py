"""Whatever lies in the log, no reader fails at it (P-8, P-11, A-22): any record, and true ones with a part
exchanged, go through the parsers and then through every reader.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs
from msgspec.structs import replace

from schemas import closings, records
from schemas.events import frame
from schemas.fold import State
from schemas.ids import ExecutorId, ResponseId, Tenant, parse_response_id, response_id
from schemas.records import (
    ONE_HEADER,
    SEVEN_HEADERS,
    Accepted,
    Cancelled,
    Claimed,
    Deleted,
    EventHeaders,
    NewRecord,
    Unreadable,
)
from schemas.steps import finished
from schemas.upstream_headers import upstream_headers
from services.eventlog import shelf, transcript
from services.eventlog.memory import MemoryLog
from services.eventlog.port import Batch, TopicPartition
from services.eventlog.shelf import Shelved, Whereabouts
from services.eventlog.topics import topics
from services.eventlog.transcript import (
    CHUNK_BYTES,
    PackedChunk,
    Packer,
    Summary,
    TranscriptBroken,
    gone_record,
    transcript_records,
)
from services.executor.engine import Engine
from services.executor.eraser import erase
from services.executor.history import History
from services.executor.liveness import Liveness
from services.executor.partition import Partition
from services.executor.predecessors import Predecessors
from services.projector.announcer import closing_record
from services.projector.closing import Closing
from services.projector.projection import Projection
from services.projector.readback import Readback
from services.projector.writes import Write
from services.replay.folding import Folding
from services.replay.frames import found_frames
from services.replay.library import Library
from services.replay.objects import begun, final_object, first_object
from services.replay.reader import Cut, packed_chunks
from services.replay.snapshot import events_in
from services.replay.turn import request_body
from services.replay.window import Memory
from tests.stores import memory_store
from tests.written import claim_of

NAMES = topics()
EVENTS, TRANSCRIPTS = TopicPartition(NAMES.events, 0), TopicPartition(NAMES.transcripts, 0)
TENANT, FAR, EXECUTOR = Tenant("acme"), 10**15, ExecutorId("exec_1")
ELSEWHERE = response_id(1, bytes(16))
DEEP = b"[" * 2_000 + b"]" * 2_000
BOMB = b"\x28\xb5\x2f\xfd\xe0" + (1 << 40).to_bytes(8, "little") + b"\x01\x00\x00"
"""Says that it unpacks to a terabyte."""
NUMBERS = [b"", b"0", b"2", b"-1", b"07", b"1_0", b" 1", "١".encode(), b"9" * 16, b"9" * 17, b"9" * 4000]
VALUES = [b"", b"null", b"[]", b"{}", b"\xff", DEEP, b'{"request":%b,"response":{}}' % DEEP]
VALUES += [b'{"response":%b}' % DEEP, b'{"response":{"model":%b}}' % DEEP, BOMB, transcript.pack(DEEP)]
VALUES += [transcript.pack(b'{"request":%b,"response":{}}' % DEEP)]


def id_of(n: int) -> ResponseId:
    return response_id(0, (n % 2**128).to_bytes(16))


IDS = [id_of(n) for n in range(3)]


class Stored(Struct):
    """A `LogRecord` of anything."""

    key: Any
    value: Any
    headers: Any
    offset: int = 0
    timestamp: int = 0


def written(n: int) -> list[NewRecord]:
    """The records of response `n` in `responses.events`: it fails, is cancelled and deleted, or is not
    stored. Every fourth response has events of the earlier form.
    """
    id, claim, kind, value = id_of(n), claim_of("1"), n % 4 % 3, value_of(n)
    form = SEVEN_HEADERS if n % 4 == 3 else ONE_HEADER
    accepted = Accepted(id, "n", TENANT, "sha", FAR, FAR, background=True, store=kind < 2, keyed=True)
    accepted = replace(accepted, model="echo", route="echo", to_agent=kind == 1)
    event, upstream = EventHeaders(id, claim, 1, TENANT, form), upstream_headers("up_1", 7)
    begun = [
        replace(accepted, previous=id_of(n - 3)).new(value),
        Claimed(id, 1, claim, EXECUTOR, TENANT).new(),
        event.event(2, "response.in_progress", b"{}"),
    ]
    if kind == 1:
        return [*begun, Cancelled(id, "n", TENANT).new(value), Deleted(id, "n", TENANT, 0).new()]
    final = b'{"response":{"model":"m"}}'
    end = event.event(3, "response.failed", final, "failed", upstream)
    return [*begun, event.extension(0, "agent.step", b"{}"), end]


def packed(n: int) -> list[NewRecord]:
    """The records of response `n` in `transcripts`: its request, its events in two chunks, and for every
    fourth that it is gone.
    """
    summary = Summary(TENANT, "failed", True, "sha", 0, 9, 1, 2, 2)
    gone = [transcript.gone_record(id_of(n), TENANT)] * (n % 4 == 0)
    return [*transcript_records(id_of(n), summary, value_of(n), CHUNKS), *gone]


def entry_at(summary: transcript.Summary, request: int, chunks: Sequence[tuple[int, int]]) -> Shelved:
    """The entry of a transcript whose records are there."""
    return Shelved(
        tenant=summary.tenant,
        status=summary.status,
        background=summary.background,
        body_sha256=summary.body_sha256,
        accepted_offset=summary.accepted_offset,
        created_at=summary.created_at,
        closed_offset=summary.closed_offset,
        events=summary.events,
        where=Whereabouts(request, tuple(at for at, _ in chunks), tuple(first for _, first in chunks)),
    )


def shelved(n: int) -> list[NewRecord]:
    """The entry of a response and, of every other one, that it is gone."""
    summary = Summary(TENANT, "completed", True, "sha", 3, 9, 1, 2, len(CHUNKS))
    gone = [gone_record(id_of(n), TENANT)] if n % 2 else []
    return [entry_at(summary, 0, [(1, 0), (2, 1)]).new(id_of(n)), *gone]


def value_of(n: int) -> bytes:
    return b'{"request":{"model":"echo"},"response":{"id":"%b"}}' % id_of(n).encode()


def chunks() -> list[PackedChunk]:
    packer = Packer()
    for number in range(2):
        packer.add(frame("x", number, b" " * CHUNK_BYTES))
    return packer.seal()


CHUNKS = chunks()
LIFE = len(written(0))
TRUE = [record for n in range(4) for record in (*written(n), *packed(n), *shelved(n))]
header_names = st.sampled_from(sorted({name for record in TRUE for name, _ in record.headers}))
HEADER_VALUES = [None, b"\xff", b"event", b"deleted", b"queued", b"zz", ELSEWHERE.encode(), *NUMBERS]
PARTS = ["accepted", "deleted", "request", "x", "1", "2", "-1", "07", "9" * 17, "١", ""]
KEYS = [None, b"", b"\xff/1", b"zz/gone", b"zz/request", f"{ELSEWHERE}/gone".encode(), b"a/b/c/d/e/f"]
keys = (
    st.sampled_from(KEYS)
    | st.binary(max_size=8)
    | st.builds(
        lambda id, parts: "/".join([id, *parts]).encode(),
        st.sampled_from([*IDS, ELSEWHERE, "zz"]),
        st.lists(st.sampled_from(PARTS), max_size=4),
    )
)
values = st.none() | st.binary(max_size=8) | st.sampled_from(VALUES)
whatever = st.builds(
    Stored, keys, values, st.lists(st.tuples(header_names, st.sampled_from(HEADER_VALUES)), max_size=14)
)


def exchanges(record: NewRecord) -> Iterator[Callable[[Stored], Stored]]:
    """What exchanges one part of a record like `record`, or leaves it out, in all ways we can think of."""
    parts = record.key.decode().split("/")
    yield from (partial(replace, key=key) for key in KEYS)
    yield from (partial(_with_part, at=at, part=part) for at in range(1, len(parts)) for part in PARTS)
    yield from (partial(replace, value=value) for value in [None, *VALUES])
    for at in range(len(record.headers)):
        yield partial(_with_header, at=at, headers=[])
        for value in HEADER_VALUES:
            yield partial(_with_header, at=at, headers=[(record.headers[at][0], value)])


def _with_part(record: Stored, at: int, part: str) -> Stored:
    parts = record.key.decode().split("/")
    return replace(record, key="/".join([*parts[:at], part, *parts[at + 1 :]]).encode())


def _with_header(record: Stored, at: int, headers: list[Any]) -> Stored:
    return replace(record, headers=[*record.headers[:at], *headers, *record.headers[at + 1 :]])


def lives(of: Callable[[int], list[NewRecord]]) -> list[Stored]:
    """Life after life with one record in it exchanged, each of another response."""
    ways = [
        (kind, at, exchange)
        for kind in range(4)
        for at, record in enumerate(of(kind))
        for exchange in exchanges(record)
    ]
    log: list[Stored] = []
    for n, (kind, at, exchange) in enumerate(ways):
        life = [_stored(record) for record in of(4 * n + kind)]
        life[at] = exchange(life[at])
        log += life
    return numbered(log)


def numbered(log: Iterable[Stored]) -> list[Stored]:
    return [replace(record, offset=n, timestamp=1000 + n) for n, record in enumerate(log)]


def _stored(record: NewRecord) -> Stored:
    return Stored(record.key, record.value, list(record.headers))


def numbers_of(entry: object) -> list[int]:
    """Every number that an entry holds, however deep."""
    if isinstance(entry, Struct):
        return [n for value in structs.astuple(entry) for n in numbers_of(value)]
    return [entry] if isinstance(entry, int) else []


def let_pass(record: Any, partition: int | None) -> None:
    """The parsers let pass only what readers can rely on."""
    read: Sequence[Callable[..., Any]] = (records.parse, transcript.parse)
    _, shelved_entry = shelf.parse(record, partition)
    for entry in (shelved_entry, *(parse(record, partition) for parse in read)):
        assert all(-1 <= number < 10**16 for number in numbers_of(entry))
        id = getattr(entry, "id", "")
        ours = parse_response_id(id, partition)
        assert isinstance(entry, Unreadable | Shelved) or ours, (entry, record)


@given(whatever, st.sampled_from([None, 0, 1]))
def test_the_parsers_let_pass_only_what_readers_can_rely_on(record: Stored, partition: int | None) -> None:
    let_pass(record, partition)


@given(st.lists(whatever | st.builds(_stored, st.sampled_from(TRUE))))
@settings(deadline=None)
def test_nobody_falls_over_whatever_lies_in_the_log(log: list[Stored]) -> None:
    for reads in (events_are_read, transcripts_are_read, index_is_read):
        reads(numbered(log))


def test_nobody_falls_over_an_event_record_with_any_part_of_it_exchanged() -> None:
    events_are_read(lives(written))


def test_nobody_falls_over_a_transcript_record_with_any_part_of_it_exchanged() -> None:
    transcripts_are_read(lives(packed))


def test_nobody_falls_over_an_entry_with_any_part_of_it_exchanged() -> None:
    index_is_read(lives(shelved))


def test_nobody_falls_over_an_entry_with_any_number_of_it_exchanged() -> None:
    said = msgspec.json.decode(shelved(0)[0].value or b"")
    wrong: list[Any] = [None, -1, 10**16, 1.5, "1", [], {}, [-1], [10**16], ["1"], [0] * 3]
    records = [{**said, name: value} for name in said for value in wrong]
    records += [
        {**said, "where": {**said["where"], name: value}} for name in said["where"] for value in wrong
    ]
    headers = shelved(0)[0].headers
    index_is_read(
        numbered(
            Stored(id_of(n).encode(), msgspec.json.encode(value), list(headers))
            for n, value in enumerate(records)
        )
    )


def index_is_read(log: Sequence[Any]) -> None:
    for record in log:
        let_pass(record, 0)
    readback = Readback()
    for record in log:
        readback.entry(record, 0)
    library = Library(MemoryLog({}), NAMES.transcripts, memory_store(), _never)
    unread = library.take(0, log, len(log))
    assert {record.offset for record, _ in unread} == {
        record.offset for record in log if isinstance(shelf.parse(record, 0)[1], Unreadable)
    }
    for id in {id for id, _ in (shelf.parse(record, 0) for record in log) if id}:
        assert not (id in library and library.gone(id))
    finished(library.expire())


def events_are_read(log: Sequence[Any]) -> None:
    for record in log:
        let_pass(record, 0)
    replay_folds(log)
    projector_folds(log)
    executor_folds(log)


def transcripts_are_read(log: Sequence[Any]) -> None:
    for record in log:
        let_pass(record, 0)
    readback = Readback()
    for record in log:
        readback.transcript(record, 0)
        readback.entry(record, 0)
        readback.response(record)
    readback.overtaken()
    readback.forget(10**6, 1)
    asyncio.run(library_reads(log))


def replay_folds(log: Sequence[Any]) -> None:
    folding = Folding(0, Memory(1 << 16), lambda _: None, lambda _: None, ephemeral_ms=1_000)
    for record in log:
        folding.apply(record)
    finished(folding.settle())
    assert folding.open.total() == sum(not window.state.closed for window in folding.windows.values())
    for window in list(folding.windows.values()):
        for page in window.pages:
            for record in log[page.offset : page.end + 1]:
                found_frames(record, page)
            frames = page.read(page.first) or b""
            list(events_in(frames))
            begun(first_object(frames) or final_object(frames), window.id, window.state.status)
    finished(folding.forget(10**6, lambda _: True))


def library_of(log: Sequence[Any]) -> tuple[MemoryLog, Library]:
    """What replay knows of `log` as a partition of `transcripts`, with an entry for what is whole there."""
    memory = MemoryLog({NAMES.events: 1, NAMES.transcripts: 1})
    fill(memory, log)

    async def nothing(_: int) -> None:
        """The tail is at its end already."""

    library = Library(memory, NAMES.transcripts, memory_store(), nothing)
    entries = numbered([_stored(entry.new(id)) for id, entry in entries_of(log)])
    assert library.take(0, entries, len(entries)) == []
    return memory, library


def entries_of(log: Sequence[Any]) -> Iterator[tuple[ResponseId, Shelved]]:
    """An entry for each transcript of which each record is in `log`."""
    requests: dict[ResponseId, tuple[int, Summary]] = {}
    chunks: dict[ResponseId, dict[int, tuple[int, int]]] = {}
    for record in log:
        match transcript.parse(record, 0):
            case transcript.Request(id=id, summary=summary):
                requests[id] = (record.offset, summary)
            case transcript.Chunk(id=id, index=index, first=first):
                chunks.setdefault(id, {})[index] = (record.offset, first)
    for id, (request, summary) in requests.items():
        found = chunks.get(id, {})
        if sorted(found) == [*range(summary.chunks)]:
            yield id, entry_at(summary, request, [found[index] for index in sorted(found)])


async def library_reads(log: Sequence[Any]) -> None:
    _, library = library_of(log)
    parts = [transcript.parse(record, 0) for record in log]
    ids = {part.id for part in parts if isinstance(part, transcript.Request | transcript.Chunk)}
    for id in [id for id in ids if id in library]:
        with suppress(TranscriptBroken):
            request_body(await library.request(id))
        with suppress(Cut):
            async for _ in packed_chunks(id, 0, library):
                pass
    library.begin_at({0: 5}, {0: 0})
    finished(library.expire())
    library.store.drop(0)
    assert not any(id in library for id in ids)


def projector_folds(log: Sequence[Any]) -> None:
    projection = Projection(0, 0, 0)
    for end in projection.apply(log, len(log)):
        work = end.work if isinstance(end, Closing) else end
        assert not isinstance(work, Write) or len(work.transcript) >= 2
        if isinstance(end, Closing):
            announced = closing_record(end)
            assert closings.parse(_stored(announced.new()), 0) == announced
        projection.done(end)
    projection.shed(1 << 30)
    projection.forget(10**6)
    assert 0 <= projection.watermark() <= len(log)


def executor_folds(log: Sequence[Any]) -> None:
    engine = Engine(Liveness(EXECUTOR), lambda _: None, _never, lease=5, ephemeral_ms=9)
    partition = engine.partitions[0] = Partition(0, floor=0)
    assert engine.read(Batch(EVENTS, log, len(log), len(log)), 0) == []
    predecessors = Predecessors(_never, engine.partitions, engine.stirred)
    predecessors.sweep(partition.fold.responses.values())
    partition.watermark(len(log))
    asyncio.run(executor_reads(partition, log))


async def executor_reads(partition: Partition, log: Sequence[Any]) -> None:
    memory = MemoryLog({NAMES.events: 1, NAMES.transcripts: 1})
    fill(memory, log)
    history = History(memory, NAMES.events)
    states = partition.fold.responses.values()
    await asyncio.gather(*(history.past(0, s.id, s.offset, min(len(log), s.offset + LIFE)) for s in states))
    await erase(memory, memory.writer(), NAMES.events, partition, list(partition.erasures.wanted.values()))
    assert not partition.erasures.wanted


def fill(memory: MemoryLog, log: Sequence[Any]) -> None:
    """Let both topics hold `log`, as a foreign program may have written it."""
    for topic in (NAMES.events, NAMES.transcripts):
        held = memory.stored[topic][0]
        held.records, held.end = [_Sized(*structs.astuple(record)) for record in log], len(log)  # type: ignore[misc]


class _Sized(Stored):
    size: int = 64 << 10
    """So that a fetch brings few, as scans are short."""


def _never(*_: Any) -> Any:
    raise AssertionError("nothing is run, and nobody asked")


async def test_a_transcript_that_lacks_events_is_cut_and_does_not_hold_everybody_up() -> None:
    summary = Summary(TENANT, "failed", True, "sha", 0, 9, 1, 6, 2)
    frames = [transcript.pack(b"".join(frame("x", n, b"{}") for n in of)) for of in (range(2), range(4, 6))]
    halves = [PackedChunk(0, 1, frames[0]), PackedChunk(4, 5, frames[1])]
    _, library = library_of(numbered(map(_stored, transcript_records(IDS[0], summary, b"", halves))))

    with pytest.raises(Cut, match="event 2 is in no chunk"):
        async for _ in packed_chunks(IDS[0], -1, library):
            pass
    assert [chunk async for chunk in packed_chunks(IDS[0], 5, library)] == []


def test_who_follows_each_other_in_a_circle_holds_nobody_up() -> None:
    partition = Partition(0, floor=0)
    for n, (id, previous) in enumerate(zip(IDS, [*IDS[1:], IDS[0]], strict=True)):
        entry = Accepted(id, "n", TENANT, "sha", FAR, FAR, background=True, store=True, previous=previous)
        partition.fold.apply(n, n, entry)
        partition.fold.apply(n, n, Cancelled(id, "n", TENANT))
    following: State = partition.fold.responses[IDS[0]]
    predecessors = Predecessors(_never, {0: partition}, asyncio.Event())

    assert not predecessors.open(partition, following)


def test_a_response_of_a_status_of_tomorrow_closes_once_also_when_it_is_deleted() -> None:
    folding = Folding(0, Memory(1 << 16), lambda _: None, lambda _: None, ephemeral_ms=1_000)
    event = EventHeaders(IDS[0], claim_of("1"), 1, TENANT).event(1, "response.expired", b"{}", "expired")
    accepted = Accepted(IDS[0], "n", TENANT, "sha", FAR, FAR, background=False, store=True)
    claimed = Claimed(IDS[0], 1, claim_of("1"), EXECUTOR, TENANT)
    for record in (accepted.new(b"{}"), claimed.new(), event, Deleted(IDS[0], "n", TENANT).new()):
        assert folding.apply(_stored(record)) is None

    assert dict(folding.open) == {}
    assert msgspec.json.encode(dict(folding.open)) == b"{}"
