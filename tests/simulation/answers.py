"""What ingest tells clients, held against the truth when they hear it, and in the end."""

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from schemas.errors import ApiError
from schemas.ids import ResponseId, partition_of
from services.ingest.commands import Created

if TYPE_CHECKING:
    from tests.simulation.clients import Wish
    from tests.simulation.world import World


STALE, QUIET = 12.0, 30.0
"""Seconds that an ingest's figures of open responses may be old, when nothing has happened for some time."""


class Answers:
    """Every answer of one world."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self._wishes: dict[str, Wish] = {}
        self._possible: dict[str, None] = {}
        """Marks of wishes that may have come true, as far as their clients know."""
        self.cancels: set[ResponseId] = set()
        """What clients asked to cancel, or left for good."""
        self._ids: dict[str, ResponseId] = {}
        """The id that each Idempotency-Key made."""

    def created(self, wish: "Wish", created: Created) -> None:
        """A client heard that its response exists: `accepted` is in the log, and it won (P-30, P-31)."""
        world, story, sha = self._world, self._world.story(created.id), wish.request.sha256
        world.say("created", wish.mark, created.id)
        self._wishes[wish.mark] = wish
        self._possible[wish.mark] = None
        if created.id not in world.created:
            world.created.append(created.id)
        if story.accepted is None:
            world.bad("P-30 a POST answered for what was not accepted", created.id)
        elif story.accepted.body_sha256 != sha or (created.offset not in (-1, story.offset)):
            world.bad("P-30 a POST answered for what did not win", story, created.offset)
        if wish.key and self._ids.setdefault(wish.key, created.id) != created.id:
            world.bad("P-2 two responses for one key", wish.key, created.id)
        previous = wish.request.previous
        if previous and world.story(previous).unstored:
            world.bad("P-76 follows what is not stored", created.id, previous)
        if previous and not wish.key and partition_of(previous) != partition_of(created.id):
            world.bad("P-3 not where its predecessor is", created.id, previous)

    def not_created(self, wish: "Wish", said: ApiError | None) -> None:
        """A client heard something else, or nothing."""
        world = self._world
        world.say("not created", wish.mark, repr(said))
        self._wishes[wish.mark] = wish
        if said is None or (
            said.status == 503 and (wish.key or said.headers.get("x-should-retry") == "false")
        ):
            self._possible[wish.mark] = None
        elif said.status == 404 and wish.request.previous:
            before = world.story(wish.request.previous)
            if before.accepted is not None and not (before.deleted or before.unstored):
                world.bad("P-80 a false 404 for a predecessor", before)
        elif said.status == 429:
            told = world.undisturbed("ri", QUIET)  # else it may be long since an ingest heard of what closed
            if told and world.promises.taken_for_open(STALE) < world.settings.max_queue:
                world.bad("A-10 refused, and there was room", wish.mark)
        elif said.status not in (422, 503):
            world.bad("A-9 refused for no reason", repr(said))

    def left(self, id: ResponseId, *, back: bool) -> None:
        """A client goes away while it waits; perhaps it comes `back`, and its response must not end (A-7)."""
        self._world.say("left", id, back)
        if not back:
            self.cancels.add(id)

    def awaited(self, id: ResponseId, said: bytes) -> None:
        """A client heard the final object of the response that it waited for."""
        story = self._world.story(id)
        self._world.say("awaited", id, story.status)
        if json.loads(said) != story.final:
            self._world.bad("P-70 told to whoever waited, and not the log's", story, said)

    def cancelled(self, id: ResponseId, said: Any) -> None:
        """A client heard what came of its cancel: it stays so (A-11)."""
        story = self._world.story(id)
        self._world.say("cancel", id, repr(said))
        if not isinstance(said, ApiError):
            right = story.status == "cancelled"
        elif said.status == 404:
            right = not story.seen(self._world.now())
        else:
            right = said.status == 400 and story.closed_offset >= 0 and story.status != "cancelled"
        if not right:
            self._world.bad("P-30 a cancel that was not decided so", story, repr(said))

    def deleted(self, id: ResponseId, said: Any) -> None:
        """A client heard what came of its delete."""
        story = self._world.story(id)
        self._world.say("delete", id, repr(said))
        never = isinstance(said, ApiError) and said.status == 404 and not story.seen(self._world.now())
        if not (story.deleted or never):
            self._world.bad("P-30 a delete that is not in the log", story, repr(said))

    def check(self) -> None:
        """In the end: each wish came true once at most, and not at all when its client knows it did not."""
        for truth in self._world.truth:
            for story in truth.stories.values():
                if story.status == "cancelled" and story.id not in self.cancels:
                    self._world.bad("A-21 cancelled, and nobody asked for it", story)
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
