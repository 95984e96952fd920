"""The records of `responses.events`: one kind each, decided from key and headers alone (P-4).

A record on the wire is key, headers and value. `parse` turns key and headers into one of the structs
below; each struct knows its own key and headers (`new`), so what is written is what is read. The value
is plain JSON and is never looked at to decide what counts.

    kind       key                               value
    accepted   {id}/accepted/{nonce}             {"request": …, "response": …}
    claimed    {id}/claim/{attempt}/{claim}      {"attempt": …, "claim": …, "executor": …}
    event      {id}/{claim}/{sequence_number}    the stream event, as the client gets it
    extension  {id}/{claim}/x/{n}                an upstream event outside the Responses API
    cancelled  {id}/cancelled/{nonce}            the final response object
    deleted    {id}/deleted/{nonce}              {"id": …}

Every kind says so in the header `kind`, but an event: nearly all records are events, and its key says it
(P-12). A claim id has a shape that no other part of a key has (P-14), so no key can be taken for another's.

No two appends share a key (P-5): compaction keeps the last record of a key, the fold believes the first.
A record without a value is a tombstone: it erases, and never counts.

No reader may fall over a record of a foreign program: `parse` returns only what every reader can rely on, ids
of the partition and numbers in their bounds (P-11). Any other record is `Unreadable` (P-8).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import ClassVar, NamedTuple, Protocol

import msgspec
from msgspec import Struct

from schemas.ids import (
    ClaimId,
    ExecutorId,
    ResponseId,
    Tenant,
    parse_claim_id,
    parse_response_id,
    partition_of,
)
from schemas.trace_context import TRACEPARENT, parse_traceparent

SEVEN_HEADERS = 1
"""The form of an event before `ONE_HEADER`: it says its kind, and again what its key says (P-15)."""
ONE_HEADER = 2
"""The form of an event that says each thing once (P-12). Both forms are read."""
QUEUED = "queued"
IN_PROGRESS = "in_progress"
OPEN_STATUSES = frozenset({QUEUED, IN_PROGRESS})
"""Any other status closes, also one that a later version brings: no reader decides by its version (P-4)."""
MALFORMED = (ValueError, LookupError, TypeError, AttributeError)
"""What reading a key or a header may raise: one lacks, is null, or is not what it is to be."""
UPSTREAM_CURSOR, UPSTREAM_INDEX = "upstream_cursor", "upstream_index"
SHOWN = 80
"""Characters of what cannot be read that are told."""

Headers = Sequence[tuple[str, bytes]]


class LogRecord(Protocol):
    """A record as the log hands it out."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """The log's append time, ms since the epoch."""

    @property
    def key(self) -> bytes | None:
        """See the table above."""

    @property
    def value(self) -> bytes | None:
        """JSON, or None: a tombstone."""

    @property
    def headers(self) -> Headers:
        """Names and values."""


class NewRecord(NamedTuple):
    """A record to be appended. `value` None is a tombstone."""

    key: bytes
    value: bytes | None
    headers: Headers = ()


class Accepted(Struct, frozen=True, gc=False):
    """The request is durable. The first one of an id wins; void when appended after `not_after` (P-20)."""

    kind: ClassVar[str] = "accepted"
    id: ResponseId
    nonce: str
    tenant: Tenant
    body_sha256: str
    not_after: int
    deadline: int
    background: bool
    store: bool
    previous: ResponseId | None = None
    keyed: bool = False
    """Its id is that of an Idempotency-Key (P-2): it may be asked for again at any time."""
    model: str = ""
    """The model asked for; "" if the request names an agent only, and in records of earlier versions."""
    route: str = ""
    """The route by which it was accepted: the `match` of a model's table, or an agent's name."""
    to_agent: bool = False
    """Whether the route leads to an agent."""
    traceparent: str = ""
    """The trace context of the create (`schemas.trace_context`); "" if it had none."""

    @property
    def key(self) -> bytes:
        """The record's key."""
        return f"{self.id}/accepted/{self.nonce}".encode()

    @property
    def ephemeral(self) -> bool:
        """Whether its tenant sees it until some time after its end: not stored, in the background (P-89)."""
        return self.background and not self.store

    def new(self, value: bytes) -> NewRecord:
        """The record that says so around `value`, the encoded `AcceptedValue`."""
        headers = [
            *_base(self.kind, self.tenant),
            ("body_sha256", self.body_sha256.encode()),
            ("not_after", b"%d" % self.not_after),
            ("deadline", b"%d" % self.deadline),
            ("background", b"%d" % self.background),
            ("store", b"%d" % self.store),
        ]
        if self.previous:
            headers.append(("previous", self.previous.encode()))
        if self.keyed:
            headers.append(("keyed", b"1"))
        if self.model:
            headers.append(("model", self.model.encode()))
        if self.route:
            headers.append(("agent" if self.to_agent else "route", self.route.encode()))
        if self.traceparent:
            headers.append((TRACEPARENT, self.traceparent.encode()))
        return NewRecord(self.key, value, headers)


class ClaimedValue(Struct, frozen=True):
    """The value of a `claimed`: what its headers say, for human readers."""

    attempt: int
    claim: ClaimId
    executor: ExecutorId


class OnlyId(Struct, frozen=True):
    """The value of a record that says all in its kind: whose it is."""

    id: ResponseId


class Claimed(Struct, frozen=True, gc=False):
    """`executor` runs attempt `attempt`, if it is the current one + 1 and the first in log order (P-21)."""

    kind: ClassVar[str] = "claimed"
    id: ResponseId
    attempt: int
    claim: ClaimId
    executor: ExecutorId
    tenant: Tenant

    def new(self) -> NewRecord:
        """The record that says so; its value repeats it for human readers."""
        value = ClaimedValue(self.attempt, self.claim, self.executor)
        headers = [
            *_base(self.kind, self.tenant),
            ("attempt", b"%d" % self.attempt),
            ("claim", self.claim.encode()),
            ("executor", self.executor.encode()),
        ]
        key = f"{self.id}/claim/{self.attempt}/{self.claim}".encode()
        return NewRecord(key, msgspec.json.encode(value), headers)


class EventRecord(Struct, frozen=True, gc=False):
    """One stream event. A header `terminal` is the status with which it closes the response."""

    kind: ClassVar[str] = "event"
    id: ResponseId
    claim: ClaimId
    sequence_number: int
    type: str
    terminal: str | None = None
    """Never one of the OPEN_STATUSES."""


class Extension(Struct, frozen=True, gc=False):
    """An upstream event of a type outside the Responses API: kept, not numbered, never counts (P-27)."""

    kind: ClassVar[str] = "extension"
    id: ResponseId
    claim: ClaimId
    n: int
    type: str


class Cancelled(Struct, frozen=True, gc=False):
    """The terminal event of a cancelled response, numbered last accepted + 1 (P-24)."""

    kind: ClassVar[str] = "cancelled"
    id: ResponseId
    nonce: str
    tenant: Tenant

    def new(self, response: bytes) -> NewRecord:
        """The record around `response`, the final response object as JSON."""
        key = f"{self.id}/cancelled/{self.nonce}".encode()
        return NewRecord(key, response, [*_base(self.kind, self.tenant), ("terminal", b"cancelled")])


class Deleted(Struct, frozen=True, gc=False):
    """Closes and hides at once, sticky, also for an id never seen (P-25).

    `accepted_offset` tells the eraser where the response's records begin; -1 when the log no longer has it.
    """

    kind: ClassVar[str] = "deleted"
    id: ResponseId
    nonce: str
    tenant: Tenant
    accepted_offset: int = -1

    def new(self) -> NewRecord:
        """The record that says so."""
        key = f"{self.id}/deleted/{self.nonce}".encode()
        headers = [*_base(self.kind, self.tenant), ("accepted_offset", b"%d" % self.accepted_offset)]
        return NewRecord(key, msgspec.json.encode(OnlyId(self.id)), headers)


class Tombstone(Struct, frozen=True, gc=False):
    """Erases the record with the same key; never counts."""

    kind: ClassVar[str] = "tombstone"
    id: ResponseId


class Unreadable(Struct, frozen=True, gc=False):
    """A record of an unknown kind, or whose key or headers do not parse: counted and passed over (P-8)."""

    kind: ClassVar[str] = "unreadable"
    why: str


Entry = Accepted | Claimed | EventRecord | Extension | Cancelled | Deleted | Tombstone | Unreadable


class EventHeaders:
    """Builds the records of one claim's events, in the order in which they are posted, in the `form` that
    the operator chose (P-15). What all of them share is encoded once.
    """

    def __init__(
        self, id: ResponseId, claim: ClaimId, attempt: int, tenant: Tenant, form: int = ONE_HEADER
    ) -> None:
        self._prefix = f"{id}/{claim}/".encode()
        self._run = [*_base(Extension.kind, tenant), ("attempt", b"%d" % attempt), ("claim", claim.encode())]
        self._seven = [("kind", b"event"), ("v", b"1"), *self._run[1:]] if form == SEVEN_HEADERS else None
        self.said: tuple[str, bytes] | None = None
        """The upstream's id, as an event of this claim has it already (P-34)."""

    def event(
        self,
        sequence_number: int,
        type: str,
        value: bytes,
        terminal: str | None = None,
        upstream: Headers = (),
        index: int | None = None,
    ) -> NewRecord:
        """The record of one event; `upstream` says where a resumable upstream stands (P-34), `index` is the
        upstream's of the item or the part that the event begins (P-113).

        The upstream's id is left out when an event of this claim before has it: what counts of a claim is a
        prefix of what was posted under it (P-22), so where this event counts, that one does.
        """
        key = self._prefix + b"%d" % sequence_number
        headers = _type_header(type)
        if self._seven is not None:
            headers = [*self._seven, *headers, ("sequence_number", b"%d" % sequence_number)]
        if upstream:
            headers = [*headers, *(upstream[1:] if upstream[0] == self.said else upstream)]
            self.said = upstream[0] if self._seven is None else None
        if index is not None:
            headers = [*headers, (UPSTREAM_INDEX, b"%d" % index)]
        if terminal:
            headers = [*headers, ("terminal", terminal.encode())]
        return NewRecord(key, value, headers)

    def extension(self, n: int, type: str, value: bytes) -> NewRecord:
        """The record of the n-th upstream event outside the Responses API of this claim."""
        headers = [*self._run, ("type", type.encode())]
        return NewRecord(self._prefix + b"x/%d" % n, value, headers)


DIGITS = 16
"""A number has no more of them."""
NUMBER = re.compile(rb"0|[1-9][0-9]{0,%d}" % (DIGITS - 1))
_ZERO = ord("0")
CURSOR = re.compile(rb"-?[0-9]{1,19}")
"""How an upstream numbers is its own affair: by nanoseconds, say."""


def plain_number(digits: bytes) -> int:
    """The number that `digits` are: plain decimals, at most `DIGITS`, so that one number has one spelling and
    fits wherever it goes on to (P-11). Raises ValueError or TypeError.
    """
    if not NUMBER.fullmatch(digits):
        raise ValueError(f"not a number from 0 on of at most {DIGITS} digits: {digits[:SHOWN]!r}")
    return int(digits)


@lru_cache(maxsize=256)
def _type_header(type: str) -> Headers:
    """All headers of most events of a type: one list for all of them, which must not be changed."""
    return [("type", type.encode())]


STEM = len("resp_") + 36 + len("/c") + 16 + len("/")
"""Bytes of an event's key before its number, the same for all events of a claim."""


class _Claims(dict[bytes, tuple[ResponseId, ClaimId, int] | None]):
    """Whose events' keys begin with a stem: response, claim and partition; None: nobody's.

    A dict takes 0.12 µs where `lru_cache` takes 0.2. It is emptied when it has `REMEMBERED` claims, so that
    it stays small whatever the log holds.
    """

    def __missing__(self, stem: bytes) -> tuple[ResponseId, ClaimId, int] | None:
        id, _, rest = stem.decode("ascii", "replace").partition("/")
        response, claim = parse_response_id(id), parse_claim_id(rest[:-1])
        if len(self) >= REMEMBERED:
            self.clear()
        self[stem] = None
        if response is not None and claim is not None and rest.endswith("/"):
            self[stem] = response, claim, partition_of(response)
        return self[stem]


REMEMBERED = 4096
"""Claims whose keys are remembered."""
claims_read = _Claims()
"""By the stem of a key: whose event it is; None when it is no event's."""


def parse(record: LogRecord, partition: int | None = None) -> Entry:
    """What `record` says. Never raises: what cannot be read is `Unreadable`.

    Who folds a `partition` names it, for an id of another one has no place there (P-11).
    """
    try:
        # Three readers come here for every event, so the common one, which ends nothing, is read without a
        # dict and without a call: 0.36 instead of 1.5 µs. It says what `parse_whole` would. Whose it is, all
        # events of its claim share: that is read once, and is one string for all of them.
        headers, key = record.headers, record.key
        if (
            headers
            and headers[0][0] == "type"
            and (len(headers) == 1 or (len(headers) == 2 and headers[1][0] == UPSTREAM_CURSOR))
            and key is not None
            and record.value is not None
            and (digits := key[STEM:]).isdigit()
            and digits[0] != _ZERO
            and len(digits) <= DIGITS
            and (whose := claims_read[key[:STEM]]) is not None
            and (partition is None or whose[2] == partition)
        ):
            return EventRecord(whose[0], whose[1], int(digits), headers[0][1].decode())
        return parse_whole(record, partition)
    except MALFORMED as error:
        return Unreadable(f"{type(error).__name__}: {error}")


def parse_whole(record: LogRecord, partition: int | None) -> Entry:
    """What `record` says, of whatever kind; the long way of `parse`. Raises what is MALFORMED."""
    if record.key is None:
        return Unreadable("no key")
    first, *rest = record.key.decode().split("/")
    id = _id(first, partition)
    if record.value is None:
        return Tombstone(id)
    headers = dict(record.headers)
    match headers.get("kind", b"event"), rest:  # only an event may lack its kind (P-12)
        case b"event", [claim, digits]:
            type, terminal = headers["type"].decode(), _terminal(headers)
            return EventRecord(id, _claim(claim), plain_number(digits.encode()), type, terminal)
        case b"accepted", ["accepted", nonce]:
            return _accepted(id, nonce, headers)
        case b"claimed", ["claim", attempt, claim]:
            executor = ExecutorId(headers["executor"].decode())
            return Claimed(id, plain_number(attempt.encode()), _claim(claim), executor, _tenant(headers))
        case b"extension", [claim, "x", digits]:
            return Extension(id, _claim(claim), plain_number(digits.encode()), headers["type"].decode())
        case b"cancelled", ["cancelled", nonce]:
            return Cancelled(id, nonce, _tenant(headers))
        case b"deleted", ["deleted", nonce]:
            return Deleted(id, nonce, _tenant(headers), _accepted_offset(record, headers))
        case unknown:
            return Unreadable(f"unknown kind, or not the key of one: {str(unknown)[:SHOWN]}")


def _id(text: str, partition: int | None) -> ResponseId:
    id = parse_response_id(text, partition)
    if id is None:
        whose = "" if partition is None else f" of partition {partition}"
        raise ValueError(f"no response id{whose}: {text[:SHOWN]!r}")
    return id


def _claim(text: str) -> ClaimId:
    claim = parse_claim_id(text)
    if claim is None:
        raise ValueError(f"no claim id: {text[:SHOWN]!r}")
    return claim


def _terminal(headers: dict[str, bytes]) -> str | None:
    terminal = headers.get("terminal")
    status = terminal.decode() if terminal else None
    if status in OPEN_STATUSES:
        raise ValueError(f"terminal {status!r} closes nothing")
    return status


def _accepted_offset(record: LogRecord, headers: dict[str, bytes]) -> int:
    """The `accepted_offset` of a delete; -1 if it is not before the delete, which counts anyway (P-25)."""
    given = headers["accepted_offset"]
    offset = -1 if given == b"-1" else plain_number(given)
    return offset if offset < record.offset else -1


def _accepted(id: ResponseId, nonce: str, headers: dict[str, bytes]) -> Accepted:
    previous = headers.get("previous")
    return Accepted(
        id=id,
        nonce=nonce,
        tenant=_tenant(headers),
        body_sha256=headers["body_sha256"].decode(),
        not_after=plain_number(headers["not_after"]),
        deadline=plain_number(headers["deadline"]),
        background=headers["background"] == b"1",
        store=headers["store"] == b"1",
        previous=_id(previous.decode(), None) if previous else None,
        keyed=headers.get("keyed") == b"1",
        model=_word(headers, "model"),
        route=_word(headers, "agent") or _word(headers, "route"),
        to_agent=bool(headers.get("agent")),
        traceparent=parse_traceparent(_word(headers, TRACEPARENT)) if TRACEPARENT in headers else "",
    )


def _word(headers: dict[str, bytes], name: str) -> str:
    """A header that says nothing of what counts: one that is no text is read as well as it can be (P-4)."""
    return (headers.get(name) or b"").decode(errors="replace")


def _tenant(headers: dict[str, bytes]) -> Tenant:
    return Tenant(headers["tenant"].decode())


def _base(kind: str, tenant: Tenant) -> list[tuple[str, bytes]]:
    return [("kind", kind.encode()), ("tenant", tenant.encode())]
