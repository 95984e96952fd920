"""Goes on with a response of which another executor told a part (P-39). Pure.

    a scribe begins at the point of rest → the upstream repeats what came behind it → the scribe makes the
    events that count already: they are passed over → the events after those are new

A scribe makes the same events of the same words, so nothing is told twice, and the words that the other
executor held back come in their pieces. The scribe may make other events, if the stream is gone and the
object is read, or if the other executor was of another version. Then a scribe that knows all that counts goes
on behind the last words that the other executor heard, and what was held back comes with the ends of the
texts (U-6).
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
    """A `Scribe` for a response that has events `ahead` of the point of rest in `past`. The scribe `at_rest`
    knows the events up to there, `whole` all that count.
    """

    def __init__(self, past: Past, at_rest: Scribe, whole: Scribe) -> None:
        self._ahead = deque(past.ahead)
        """The events that count already and were not made again yet."""
        self._heard = past.heard
        self._scribe = at_rest
        self._whole = whole
        self._is_behind = False
        """Whether the upstream may still repeat what the other executor heard, after a change of scribe."""

    def __repr__(self) -> str:
        return f"<Retelling ahead={len(self._ahead)} {self._scribe!r}>"

    @property
    def ended(self) -> bool:
        """Whether the end of the response was told."""
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
        """The drafts that do not count yet; None if one of them differs from the event that counts."""
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
        """Whether the other executor heard an event. It did not hear the terminal event that an object stands
        for (U-13), which has no place of its own in the stream.
        """
        cursor = dict(upstream).get(UPSTREAM_CURSOR)
        if cursor is None or self._heard is None or event.get("type") in TERMINAL_EVENTS:
            return False
        return int(cursor) <= self._heard


def _is_same(draft: Draft, told: Ahead) -> bool:
    """Whether both have the same JSON value; the order of members does not matter."""
    if draft.extension != told.extension:
        return False
    if draft.value == told.value:
        return True
    try:
        return bool(msgspec.json.decode(draft.value) == msgspec.json.decode(told.value))
    except UNDECODABLE:
        return False
