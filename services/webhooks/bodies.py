"""What the bodies of the management routes must be like."""

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.checks import Check, Shape, array, boolean, fields, one_of, shape_of, shown, string, wrong_type
from schemas.errors import invalid
from schemas.events import UNDECODABLE
from schemas.webhooks import EVENT_TYPES, MAX_NAME_LENGTH, MAX_URL_LENGTH

Body = dict[str, Any]

_SETTINGS: Mapping[str, Check] = {
    "name": string(MAX_NAME_LENGTH, empty=False),
    "url": string(MAX_URL_LENGTH, empty=False),
    "event_types": array(one_of(*EVENT_TYPES)),
}
_CREATE = fields(_SETTINGS, required=tuple(_SETTINGS))
_UPDATE = fields(_SETTINGS)
_ROTATE = fields({"keep_old_secret_active_for_24_hours": boolean})
_TEST = fields({"event_type": one_of(*EVENT_TYPES)}, required=("event_type",))


def body_shapes() -> Mapping[str, Shape]:
    """The schemas of the bodies, by name."""
    named = {
        "CreateWebhookEndpoint": _CREATE,
        "UpdateWebhookEndpoint": _UPDATE,
        "RotateWebhookSecret": _ROTATE,
        "TestWebhookEndpoint": _TEST,
    }
    return {name: {**shape_of(check), "additionalProperties": False} for name, check in named.items()}


def create_asked(raw: bytes) -> Body:
    """The body of a create, with all settings. Raises ApiError (400)."""
    return _with_types(_checked(raw, _CREATE))


def update_asked(raw: bytes) -> Body:
    """The body of an update, with the settings that are to change. Raises ApiError (400)."""
    return _with_types(_checked(raw, _UPDATE))


def keep_asked(raw: bytes) -> bool:
    """Whether a rotation is to keep the secret before for 24 h. Raises ApiError (400)."""
    body = _checked(raw or b"{}", _ROTATE)
    return bool(body.get("keep_old_secret_active_for_24_hours", False))


def type_asked(raw: bytes) -> str:
    """The type of event that a test is to send. Raises ApiError (400)."""
    type: str = _checked(raw, _TEST)["event_type"]
    return type


def _checked(raw: bytes, check: Check) -> Body:
    """The fields of a body that are not null."""
    try:
        body = msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except UNDECODABLE as error:
        raise invalid("The body is not valid JSON.", None, "invalid_json") from error
    if not isinstance(body, dict):
        raise wrong_type("body", "an object", body)
    known = shape_of(check)["properties"]
    for name in body:
        if name not in known:
            raise invalid(f"Unknown parameter: '{shown(name)}'.", shown(name), "unknown_parameter")
    check(body, "")
    return {name: value for name, value in body.items() if value is not None}


def _with_types(body: Body) -> Body:
    """Each type once: an endpoint that asks twice hears once. At least one, if any are given."""
    if "event_types" in body:
        body["event_types"] = tuple(dict.fromkeys(body["event_types"]))
        if not body["event_types"]:
            what = "Invalid 'event_types': empty array. Expected an array with at least one type of event."
            raise invalid(what, "event_types", "empty_array")
    return body
