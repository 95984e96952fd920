"""Checks what must always hold: with each record, with each committed watermark, and at the end."""

import json
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from schemas.fold import Fold
from schemas.ids import ResponseId, partition_of
from schemas.records import Accepted, Claimed, EventRecord, Tombstone, Unreadable, parse
from services.connect import executors_group, projector_group
from services.eventlog import shelf, transcript
from services.eventlog.memory_partition import MemoryRecord
from services.eventlog.port import TopicPartition
from services.eventlog.shelf import Whereabouts
from services.eventlog.transcript import chunk_key, request_key
from services.executor.backend import RunRequest
from services.settings import Settings
from tests.simulation.announcements import Announcements
from tests.simulation.conduct import Conduct
from tests.simulation.node import Node
from tests.simulation.processes import NAMES
from tests.simulation.truth import Story
from tests.simulation.upstream import Streams, inputs_of, whole_text

if TYPE_CHECKING:
    from tests.simulation.world import World

EXECUTORS, PROJECTORS = executors_group(Settings()), projector_group(Settings())
VIEWS = (NAMES.transcripts, NAMES.responses, NAMES.index)
SIGNS_OF_LIFE = 25.0
"""Seconds after a pause or a lost beat in which an executor may be thought gone."""
LONG = 50_000
"""Milliseconds: a response with more than that until its deadline ends before it."""
ERASING_MS = 5_000
"""Milliseconds in which an owner has erased what came late: it looks every beat, which is every 2 s."""


class Promises:
    """Watches one world. Every broken promise is reported under the number of its rule."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._keys: set[tuple[int, bytes]] = set()
        self._calls: dict[ResponseId, list[int]] = {}
        self._texts: dict[ResponseId, set[str]] = {}
        """The whole text of the upstream, for each time that it was called."""
        self._claimed_at: dict[tuple[ResponseId, int], float] = {}
        self.views: dict[str, dict[bytes, MemoryRecord]] = {topic: {} for topic in VIEWS}
        """The last record of every key."""
        self._accepted = 0
        self._opens: deque[tuple[float, int, int]] = deque([(0, 0, 0)], maxlen=2_000)
        """From when on how many responses were open, and how many `accepted` in the log."""
        self.takeovers = 0
        self._beaten = 0
        """Log time of the last beat, ms."""
        self.streams: Streams = {}
        self._checks = {
            NAMES.transcripts: self._transcript,
            NAMES.responses: self._response,
            NAMES.index: self._entry,
        }
        self.conduct = Conduct(world, self.streams)
        self.announcements = Announcements(world)

    # As it happens.

    def appended(self, source: TopicPartition, record: MemoryRecord) -> None:
        """Check a record that was just appended to the log."""
        if source.topic == NAMES.events:
            self._event(source.partition, record)
        elif source.topic == NAMES.executors:
            self._beat(record)
        elif source.topic in VIEWS:
            self._view(source.topic, record)
        elif source.topic == NAMES.closings:
            self.announcements.appended(source.partition, record)

    def _event(self, partition: int, record: MemoryRecord) -> None:
        world, entry = self._world, parse(record)
        key = record.key or b""
        id = getattr(entry, "id", None)
        if id is not None and partition_of(id) != partition:
            world.bad("P-1 a record in a foreign partition", key, partition)
            return
        if not isinstance(entry, Tombstone | Unreadable):  # no service of ours wrote what is unreadable
            if (partition, key) in self._keys:
                world.bad("P-5 shared key", key)
            self._keys.add((partition, key))
        if isinstance(entry, Claimed):
            self.conduct.claim(partition, world.story(entry.id), entry)
        counts = world.truth[partition].append(record, entry)
        world.say("log", f"{partition}@{record.offset}", key.decode(), "counts" if counts else "-")
        self._accepted += isinstance(entry, Accepted)
        opened = sum(len(truth.open()) for truth in world.truth)
        self._opens.append((world.loop.time(), opened, self._accepted))
        if world.plan.most_open is not None and self._opens[-1][1] > world.plan.most_open:
            world.bad("A-10 more open than there is room for", self._opens[-1][1])
        if isinstance(entry, Tombstone):
            story = world.story(entry.id)
            if key in story.counted and story.ephemeral and not story.erasable(self._beaten):
                world.bad("P-93 erased before its time", key)
            elif key in story.counted and not story.erasable(world.now()):
                world.bad("P-28 a tombstone for what nobody erased", key)
        if counts and isinstance(entry, Claimed | EventRecord):
            self.conduct.heard(entry.id)
        if counts and isinstance(entry, Claimed):
            self._claimed(world.story(entry.id), entry)
        if counts and isinstance(entry, Accepted):
            world.say("accepted", entry.id, world.story(entry.id).kind, entry)

    def _claimed(self, story: Story, entry: Claimed) -> None:
        world = self._world
        self._claimed_at[entry.id, entry.attempt] = world.loop.time()
        before = story.executors.get(entry.attempt - 1, entry.executor)
        if before == entry.executor:
            return
        self.takeovers += 1
        overdue = story.accepted is not None and world.now() > story.accepted.deadline
        if world.lives(before) and not overdue:
            world.bad("P-51 a living executor was counted out", story.id, before, entry.executor)

    def log_time(self, id: ResponseId) -> int:
        """The log time (ms) that every replica knows for a response (P-86)."""
        return max(self._world.truth[partition_of(id)].time, self._beaten)

    def _beat(self, record: MemoryRecord) -> None:
        self._beaten = record.timestamp
        if dict(record.headers).get("leaving") == b"1":
            executor = (record.key or b"").decode()
            self._world.left.add(executor)
            self.conduct.left(executor)

    def called(self, node: Node, request: RunRequest, kind: str) -> None:
        """Check that the call of an upstream is authorised: it has just been made."""
        world, story = self._world, self._world.story(request.id)
        calls = self._calls.setdefault(request.id, [])
        world.say("call", request.id, "attempt", request.attempt, node)
        me = world.processes[node.name].me
        if me in world.left:
            world.bad("A-21 a call after the last beat", request.id, request.attempt, node)
        if story.executors.get(request.attempt) != me:
            world.bad("P-42 a call without a winning claim", request.id, request.attempt, node)
        elif story.executors.get(story.attempt) != me:  # its own later claim goes on with the same run
            world.bad("P-42 a call after the fence", request.id, request.attempt, node)
        elif node.stalled(self._claimed_at[request.id, request.attempt]) >= world.settings.lease_s:
            world.bad("P-52 a call on an old claim", request.id, request.attempt, node)
        open_here = [kind for _, at, kind in self.streams.values() if at is node and kind != "stubborn"]
        if len(open_here) >= world.settings.slots:
            world.bad("P-57 more runs than slots", node)
        if open_here.count(kind) >= world.plan.places:
            world.bad("P-49 more calls than places", kind, node)
        if request.attempt in calls:
            world.bad("P-54 two calls for one attempt", request.id, request.attempt)
        if calls and kind == "fragile":
            world.bad("P-44 a fragile upstream called again", request.id)
        if request.attempt > world.settings.max_attempts:
            world.bad("P-45 more attempts than allowed", request.id, request.attempt)
        calls.append(request.attempt)
        self._texts.setdefault(request.id, set()).add(whole_text(request, kind))

    def taken_for_open(self, seconds: float) -> int:
        """How many responses may count as open where it is not known what has closed in so many seconds."""
        since = self._world.loop.time() - seconds
        _, opened, accepted = next((was for was in reversed(self._opens) if was[0] < since), self._opens[0])
        return opened + self._accepted - accepted

    def _view(self, topic: str, record: MemoryRecord) -> None:
        key = record.key or b""
        self._world.say("view", topic, key.decode(), "tombstone" if record.value is None else "")
        self.views[topic][key] = record
        if record.value is None:
            return
        story = self._world.story(ResponseId(key.decode().partition("/")[0]))
        if wrong := self._checks[topic](record, story):
            self._world.bad(wrong, key)

    def _transcript(self, record: MemoryRecord, story: Story) -> str | None:
        match transcript.parse(record):
            case transcript.Gone():
                wrong = not story.deleted and not story.leaves_word
                return "P-72 gone, though nobody deleted it" if wrong else None
            case _ if story.closed_offset < 0 or story.unstored:
                return "P-70 a transcript of what is not closed or not stored"
            case transcript.Request():
                same = transcript.unpack(record.value or b"") == story.value
            case transcript.Chunk(first=first, last=last):
                frames = b"".join(story.frames[first : last + 1])
                same = transcript.unpack(record.value or b"") == frames
            case _:
                same = False
        return None if same else "P-70 a transcript that is not the log's"

    def _response(self, record: MemoryRecord, story: Story) -> str | None:
        if story.closed_offset < 0 or story.unstored:
            return "P-70 a snapshot of what is not closed or not stored"
        same = json.loads(record.value or b"null") == story.final
        return None if same else "P-70 a snapshot that is not the log's"

    def _entry(self, record: MemoryRecord, story: Story) -> str | None:
        match shelf.parse(record):
            case _, transcript.Gone():
                wrong = not story.deleted and not story.leaves_word
                return "P-72 gone, though nobody deleted it" if wrong else None
            case _ if story.closed_offset < 0 or story.unstored:
                return "P-130 an entry of what is not closed or not stored"
            case _, shelf.Shelved() as entry:
                told = (entry.accepted_offset, entry.closed_offset, entry.events, entry.status)
                same = told == (story.offset, story.closed_offset, len(story.frames), story.status)
            case _:
                same = False
        return None if same else "P-130 an entry that is not the log's"

    def check_entries(self) -> None:
        """Each entry names what is there, also when it is compacted (P-131, P-92)."""
        for partition in range(self._world.partitions):
            records = self._world.log.records(NAMES.transcripts, partition)
            there = {record.offset: record.key for record in records if record.value is not None}
            for id, entry in self._entries(partition):
                if any(there.get(at) != key for key, at in _named(id, entry.where).items()):
                    self._world.bad("P-131 an entry names what is not there", id, entry.where)

    def _entries(self, partition: int) -> Iterator[tuple[ResponseId, shelf.Shelved]]:
        """The entries of responses that every reader must have."""
        for record in list(self.views[NAMES.index].values()):
            match shelf.parse(record, partition):
                case id, shelf.Shelved() as entry if self._world.story(id).readable:
                    yield id, entry

    def _misplaced(self, partition: int) -> list[ResponseId]:
        """The responses whose entries do not name the last copies (P-133)."""
        last = {key: record.offset for key, record in self.views[NAMES.transcripts].items()}
        return [
            id
            for id, entry in self._entries(partition)
            if any(last.get(key) != at for key, at in _named(id, entry.where).items())
        ]

    # As it is committed.

    def committed(self, group: str, partition: int, mark: int) -> None:
        """Check the watermark of a partition that a group commits."""
        world = self._world
        world.say("watermark", group, partition, mark)
        if group == PROJECTORS:
            self.announcements.committed(partition, mark)
        for story in world.truth[partition].stories.values():
            if story.accepted is not None and not story.closed and story.offset < mark:
                world.bad("P-61 a watermark past an open response", group, story.id)
            elif story.ephemeral and story.offset < mark and story.seen(world.now()):
                world.bad("P-67 a watermark past what is seen", group, story.id)
            elif group == EXECUTORS and (left := self.unerased(story, mark)):
                world.bad("P-96 a watermark past what is not erased", story.id, left)
            elif group == PROJECTORS and not self.projected(story, mark):
                world.bad("P-74 a watermark past what is not projected", story)

    def unerased(self, story: Story, mark: int) -> list[bytes]:
        """What should have been erased before the watermark passed `mark`, and is there."""
        if 0 <= story.deleted_offset < mark or (story.unstored and 0 <= story.closed_offset < mark):
            start = self._world.log.start(partition(story.id))
            return [key for key, offset in story.keys.items() if start <= offset < mark]
        return []

    def projected(self, story: Story, mark: int) -> bool:
        """Whether the views hold what they must of the log before `mark`."""
        id, transcripts = story.id, self.views[NAMES.transcripts]
        hidden = all(f"{id}/gone".encode() in self.views[topic] for topic in (NAMES.transcripts, NAMES.index))
        if story.deleted:
            return story.deleted_offset >= mark or hidden
        if story.leaves_word:
            return story.closed_offset >= mark or hidden
        if not story.readable or story.closed_offset >= mark:
            return True
        request = transcripts.get(f"{id}/request".encode())
        if request is None or not isinstance(entry := transcript.parse(request), transcript.Request):
            return False
        chunks = [transcripts.get(f"{id}/{index}".encode()) for index in range(entry.summary.chunks)]
        written = [*chunks, *(self.views[topic].get(id.encode()) for topic in (NAMES.responses, NAMES.index))]
        return all(record is not None and record.value is not None for record in written)

    # At any time.

    def check_folds(self) -> None:
        """A reader that starts now, from either watermark, folds the rest to the truth (P-28, P-62)."""
        for group in (EXECUTORS, PROJECTORS):
            for partition in range(self._world.partitions):
                self._check_fold(partition, self.mark(group, partition), self.start(group, partition))

    def _check_fold(self, partition: int, mark: int, start: int) -> None:
        world = self._world
        fold = Fold()
        for record in world.log.records(NAMES.events, partition):
            if record.offset >= start:
                fold.apply(record.offset, record.timestamp, parse(record))
        for state in fold.responses.values():
            story = world.story(state.id)
            if state.accepted is not None and state.offset >= mark and state.offset != story.offset:
                world.bad("P-62 a second life", state, story.offset)
        for story in world.truth[partition].stories.values():
            if story.accepted is None or story.offset < mark:
                continue
            found = fold.get(story.id)
            if story.erasable(world.now()):
                if found is not None and not found.closed:
                    world.bad("P-28 what was erased is open again", found)
            elif found is None or (found.status in ("queued", "in_progress")) != (story.status == "open"):
                world.bad("P-28 the fold of what is left differs", found, story.status)
            elif (found.last, found.attempt, found.claim) != (
                len(story.frames) - 1,
                story.attempt,
                story.claim,
            ):
                world.bad("P-28 the fold of what is left differs", found, story)

    def mark(self, group: str, partition: int) -> int:
        """What `group` committed."""
        return self._world.log.marks(group).get((NAMES.events, partition), 0)

    def start(self, group: str, partition: int) -> int:
        """Where the next owner of the partition in `group` begins to read (P-62)."""
        settings, mark = self._world.settings, self.mark(group, partition)
        records = self._world.log.records(NAMES.events, partition)
        times = [record.timestamp for record in records if record.offset >= mark]
        if not times:
            times = [record.timestamp for record in records[-1:]]
        since = min(times, default=0) - settings.acceptance_ms - settings.skew_ms
        return next((record.offset for record in records if record.timestamp >= since), mark)

    def needed(self, partition: int) -> int:
        """The first offset that a reader which starts now would read: compaction and retention stop there."""
        if self._world.plan.hasty:
            return self._world.log.end(TopicPartition(NAMES.events, partition))
        return min(self.start(group, partition) for group in (EXECUTORS, PROJECTORS))

    def compacted_below(self, source: TopicPartition) -> int:
        """The first offset of a view that is too young to be compacted."""
        since = self._world.now() - int(self._world.plan.lag_s * 1000)
        records = self._world.log.records(*source)
        return next(
            (record.offset for record in records if record.timestamp > since), self._world.log.end(source)
        )

    # At the end.

    def kept(self) -> list[str]:
        """What the services have still to do, each under its rule's number; empty when they are done."""
        world, left = self._world, []
        for partition, truth in enumerate(world.truth):
            end = world.log.end(TopicPartition(NAMES.events, partition))
            for story in truth.stories.values():
                if story.accepted is not None and not story.closed:
                    left.append(f"A-19 stranded {story.id}")
                if self.unerased(story, end):
                    left.append(f"P-90 not erased {story.id} {self.unerased(story, end)}")
                if not self.projected(story, end):
                    left.append(f"P-70 not projected {story.id}")
                if (story.deleted or story.unstored) and self._shown(story):
                    left.append(f"P-73 left in the views {story.id} {self._shown(story)}")
            left.extend(f"P-133 not mended {id}" for id in self._misplaced(partition))
            left.extend(f"P-102 not announced {id}" for id in self.announcements.left(partition))
            still = [group for group in (EXECUTORS, PROJECTORS) if self.mark(group, partition) < end]
            left.extend(f"P-61 the watermark stands still {group} {partition}" for group in still)
        return [*left, *self._running()]

    def _running(self) -> list[str]:
        """The upstreams that still run for a closed response."""
        running = [id for id, node, _ in self.streams.values() if node.alive]
        return [
            f"P-46 an upstream that nobody stopped {id}" for id in running if self._world.story(id).closed
        ]

    def _shown(self, story: Story) -> list[bytes]:
        """Keys of the views that hold something of `story`."""
        prefix, gone = story.id.encode(), f"{story.id}/gone".encode()
        return [
            key
            for view in self.views.values()
            for key, record in view.items()
            if key.startswith(prefix) and key != gone and record.value is not None
        ]

    def check_stories(self) -> None:
        """Check that each response's end is one that it may have."""
        for truth in self._world.truth:
            for story in truth.stories.values():
                if story.accepted is not None and not story.deleted:
                    self._check_story(story)
        if self._world.plan.lossless and self.takeovers:
            self._world.bad("P-51 takeovers, though nobody died", self.takeovers)

    def _check_story(self, story: Story) -> None:
        world, kind = self._world, story.kind
        assert story.accepted is not None
        events = [json.loads(frame.split(b"\ndata: ", 1)[1]) for frame in story.frames]
        text = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
        whole = self._texts.get(story.id, set())
        if text and not any(one.startswith(text) for one in whole):
            world.bad("A-3 the text told is not what the upstream said", story.id, text)
        if kind == "mixed":
            self._check_calls(story, events)
        if story.status == "completed":
            if kind != "mixed" and text != story.final["output"][0]["content"][0]["text"]:
                world.bad("A-3 the text told differs from the final object", story.id, text)
            if kind != "mixed" and text not in whole:
                world.bad("A-3 not all that the upstream said was told", story.id, text)
        elif story.status == "failed":
            why = (story.final.get("error") or {}).get("message", "")
            if "internal error" in why:
                world.bad("A-22 an executor's own error", story.id, why)
            if world.plan.lossless:
                world.bad("P-48 a run was lost, though nobody died", story.id, why)
            alone = story.accepted.previous is None and kind not in ("silent", "stubborn")
            if "deadline" in why and alone and story.accepted.deadline - story.accepted.not_after > LONG:
                world.bad("P-43 nobody ran it until its deadline", story.id)
        elif story.status not in ("cancelled", "open"):
            world.bad("A-19 an end that nobody asked for", story.id, story.status)

    def _check_calls(self, story: Story, events: list[Any]) -> None:
        """Each call is told once and in its pieces, whoever told them (U-16)."""
        world, whole = self._world, [inputs_of(text) for text in self._texts.get(story.id, set())]
        for call in range(2):
            pieces = [e["delta"] for e in events if "delta" in e and e["output_index"] == call]
            told, words = "".join(pieces), [inputs[call].split() for inputs in whole]
            begun = [piece.strip() for piece in pieces]
            if begun and not any(begun == said[: len(begun)] for said in words):
                world.bad("A-3 a call is not told in its pieces", story.id, call, pieces)
            if story.status == "completed" and told not in [inputs[call] for inputs in whole]:
                world.bad("A-3 not all of a call was told", story.id, call, told)
            if story.status == "completed" and whole and told != _input_of(story, call):
                world.bad("A-3 the call told differs from the final object", story.id, call, told)

    def check_erased(self) -> None:
        """After compaction no topic holds what was deleted or not stored (P-72, P-76, P-90, P-99)."""
        for partition in range(self._world.partitions):
            for topic in (NAMES.events, *VIEWS):
                for record in self._world.log.records(topic, partition):
                    if record.value is not None and record.timestamp < self._world.now() - ERASING_MS:
                        self._check_erased(topic, record.key or b"")

    def _check_erased(self, topic: str, key: bytes) -> None:
        id, _, kind = key.decode().partition("/")
        story = self._world.story(ResponseId(id))
        marker = kind == "gone" or kind.startswith("deleted/")
        if not marker and story.erasable(self._world.now()):
            self._world.bad("P-90 erased, and still in the log", topic, key)


def _named(id: ResponseId, where: Whereabouts) -> dict[bytes, int]:
    """By key, where an entry says that the records of its transcript are."""
    chunks = {chunk_key(id, index): offset for index, offset in enumerate(where.chunks)}
    return {request_key(id): where.request, **chunks}


def _input_of(story: Story, call: int) -> str:
    output = story.final["output"]
    return str(output[call]["input"]) if call < len(output) else ""


def partition(id: ResponseId) -> TopicPartition:
    """Where a response's records are."""
    return TopicPartition(NAMES.events, partition_of(id))
