"""Goes on with what another executor told a part of (P-39). Pure.

    at the point of rest, a scribe → the upstream says again what came behind it → the scribe makes of it what
    counts already → that is passed over → what comes then is new

A scribe makes the same of the same, so nothing is said twice, and what the other one held back comes in its
pieces. Where it makes something else (the stream is gone and the object is read, or the other one is of
another version), a scribe that knows all that counts goes on behind what the other one heard; what was held
back comes with the ends of the texts then (U-6).
"""

from collections import deque
from collections.abc import Sequence
from copy import deepcopy

import msgspec

from schemas.events import TERMINAL_EVENTS, UNDECODABLE, Event
from schemas.records import UPSTREAM_CURSOR, Headers
from schemas.steps import Steps, finished
from services.executor.past import Ahead, Past
from services.executor.scribe import Draft, Ending, Scribe


class Retelling:
    """A `Scribe` for what has a part `ahead` of the point of rest in `past`. `at_rest` knows what counts up
    to there, `whole` all that counts.
    """

    def __init__(self, past: Past, at_rest: Scribe, whole: Scribe) -> None:
        self._ahead = deque(past.ahead)
        """What counts already and was not told again yet."""
        self._heard = past.heard
        self._scribe = at_rest
        self._whole = whole
        self._is_behind = False
        """Whether the upstream may still say what the other executor heard, after the scribe was changed."""

    def __repr__(self) -> str:
        return f"<Retelling ahead={len(self._ahead)} {self._scribe!r}>"

    @property
    def ended(self) -> bool:
        """Whether the response has its end."""
        return self._scribe.ended

    def begin(self, upstream: Headers = ()) -> list[Draft]:
        """As a scribe's."""
        drafts = self._scribe.begin(upstream)
        new = self._beyond(drafts, upstream)
        if new is None:
            self._give_up()
            return self._scribe.begin(upstream)
        return new

    def write(self, event: Event, upstream: Headers = (), *, now: float) -> list[Draft]:
        """As a scribe's."""
        if self._ahead or self._is_behind:
            return finished(self.writing(event, upstream, now=now))
        return self._scribe.write(event, upstream, now=now)

    def writing(self, event: Event, upstream: Headers = (), *, now: float) -> Steps[list[Draft]]:
        """As a scribe's."""
        if self._ahead:
            untouched = deepcopy(event)
            drafts = yield from self._scribe.writing(event, upstream, now=now)
            if (new := self._beyond(drafts, upstream)) is not None:
                return new
            self._give_up()
            event = untouched
        if self._is_behind and self._was_heard(event, upstream):
            return []
        self._is_behind = False
        return (yield from self._scribe.writing(event, upstream, now=now))

    def ending(self, ending: Ending) -> Steps[list[Draft]]:
        """As a scribe's: with all that counts."""
        if self._ahead:
            self._give_up()
        return (yield from self._scribe.ending(ending))

    def _beyond(self, drafts: Sequence[Draft], upstream: Headers) -> list[Draft] | None:
        """Those that do not count yet; None where one of them is something else than what does."""
        for at, draft in enumerate(drafts):
            if not self._ahead:
                rest = list(drafts[at:])
                if not rest[0].upstream:  # the upstream's id is in the first event of a claim (P-34)
                    rest[0] = msgspec.structs.replace(rest[0], upstream=upstream[:1])
                return rest
            if not _is_same(draft, self._ahead[0]):
                return None
            self._ahead.popleft()
        return []

    def _give_up(self) -> None:
        self._ahead.clear()
        self._scribe, self._is_behind = self._whole, True

    def _was_heard(self, event: Event, upstream: Headers) -> bool:
        """Whether the other executor heard an event. It did not hear the last one, for which an object that
        is read stands (U-13): that has no place of its own in the stream.
        """
        cursor = dict(upstream).get(UPSTREAM_CURSOR)
        if cursor is None or self._heard is None or event.get("type") in TERMINAL_EVENTS:
            return False
        return int(cursor) <= self._heard


def _is_same(draft: Draft, told: Ahead) -> bool:
    """Whether they say the same, in whatever order of the members."""
    if draft.extension != told.extension:
        return False
    if draft.value == told.value:
        return True
    try:
        return bool(msgspec.json.decode(draft.value) == msgspec.json.decode(told.value))
    except UNDECODABLE:
        return False
