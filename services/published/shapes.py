"""Turns types, sample values and sample texts into JSON Schema 2020-12."""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, reduce
from itertools import pairwise
from operator import or_
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct

from schemas import ids, webhooks
from schemas.checks import Shape
from schemas.records import NUMBER

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DEFS, COMPONENTS = "#/$defs/", "#/components/schemas/"
"""Where a document has the schemas that it refers to by name."""

HEX_TOKEN = rf"[0-9a-f]{{{2 * ids.TOKEN_BYTES}}}"
NUMBERS = NUMBER.pattern.decode()
"""The digits of a number in a key or a header (P-11)."""
EXECUTOR_ID = rf"exec_{HEX_TOKEN}"

Parts = Mapping[str, Shape]
"""Schemas by name."""

_IDS: Mapping[Any, tuple[str, str]] = {
    ids.ResponseId: (
        ids.RESPONSE_ID.pattern,
        "A response's id. Its first four hex digits are its partition.",
    ),
    ids.ClaimId: (ids.CLAIM_ID.pattern, "A claim's id."),
    ids.Tenant: (ids.TENANT.pattern, "A tenant's name."),
    ids.ExecutorId: (EXECUTOR_ID, "An executor's id, fresh per process."),
    webhooks.EndpointId: (webhooks.ENDPOINT_ID, "A webhook endpoint's id."),
    webhooks.DeliveryId: (webhooks.DELIVERY_ID, "A delivery's id, which each attempt has as `webhook-id`."),
}
"""The types of ids: pattern and meaning."""
_TYPES: Mapping[type, str] = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}


def whole_text(pattern: str) -> str:
    """`pattern` as JSON Schema needs it to mean a whole text: else it is looked for anywhere."""
    return rf"^(?:{pattern})$"


def ref(name: str) -> Shape:
    """A reference to the schema `name` in a document's `$defs`."""
    return {"$ref": DEFS + name}


def struct_shapes(*types: type[Struct]) -> dict[str, Shape]:
    """The schemas of structs, and of those within them, by name."""
    rebuilt = [_with_ids(kind) for kind in types]
    _, parts = msgspec.json.schema_components(rebuilt, ref_template=f"{DEFS}{{name}}")
    return {name: _tidy(shape) for name, shape in parts.items()}


def id_shape(kind: Any) -> Shape | None:
    """The schema of a type of ids; None for any other type."""
    if kind not in _IDS:
        return None
    pattern, meaning = _IDS[kind]
    return {"type": "string", "pattern": whole_text(pattern), "description": meaning}


@cache
def _with_ids(kind: Any) -> Any:
    """`kind` with the patterns of ids in it: msgspec takes an id for any text."""
    if kind in _IDS:
        pattern, meaning = _IDS[kind]
        return Annotated[str, Meta(pattern=whole_text(pattern), description=meaning)]
    if inspect.isclass(kind) and issubclass(kind, Struct):
        said = _said_of_fields(kind)
        fields = [
            (one.name, _described(_with_ids(one.type), said.get(one.name)), _default(one))
            for one in msgspec.structs.fields(kind)
        ]
        config, namespace = kind.__struct_config__, {"__doc__": kind.__doc__}
        return msgspec.defstruct(
            kind.__name__,
            fields,
            namespace=namespace,
            tag_field=config.tag_field,
            tag=config.tag,
            kw_only=True,
        )
    origin: Any = get_origin(kind)
    arguments: tuple[Any, ...] = get_args(kind)
    if origin in (Union, UnionType):
        return reduce(or_, map(_with_ids, arguments))
    if origin in (None, Annotated, Literal):
        return kind
    return origin[tuple(argument if argument is ... else _with_ids(argument) for argument in arguments)]


def _described(kind: Any, meaning: str | None) -> Any:
    return kind if meaning is None else Annotated[kind, Meta(description=meaning)]


def _said_of_fields(kind: type[Struct]) -> dict[str, str]:
    """What stands below the fields of a struct in its source, by their names."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    said: dict[str, str] = {}
    for field, below in pairwise(body.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                said[name] = sentence(text)
    return said


def _default(field: msgspec.structs.FieldInfo) -> Any:
    factory = field.default_factory
    return field.default if factory is msgspec.NODEFAULT else msgspec.field(default_factory=factory)


def _tidy(shape: Shape) -> Shape:
    """`shape` without what msgspec adds: its own titles, and line breaks of docstrings."""
    tidied = {name: part for name, part in shape.items() if name != "title"}
    if "description" in tidied:
        tidied["description"] = sentence(tidied["description"])
    return tidied


def sentence(docstring: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(docstring or "").partition("\n\n")[0].split())


def inferred(*samples: Any) -> Shape:
    """The schema of what the code makes, from `samples` of it: a member that all have is required."""
    types = sorted({_TYPES[type(sample)] for sample in samples})
    if types == ["integer", "number"]:
        types = ["number"]
    shape: Shape = {"type": types[0] if len(types) == 1 else types}
    if objects := [sample for sample in samples if isinstance(sample, dict)]:
        names = dict.fromkeys(name for sample in objects for name in sample)
        if required := [name for name in names if all(name in sample for sample in objects)]:
            shape["required"] = required
        if names:
            shape["properties"] = {
                name: inferred(*(sample[name] for sample in objects if name in sample)) for name in names
            }
    if elements := [element for sample in samples if isinstance(sample, list) for element in sample]:
        shape["items"] = inferred(*elements)
    return shape


def types_in(shape: Shape) -> set[str]:
    """The JSON types that `shape` lets pass."""
    found = shape.get("type", [])
    of_branches = {name for branch in shape.get("anyOf", ()) for name in types_in(branch)}
    return of_branches | ({found} if isinstance(found, str) else set(found))


def text_like(samples: Sequence[str], kind: Any = None) -> Shape:
    """The schema of a text, such as a header, from `samples` and the type of what it says.

    A number says how it is spelled, a flag which of its values occur. One text of no known type is constant.
    """
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (choice for choice in get_args(kind) if choice is not type(None))
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if (id := id_shape(kind)) is not None:
        return id
    if kind is int:
        least = "-1|" if "-1" in samples else ""
        return {"type": "string", "pattern": whole_text(least + NUMBERS)}
    if kind is bool:
        return {"type": "string", "enum": sorted(set(samples))}
    if kind is None and len(set(samples)) == 1:
        return {"type": "string", "const": samples[0]}
    return {"type": "string"}


def pattern_of(key: str, tokens: Mapping[str, str]) -> str:
    """The pattern of the keys that are like the sample `key`: each of its parts is a token with a pattern, a
    number, or itself.
    """
    parts = (tokens.get(part) or (NUMBERS if part.isdigit() else re.escape(part)) for part in key.split("/"))
    return "/".join(rf"(?:{part})" if "|" in part else part for part in parts)


def needed(shape: Any, parts: Parts) -> dict[str, Shape]:
    """Those of `parts` to which `shape` refers, and to which those refer, sorted by name."""
    found: dict[str, Shape] = {}
    waiting = list(_names(shape))
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = parts[name]
            waiting += _names(parts[name])
    return dict(sorted(found.items()))


def _names(shape: Any) -> Iterator[str]:
    children: Iterable[Any] = ()
    if isinstance(shape, dict):
        children = shape.values()
        if isinstance(target := shape.get("$ref"), str) and target.startswith(DEFS):
            yield target.removeprefix(DEFS)
    elif isinstance(shape, list):
        children = shape
    for child in children:
        yield from _names(child)


def as_components(shape: Any) -> Any:
    """`shape` with its references as an OpenAPI or AsyncAPI document has them."""
    if isinstance(shape, dict):
        return {
            name: part.replace(DEFS, COMPONENTS) if name == "$ref" else as_components(part)
            for name, part in shape.items()
            if name != "discriminator"  # it repeats what each alternative says of its own `object`
        }
    return [as_components(part) for part in shape] if isinstance(shape, list) else shape
