"""The kinds of records that the topics hold. A new kind is one entry of `kinds`.

An entry has samples, made by the function that writes such records: their keys and headers are published. A
header that not every sample has is optional. If a struct of the entry has a field with the name of a header,
the field's type is the header's.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from schemas.checks import Shape
from schemas.closings import ClosingRecord
from schemas.events import KNOWN_EVENTS
from schemas.fold import TERMINAL_STATUSES, Fold
from schemas.installation import KeyPartitions
from schemas.models import Listing
from schemas.records import (
    CURSOR,
    ONE_HEADER,
    SEVEN_HEADERS,
    Accepted,
    Cancelled,
    Claimed,
    Deleted,
    EventHeaders,
    EventRecord,
    Extension,
    NewRecord,
)
from schemas.upstream_headers import UPSTREAM_PARTIAL, upstream_headers
from schemas.usage import (
    MarkKey,
    NamesKey,
    RowKey,
    UsageKey,
    UsageMark,
    UsageNames,
    UsageRow,
    encoded_key,
)
from schemas.webhooks import (
    EVENT_TYPES,
    DeliveryRecord,
    EndpointRecord,
    MarkRecord,
    RetryRecord,
    SealedSecret,
    SecretRecord,
    SettingsRecord,
    WebhookRecord,
)
from services.eventlog.shelf import Shelved, Whereabouts
from services.eventlog.transcript import (
    Chunk,
    Gone,
    PackedChunk,
    Request,
    Summary,
    gone_record,
    transcript_records,
)
from services.executor.beats import beat_record
from services.projector.announcer import closing_record
from services.projector.closing import Counts
from services.projector.projection import response_record
from services.published.sample import (
    CLAIM,
    DELIVERY,
    ENDPOINT,
    EXECUTOR,
    NONCE,
    RESPONSE,
    SHA256,
    SOURCE,
    TENANT,
    TOKENS,
    TRACE,
)
from services.published.shapes import NUMBERS, pattern_of, ref, sentence, text_like, whole_text

TOMBSTONE = "tombstone"


class RecordKind(Struct, frozen=True):
    """A kind of record in a topic, which is named by its field of `Topics`.

    `holds` names the schema of the value; None: frames of events. `packed`: zstd has packed the value.
    """

    topic: str
    name: str
    what: str
    samples: Sequence[NewRecord]
    says: Sequence[type[Struct]]
    holds: str | None
    packed: bool = False
    keyed: str = ""
    """The pattern of the key, where samples do not tell it."""

    @property
    def key(self) -> Shape:
        """The schema of the key."""
        if self.keyed:
            return {"type": "string", "pattern": whole_text(self.keyed)}
        patterns = dict.fromkeys(pattern_of(sample.key.decode(), TOKENS) for sample in self.samples)
        return {"type": "string", "pattern": whole_text("|".join(patterns))}

    @property
    def headers(self) -> Shape:
        """The schema of the headers, taken for an object of texts."""
        found = [{name: value.decode() for name, value in sample.headers} for sample in self.samples]
        said: dict[str, list[str]] = {}
        for headers in found:
            for name, text in headers.items():
                said.setdefault(name, []).append(text)
        required = [name for name, texts in said.items() if len(texts) == len(found)]
        properties = {name: self._header(name, texts) for name, texts in said.items()}
        return {"type": "object", "required": required, "properties": properties}

    @property
    def value(self) -> Shape:
        """The schema of the value. JSON Schema takes a packed one for a text, and says what is in it."""
        if self.name == TOMBSTONE:
            return {"type": "null"}
        if not self.packed:
            assert self.holds is not None
            return ref(self.holds)
        if self.holds is None:
            return {"type": "string", "contentEncoding": "zstd", "contentMediaType": "text/event-stream"}
        content = {"contentMediaType": "application/json", "contentSchema": ref(self.holds)}
        return {"type": "string", "contentEncoding": "zstd", **content}

    def _header(self, name: str, samples: Sequence[str]) -> Shape:
        types = {field.name: field.type for kind in self.says for field in msgspec.structs.fields(kind)}
        if name not in types and samples[0] in TOKENS:
            return {
                "type": "string",
                "pattern": whole_text(TOKENS[samples[0]]),
            }  # an id of no type of its own
        more = _MORE.get(f"{self.name} {name}", _MORE.get(name, {}))
        return {**text_like(samples, types.get(name, _FREE.get(name))), **more}


_STATUSES = sorted(TERMINAL_STATUSES)
_MORE: Mapping[str, Shape] = {
    "body_sha256": {"pattern": whole_text("[0-9a-f]{64}"), "description": "Of the request's canonical form."},
    "event terminal": {"examples": _STATUSES, "description": "The status with which this closes."},
    "status": {"examples": _STATUSES, "description": "The status with which it closed."},
    "event type": {
        "examples": sorted(KNOWN_EVENTS),
        "description": "The event's type; further ones may come.",
    },
    "upstream_cursor": {
        "pattern": whole_text(CURSOR.pattern.decode()),
        "description": "The last event of a resumable upstream of which this was made.",
    },
    "upstream_index": {
        "pattern": whole_text(f"-1|{NUMBERS}"),
        "description": "The upstream's index of the item or the part that this begins; -1: it gave none.",
    },
    "upstream_id": {"description": "The id of the response at a resumable upstream."},
    "response model": {"description": "The model that answered; empty if the object names none."},
    "accepted model": {"description": "The model asked for."},
    "traceparent": {
        "pattern": whole_text("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
        "description": "The W3C trace context of the create.",
    },
    "route": {"description": "The route by which it was accepted: the `match` of a model's table."},
    "agent": {"description": "The agent to which the route leads."},
}
"""What else is known of headers, by kind and name or by name."""
_FREE: Mapping[str, type] = dict.fromkeys(
    ("model", "agent", "upstream_id", "upstream_cursor", "upstream_index"), str
)
"""Headers that no struct has a field for, and that are not the same in every record."""


_NEVER_ERASED = ("executors", "closings", "usage", "installation")


def kinds() -> list[RecordKind]:
    """Every kind of record, in the order of the documents."""
    found = [*_of_events(), *_of_views(), *_of_closings(), *_of_usage()]
    found += [*_of_executors(), *_of_webhooks(), *_of_installation()]
    erased = dict.fromkeys(kind.topic for kind in found if kind.topic not in _NEVER_ERASED)
    return [*found, *(_tombstone(topic, [kind for kind in found if kind.topic == topic]) for topic in erased)]


def _tombstone(topic: str, erased: Sequence[RecordKind]) -> RecordKind:
    """The record without a value that erases one with the same key."""
    keys = [NewRecord(sample.key, None) for kind in erased for sample in kind.samples]
    return RecordKind(topic, TOMBSTONE, "Erases the record with the same key.", keys, (), None)


def _of_events() -> list[RecordKind]:
    plain = _accepted(background=False)
    more = msgspec.structs.replace(
        plain,
        background=True,
        store=True,
        previous=RESPONSE,
        keyed=True,
        model="echo",
        route="echo",
        traceparent=TRACE,
    )
    to_agent = msgspec.structs.replace(plain, route="researcher", to_agent=True)
    accepted = [sample.new(b"") for sample in (plain, more, to_agent)]
    deleted = [Deleted(RESPONSE, NONCE, TENANT, offset).new() for offset in (-1, 0)]
    extension = EventHeaders(RESPONSE, CLAIM, 1, TENANT).extension(0, "x", b"{}")
    return [
        _kind("events", Accepted, accepted, "AcceptedValue"),
        _kind("events", Claimed, [Claimed(RESPONSE, 1, CLAIM, EXECUTOR, TENANT).new()], "ClaimedValue"),
        _kind("events", EventRecord, _events(), "Event", Claimed),
        _kind("events", Extension, [extension], "UpstreamEvent", Claimed),
        _kind("events", Cancelled, [Cancelled(RESPONSE, NONCE, TENANT).new(b"")], "Response"),
        _kind("events", Deleted, deleted, "OnlyId"),
    ]


def _accepted(*, background: bool) -> Accepted:
    return Accepted(
        id=RESPONSE,
        nonce=NONCE,
        tenant=TENANT,
        body_sha256=SHA256,
        not_after=1,
        deadline=1,
        background=background,
        store=False,
    )


def _events() -> Sequence[NewRecord]:
    """Events in both forms (P-15), with and without what a terminal one and a resumable upstream add."""
    found = list[NewRecord]()
    for form in (ONE_HEADER, SEVEN_HEADERS):
        headers = EventHeaders(RESPONSE, CLAIM, 1, TENANT, form)
        found += [
            headers.event(2, "response.in_progress", b"{}"),
            headers.event(3, "response.output_text.delta", b"{}", upstream=upstream_headers("resp_1", 3)),
            headers.event(3, "x", b"{}", upstream=[*upstream_headers("resp_1", 4), UPSTREAM_PARTIAL]),
            headers.event(3, "x", b"{}", upstream=upstream_headers("resp_1", 4), index=-1),
            headers.event(3, "x", b"{}", upstream=upstream_headers("resp_1", 4), index=1),
            headers.event(4, "response.completed", b"{}", "completed", upstream_headers("resp_2", None)),
            headers.event(4, "response.failed", b"{}", "failed"),
        ]
    return found


def _of_views() -> list[RecordKind]:
    objects, requests, chunks = list[NewRecord](), list[NewRecord](), list[NewRecord]()
    entries = list[NewRecord]()
    for background in (False, True):
        summary = Summary(TENANT, "completed", background, SHA256, 0, 1, 1, 1, 1)
        request, chunk = transcript_records(RESPONSE, summary, b"", [PackedChunk(0, 0, b"")])
        requests.append(request)
        chunks.append(chunk)
        fold = Fold()
        fold.apply(0, 0, _accepted(background=background))
        entry = Shelved(
            tenant=TENANT,
            status="completed",
            background=background,
            body_sha256=SHA256,
            accepted_offset=0,
            created_at=0,
            closed_offset=1,
            events=1,
            where=Whereabouts(0, (1,), (0,)),
        )
        entries.append(entry.new(RESPONSE))
        objects.append(response_record(fold.responses[RESPONSE], b'{"model":"echo"}'))
    what = "The final object of a closed response."
    return [
        RecordKind("responses", "response", what, objects, (Summary,), "Response"),
        _kind("transcripts", Request, requests, "AcceptedValue", Summary, packed=True),
        _kind("transcripts", Chunk, chunks, None, Summary, packed=True),
        _kind("transcripts", Gone, [gone_record(RESPONSE, TENANT)], "OnlyId"),
        _kind("index", Shelved, entries, "Shelved"),
        _kind("index", Gone, [gone_record(RESPONSE, TENANT)], "OnlyId"),
    ]


def _of_closings() -> list[RecordKind]:
    fold = Fold()
    fold.apply(0, 0, _accepted(background=True))
    closing = Counts().closing(fold.responses[RESPONSE], "", 1, b"", None)
    samples = [closing_record(closing).new()]
    what = sentence(ClosingRecord.__doc__)
    return [RecordKind("closings", "closing", what, samples, (ClosingRecord,), "ClosingRecord")]


def _of_usage() -> list[RecordKind]:
    text = r'"(?:[^"\\]|\\.)*"'
    maybe, number = f"(?:{text}|null)", f"(?:{NUMBERS})"
    found: Sequence[tuple[type[Struct], UsageKey, str]] = [
        (UsageRow, RowKey(0, TENANT, "echo", None, 0), rf"{number},{text},{maybe},{maybe},{number}"),
        (UsageNames, NamesKey(0, TENANT, "*"), rf"{number},{text},{text}"),
        (UsageMark, MarkKey(0), number),
    ]
    return [
        RecordKind(
            "usage",
            str(kind.__struct_config__.tag),
            sentence(kind.__doc__),
            [NewRecord(encoded_key(key), b"")],
            (),
            kind.__name__,
            keyed=rf"\[{pattern}\]",
        )
        for kind, key, pattern in found
    ]


def _of_executors() -> list[RecordKind]:
    beats = [beat_record(EXECUTOR, leaving=leaving) for leaving in (False, True)]
    listings = [Listing(SOURCE, 1, ()).record()]
    return [
        RecordKind("executors", "beat", "An executor's sign of life.", beats, (Claimed,), "BeatValue"),
        RecordKind("executors", "listing", sentence(Listing.__doc__), listings, (), "Listing"),
    ]


def _of_webhooks() -> list[RecordKind]:
    sealed = SealedSecret("k", "")
    delivery = DeliveryRecord(
        id=DELIVERY,
        endpoint=ENDPOINT,
        tenant=TENANT,
        response=RESPONSE,
        type=EVENT_TYPES[0],
        closed_at=0,
        since=0,
        next_at=0,
    )
    samples: list[WebhookRecord] = [
        EndpointRecord(ENDPOINT, TENANT),
        SettingsRecord(ENDPOINT, TENANT, "a", "https://a.example", EVENT_TYPES),
        SecretRecord(ENDPOINT, TENANT, (sealed,), ""),
        delivery,
        RetryRecord(DELIVERY, TENANT, 1),
        MarkRecord({}),
    ]
    return [
        RecordKind(
            "webhooks",
            sample.kind.decode(),
            sentence(sample.__doc__),
            [sample.new()],
            (type(sample),),
            type(sample).__name__,
        )
        for sample in samples
    ]


def _of_installation() -> list[RecordKind]:
    what = sentence(KeyPartitions.__doc__)
    samples = [KeyPartitions(1).record(NONCE)]
    return [RecordKind("installation", "key_partitions", what, samples, (), KeyPartitions.__name__)]


def _kind(
    topic: str,
    of: type[Struct],
    samples: Sequence[NewRecord],
    holds: str | None,
    *says: type[Struct],
    packed: bool = False,
) -> RecordKind:
    name = getattr(of, "kind", of.__name__.lower())
    return RecordKind(topic, name, sentence(of.__doc__), samples, (of, *says), holds, packed)
