"""The upstream's indexes of items and of parts, where they are not ours (U-2, U-4). Pure.

Some upstreams name an event's item by nothing but its `output_index`. Who takes a response over must know the
item by that index, and the log has our places. So the header of the event that begins the item has the
upstream's index (P-113); so has the header of the event that begins a part.
"""

from collections.abc import Mapping
from typing import NamedTuple

from schemas.events import ITEM_ADDED, Event
from schemas.output import PARTS

NO_INDEX = -1
"""In place of an index, where the upstream gave none."""


class OurPlace(NamedTuple):
    """Our place of an item (`parts` is ""): its `output_index`. Or of the `at`th part of its list `parts`."""

    item: int
    parts: str = ""
    at: int = 0


Indexes = Mapping[OurPlace, int]
"""By our place of an item or of a part, the upstream's index of it."""


def begun_by(event: Event) -> OurPlace | None:
    """Our place of the item or the part that `event`, one of ours, begins; None if it begins neither."""
    type, index = event.get("type"), event.get("output_index")
    if index.__class__ is not int:
        return None
    if type == ITEM_ADDED:
        return OurPlace(index)
    if isinstance(type, str) and type in PARTS and type.endswith(".added"):
        parts, name = PARTS[type]
        at = event.get(name)
        return OurPlace(index, parts, at) if at.__class__ is int else None
    return None
