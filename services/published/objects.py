"""The values of records and the bodies of answers, by the names that the documents have for them.

Structs are taken as they are. The code builds some objects without a struct (a response, a page): of these it
makes samples here, and the closed lists that it has for them are added.
"""

from collections.abc import Mapping
from typing import Any

from schemas.checks import Shape, shape_of
from schemas.closings import ClosingRecord
from schemas.events import KNOWN_EVENTS, LIFECYCLE
from schemas.fold import TERMINAL_STATUSES
from schemas.ids import ResponseId
from schemas.installation import KeyPartitions
from schemas.models import ListedModel, Listing, ModelList
from schemas.records import OPEN_STATUSES, ClaimedValue, OnlyId
from schemas.request import BODY, FIELDS
from schemas.response import ERROR_CODES, INCOMPLETE_REASONS, final_response, initial
from schemas.usage import UsageMark, UsageNames, UsageRow
from schemas.webhooks import (
    DeliveryRecord,
    EndpointRecord,
    MarkRecord,
    RetryRecord,
    SecretRecord,
    SettingsRecord,
)
from services.analytics.answers import UsagePage
from services.eventlog.shelf import Shelved
from services.executor.beats import BeatValue
from services.published.sample import RESPONSE
from services.published.shapes import Parts, id_shape, inferred, ref, struct_shapes, types_in
from services.replay.schemas import SchemaList
from services.web.answers import DeletedResponse, Envelope
from services.web.health import Health
from services.web.paging import Paging, page
from services.webhooks.bodies import body_shapes
from services.webhooks.routes import (
    DeletedWebhookEndpoint,
    WebhookEndpoint,
    WebhookEndpointWithSecret,
    WebhookEventTypes,
    WebhookTest,
)
from services.webhooks.signing import WebhookEvent

_USAGE = {"input_tokens": 1, "output_tokens": 1}
_ERROR = {
    "code": "429",
    "message": "The upstream refused.",
    "type": "rate_limit_error",
    "param": None,
    "retry_after": 1.5,
    "output_omitted": True,
}
"""An error with all that Rejoinder itself may add: `upstream_status` comes of the code."""


_PASSED_ON = "Fields that an upstream adds to its object are passed on."
_HANDED_ON = "Fields that are not named here are kept and handed on."


_OF_WEBHOOKS = (
    WebhookEndpoint,
    WebhookEndpointWithSecret,
    DeletedWebhookEndpoint,
    WebhookTest,
    WebhookEventTypes,
)
_GIVEN: Mapping[str, Any] = {
    "agent_reference": {"type": "agent_reference", "name": "a"},
    "background": True,
    "include": ["a"],
    "prompt": {"id": "a"},
    "prompt_cache_retention": "24h",
    "stream_options": {},
}
"""The fields of a request that its response repeats only if they were given."""


def parts() -> Parts:
    """Every schema that has a name."""
    answered = struct_shapes(DeletedResponse, Envelope, ModelList, SchemaList, UsagePage, *_OF_WEBHOOKS)
    return {
        **struct_shapes(
            ClaimedValue,
            OnlyId,
            Shelved,
            ClosingRecord,
            UsageRow,
            UsageNames,
            UsageMark,
            BeatValue,
            Listing,
            ListedModel,
            KeyPartitions,
        ),
        **struct_shapes(
            EndpointRecord, SettingsRecord, SecretRecord, DeliveryRecord, RetryRecord, MarkRecord
        ),
        **struct_shapes(Health, WebhookEvent),
        **{name: _always_whole(shape) for name, shape in answered.items()},
        "CreateRequest": {"description": f"The body of a create. {_HANDED_ON}", **BODY},
        "Response": _response(),
        "Item": _item(),
        "Event": _event(),
        "AcceptedValue": _accepted(),
        "UpstreamEvent": {
            "type": "object",
            "description": "An upstream's event of a type outside the Responses API, as it came.",
        },
        "InputItems": _input_items(),
        "WebhookEndpoints": _webhook_endpoints(),
        **body_shapes(),
    }


def _always_whole(shape: Shape) -> Shape:
    """A body of an answer has each of its members: defaults are told."""
    properties = {
        name: {word: part for word, part in member.items() if word != "default"}
        for name, member in shape["properties"].items()
    }
    return {**shape, "required": list(properties), "properties": properties}


def _accepted() -> Shape:
    properties = {"request": ref("CreateRequest"), "response": ref("Response")}
    return {
        "type": "object",
        "description": "The request's body as it was sent, and the response object that it begins with.",
        "required": list(properties),
        "properties": properties,
    }


def _item() -> Shape:
    text: Shape = {"type": "string"}
    return {
        "type": "object",
        "description": "An item of the input or the output, in the Responses API's shape of its type.",
        "required": ["type"],
        "properties": {"type": text, "id": text, "status": {"type": ["string", "null"]}},
    }


def _input_items() -> Shape:
    shape = inferred(page([{"id": "msg_1"}], Paging()), page([], Paging()))
    shape["properties"]["object"] = {"const": "list"}
    shape["properties"]["data"] = {"type": "array", "items": ref("Item")}
    return {"description": "A page of a response's input items.", **shape}


def _webhook_endpoints() -> Shape:
    shape = inferred(page([{"id": "we_1"}], Paging()), page([], Paging()))
    shape["properties"]["object"] = {"const": "list"}
    shape["properties"]["data"] = {"type": "array", "items": ref("WebhookEndpoint")}
    return {"description": "A page of a tenant's webhook endpoints.", **shape}


def _event() -> Shape:
    lifecycle = sorted(LIFECYCLE)
    return {
        "type": "object",
        "description": "A stream event, as a client gets it in `data:`. Further types may come.",
        "required": ["type", "sequence_number"],
        "properties": {
            "type": {"type": "string", "examples": sorted(KNOWN_EVENTS)},
            "sequence_number": {"type": "integer", "minimum": 0},
        },
        "if": {"properties": {"type": {"enum": lifecycle}}},
        "then": {"required": ["response"], "properties": {"response": ref("Response")}},
    }


def _response() -> Shape:
    """The object of a response, from those that the code makes: open, and closed in each way."""
    first = initial({}, RESPONSE, 0, "echo")
    full = initial({name: _GIVEN.get(name) for name in FIELDS}, RESPONSE, 0, "echo")
    item = {"type": "message"}
    ends = [
        final_response(first, status="completed", output=[item], completed_at=0, usage=_USAGE),
        final_response(first, status="failed", output=[], error=_ERROR),
        final_response(first, status="failed", output=[], error={"message": "…"}),
        final_response(first, status="incomplete", output=[]),
    ]
    shape = inferred(first, full, *ends)
    properties: dict[str, Any] = shape["properties"]
    for name in FIELDS.keys() & properties.keys():
        properties[name] = _echoed(properties[name], shape_of(FIELDS[name]))
    properties["id"] = id_shape(ResponseId)
    properties["object"] = {"const": "response"}
    properties["status"] = {"type": "string", "enum": sorted(OPEN_STATUSES | TERMINAL_STATUSES)}
    properties["output"] = {"type": "array", "items": ref("Item")}
    properties["tools"] = {"type": "array", "items": {"type": "object"}}
    properties["error"]["properties"]["code"]["enum"] = sorted(ERROR_CODES)
    properties["error"]["properties"]["param"] = {}
    properties["incomplete_details"]["properties"]["reason"]["enum"] = sorted(INCOMPLETE_REASONS)
    properties["metadata"]["additionalProperties"] = {"type": "string"}
    shape["properties"] = dict(sorted(properties.items()))
    return {"description": f"A response, open or closed. {_PASSED_ON}", **shape}


def _echoed(made: Shape, asked: Shape) -> Shape:
    """A field that repeats the request's: of the types that the request may have. Bounds are left out, since
    an upstream's value may take its place.
    """
    types = sorted(types_in(made) | types_in(asked))
    shape: Shape = {"type": types[0] if len(types) == 1 else types}
    if "properties" in made:
        known = asked.get("properties", {})
        shape["required"] = made.get("required", [])
        shape["properties"] = {
            name: _echoed(part, known.get(name, {})) for name, part in made["properties"].items()
        }
    return shape
