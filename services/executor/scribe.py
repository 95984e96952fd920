"""Writes down one run: what of the upstream goes into the log, under which numbers, and how it ends.

Pure. The upstream's events come in, drafts of records go out. The scribe numbers the events, drops those that
Rejoinder says itself (created, queued, in_progress), makes the response's identity its own in those that
carry the object, turns foreign types into extensions, makes the stream whole (`mending`), keeps the output
so far, and ends the response: once, honestly, with what was put out by then.

A draft has no claim yet: after an append error the same drafts go out again under the next claim (P-32).
"""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from schemas import response
from schemas.events import (
    IN_PROGRESS,
    ITEM_ADDED,
    ITEM_DONE,
    LIFECYCLE,
    TERMINAL_EVENTS,
    Event,
    derived_event,
    is_streamed,
)
from schemas.ids import ResponseId
from schemas.output import PARTS, Output
from schemas.pictures import PREVIEW, fitting, without_picture
from schemas.records import EventHeaders, Headers, NewRecord
from schemas.steps import ENCODED_BYTES, Steps, finished
from schemas.upstream_headers import UPSTREAM_PARTIAL
from services.executor.backend import Refusal, UpstreamError
from services.executor.backends.endings import cut_by
from services.executor.mending.identity import Mint, kept
from services.executor.mending.places import OurPlace
from services.executor.mending.surrogates import mended
from services.executor.mending.whole import Whole, end_of
from services.web.internal import Name

_encode = msgspec.json.Encoder().encode
_OMITTED = {"output_omitted": True}
"""In the error of an object that does not hold the output which was streamed."""
_LEFT_OUT = "a picture is larger than REJOINDER_MAX_RECORD_BYTES leaves room for, and was left out"
_MARGIN = 1024
"""Bytes by which the error of a final object may make it larger."""
STEP_DRAFTS = 500
"""Drafts that are written in one go: 10 ms."""
_BEGIN = frozenset({ITEM_ADDED, *(type for type in PARTS if type.endswith(".added"))})
"""Types of the events that begin an item or a part."""
_TYPE = re.compile(r"[!-~]{1,128}")
"""An event's type is a header too: short, and of one line."""


class Limits(msgspec.Struct, frozen=True):
    """What one response may put out: `record_bytes` per event, `output_bytes` of value in all, `events`."""

    record_bytes: int = 1_000_000
    output_bytes: int = 64 << 20
    events: int = 1_000_000


class Draft(msgspec.Struct, frozen=True, gc=False):
    """An event to be appended; an extension's `number` counts extensions instead. `index`: the upstream's of
    the item or the part that it begins, where that is not ours (P-113).
    """

    number: int
    type: str
    value: bytes
    terminal: str | None = None
    upstream: Headers = ()
    extension: bool = False
    index: int | None = None

    def record(self, headers: EventHeaders) -> NewRecord:
        """The record of this draft under the claim of `headers`."""
        if self.extension:
            return headers.extension(self.number, self.type, self.value)
        return headers.event(self.number, self.type, self.value, self.terminal, self.upstream, self.index)


class Ending(msgspec.Struct, frozen=True):
    """How a response ends when the upstream did not end it: `failed` with an error, or `incomplete` with a
    reason.
    """

    message: str
    code: str = "server_error"
    type: str = "upstream_error"
    incomplete_reason: str | None = None
    refusal: Refusal | None = None
    usage: object = None
    """The upstream's, where it said how much."""

    @classmethod
    def of(cls, error: UpstreamError) -> "Ending":
        """The end of a response whose upstream failed with `error`."""
        return cls(error.message, error.code, error.type, refusal=error.refusal, usage=error.usage)


class Scribe:
    """One response's writing, across the claims of one executor.

    `initial` is the initial object, `last` the last number that counts, `origin` the last derived one;
    `output` is what counted so far, in `written` bytes and `extensions` beside it. `mint` gives items their
    ids; `names` are what the upstream `names_at` (`mending.names`) calls those of `output`, `indexes` where
    it counts them (`mending.places`).
    """

    def __init__(
        self,
        initial: dict[str, Any],
        *,
        origin: int,
        last: int,
        limits: Limits,
        output: Output | None = None,
        extensions: int = 0,
        written: int = 0,
        pass_extensions: bool = False,
        mint: Mint | None = None,
        names: Mapping[str, Name] = {},
        names_at: str | None = None,
        indexes: Mapping[OurPlace, int] = {},
    ) -> None:
        self._initial = initial
        self._begun = last > origin
        self._next = last + 1
        self._limits = limits
        self._output = output or Output()
        mint = mint or kept(ResponseId(str(initial.get("id"))))
        self._whole = Whole(self._output, mint, names, names_at, indexes)
        self._extensions = extensions
        self._pass_extensions = pass_extensions
        self._bytes = written
        self._heard: Headers = ()
        """Where the upstream stood behind its last event."""
        self._left_out: Ending | None = None
        """How the response ends because a picture was left out, whatever the upstream says."""
        self.ended = False

    def __repr__(self) -> str:
        return f"<Scribe of {self._initial.get('id')} next={self._next} ended={self.ended}>"

    def begin(self, upstream: Headers = ()) -> list[Draft]:
        """`response.in_progress`, unless a run before this one has said so. `upstream` are the headers that
        say where the upstream stands.
        """
        if self._begun:
            return []
        self._begun = True
        return [self._number(IN_PROGRESS, self._in_progress(), upstream)]

    def _in_progress(self) -> bytes:
        return derived_event(IN_PROGRESS, self._next, _encoded(self._initial | {"status": "in_progress"}))

    def write(self, event: Event, upstream: Headers = (), *, now: float) -> list[Draft]:
        """`writing` in one go; the short way for what nearly all events are, more of a text."""
        type = event.get("type")
        if self._begun and not self.ended and "error" not in event and self._whole.passes(str(type), event):
            written = self._write(str(type), event, self._at(upstream) if upstream else ())
            return self.end(written) if isinstance(written, Ending) else written
        return finished(self.writing(event, upstream, now=now))

    def writing(self, event: Event, upstream: Headers = (), *, now: float) -> Steps[list[Draft]]:
        """What the upstream's next event adds to the log; `now` (seconds) dates a completion. Once begun it
        must come to its end, since it takes numbers.

        The first one of a run that has not begun begins it: so the log knows of a resumable upstream as soon
        as it answers (P-34). Raises UpstreamError when the upstream said something that cannot be passed on;
        whatever is raised, no number is taken then.
        """
        if self.ended:
            return []
        type = event.get("type")
        if not isinstance(type, str) or not _TYPE.fullmatch(type):
            raise UpstreamError(
                "the upstream sent an event without a type that could be one", type="upstream_malformed"
            )
        # The SDKs raise on any event data with a top-level `error`.
        joins = "error" in event and type not in LIFECYCLE and self._joins(type)
        if joins and (error := event.pop("error")):
            raise UpstreamError(_error_text(error))
        numbered = self._next, self._begun, self._bytes
        more = type in LIFECYCLE and self._hear(type, event)
        drafts = self.begin(upstream)
        if more and not drafts:
            return self.placed([self._number(IN_PROGRESS, self._in_progress(), upstream)], upstream)
        begun = len(drafts)
        try:
            pace = _Pace()
            for whole in self._whole.events(type, event) if self._joins(type) else (event,):
                if whole["type"] in TERMINAL_EVENTS:
                    drafts += yield from self._closing(whole, end_of(whole["type"], whole), upstream, now)
                    break
                written = self._write(whole["type"], whole, upstream)
                if isinstance(written, Ending):
                    drafts += yield from self.ending(written)
                    break
                drafts += written
                if pace.is_over(written):
                    yield
        except Exception as error:
            if isinstance(error, UpstreamError) and len(drafts) > begun:
                # The drafts before the error stand.
                return self.placed(drafts + (yield from self.ending(Ending.of(error))), upstream)
            self._next, self._begun, self._bytes = numbered
            raise
        return self.placed(drafts, upstream)

    def _at(self, upstream: Headers) -> Headers:
        """The headers with the upstream's place for the last draft of an event (P-34, P-38)."""
        self._heard = upstream
        return [*upstream, UPSTREAM_PARTIAL] if self._whole.holds_back and len(upstream) > 1 else upstream

    def placed(self, drafts: list[Draft], upstream: Headers) -> list[Draft]:
        """The drafts of one upstream event, with the upstream's place: the last draft has the cursor of this
        event, the first of several that of the event before, marked as partial. So an executor that goes on
        in their middle knows that the event was not told to its end. The first draft has the upstream's id in
        any case, so the log knows that the upstream runs (P-34).
        """
        if not upstream:
            return drafts
        before, last = self._heard, self._at(upstream)
        said: list[Draft] = []
        for number, draft in enumerate(drafts):
            stands: Headers = ()
            if number == len(drafts) - 1:
                stands = last if draft.upstream else ()
            elif number == 0:
                stands = [*before, UPSTREAM_PARTIAL] if len(before) > 1 else upstream[:1]
            said.append(draft if draft.extension else msgspec.structs.replace(draft, upstream=stands))
        return said

    def _hear(self, type: str, event: Event) -> bool:
        """Take what the upstream's object says beyond ours (U-15); whether that is to be told now."""
        theirs = event.get("response")
        if type in TERMINAL_EVENTS or not isinstance(theirs, dict):
            return False
        before, heard = self._initial, response.heard(self._initial, theirs)
        more = response.says_more(heard, before)
        if more and len(_encoded(heard)) + _MARGIN > self._limits.record_bytes:
            return False  # it fits into no record: the final object tells as much of it as it can hold
        self._initial = heard
        return more

    def _joins(self, type: str) -> bool:
        """Whether events of `type` go into the stream, not beside it."""
        return self._pass_extensions or is_streamed(type)

    def _write(self, type: str, event: Event, upstream: Headers) -> list[Draft] | Ending:
        """The drafts of one event; or how the response ends, because it does not fit."""
        if type in LIFECYCLE:
            return []
        if not self._joins(type):
            return self._extension(type, event)
        event["sequence_number"] = self._next
        try:
            value = _encode(event)
        except UnicodeEncodeError:  # half a surrogate pair (U-12): the output so far says what the log says
            event = mended(event)
            value = _encode(event)
        if type == PREVIEW and not self._has_room_for_preview(value):
            return []
        if len(value) > self._limits.record_bytes and (smaller := without_picture(event.get("item"))):
            # The response goes on without it, and ends honestly (U-90).
            event["item"] = smaller
            value = _encode(event)
            self._left_out = Ending(_LEFT_OUT, type="output_too_large")
        if ending := self._over(type, value):
            return ending
        self._output.apply(event)
        index = self._whole.other_index(event) if upstream and type in _BEGIN else None
        return [self._number(type, value, upstream, index=index)]

    def end(self, ending: Ending) -> list[Draft]:
        """End the response ourselves: items cut short are done as `incomplete` (A-19), then the terminal
        event.
        """
        return finished(self.ending(ending))

    def ending(self, ending: Ending) -> Steps[list[Draft]]:
        """`end`, step by step."""
        if self.ended:
            return []
        drafts = self.begin() + (yield from self._cut_short())
        status = "incomplete" if ending.incomplete_reason else "failed"
        reason = ending.incomplete_reason
        final = response.final_response(
            self._initial,
            status=status,
            output=self._output.items(),
            error=None if reason else _error(ending),
            incomplete_details={"reason": reason} if reason else None,
            usage=ending.usage if isinstance(ending.usage, dict) else None,
        )
        return [*drafts, self._terminal(f"response.{status}", status, final)]

    def _closing(self, event: Event, status: str, upstream: Headers, now: float) -> Steps[list[Draft]]:
        theirs = event.get("response")
        theirs = theirs if isinstance(theirs, dict) else {}
        if theirs.get("status") == "cancelled":
            what, usage = "the upstream cancelled the response", theirs.get("usage")
            ending = Ending(what, type="upstream_cancelled", usage=usage)
            return (yield from self.ending(ending))
        if self._left_out is not None and not theirs.get("error"):
            usage = theirs.get("usage")
            return (yield from self.ending(msgspec.structs.replace(self._left_out, usage=usage)))
        drafts = [] if status == "completed" else (yield from self._cut_short())
        yield
        final = response.final_response(
            self._initial,
            status=status,
            output=(yield from self._whole.final()),
            upstream=theirs,
            incomplete_details=cut_by(theirs.get("incomplete_details")),
            completed_at=int(now),
        )
        rest = {k: v for k, v in event.items() if k not in ("type", "sequence_number", "response", "error")}
        return [*drafts, self._terminal(f"response.{status}", status, final, upstream, rest)]

    def _terminal(
        self,
        type: str,
        status: str,
        final: dict[str, Any],
        upstream: Headers = (),
        rest: dict[str, Any] | None = None,
    ) -> Draft:
        bound = self._limits.record_bytes
        event = {"type": type, "sequence_number": self._next, "response": final, **(rest or {})}
        value = _encoded(event)
        if len(value) > bound and any(map(without_picture, final["output"])):
            # Every picture has a record of its own; only all of them together do not fit. The others stay.
            status = "failed"
            final = response.failed(final, _error(Ending(_LEFT_OUT, type="output_too_large")))
            final["output"] = fitting(final["output"], len(value) - bound + _MARGIN)
            event |= {"type": (type := "response.failed"), "response": final}
            value = _encoded(event)
        # Every item was streamed and is in the log; only the closing object cannot hold them all (P-9).
        if len(value) > bound and status == "failed":
            # The reason is worth more than the output.
            bare = final | {"output": [], "error": final["error"] | _OMITTED}
            value = _encoded(event | {"response": bare})
        if len(value) > bound:
            text = f"the final object of {len(value)} bytes is over {bound}"
            error = _error(Ending(text, type="output_too_large")) | _OMITTED
            type, status = "response.failed", "failed"
            bare = response.final_response(
                self._initial, status=status, output=[], error=error, usage=final["usage"]
            )
            value = _encode({"type": type, "sequence_number": self._next, "response": bare})
        self.ended = True
        return self._number(type, value, upstream, status)

    def _cut_short(self) -> Steps[list[Draft]]:
        """`done` for the items under way, as `incomplete` (A-19). One that outgrew a record was streamed,
        and cannot be said again (P-9).
        """
        drafts: list[Draft] = []
        pace = _Pace()
        for event in self._whole.cut():
            drafts += (fitting := self._fitting(event))
            if pace.is_over(fitting):
                yield
        for index, item in self._output.unfinished():
            event = {"type": ITEM_DONE, "output_index": index, "item": item}
            drafts += (fitting := self._fitting(event))
            if pace.is_over(fitting):
                yield
        return drafts

    def _has_room_for_preview(self, value: bytes) -> bool:
        """Previews take half of what a response may put out at most: its result is worth more."""
        limits = self._limits
        return len(value) <= limits.record_bytes and self._bytes + len(value) <= limits.output_bytes // 2

    def _fitting(self, event: Event) -> list[Draft]:
        """The event, unless it is larger than a record."""
        event["sequence_number"] = self._next
        value = _encoded(event)
        if len(value) > self._limits.record_bytes:
            return []
        self._output.apply(event)
        return [self._number(event["type"], value)]

    def _number(
        self,
        type: str,
        value: bytes,
        upstream: Headers = (),
        terminal: str | None = None,
        index: int | None = None,
    ) -> Draft:
        draft = Draft(self._next, type, value, terminal, upstream, index=index)
        self._next += 1
        self._bytes += len(value)
        return draft

    def _extension(self, type: str, event: Event) -> list[Draft] | Ending:
        value = _encoded(event)
        if ending := self._over(type, value):
            return ending
        draft = Draft(self._extensions, type, value, extension=True)
        self._extensions += 1
        self._bytes += len(value)
        return [draft]

    def _over(self, type: str, value: bytes) -> Ending | None:
        """How the response ends when `value` would break a bound, or None."""
        limits = self._limits
        if len(value) > limits.record_bytes:
            text = f"an event {type} of {len(value)} bytes is over {limits.record_bytes}"
            return Ending(text, type="event_too_large")
        within = (
            self._bytes + len(value) <= limits.output_bytes
            and self._next + self._extensions + 1 < limits.events
        )
        reason = "max_output_tokens"
        return None if within else Ending("over its bound of bytes or events", incomplete_reason=reason)


class _Pace:
    """Says when other tasks must have a turn: after so many drafts, or bytes of them."""

    def __init__(self) -> None:
        self._drafts = self._bytes = 0

    def is_over(self, drafts: list[Draft]) -> bool:
        """Whether it is, now that these were written too."""
        self._drafts += len(drafts)
        self._bytes += sum(len(draft.value) for draft in drafts)
        if self._drafts < STEP_DRAFTS and self._bytes < ENCODED_BYTES:
            return False
        self._drafts = self._bytes = 0
        return True


def _encoded(event: Event) -> bytes:
    """`event` as JSON, halves of surrogate pairs as U+FFFD (U-12)."""
    try:
        return _encode(event)
    except UnicodeEncodeError:
        return _encode(mended(event))


def _error(ending: Ending) -> dict[str, Any]:
    """The `error` of the final object. It keeps what the upstream's answer said: the create that waited for
    the response is answered by that, now and later (A-24).
    """
    error: dict[str, Any] = {"code": ending.code, "message": ending.message, "type": ending.type}
    if ending.refusal is not None:
        error["upstream_status"] = ending.refusal.status
        if ending.refusal.retry_after is not None:
            error["retry_after"] = ending.refusal.retry_after
    return error


def _error_text(error: object) -> str:
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return str(error["message"])
    return str(error)
