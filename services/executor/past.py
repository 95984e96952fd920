"""Splits the log of a response that another executor began, for a takeover (P-39). Pure.

    at rest   the events that count up to the last cursor at which no words of the upstream waited: they tell
              exactly what the upstream said up to there
    ahead     the events that count behind that: a part of what the upstream says from there on

If the upstream cannot be resumed, nothing is ahead.

A response may have a million events, so they are folded in steps (`folding`): between two of them others have
a turn.
"""

from contextlib import suppress
from typing import Any

import msgspec
from msgspec import Struct

from schemas.events import IN_PROGRESS, UNDECODABLE, Event
from schemas.output import Output
from schemas.steps import ENCODED_BYTES, ENCODED_ELEMENTS, Steps
from services.executor.mending.places import OurPlace, begun_by
from services.web.internal import Name, name_in

_event = msgspec.json.Decoder(dict[str, Any]).decode


class Ahead(Struct, frozen=True, gc=False):
    """The value of an event, or of an extension, that counts behind the point of rest. `index`: the
    upstream's of the item or the part that the event begins, where that is not ours (P-113).
    """

    value: bytes
    extension: bool = False
    index: int | None = None


class Past(Struct):
    """A response as the log has it: its `accepted` value; its output and its upstream's place as of the point
    of rest, once `folding` is done; and the events `ahead` of that.
    """

    accepted: bytes | None = None
    response: dict[str, Any] | None = None
    """The object of the last `response.in_progress`, with the fields of the upstream's object (U-15)."""
    output: Output = msgspec.field(default_factory=Output)
    upstream_id: str | None = None
    cursor: int | None = None
    """The cursor of the point of rest; None if that is the beginning."""
    heard: int | None = None
    """The last cursor of all: the other executor had the upstream's events up to there, told or not."""
    names: dict[str, Name] = msgspec.field(default_factory=dict)
    """The upstream's names of the items of the output, by id."""
    indexes: dict[OurPlace, int] = msgspec.field(default_factory=dict)
    """The upstream's indexes of the items and parts of the output, where they are not ours."""
    extensions: int = 0
    bytes: int = 0
    """The bytes of the values of its events and extensions."""
    ahead: list[Ahead] = msgspec.field(default_factory=list)
    unfolded: list[Ahead] = msgspec.field(default_factory=list)
    """Events behind the point of rest that the output does not have yet."""

    @property
    def events_ahead(self) -> int:
        """How many of the numbers that count are ahead of the point of rest."""
        return sum(not told.extension for told in self.ahead)

    def add(self, told: Ahead, upstream_id: str | None, cursor: int | None, *, partial: bool) -> None:
        """Take the next event that counts, and the place of the upstream in its headers (P-34)."""
        self.ahead.append(told)
        self.upstream_id = upstream_id or self.upstream_id
        self.heard = self.heard if cursor is None else cursor
        if self.upstream_id is None or (cursor is not None and not partial):
            self.cursor = cursor
            self.settle()

    def whole(self) -> Steps["Past"]:
        """The same response with its point of rest behind all that counts, folded, and nothing ahead."""
        past = msgspec.structs.replace(
            self,
            output=(yield from self.output.copying()),
            names=dict(self.names),
            indexes=dict(self.indexes),
            ahead=list(self.ahead),
            unfolded=list(self.unfolded),
            cursor=self.heard,
        )
        past.settle()
        yield from past.folding()
        return past

    def settle(self) -> None:
        """Move the point of rest behind all events that are ahead. What they say is folded later."""
        self.unfolded += self.ahead
        self.ahead.clear()

    @property
    def is_due(self) -> bool:
        """Whether so much is to be folded that it should be now."""
        return len(self.unfolded) >= ENCODED_ELEMENTS

    def folding(self) -> Steps[None]:
        """Fold what is behind the point of rest into the output."""
        unfolded, self.unfolded = self.unfolded, []
        number = size = 0
        for told in unfolded:
            self._fold(told)
            number, size = number + 1, size + len(told.value)
            if number >= ENCODED_ELEMENTS or size >= ENCODED_BYTES:
                number = size = 0
                yield

    def _fold(self, told: Ahead) -> None:
        self.bytes += len(told.value)
        self.extensions += told.extension
        if not told.extension:
            with suppress(*UNDECODABLE):  # it counts, whatever its value is (P-4); no output comes of it
                self._apply(_event(told.value), told.index)

    def _apply(self, event: Event, index: int | None) -> None:
        shown = event.get("response")
        if event.get("type") == IN_PROGRESS and isinstance(shown, dict):
            self.response = shown
        if (named := name_in(event)) is not None:
            self.names[named[0]] = named[1]
        if index is not None and (place := begun_by(event)) is not None:
            self.indexes[place] = index
        self.output.apply(event)
