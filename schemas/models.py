"""The models that clients may ask for, as the API lists them, and the record in which executors list them.

An executor's `listing` record stands in `responses.executors`, beside its beats. Only the last one of an
executor counts, and only for the time that it states. It has no say in who is alive (P-51). `together` merges
the listings of all executors. Pure.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from schemas.errors import ApiError
from schemas.records import MALFORMED, LogRecord, NewRecord

KIND = b"listing"
MAX_NAME = 256
"""Characters of a model's name."""
MAX_LISTING_BYTES = 512 << 10
"""Bytes of one listing, half of a record (P-9): thousands of models. What does not fit is left out."""
LONGEST_GOOD_S = 600
"""Seconds for which a listing is good at most: a reader looks no further back."""


class ListedModel(Struct, frozen=True):
    """A model as the API shows it. `created` is in seconds since the epoch, 0 if it is not known."""

    id: str
    object: str = "model"
    created: int = 0
    owned_by: str = "rejoinder"


class ModelList(Struct, frozen=True):
    """The answer of GET /v1/models."""

    data: Sequence[ListedModel]
    object: str = "list"


class Listing(Struct, frozen=True):
    """What one executor serves, good for `good_s` seconds of log time after the record."""

    source: str
    good_s: float
    models: tuple[ListedModel, ...]

    def record(self) -> NewRecord:
        """The `listing` record with these models."""
        headers = [("kind", KIND), ("executor", self.source.encode())]
        return NewRecord(f"{self.source}/models".encode(), msgspec.json.encode(self), headers)


_listing = msgspec.json.Decoder(Listing).decode


def listing_in(record: LogRecord) -> Listing | None:
    """The listing in a record of `responses.executors`; None if there is none, or it cannot be read."""
    if dict(record.headers).get("kind") != KIND:
        return None
    try:
        return _listing(record.value or b"")
    except (*MALFORMED, RecursionError):
        return None


def together(records: Iterable[LogRecord], now: int) -> Sequence[ListedModel] | None:
    """The models of all listings that are good at `now` (ms), the newest first; None without any."""
    last: dict[str, tuple[int, Listing]] = {}
    for record in records:
        if (listing := listing_in(record)) is not None:
            last[listing.source] = record.timestamp, listing
    newest_first = sorted(last.values(), key=lambda said: said[0], reverse=True)
    good = [listing for at, listing in newest_first if at + min(listing.good_s, LONGEST_GOOD_S) * 1000 >= now]
    return distinct(model for listing in good for model in listing.models) if good else None


def distinct(models: Iterable[ListedModel]) -> Sequence[ListedModel]:
    """`models`, the first of each id."""
    found: dict[str, ListedModel] = {}
    for model in models:
        found.setdefault(model.id, model)
    return list(found.values())


def fitting_listing(models: Iterable[ListedModel]) -> tuple[ListedModel, ...]:
    """As many of `models`, from the first on, as fit into one listing."""
    taken, size = list[ListedModel](), 0
    for model in models:
        size += len(msgspec.json.encode(model)) + 1
        if size > MAX_LISTING_BYTES:
            break
        taken.append(model)
    return tuple(taken)


def models_in(answer: bytes) -> tuple[list[ListedModel], str | None]:
    """The models in what an upstream answers to GET /models, and the id behind which it has more, if it has.

    That is a list of objects or names, bare or in `data` or `models`; what is no model is passed over. Raises
    ValueError when there is no list.
    """
    decoded = msgspec.json.decode(answer)
    found = decoded.get("data", decoded.get("models")) if isinstance(decoded, dict) else decoded
    if not isinstance(found, list):
        raise ValueError("there is no list of models in it")  # noqa: TRY004  # bad data, not a bad call
    models = [model for entry in found if (model := _model(entry)) is not None]
    if not (isinstance(decoded, dict) and decoded.get("has_more") is True):
        return models, None
    last = decoded.get("last_id")
    return models, last if isinstance(last, str) and last else models[-1].id if models else None


def _model(entry: Any) -> ListedModel | None:
    fields = {"id": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, dict):
        return None
    name = fields.get("id") or fields.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
        return None
    created, owner = fields.get("created"), fields.get("owned_by")
    return ListedModel(
        name,
        created=created if type(created) is int and abs(created) < 1 << 53 else 0,
        owned_by=owner if isinstance(owner, str) else "rejoinder",
    )


def model_not_found(id: str) -> ApiError:
    """404, in OpenAI's words."""
    return ApiError(404, f"The model '{id}' does not exist.", param="model", code="model_not_found")
