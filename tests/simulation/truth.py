"""The truth: a second, plain reading of the protocol, record by record as they are appended.

It shares only the parsing of records with `schemas.fold`, forgets nothing, and neither compaction nor
retention reaches it. The simulation checks against it whatever the services come to believe.
"""

import json
from typing import Any

from msgspec import Struct, field

from schemas.ids import ClaimId, ExecutorId, ResponseId
from schemas.records import Accepted, Cancelled, Claimed, Deleted, Entry, EventRecord, LogRecord, Tombstone


class Story(Struct):
    """All that ever counted of one response. Offsets are -1 for what did not happen."""

    id: ResponseId
    ephemeral_ms: int
    """Milliseconds for which an ephemeral response is seen after its end."""
    accepted: Accepted | None = None
    offset: int = -1
    value: bytes = b""
    """The value of the `accepted` that counted."""
    asked: Any = None
    """The request in it, decoded."""
    attempt: int = 0
    claim: ClaimId | None = None
    executors: dict[int, ExecutorId] = field(default_factory=dict)
    """The executor that won each attempt."""
    frames: list[bytes] = field(default_factory=list)
    """As every client must get them, derived ones included."""
    status: str = "open"
    final: Any = None
    """The final object, decoded."""
    closed_offset: int = -1
    closed_at: int = -1
    deleted_offset: int = -1
    accepted_at: int = -1
    claimed_at: int | None = None
    output_at: list[int] = field(default_factory=list)
    """When each event came that is not of its lifecycle."""
    told: dict[str, Any] | None = None
    """What a closing of it must say (P-102, P-107); None while there must be none."""
    keys: dict[bytes, int] = field(default_factory=dict)
    """Where every key with a value was last written, for as long as nothing erased it."""

    counted: set[bytes] = field(default_factory=set)
    """The keys of all that counted."""

    def __repr__(self) -> str:
        offsets = f"{self.offset}..{self.closed_offset}, deleted {self.deleted_offset}"
        return f"<{self.id} {self.status} at {offsets}>"

    @property
    def deleted(self) -> bool:
        """Whether it was deleted."""
        return self.deleted_offset >= 0

    @property
    def closed(self) -> bool:
        """Whether nothing but a delete counts any more."""
        return self.deleted or self.closed_offset >= 0

    @property
    def unstored(self) -> bool:
        """Whether nothing of it may stay, and no view may get it (P-76)."""
        return self.accepted is not None and not self.accepted.store

    @property
    def hidden(self) -> bool:
        """Whether only its creator may see it (P-78)."""
        return self.accepted is not None and not self.accepted.store and not self.accepted.background

    @property
    def ephemeral(self) -> bool:
        """Whether its tenant may see it until some time after its end (P-85, P-89)."""
        return self.accepted is not None and not self.accepted.store and self.accepted.background

    def over(self, now: int) -> bool:
        """Whether it is ephemeral, has closed, and its time is over at log time `now` (P-85)."""
        return self.ephemeral and self.closed_offset >= 0 and now > self.closed_at + self.ephemeral_ms

    def seen(self, now: int) -> bool:
        """Whether its tenant must be able to read it at log time `now`."""
        return self.accepted is not None and not (self.deleted or self.hidden or self.over(now))

    @property
    def kind(self) -> str:
        """The kind of upstream that it asks for."""
        return str(self.asked["model"])

    def erasable(self, now: int) -> bool:
        """Whether nothing of it may stay at log time `now`."""
        return self.deleted or (self.hidden and self.closed) or self.over(now)

    @property
    def leaves_word(self) -> bool:
        """Whether `gone` must say that it was there, because its key may be repeated at any time (P-79)."""
        return self.unstored and self.closed and self.accepted is not None and self.accepted.keyed

    @property
    def readable(self) -> bool:
        """Whether every reader must have all of it for good: it closed, is stored and was not deleted."""
        return self.closed_offset >= 0 and not self.deleted and not self.unstored


class Truth:
    """The stories of one partition."""

    def __init__(self, ephemeral_ms: int) -> None:
        self.stories: dict[ResponseId, Story] = {}
        self.ends: list[ResponseId] = []
        """What was accepted and has closed, or was deleted while open, in that order."""
        self.time = 0
        """Log time of the last record, ms."""
        self._ephemeral_ms = ephemeral_ms

    def story(self, id: ResponseId) -> Story:
        """What is true of a response."""
        return self.stories.setdefault(id, Story(id, self._ephemeral_ms))

    def open(self) -> list[Story]:
        """The responses that have not closed, oldest first."""
        return [story for story in self.stories.values() if story.accepted is not None and not story.closed]

    def append(self, record: LogRecord, entry: Entry) -> bool:
        """Take the next record of the log. Returns whether it counts."""
        self.time = record.timestamp
        id = getattr(entry, "id", None)
        if id is None:
            return False
        story = self.story(id)
        self._keep(story, record, entry)
        counts = self._count(story, record, entry)
        if counts:
            story.counted.add(record.key or b"")
        return counts

    def _count(self, story: Story, record: LogRecord, entry: Entry) -> bool:
        match entry:
            case Accepted():
                return self._accepted(story, record, entry)
            case Claimed():
                return self._claimed(story, record, entry)
            case EventRecord():
                return self._event(story, record, entry)
            case Cancelled():
                return self._cancelled(story, record)
            case Deleted():
                if story.accepted is not None and not story.closed:
                    self._end(story, record, "deleted")
                story.deleted_offset = max(story.deleted_offset, record.offset)
                return True
        return False

    @staticmethod
    def _keep(story: Story, record: LogRecord, entry: Entry) -> None:
        if isinstance(entry, Tombstone):
            story.keys.pop(record.key or b"", None)
        elif not isinstance(entry, Deleted):
            story.keys[record.key or b""] = record.offset

    @staticmethod
    def _accepted(story: Story, record: LogRecord, entry: Accepted) -> bool:
        if record.timestamp > entry.not_after or story.accepted is not None or story.deleted:
            return False
        story.accepted, story.offset, story.value = entry, record.offset, record.value or b""
        story.accepted_at = record.timestamp
        story.asked = json.loads(story.value)["request"]
        initial = raw(story.value, b'"response":')
        types = ["response.created", "response.queued"][: 1 + entry.background]
        story.frames = [frame(type, n, derived(type, n, initial)) for n, type in enumerate(types)]
        return True

    @staticmethod
    def _claimed(story: Story, record: LogRecord, entry: Claimed) -> bool:
        if story.accepted is None or story.closed or entry.attempt != story.attempt + 1:
            return False
        story.attempt, story.claim = entry.attempt, entry.claim
        story.executors[entry.attempt] = entry.executor
        story.claimed_at = story.claimed_at or record.timestamp
        return True

    def _event(self, story: Story, record: LogRecord, entry: EventRecord) -> bool:
        number = len(story.frames)
        if story.accepted is None or story.closed:
            return False
        if entry.claim != story.claim or entry.sequence_number != number:
            return False
        story.frames.append(frame(entry.type, number, record.value or b""))
        if entry.type.removeprefix("response.") not in ("in_progress", "completed", "failed", "incomplete"):
            story.output_at.append(record.timestamp)
        if entry.terminal:
            self._close(story, record, entry.terminal, json.loads(record.value or b"")["response"])
        return True

    def _cancelled(self, story: Story, record: LogRecord) -> bool:
        if story.accepted is None or story.closed:
            return False
        number, type = len(story.frames), "response.failed"
        story.frames.append(frame(type, number, derived(type, number, record.value or b"")))
        self._close(story, record, "cancelled", json.loads(record.value or b""))
        return True

    def _close(self, story: Story, record: LogRecord, status: str, final: Any) -> None:
        story.status, story.final = status, final
        self._end(story, record, status)
        story.closed_offset, story.closed_at = record.offset, record.timestamp

    def _end(self, story: Story, record: LogRecord, status: str) -> None:
        self.ends.append(story.id)
        story.told = told(story, record, status)


def told(story: Story, record: LogRecord, status: str) -> dict[str, Any]:
    """What `closings` must say of a response that `record` closes, but for its log and its tokens."""
    assert story.accepted is not None
    final = story.final or {}
    error, incomplete = final.get("error") or {}, final.get("incomplete_details") or {}
    return {
        "id": story.id,
        "tenant": story.accepted.tenant,
        "status": status,
        "model": story.asked["model"],
        "served": final.get("model"),
        "route": story.accepted.route,
        "agent": None,
        "error_type": error.get("type"),
        "incomplete_reason": incomplete.get("reason"),
        "background": story.accepted.background,
        "store": story.accepted.store,
        "accepted_at": story.accepted_at,
        "claimed_at": story.claimed_at,
        "first_output_at": story.output_at[0] if story.output_at else None,
        "last_output_at": story.output_at[-1] if story.output_at else None,
        "closed_at": record.timestamp,
        "accepted_offset": story.offset,
        "closed_offset": record.offset,
        "events": len(story.frames),
        "deltas": sum(b'"delta":' in frame for frame in story.frames),
        "attempts": story.attempt,
        "executors": tuple(dict.fromkeys(story.executors.values())),
    }


def frame(type: str, number: int, data: bytes) -> bytes:
    """A frame of the stream (A-1)."""
    return f"event: {type}\nid: {number}\ndata: ".encode() + data + b"\n\n"


def derived(type: str, number: int, object: bytes) -> bytes:
    """A derived event (P-7)."""
    return f'{{"type":"{type}","sequence_number":{number},"response":'.encode() + object + b"}"


def raw(value: bytes, name: bytes) -> bytes:
    """The last member `name` of a JSON object, as it stands."""
    return value[value.rindex(b"," + name) + 1 + len(name) : -1]
