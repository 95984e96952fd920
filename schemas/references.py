"""Item references: `{"type": "item_reference", "id": …}` in a request's input, for an item said before.

A reference is resolved when the input is put together for a call, never when it is stored: so an item that
was deleted meanwhile is not said again (A-13). An id of ours says where its item lies
(`schemas.ids.item_id`). Any other id is looked for in the conversation before: a client named that item
itself, or its response is older than such ids. An item that the conversation has said already is not said
twice.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from schemas.checks import shown
from schemas.errors import ApiError, invalid
from schemas.ids import ResponseId, parse_item_id
from schemas.request import Item, item_type

REFERENCE = "item_reference"
MAX_REFERENCES = 4096
"""Most references of one request: each may name another response, which replay looks up before the POST is
answered (A-10). A longer conversation is chained with previous_response_id."""
MAX_ID = 256
"""Characters of an id that is looked for. The API's have at most 64; upstreams do as they like."""


class Reference(NamedTuple):
    """The reference at `position` of a request's input to the item with an id."""

    position: int
    id: str


def is_reference(item: Item) -> bool:
    """Whether `item` stands for another one."""
    return item_type(item) == REFERENCE


def references(body: Mapping[str, Any]) -> list[Reference]:
    """The references in the input of `body`, a request, to what is not in that input before them; of too many
    the first MAX_REFERENCES + 1.
    """
    found: list[Reference] = []
    given: set[object] = set()
    input = body.get("input")
    for index, item in enumerate(input if isinstance(input, list) else ()):
        if not is_reference(item):
            given.add(item.get("id"))
        elif item["id"] not in given and len(found) <= MAX_REFERENCES:
            found.append(Reference(index, item["id"]))
    return found


def checked_references(body: Mapping[str, Any]) -> list[Reference]:
    """As `references`, of a validated request that is to be stored.

    Raises ApiError (400) when there are too many, for one that cannot be an item's id, and for one in
    `instructions`, which stand for themselves.
    """
    instructions = body.get("instructions")
    for index, item in enumerate(instructions if isinstance(instructions, list) else ()):
        if is_reference(item):
            sentence = "An item_reference cannot be an instruction: send the item itself."
            raise invalid(sentence, f"instructions[{index}]", "unsupported_value")
    found = references(body)
    if len(found) > MAX_REFERENCES:
        sentence = (
            f"Too many item references: at most {MAX_REFERENCES} can be resolved. "
            "Continue the conversation with 'previous_response_id' instead."
        )
        raise invalid(sentence, "input", "too_many_references")
    for reference in found:
        if len(reference.id) > MAX_ID:
            raise item_not_found(reference)
    return found


def source_of(references: Iterable[Reference]) -> ResponseId | None:
    """The response of the last of `references` whose id is ours: its conversation is there. None without."""
    places = [place for _, id in references if (place := parse_item_id(id))]
    return places[-1].response if places else None


def item_not_found(reference: Reference) -> ApiError:
    """400: what `reference` stands for is unknown, foreign, deleted or not stored, all the same (A-26)."""
    sentence = (
        f"Item with id '{shown(reference.id)}' not found. Only items of stored responses can be referred "
        "to: send the item itself, or 'previous_response_id' with the response that had it."
    )
    return invalid(sentence, f"input[{reference.position}].id", "item_not_found")
