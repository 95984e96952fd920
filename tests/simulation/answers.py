"""Checks what front doors tell clients against the truth, when they hear it and in the end."""

import json
import re
from collections import Counter
from typing import TYPE_CHECKING

from schemas.events import KEEP_ALIVE
from schemas.ids import ResponseId, partition_of
from schemas.refusal import RESPONSE_ID
from tests.simulation.door import Connection
from tests.simulation.processes import Process
from tests.simulation.truth import Story

if TYPE_CHECKING:
    from tests.simulation.clients import Wish
    from tests.simulation.world import World


_ID = re.compile("resp_[0-9a-f]{36}")
NOTICED_MS = 60_000
"""Milliseconds within which a response that its client left is cancelled, if its front door lives."""
STALE, QUIET = 12.0, 30.0
"""Seconds that an ingest's figures of open responses may be old, when nothing has happened for some time."""


class Answers:
    """Checks every answer of one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._wishes: dict[str, Wish] = {}
        self._possible: dict[str, None] = {}
        """Marks of wishes that may have come true, as far as their clients know."""
        self.cancels: set[ResponseId] = set()
        """The responses that clients asked to cancel."""
        self._left: dict[str, tuple[Process, int]] = {}
        """By mark of a wish that ends with its client, where and when (log time, ms) the client left."""
        self._ids: dict[str, ResponseId] = {}
        """By Idempotency-Key, the id that it made."""

    def heard(self, wish: "Wish", said: Connection, process: Process) -> ResponseId | None:
        """Check the answer of `process` to a POST, whole or not. Returns the id in it, if there is one."""
        self._wishes[wish.mark] = wish
        if said.status != 200:
            id = ResponseId(said.headers.get(RESPONSE_ID, "")) or None
            if id is None:
                self._not_created(wish, said, process)
            else:
                self._created(wish, id)
            return id
        if wish.request.stream:
            return self._streamed(wish, said)
        if not said.whole:
            self._possible[wish.mark] = None
            return None
        shown = json.loads(bytes(said.body))
        story = self._created(wish, ResponseId(shown["id"]))
        first = json.loads(story.value)["response"] if story.value else None
        if wish.request.background and shown["status"] == "queued" and shown != first:
            self._world.bad("P-20 told of an attempt that does not count", story, shown)
        elif not wish.request.background and shown != story.final:
            self._world.bad("P-70 told to whoever waited, and not the log's", story, shown)
        return story.id

    def _streamed(self, wish: "Wish", said: Connection) -> ResponseId | None:
        frames = bytes(said.body).replace(KEEP_ALIVE, b"")
        if not frames:
            self._possible[wish.mark] = None
            return None
        first = json.loads(frames.split(b"\ndata: ", 1)[1].split(b"\n", 1)[0])
        story = self._created(wish, ResponseId(first["response"]["id"]))
        if not story.deleted and not b"".join(story.frames).startswith(frames):
            self._world.bad("P-81 a POST was streamed something else", story, frames)
        elif said.whole and not story.closed:
            self._world.bad("A-2 the stream of a POST ended early", story)
        return story.id

    def _created(self, wish: "Wish", id: ResponseId) -> Story:
        """Check an answer that names a response: its `accepted` is in the log, and won (P-30, P-31)."""
        world, story, sha = self._world, self._world.story(id), wish.request.sha256
        world.say("created", wish.mark, id)
        self._possible[wish.mark] = None
        if id not in world.created:
            world.created.append(id)
        if story.accepted is None:
            world.bad("P-30 a POST answered for what was not accepted", id)
        elif story.accepted.body_sha256 != sha:
            world.bad("P-30 a POST answered for what did not win", story)
        if wish.key and self._ids.setdefault(wish.key, id) != id:
            world.bad("P-2 two responses for one key", wish.key, id)
        previous = wish.request.previous
        if previous and world.story(previous).unstored:
            world.bad("P-37 follows what is not stored", id, previous)
        if previous and not wish.key and partition_of(previous) != partition_of(id):
            world.bad("P-3 not where its predecessor is", id, previous)
        return story

    def _not_created(self, wish: "Wish", said: Connection, process: Process) -> None:
        """Check an answer to a POST that names no response."""
        world, status = self._world, said.status
        world.say("not created", wish.mark, status, bytes(said.body))
        if not (status and said.whole) or (
            status == 503 and (wish.key or said.headers.get("x-should-retry") == "false")
        ):
            self._possible[wish.mark] = None
            if status and said.whole and b" goes on and " not in said.body:
                self._nobody_waits(wish, process)
        elif status == 404:
            missed = world.story(ResponseId(_ID.findall(bytes(said.body).decode())[0]))
            self._possible[wish.mark] = None  # itself may be gone by now
            if missed.accepted is not None and not (missed.deleted or missed.unstored):
                world.bad("P-80 a false 404", missed)
        elif status == 429:
            told = world.undisturbed("ri", QUIET)  # else it may be long since an ingest heard of what closed
            if told and world.promises.taken_for_open(STALE) < world.settings.max_queue:
                world.bad("A-10 refused, and there was room", wish.mark)
        elif status not in (422, 503):
            world.bad("A-9 refused for no reason", status, bytes(said.body))

    def left(self, wish: "Wish", process: Process) -> None:
        """A client went away, or took nothing more, at `process`. What ends with its client may end (A-7)."""
        self._world.say("left", wish.mark, process.name)
        self._possible[wish.mark] = None
        self._nobody_waits(wish, process)

    def _nobody_waits(self, wish: "Wish", process: Process) -> None:
        """Note that the wish's client cannot have the response any more, if that ends with its client."""
        if not (wish.request.background or wish.key):
            self._left[wish.mark] = (process, self._world.now())

    def cancelled(self, id: ResponseId, said: Connection) -> None:
        """A client heard the outcome of its cancel: it stays so (A-11)."""
        story = self._world.story(id)
        self._world.say("cancel", id, said.status)
        if said.status == 200:
            right = story.status == "cancelled" and json.loads(bytes(said.body)) == story.final
        elif said.status == 404:
            right = not story.seen(self._world.now())
        else:
            right = said.status == 400 and story.closed_offset >= 0 and story.status != "cancelled"
        if not right:
            self._world.bad("P-30 a cancel that was not decided so", story, said.status, bytes(said.body))

    def deleted(self, id: ResponseId, said: Connection) -> None:
        """A client heard the outcome of its delete."""
        story = self._world.story(id)
        self._world.say("delete", id, said.status)
        never = said.status == 404 and not story.seen(self._world.now())
        if not (story.deleted or never):
            self._world.bad("P-30 a delete that is not in the log", story, said.status)

    def check(self) -> None:
        """Check in the end: each wish came true once at most, and not at all if its client knows that."""
        for truth in self._world.truth:
            for story in truth.stories.values():
                self._check_end(story)
        made = Counter(
            story.asked["metadata"]["mark"]
            for truth in self._world.truth
            for story in truth.stories.values()
            if story.accepted is not None
        )
        for mark, times in made.items():
            if times > 1:
                self._world.bad("P-2 made twice" if self._wishes[mark].key else "A-10 made twice", mark)
            if mark not in self._possible:
                self._world.bad("A-10 refused, and made all the same", mark)

    def _check_end(self, story: Story) -> None:
        """Only a response that a client cancelled or left is cancelled; each one left is cancelled (A-7)."""
        if story.accepted is None:
            return
        process, at = self._left.get(story.asked["metadata"]["mark"], (None, 0))
        if story.status == "cancelled" and story.id not in self.cancels and process is None:
            self._world.bad("A-21 cancelled, and nobody asked for it", story)
        stayed = process is not None and self._world.processes.get(process.name) is process
        if stayed and story.status != "cancelled" and story.closed_at - at > NOTICED_MS:
            self._world.bad("A-7 left by its client, and nobody ended it", story)
