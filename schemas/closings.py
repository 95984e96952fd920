"""The records of `closings`: one for each response that was accepted and has closed, and no content of it.

    key      {id}
    headers  kind = closing, tenant, log, closed_offset
    value    what follows, as JSON; times are log time (ms), null where that never happened

The projector appends them, for consumers outside of Rejoinder too. They are never erased: what stands in them
says that somebody asked, how it ended and what it cost, and nothing of what was said.

A closing may be appended again, the same each time (P-107). A consumer that keeps `Marks` counts each once,
and in the order of the log.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Struct

from schemas.events import UNDECODABLE, response_in
from schemas.fold import DELETED, TERMINAL_STATUSES
from schemas.ids import ExecutorId, ResponseId, Tenant, parse_response_id
from schemas.records import MALFORMED, SHOWN, LogRecord, NewRecord, Unreadable, plain_number
from schemas.response import whole_usage

MAX_CHARACTERS = 256
"""Characters that a name or a word may have: names of models and agents have no more. Longer ones are cut."""
MOST_LOGS = 8
"""Logs of which marks are kept, the latest ones: `responses.events` is hardly ever made anew."""

Offset = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Time = Annotated[int, Meta(ge=0, description="Log time, in milliseconds since the epoch.")]


class TokenCounts(Struct, frozen=True):
    """Tokens as the upstream counted them."""

    input_tokens: Count = 0
    """All of the input."""
    cached_tokens: Count = 0
    """Of the input, those that came from the upstream's cache."""
    cache_write_tokens: Count = 0
    """Of the input, those that were written into the upstream's cache."""
    output_tokens: Count = 0
    """All of the output."""
    reasoning_tokens: Count = 0
    """Of the output, those of the model's thoughts."""
    total_tokens: Count = 0
    """As the upstream has the sum; of input and output where it has none."""


class FinalFacts(Struct, frozen=True):
    """What a terminal event says beside the output. None: it does not say so."""

    served: str | None = None
    error_type: str | None = None
    incomplete_reason: str | None = None
    usage: TokenCounts | None = None


class ClosingRecord(Struct, frozen=True, kw_only=True):
    """A response that was accepted and has closed. It is known by (`log`, partition, `closed_offset`)."""

    kind: ClassVar[bytes] = b"closing"
    id: ResponseId
    tenant: Tenant
    log: str
    """The topic id of the `responses.events` in which the offsets are; "" where brokers give topics none."""
    status: Annotated[str, Meta(examples=sorted({*TERMINAL_STATUSES, DELETED}))]
    """The status in the record that closed it; `deleted` if it was deleted while open."""
    model: str | None
    """The model asked for; null if the request names an agent only."""
    served: str | None
    """The model that served, as the final object has it."""
    route: str | None
    """The route by which ingest accepted it: the `match` of a model's table, or the agent's name."""
    agent: str | None
    """The agent to which the route leads; null: to a model."""
    error_type: str | None
    """The `type` of the final object's error, or else its `code`; null without an error."""
    incomplete_reason: str | None
    """The reason in the final object's `incomplete_details`; null without one."""
    background: bool
    """Whether it was asked for in the background."""
    store: bool
    """Whether it was to be stored."""
    accepted_at: Time
    """When its request was in the log: log time, in milliseconds since the epoch."""
    claimed_at: Time | None
    """When its first claim won."""
    first_output_at: Time | None
    """When the first of its events came that bring output: all but those of its lifecycle."""
    last_output_at: Time | None
    """When the last of them came."""
    closed_at: Time
    """When it closed: log time, in milliseconds since the epoch."""
    accepted_offset: Offset
    """Where its request is, in its partition of `responses.events`."""
    closed_offset: Offset
    """Where the record is that closed it. In a partition the closings stand in this order."""
    events: Count
    """Its stream events, the derived ones included."""
    deltas: Count
    """Those of its events that bring a piece: of a text, of arguments, of audio."""
    attempts: Count
    """How many claims of it won."""
    executors: tuple[ExecutorId, ...]
    """The executors whose claims won, each once, in that order."""
    usage: TokenCounts | None
    """Null if the upstream told none."""

    def new(self) -> NewRecord:
        """The record that says so."""
        headers = [
            ("kind", self.kind),
            ("tenant", self.tenant.encode()),
            ("log", self.log.encode()),
            ("closed_offset", b"%d" % self.closed_offset),
        ]
        return NewRecord(self.id.encode(), msgspec.json.encode(self), headers)


_closing = msgspec.json.Decoder(ClosingRecord).decode


def parse(record: LogRecord, partition: int | None = None) -> ClosingRecord | Unreadable:
    """What a record of `closings` says. Never raises: what cannot be read is `Unreadable` (P-8, P-11).

    A reader that follows a `partition` names it: an id of another one is `Unreadable` there. So is a record
    whose key and headers say other than its value. Fields of later versions are passed over.
    """
    try:
        return _parse(record, partition)
    except (*MALFORMED, *UNDECODABLE) as error:
        return Unreadable(f"{type(error).__name__}: {error}"[: 2 * SHOWN])


def _parse(record: LogRecord, partition: int | None) -> ClosingRecord | Unreadable:
    headers = dict(record.headers)
    if headers["kind"] != ClosingRecord.kind:
        return Unreadable(f"unknown kind: {headers['kind'][:SHOWN]!r}")
    if record.key is None or record.value is None:
        return Unreadable("no key or no value")
    id = parse_response_id(record.key.decode(), partition)
    if id is None:
        return Unreadable(f"no response id of this partition: {record.key[:SHOWN]!r}")
    closing = _closing(record.value)
    said = (headers["tenant"].decode(), headers["log"].decode(), plain_number(headers["closed_offset"]))
    if (id, *said) != (closing.id, closing.tenant, closing.log, closing.closed_offset):
        return Unreadable("key and headers say other than the value")
    if closing.accepted_offset >= closing.closed_offset:
        return Unreadable(f"it closed at {closing.closed_offset}, before it began")
    return closing


class _Final(Struct):
    model: object = None
    error: object = None
    incomplete_details: object = None
    usage: object = None


_final = msgspec.json.Decoder(_Final).decode


def final_facts(terminal: bytes) -> FinalFacts:
    """The facts in the value of a terminal event; none of one that cannot be read. Its output is not decoded.

    Whatever stands there, all that comes of it is bounded: words of `MAX_CHARACTERS`, and counts.
    """
    try:
        final = _final(response_in(terminal)) if terminal else _Final()
    except UNDECODABLE:
        final = _Final()
    return FinalFacts(
        served=word(final.model),
        error_type=_member(final.error, "type") or _member(final.error, "code"),
        incomplete_reason=_member(final.incomplete_details, "reason"),
        usage=_counts(final.usage),
    )


def word(value: object) -> str | None:
    """A name or a word, cut to `MAX_CHARACTERS`; None for an empty one, and for what is no text."""
    return value[:MAX_CHARACTERS] if isinstance(value, str) and value else None


def _member(value: object, name: str) -> str | None:
    return word(value.get(name)) if isinstance(value, dict) else None


def _counts(usage: object) -> TokenCounts | None:
    whole = whole_usage(usage)
    if whole is None:
        return None
    return TokenCounts(
        input_tokens=whole["input_tokens"],
        cached_tokens=whole["input_tokens_details"]["cached_tokens"],
        cache_write_tokens=whole["input_tokens_details"]["cache_write_tokens"],
        output_tokens=whole["output_tokens"],
        reasoning_tokens=whole["output_tokens_details"]["reasoning_tokens"],
        total_tokens=whole["total_tokens"],
    )


# The consumer's side.


class Marks:
    """What a consumer has counted of one partition of `closings`: per log the last `closed_offset` (P-108).

    Pure. Keep `kept` together with what was counted, and begin with it again.
    """

    def __init__(self, kept: Mapping[str, int] | None = None) -> None:
        self._kept = dict(kept or {})

    def __repr__(self) -> str:
        return f"<Marks {self._kept}>"

    @property
    def kept(self) -> dict[str, int]:
        """By log, the `closed_offset` that was counted last."""
        return dict(self._kept)

    def fresh(self, closing: ClosingRecord) -> bool:
        """Whether a closing is to be counted: it was not before. Call it once for each, in the order read."""
        if closing.closed_offset <= self._kept.get(closing.log, -1):
            return False
        self._kept.pop(closing.log, None)  # the latest log is the last to be forgotten
        self._kept[closing.log] = closing.closed_offset
        if len(self._kept) > MOST_LOGS:
            del self._kept[next(iter(self._kept))]
        return True


class Lost(Struct, frozen=True):
    """Offsets of `closings` that a consumer will never read: it must report them (P-110).

    Each may have held a closing, or only one that was appended again. `last` is None when the topic was made
    anew: then nobody knows where the old one ended.
    """

    partition: int
    first: int
    last: int | None

    def __str__(self) -> str:
        until = "the end of a topic that is gone" if self.last is None else str(self.last)
        return f"closings, partition {self.partition}: offsets {self.first} to {until} were removed unread"


def lost(partition: int, position: int, start: int, end: int) -> Lost | None:
    """What is lost to a consumer that is to read on at offset `position`, in a partition that now has the
    offsets from `start` to `end` - 1. It goes on at `start`, with the marks that it has. None: nothing.
    """
    if position < start:
        return Lost(partition, position, start - 1)
    return Lost(partition, position, None) if position > end else None
