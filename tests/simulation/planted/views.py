"""Views and erasure (P-70 to P-76, P-90 to P-92)."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import cycle
from typing import Any
from unittest.mock import patch

from msgspec.structs import replace

from schemas import records
from schemas.ids import Tenant
from schemas.records import Accepted, NewRecord
from services.eventlog import transcript
from services.eventlog.shelf import NOWHERE, Shelved
from services.eventlog.start import StartingPoint
from services.executor.erasures import Erasures
from services.executor.partition import Partition
from services.projector import projection
from services.projector.projection import End, Projection, response_record
from services.projector.readback import Readback
from services.projector.views import Views
from services.projector.writes import Erase, Work, Write
from services.replay import app
from services.replay.feed import Feed, Sources
from services.replay.folding import Foldings
from services.replay.library import Library
from services.replay.store import Store
from services.replay.window import Window
from tests.simulation.plan import TOPICS, Plan, only
from tests.simulation.planted.registry import DELETING, OVERTAKEN, READING, rule

LATE_WRITERS = Plan(
    deletes=0.9,
    targets="p",
    faults=only(stun=2, expel=1),
    acts={"p": (TOPICS.transcripts, TOPICS.responses, TOPICS.index)},
    rate=1.5,
    responses=12,
    max_queue=20,
)
"""Projectors stop when they write a response, and go on when it is deleted."""
FORGETFUL = Plan(
    unstored=1,
    ephemeral=0,
    keyed=1,
    cancels=0,
    deletes=0,
    returns=1,
    absence=15,
    acceptance_ms=3_000,
    words=2,
    seconds=60,
)
"""Clients come back with their keys when the folds have forgotten what those made."""

ENTRY = Shelved(
    tenant=Tenant("t"),
    status="completed",
    background=False,
    body_sha256="",
    accepted_offset=0,
    created_at=0,
    closed_offset=1,
    events=1,
    where=NOWHERE,
)


@rule("P-70")
def snapshot_of_an_open_response() -> Iterator[None]:
    """The projector writes a response down when it is accepted."""
    original = Projection.apply

    def apply(self: Projection, found: Iterable[records.LogRecord], next_offset: int) -> list[End]:
        ends = original(self, found, next_offset)
        opened = (state for state in self.fold.open() if state.offset >= self.floor)
        return ends + [
            Write(state.id, state.offset, [], response_record(state, b"{}"), ENTRY) for state in opened
        ]

    with patch.object(Projection, "apply", apply):
        yield


@rule(
    "P-71",
    "P-70",
    "P-74",
    "P-80",
    "P-81",
    plan=Plan(
        targets="p",
        words=60,
        faults=only(stun=3, expel=2),
        acts={"p": (TOPICS.transcripts,)},
        rate=2,
        responses=14,
    ),
)
def chunks_cut_anywhere() -> Iterator[None]:
    """Where a chunk ends depends on its writer."""
    sizes = cycle((400, 900, 2_000))

    class Cutter(transcript.Packer):
        def add(self, frame: bytes) -> None:
            with patch.object(transcript, "CHUNK_BYTES", next(sizes)):
                super().add(frame)

    with patch.object(projection, "Packer", Cutter):
        yield


@rule("P-72", "P-72", "P-74", "P-70", plan=DELETING)
def forgotten_gone() -> Iterator[None]:
    """A delete leaves no `gone`."""
    original = Views.append

    async def append(self: Views, topic: str, partition: int, record: NewRecord) -> None:
        if not record.key.endswith(b"/gone"):
            await original(self, topic, partition, record)

    with patch.object(Views, "append", append):
        yield


@rule("P-72", plan=replace(LATE_WRITERS, acceptance_ms=3_000))
def gone_not_heeded() -> Iterator[None]:
    """A reader shows what a late writer brought back, until it is erased again."""

    with (
        patch.object(Library, "hide", lambda *_: None),
        patch.object(Store, "gone", lambda *_: None),
        not_read_back(),
    ):
        yield


@rule("P-73", plan=LATE_WRITERS)
def zombie_write_not_read_back() -> Iterator[None]:
    """The projector does not look at what it and others wrote."""
    with not_read_back():
        yield


def not_read_back() -> AbstractContextManager[object]:
    """Nothing that a view holds is late, whatever is read of it."""
    transcript, response, entry = Readback.transcript, Readback.response, Readback.entry

    def reads(take: Callable[..., NewRecord | None]) -> Callable[..., None]:
        def taken(*arguments: Any) -> None:
            take(*arguments)

        return taken

    return patch.multiple(
        Readback,
        transcript=reads(transcript),
        response=reads(response),
        entry=reads(entry),
        overtaken=lambda _: [],
    )


@rule("P-73", plan=OVERTAKEN, seeds=400)
def object_read_before_its_gone() -> Iterator[None]:
    """The projector passes over an object when it reads `responses` sooner than `transcripts`."""
    with patch.object(Readback, "overtaken", lambda _: []):
        yield


@rule("P-74", plan=Plan(targets="p"))
def early_watermark_of_projectors() -> Iterator[None]:
    """The projector commits before its writes are acknowledged."""
    original = Projection.apply

    def apply(self: Projection, found: Iterable[records.LogRecord], next_offset: int) -> list[End]:
        ends = original(self, found, next_offset)
        for end in ends:
            self.done(end)
        return ends

    with patch.object(Projection, "apply", apply):
        yield


@rule("P-75", "P-80", plan=READING)
def started_in_the_wrong_order() -> Iterator[None]:
    """A replay asks for the watermark after it read the index, and does not look there again."""

    class Late(Feed):
        def __init__(self, sources: Sources, foldings: Foldings, library: Library) -> None:
            async def starts(known: Mapping[int, object]) -> Mapping[int, StartingPoint]:
                await asyncio.sleep(2)
                library.take = lambda *_: []  # type: ignore[method-assign]
                found = await sources.watermarks(list(known))
                return await sources.starts({n: at and at.offset for n, at in found.items()})

            super().__init__(replace(sources, starts=starts), foldings, library)

    with patch.object(app, "Feed", Late):
        yield


@rule("P-79", "P-42", "P-54", "P-62", plan=FORGETFUL)
def unstored_leaves_no_word() -> Iterator[None]:
    """Nothing says that a key has led to a response that was not stored."""
    original = Views.do

    async def do(self: Views, partition: int, work: Work) -> None:
        if not isinstance(work, Erase):
            await original(self, partition, work)

    with patch.object(Window, "lasting", False), patch.object(Views, "do", do):
        yield


@rule("P-76", "P-70", plan=Plan(unstored=0.7))
def unstored_projected() -> Iterator[None]:
    """A response that is not stored is written to the views."""

    def stored(record: records.LogRecord, partition: int) -> records.Entry:
        entry = records.parse(record, partition)
        return replace(entry, store=True) if isinstance(entry, Accepted) else entry

    with patch.object(projection, "parse", stored):
        yield


@rule("P-95", "P-90", "P-96", plan=DELETING)
def late_records_not_erased() -> Iterator[None]:
    """What lands after a delete stays."""
    with patch.object(Erasures, "late", lambda *_: None):
        yield


@rule("P-96", "P-90", "P-96", plan=DELETING)
def erasure_not_waited_for() -> Iterator[None]:
    """The watermark does not wait for erasures."""
    with patch.object(Partition, "watermark", lambda self, at: self.fold.low_watermark(at, self.floor)):
        yield


@rule(
    "P-92",
    "P-28",
    "P-42",
    "P-54",
    "P-62",
    plan=Plan(
        repeats=1,
        unstored=0.7,
        cancels=0.7,
        hasty=True,
        targets="x",
        faults=only(compact=4, kill=4, retain=1),
        rate=1,
    ),
)
def compacted_too_early() -> Iterator[None]:
    """Compaction and retention take what a reader that starts still needs."""
    yield
