"""The transcripts of one partition that are in flux: what was read back of them, and what their entries name.

    a copy of a request or chunk is read  → its offset is the last of that record
    an entry is read                      → it names offsets
    the entry names the last copies       → all is well: forgotten
    it does not for MEND_S seconds        → overdue: everything is to be written again (P-133)

A late writer writes copies, or an entry, or half of either; whatever it was, here it shows as an entry that
does not name the last copies. Pure, O(chunks) a record.
"""

from msgspec import Struct, field

from schemas.ids import ResponseId
from services.eventlog.shelf import NOWHERE, Shelved, Whereabouts
from services.eventlog.transcript import Chunk, Request

MEND_S = 5.0
"""Seconds for which an entry may fail to name the last copies: so long a writer that is at work has."""


MOST_MENDS = 3
"""How often a transcript is written again before it is given up: a record of it may be larger than any topic
takes."""


class _Flux(Struct):
    """A transcript in flux: the last copies that were read of it, and where its entry says that they are."""

    accepted_offset: int
    time: int
    """Log time (ms) of the first record that was read of it: the watermark must not pass it by far."""
    since: float
    """Loop time at which it came into flux, or was mended."""
    request: int = -1
    chunks: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By index, offset and first event."""
    count: int = 0
    """How many chunks it has."""
    named: Whereabouts = NOWHERE
    mends: int = 0
    """How often it was mended."""

    def where(self) -> Whereabouts | None:
        """Where the last copies are; None if not all were read."""
        if self.request < 0 or len(self.chunks) < self.count:
            return None
        places = [self.chunks[index] for index in range(self.count)]
        return Whereabouts(self.request, tuple(at for at, _ in places), tuple(first for _, first in places))


class Copies:
    """What is in flux in one partition."""

    def __init__(self) -> None:
        self._flux: dict[ResponseId, _Flux] = {}
        self._builds = False
        self._fresh: set[ResponseId] = set()
        """The transcripts of which copies were read since the index is being made."""

    def __len__(self) -> int:
        return len(self._flux)

    @property
    def oldest(self) -> int | None:
        """Log time (ms) of the first record of what has been in flux for longest; None if nothing is."""
        return min((flux.time for flux in self._flux.values()), default=None)

    def copied(self, part: Request | Chunk, offset: int, time: int, now: float) -> None:
        """Take a copy that was read at `offset`. `time` is its log time (ms), `now` the loop time."""
        if self._builds:
            self._fresh.add(part.id)
        flux = self._of(part.id, part.summary.accepted_offset, time, now)
        flux.count = part.summary.chunks
        match part:
            case Request():
                flux.request = offset
            case Chunk(index=index, first=first):
                flux.chunks[index] = (offset, first)
        self._settle(part.id, flux)

    def named(self, id: ResponseId, entry: Shelved, time: int, now: float) -> None:
        """Take an entry that was read. `time` is its log time (ms), `now` the loop time.

        While the index is being made, an entry of what was closed long ago is one of those that are made.
        """
        if self._builds and id not in self._fresh:
            return
        flux = self._of(id, entry.accepted_offset, time, now)
        flux.named = entry.where
        self._settle(id, flux)

    def where(self, id: ResponseId) -> Whereabouts | None:
        """Where the last copies of a transcript in flux are; None if not all were read."""
        flux = self._flux.get(id)
        return None if flux is None else flux.where()

    def drop(self, id: ResponseId) -> None:
        """Forget a transcript: it is erased, or nothing can be made of it."""
        self._flux.pop(id, None)

    def overdue(self, now: float) -> list[tuple[ResponseId, int]]:
        """What is to be mended as of loop time `now`, with the offset of its `accepted`."""
        return [(id, flux.accepted_offset) for id, flux in self._flux.items() if now - flux.since >= MEND_S]

    def mended(self, id: ResponseId, now: float) -> bool:
        """Note that a transcript was just written again: what was written is to be read back now.

        False if that was done so often that it cannot help: it is forgotten, and holds nothing up (A-22).
        """
        if (flux := self._flux.get(id)) is None:
            return True
        flux.since, flux.mends = now, flux.mends + 1
        if flux.mends == MOST_MENDS:
            del self._flux[id]
        return flux.mends < MOST_MENDS

    def build(self) -> None:
        """The index is being made from now on, of what is there."""
        self._builds = True

    def built(self) -> bool:
        """The index is made, of all that is not fresh. Returns whether that has its entries too by now."""
        self._builds = False
        self._fresh &= self._flux.keys()
        return not self._fresh

    def is_fresh(self, id: ResponseId) -> bool:
        """Whether copies of a transcript came since the index is being made: it gets its entry for these."""
        return id in self._fresh

    def _of(self, id: ResponseId, accepted_offset: int, time: int, now: float) -> _Flux:
        return self._flux.setdefault(id, _Flux(accepted_offset, time, now))

    def _settle(self, id: ResponseId, flux: _Flux) -> None:
        if flux.named == flux.where():
            del self._flux[id]
