"""The load that an installation is to carry, as an operator names it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.errors import SettingsError

DAY_S = 86_400
STORED_DAYS = 30
"""Days for which a stored response can be read."""

MOST_READERS = 100_000_000
"""Clients of all streams together, at most."""


def _takes(description: str) -> Meta:
    return Meta(description=description)


class Demand(Struct, frozen=True, kw_only=True):
    """A load at its peak, and what the machines are like. Each field's description says what it takes."""

    streams: Annotated[int, Meta(ge=0, le=10_000_000), _takes("responses that run at once, 0 to 10,000,000")]
    events_per_s: Annotated[
        float, Meta(gt=0, le=1_000), _takes("events a second of each stream, above 0, at most 1,000")
    ] = 20
    response_s: Annotated[
        float, Meta(ge=0.1, le=21_600), _takes("seconds that a response runs, 0.1 to 21,600")
    ] = 30
    stored: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000_000_000)] | None,
        _takes("stored responses, 0 or more; without it what such a load stores in 30 days"),
    ] = None
    readers: Annotated[
        float,
        Meta(ge=0, le=100_000),
        _takes("clients that read a stream while it runs, on average, 0 or more"),
    ] = 1
    upstream: Annotated[
        Literal["responses", "chat", "echo"],
        _takes("the API of most models and agents: responses, chat, or echo for no upstream at all"),
    ] = "responses"
    event_bytes: Annotated[
        int, Meta(ge=1, le=1 << 20), _takes("bytes of an event's JSON, on average, 1 to 1,048,576")
    ] = 170
    request_bytes: Annotated[
        int, Meta(ge=1, le=64 << 20), _takes("bytes of a request's body, on average, 1 to 67,108,864")
    ] = 2_000
    webhooks: Annotated[
        float, Meta(ge=0, le=100), _takes("webhook endpoints that hear of an end, on average, 0 to 100")
    ] = 0
    groups: Annotated[
        int,
        Meta(ge=1, le=1_000_000),
        _takes("pairs of tenant and model that are busy within a minute, from 1"),
    ] = 100
    events_days: Annotated[
        int,
        Meta(ge=1, le=36_500),
        _takes("days that responses.events keeps its records (its retention.ms), 1 or more"),
    ] = 30
    replication: Annotated[
        int, Meta(ge=3, le=9), _takes("replicas of a topic, 3 to 9: with fewer no broker may die")
    ] = 3
    utilisation: Annotated[
        float,
        Meta(ge=0.3, le=0.9),
        _takes("the part of a core, disk or network that is used at the peak, 0.3 to 0.9"),
    ] = 0.6
    broker_cores: Annotated[int, Meta(ge=1, le=256), _takes("cores of a broker, 1 to 256")] = 8
    broker_tib: Annotated[float, Meta(ge=0.1, le=1_000), _takes("TiB of a broker's disks, 0.1 to 1,000")] = 16
    broker_gbit: Annotated[
        float, Meta(ge=0.1, le=1_000), _takes("Gbit/s of a broker's network, each way, 0.1 to 1,000")
    ] = 10

    @property
    def events(self) -> float:
        """Events a second of all streams."""
        return self.streams * self.events_per_s

    @property
    def responses(self) -> float:
        """Responses that begin, and end, a second."""
        return self.streams / self.response_s

    @property
    def kept(self) -> int:
        """Stored responses."""
        if self.stored is not None:
            return self.stored
        return round(self.responses * STORED_DAYS * DAY_S)

    @property
    def length(self) -> float:
        """Events of a response."""
        return self.events_per_s * self.response_s


_FIELDS = msgspec.inspect.type_info(Demand).fields  # type: ignore[attr-defined]
TAKES: Mapping[str, str] = {known.name: known.type.extra_json_schema["description"] for known in _FIELDS}
"""What each field of a demand takes, in words."""
DEFAULTS: Mapping[str, str] = {
    known.name: "" if known.required or known.default is None else str(known.default) for known in _FIELDS
}
"""The default of each, as text; "" without one."""


def option(field: str) -> str:
    """The flag of `rejoinder plan` for a field."""
    return "--" + field.replace("_", "-")


def demand_of(given: Mapping[str, str]) -> Demand:
    """The demand of flags, by field name. Raises SettingsError, which names the flag and what it takes."""
    values: dict[str, Any] = {}
    for name, text in given.items():
        try:
            values[name] = msgspec.convert(text.replace("_", ""), Demand.__annotations__[name], strict=False)
        except msgspec.ValidationError:
            raise SettingsError(f"{option(name)}: {text!r} does not fit; it takes {TAKES[name]}") from None
    if "streams" not in values:
        raise SettingsError(f"{option('streams')} is missing: {TAKES['streams']}")
    demand = Demand(**values)
    if demand.streams * demand.readers > MOST_READERS:
        most = f"{MOST_READERS / demand.streams:g}"
        raise SettingsError(
            f"{option('readers')}: {demand.readers:g} for each of {demand.streams:,} streams are more than "
            f"{MOST_READERS:,} clients; it takes up to {most} with so many streams"
        )
    return demand
