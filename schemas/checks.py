"""Small checks of decoded JSON that name the field in the API's own words.

A check takes a value and the path of its field (`input[2].role`) and raises ApiError (400) with that path as
`param`, a code and a sentence as OpenAI's API gives them. Checks are built from checks. A caller that allows
null does not call the check for it.

Each check has the JSON Schema of what it lets pass beside it (`shaped`, `shape_of`), from which the published
documents are made.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NoReturn, TypeVar

from schemas.errors import ApiError, invalid

Check = Callable[[Any, str], None]
Shape = dict[str, Any]
"""A JSON Schema."""
Shaped = TypeVar("Shaped", bound=Check)

MAX_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader holds exactly."""
_SHOWN = 64
_KINDS: Mapping[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def missing(param: str) -> ApiError:
    """400: the required field `param` is not there."""
    return invalid(f"Missing required parameter: '{param}'.", param, "missing_required_parameter")


def wrong_type(param: str, expected: str, value: object) -> ApiError:
    """400: `param` holds JSON of another type than `expected` (with its article)."""
    got = _KINDS.get(type(value), "something else")
    sentence = f"Invalid type for '{param}': expected {expected}, but got {got} instead."
    return invalid(sentence, param, "invalid_type")


def shown(value: object) -> str:
    """`value` for an error's text, cut to a bearable length."""
    text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def is_deeper(value: Any, most: int) -> bool:
    """Whether containers are nested more than `most` levels deep in `value`. It does not recurse, so no depth
    can overflow its stack.
    """
    level = [value]
    for _ in range(most + 1):
        level = [container for container in level if isinstance(container, dict | list)]
        if not level:
            return False
        level = [child for c in level for child in (c.values() if isinstance(c, dict) else c)]
    return True


def shaped(shape: Shape) -> Callable[[Shaped], Shaped]:
    """Decorates a check: `shape` is the JSON Schema of what it lets pass. Calls of the check cost no more."""

    def with_shape(check: Shaped) -> Shaped:
        check.__dict__["shape"] = shape
        return check

    return with_shape


def shape_of(check: Check) -> Shape:
    """The JSON Schema of what `check` lets pass."""
    found: Shape = check.__dict__["shape"]
    return found


def or_null(shape: Shape) -> Shape:
    """`shape`, and null."""
    if isinstance(shape.get("type"), str) and "enum" not in shape and "const" not in shape:
        return {**shape, "type": [shape["type"], "null"]}
    return {"anyOf": [*shape.get("anyOf", [shape]), {"type": "null"}]}


@shaped({"type": "boolean"})
def boolean(value: Any, param: str) -> None:
    """A boolean."""
    if not isinstance(value, bool):
        raise wrong_type(param, "a boolean (true or false)", value)


def number(least: float, most: float) -> Check:
    """A number from `least` to `most`."""

    @shaped({"type": "number", "minimum": least, "maximum": most})
    def check(value: Any, param: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong_type(param, "a decimal number", value)
        _within(value, param, "decimal", least, most)

    return check


def integer(least: int, most: int = MAX_INTEGER) -> Check:
    """An integer from `least` to `most`."""

    @shaped({"type": "integer", "minimum": least, "maximum": most})
    def check(value: Any, param: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(param, "an integer", value)
        _within(value, param, "integer", least, most)

    return check


def string(longest: int | None = None, *, empty: bool = True) -> Check:
    """A string of at most `longest` characters."""
    bounds = {} if longest is None else {"maxLength": longest}

    @shaped({"type": "string", **({} if empty else {"minLength": 1}), **bounds})
    def check(value: Any, param: str) -> None:
        if not isinstance(value, str):
            raise wrong_type(param, "a string", value)
        if not (value or empty):
            rule = "empty string. Expected a string with minimum length 1"
            _refuse(param, rule, "an empty string", "empty_string")
        if longest is not None and len(value) > longest:
            rule = f"string too long. Expected a string with maximum length {longest}"
            _refuse(param, rule, f"a string with length {len(value)}", "string_above_max_length")

    return check


def one_of(*values: str) -> Check:
    """One of these strings."""
    supported = ", ".join(f"'{value}'" for value in values)

    @shaped({"type": "string", "enum": list(values)})
    def check(value: Any, param: str) -> None:
        if not isinstance(value, str):
            raise wrong_type(param, "a string", value)
        if value not in values:
            raise invalid(f"Invalid value: '{shown(value)}'. Supported values are: {supported}.", param)

    return check


def array(of: Check) -> Check:
    """An array whose elements all fit `of`."""

    @shaped({"type": "array", "items": shape_of(of)})
    def check(value: Any, param: str) -> None:
        if not isinstance(value, list):
            raise wrong_type(param, "an array", value)
        for index, element in enumerate(value):
            of(element, f"{param}[{index}]")

    return check


def fields(known: Mapping[str, Check], required: Collection[str] = ()) -> Check:
    """An object whose known fields fit, when they are there and not null. Unknown fields are anything."""
    shapes = {name: shape_of(check) for name, check in known.items()}
    properties = {name: shape if name in required else or_null(shape) for name, shape in shapes.items()}

    needed = {"required": list(required)} if required else {}

    @shaped({"type": "object", **needed, "properties": properties})
    def check(value: Any, param: str) -> None:
        if not isinstance(value, dict):
            raise wrong_type(param, "an object", value)
        prefix = f"{param}." if param else ""
        for name in required:
            if value.get(name) is None:
                raise missing(prefix + name)
        for name, fits in known.items():
            if value.get(name) is not None:
                fits(value[name], prefix + name)

    return check


def text_map(pairs: int, key_length: int, value_length: int) -> Check:
    """An object of at most `pairs` strings; the lengths are the longest names and values, in characters."""
    fits = string(value_length)
    lengths = {"propertyNames": {"maxLength": key_length}, "additionalProperties": shape_of(fits)}

    @shaped({"type": "object", "maxProperties": pairs, **lengths})
    def check(value: Any, param: str) -> None:
        if not isinstance(value, dict):
            raise wrong_type(param, "an object", value)
        if len(value) > pairs:
            rule = f"too many properties. Expected an object with at most {pairs} properties"
            _refuse(param, rule, f"an object with {len(value)} properties", "object_above_max_properties")
        for key, text in value.items():
            if len(key) > key_length:
                rule = f"property name too long. Expected a name with maximum length {key_length}"
                _refuse(param, rule, f"a name with length {len(key)}", "property_name_above_max_length")
            fits(text, f"{param}.{key}")

    return check


def either(expected: str, by_type: Mapping[type, Check]) -> Check:
    """A value of one of these types that fits the check for it; `expected` says which, with articles."""

    @shaped({"anyOf": [shape_of(check) for check in by_type.values()]})
    def check(value: Any, param: str) -> None:
        fits = by_type.get(type(value))
        if fits is None:
            raise wrong_type(param, expected, value)
        fits(value, param)

    return check


def _within(value: float, param: str, kind: str, least: float, most: float) -> None:
    if value < least:
        rule = f"{kind} below minimum value. Expected a value >= {least}"
        _refuse(param, rule, shown(value), f"{kind}_below_min_value")
    if value > most:
        rule = f"{kind} above maximum value. Expected a value <= {most}"
        _refuse(param, rule, shown(value), f"{kind}_above_max_value")


def _refuse(param: str, rule: str, got: str, code: str) -> NoReturn:
    raise invalid(f"Invalid '{param}': {rule}, but got {got} instead.", param, code)
