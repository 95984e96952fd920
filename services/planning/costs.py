"""What a unit of work costs: one field for each constant, with its unit and how the bench measures it.

The values are in costs.toml, which `python -m bench scaling --write` writes. CPU costs are affine. A process
that has streams at all takes some part of a core for its cycles (requests that begin milliseconds apart);
each event costs the same beside that. So many slow streams cost more an event than few quick ones.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

STREAMS = "50 and 100 streams, 2,500 and 10,000 events a second: the line through both"
SHORT = "1,000 responses of a second beside as many events in long ones: the difference"
SIZES = "what responses of 60 and of 600 words leave in each topic: the line through both"
OPEN = "400 streams, each with a client, that say two words a second: the growth"
READY = "a system that has nothing to do"
ROW = "what one response alone leaves in usage"
HTTP = "50 streams of an upstream on HTTP beside 50 of model echo: the difference"
UNREAD = "50 streams without clients"
LOG = "the log's client alone, on one broker and on three: least squares"
ELSEWHERE = "`python -m bench library`, `counting`, `webhooks`"


def _cost(description: str, measured_by: str) -> Meta:
    return Meta(ge=0, description=description, extra={"measured by": measured_by})


class Costs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """µs and cores are of CPU, user and system. Bytes are of one copy."""

    machine: str
    """Where and when they were measured."""

    process_idle_cores: Annotated[float, _cost("cores of a service's process that has nothing to do", READY)]

    executor_busy_cores: Annotated[
        float, _cost("cores of an executor whose streams tick, beside events", STREAMS)
    ]
    executor_event_us: Annotated[float, _cost("µs of the executor an event of model echo", STREAMS)]
    responses_event_us: Annotated[float, _cost("µs more for an upstream with the Responses API", HTTP)]
    chat_event_us: Annotated[float, _cost("µs more for an upstream with the Chat Completions API", HTTP)]
    executor_response_us: Annotated[float, _cost("µs of the executor a response, beside its events", SHORT)]
    executor_base_mib: Annotated[float, _cost("MiB of an executor", READY)]
    executor_stream_kib: Annotated[float, _cost("KiB of the executor an open stream", OPEN)]

    replay_busy_cores: Annotated[float, _cost("cores of a replay whose streams tick, beside events", STREAMS)]
    replay_event_us: Annotated[float, _cost("µs of replay an event that nobody reads", UNREAD)]
    delivery_us: Annotated[float, _cost("µs of replay an event and reader", f"{STREAMS}, less {UNREAD}")]
    replay_response_us: Annotated[float, _cost("µs of replay a response, beside its events", SHORT)]
    replay_base_mib: Annotated[float, _cost("MiB of a replay", READY)]
    reader_kib: Annotated[float, _cost("KiB of replay a client's open stream", OPEN)]
    entry_us: Annotated[float, _cost("µs of replay a stored response, at a start without a store", ELSEWHERE)]
    entry_bytes: Annotated[float, _cost("bytes of replay's store a stored response, at most", ELSEWHERE)]

    projector_busy_cores: Annotated[float, _cost("cores of a projector, beside events", STREAMS)]
    projector_event_us: Annotated[float, _cost("µs of the projector an event", STREAMS)]
    projector_response_us: Annotated[float, _cost("µs of the projector a response, beside its events", SHORT)]
    projector_base_mib: Annotated[float, _cost("MiB of a projector", READY)]
    ingest_response_us: Annotated[float, _cost("µs of ingest a response", SHORT)]
    ingest_base_mib: Annotated[float, _cost("MiB of an ingest", READY)]
    analytics_response_us: Annotated[float, _cost("µs of analytics a closing", ELSEWHERE)]
    analytics_base_mib: Annotated[float, _cost("MiB of an analytics that counts", ELSEWHERE)]
    webhooks_response_us: Annotated[float, _cost("µs of webhooks a closing of which nobody hears", SHORT)]
    webhooks_delivery_us: Annotated[float, _cost("µs of webhooks a delivery", ELSEWHERE)]
    webhooks_base_mib: Annotated[float, _cost("MiB of a webhooks", READY)]

    broker_idle_cores: Annotated[float, _cost("cores of a broker that nobody writes to", READY)]
    broker_busy_cores: Annotated[float, _cost("cores more of a broker that is written to", LOG)]
    request_us: Annotated[float, _cost("µs of a broker to append or to answer a fetch", LOG)]
    record_us: Annotated[
        float,
        _cost("µs of a broker a record, each time that it comes or goes", f"{STREAMS}, a quarter of it"),
    ]
    copy_us: Annotated[float, _cost("µs of the brokers a request to append, for each further replica", LOG)]
    broker_response_us: Annotated[float, _cost("µs of a broker a response, beside its events", SHORT)]
    exchange_us: Annotated[float, _cost("µs of a client a request to append or to fetch", LOG)]

    record_bytes: Annotated[
        float,
        _cost("bytes of an event's record beside its JSON, its text in the last events included", SIZES),
    ]
    frame_bytes: Annotated[float, _cost("bytes of an event on a stream (SSE) beside its JSON", SIZES)]
    opening_bytes: Annotated[
        float, _cost("bytes of a response's other records there, beside its body", SIZES)
    ]
    transcript_bytes: Annotated[float, _cost("bytes of a response in transcripts, beside its events", SIZES)]
    transcript_event_bytes: Annotated[float, _cost("bytes of an event in transcripts", SIZES)]
    object_bytes: Annotated[float, _cost("bytes of a response in responses, beside its events", SIZES)]
    object_event_bytes: Annotated[float, _cost("bytes of an event's text in responses", SIZES)]
    index_bytes: Annotated[float, _cost("bytes of a response in transcripts.index", SIZES)]
    closing_bytes: Annotated[float, _cost("bytes of a response in closings", SIZES)]
    row_bytes: Annotated[float, _cost("bytes of a row in usage, with its mark", ROW)]


@cache
def measured_costs() -> Costs:
    """The costs in costs.toml."""
    return costs_of((files(__package__) / "costs.toml").read_text())


def costs_of(text: str) -> Costs:
    """The costs in a file's text. Raises msgspec.ValidationError."""
    return msgspec.toml.decode(text, type=Costs)


class CostMeaning(Struct, frozen=True):
    """What a cost is, with its unit, and how it is measured."""

    description: str
    measured_by: str


def _meanings() -> Mapping[str, CostMeaning]:
    found: dict[str, CostMeaning] = {}
    for known in msgspec.inspect.type_info(Costs).fields:  # type: ignore[attr-defined]
        if isinstance(known.type, msgspec.inspect.Metadata):
            assert known.type.extra_json_schema is not None
            assert known.type.extra is not None
            description = str(known.type.extra_json_schema["description"])
            found[known.name] = CostMeaning(description, str(known.type.extra["measured by"]))
    return found


MEANINGS: Mapping[str, CostMeaning] = _meanings()
"""Every cost by its name, in the order of the struct."""
