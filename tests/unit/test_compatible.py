"""Each class of change: whom it breaks, and which version it takes."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import pytest

from services.published.comparison import Comparison, Side
from services.published.compatible import changes, too_low, wanted_version
from services.published.documents import ASYNCAPI, OPENAPI, RECORDS, generated

Shape = dict[str, Any]
NOBODY = frozenset[Side]()
ALL = frozenset(Side)
READERS = frozenset({Side.RECORD, Side.ANSWER})
"""More may come than they know."""
WRITERS = frozenset({Side.RECORD, Side.REQUEST})
"""What they wrote may not fit any more. A record of before stays in its topic."""

TEXT: Shape = {"type": "string"}
NUMBER: Shape = {"type": "integer"}


def of(**properties: Shape) -> Shape:
    return {"type": "object", "properties": properties}


CHANGES: Mapping[str, tuple[Shape, Shape, frozenset[Side]]] = {
    "a field comes": (of(a=TEXT), of(a=TEXT, b=TEXT), NOBODY),
    "a field goes": (of(a=TEXT, b=TEXT), of(a=TEXT), ALL),
    "a field is renamed": (of(a=TEXT), of(b=TEXT), ALL),
    "a field has another type": (of(a=TEXT), of(a=NUMBER), ALL),
    "a type is widened": (of(a=NUMBER), of(a={"type": "number"}), READERS),
    "a type is narrowed": (of(a={"type": "number"}), of(a=NUMBER), WRITERS),
    "a field may be null": (of(a=TEXT), of(a={"type": ["string", "null"]}), READERS),
    "a field may not be null": (of(a={"type": ["string", "null"]}), of(a=TEXT), WRITERS),
    "null as a branch": (
        of(a={"anyOf": [TEXT, {"type": "null"}]}),
        of(a={"type": ["null", "string"]}),
        NOBODY,
    ),
    "a branch comes": (of(a=TEXT), of(a={"anyOf": [TEXT, {"type": "array"}]}), READERS),
    "a branch goes": (of(a={"anyOf": [TEXT, {"type": "array"}]}), of(a=TEXT), WRITERS),
    "a type is said": (of(a={}), of(a=TEXT), ALL),
    "a type is not said": (of(a=TEXT), of(a={}), ALL),
    "a field is required": (of(a=TEXT), {**of(a=TEXT), "required": ["a"]}, WRITERS),
    "a required field comes": (of(a=TEXT), {**of(a=TEXT, b=TEXT), "required": ["b"]}, WRITERS),
    "a field may be missing": ({**of(a=TEXT), "required": ["a"]}, of(a=TEXT), READERS),
    "a closed list grows": ({"enum": ["a"]}, {"enum": ["a", "b"]}, READERS),
    "a closed list shrinks": ({"enum": ["a", "b"]}, {"enum": ["a"]}, WRITERS),
    "a closed list opens": ({"type": "string", "enum": ["a"]}, TEXT, READERS),
    "a list is closed": (TEXT, {"type": "string", "enum": ["a"]}, WRITERS),
    "a constant changes": ({"const": "a"}, {"const": "b"}, ALL),
    "a constant becomes a list": ({"const": "a"}, {"enum": ["a", "b"]}, READERS),
    "an open list grows": ({**TEXT, "examples": ["a"]}, {**TEXT, "examples": ["a", "b"]}, NOBODY),
    "a pattern changes": ({**TEXT, "pattern": "a"}, {**TEXT, "pattern": "b"}, ALL),
    "a pattern comes": (TEXT, {**TEXT, "pattern": "a"}, WRITERS),
    "a pattern goes": ({**TEXT, "pattern": "a"}, TEXT, READERS),
    "a bound is raised": ({**TEXT, "maxLength": 1}, {**TEXT, "maxLength": 2}, READERS),
    "a bound is lowered": ({**TEXT, "maxLength": 2}, {**TEXT, "maxLength": 1}, WRITERS),
    "a least is raised": ({**NUMBER, "minimum": 1}, {**NUMBER, "minimum": 2}, WRITERS),
    "a least is lowered": ({**NUMBER, "minimum": 2}, {**NUMBER, "minimum": 1}, READERS),
    "a bound comes": (TEXT, {**TEXT, "maxLength": 1}, WRITERS),
    "elements change": ({"type": "array", "items": TEXT}, {"type": "array", "items": NUMBER}, ALL),
    "elements are widened": ({"type": "array", "items": TEXT}, {"type": "array"}, READERS),
    "other members close": (of(a=TEXT), {**of(a=TEXT), "additionalProperties": False}, WRITERS),
    "other members open": ({**of(a=TEXT), "additionalProperties": False}, of(a=TEXT), READERS),
    "a condition comes": (
        of(a=TEXT),
        {**of(a=TEXT), "allOf": [{"if": of(a=TEXT), "then": of(b=TEXT)}]},
        WRITERS,
    ),
    "a condition goes": (
        {**of(a=TEXT), "allOf": [{"if": of(a=TEXT), "then": of(b=TEXT)}]},
        of(a=TEXT),
        READERS,
    ),
    "a condition holds for others": (
        {"if": {"type": "string"}, "then": {"minLength": 1}},
        {"if": {"type": "integer"}, "then": {"minLength": 1}},
        ALL,
    ),
    "a keyword that is not known changes": (
        {"dependentRequired": {"a": ["b"]}},
        {"dependentRequired": {}},
        ALL,
    ),
    "the packing changes": ({**TEXT, "contentEncoding": "zstd"}, {**TEXT, "contentEncoding": "gzip"}, ALL),
    "what is packed changes": (
        {**TEXT, "contentSchema": of(a=TEXT)},
        {**TEXT, "contentSchema": of(b=TEXT)},
        ALL,
    ),
    "words for people": ({**TEXT, "description": "a", "title": "a"}, {**TEXT, "description": "b"}, NOBODY),
}


@pytest.mark.parametrize("before, after, broken", CHANGES.values(), ids=CHANGES)
def test_whom_a_change_breaks(before: Shape, after: Shape, broken: frozenset[Side]) -> None:
    for side in Side:
        found = list(Comparison({}, {}, side).of("it", before, after))
        assert any(change.breaks for change in found) == (side in broken), (side, [str(one) for one in found])


@pytest.mark.parametrize("shape", [shape for pair in CHANGES.values() for shape in pair[:2]])
@pytest.mark.parametrize("side", Side)
def test_what_did_not_change_is_no_change(shape: Shape, side: Side) -> None:
    assert not list(Comparison({}, {}, side).of("it", shape, deepcopy(shape)))


@pytest.mark.parametrize("side", Side)
def test_a_change_is_found_behind_a_reference_and_a_circle_ends(side: Side) -> None:
    before = {"$defs": {"node": of(next={"$ref": "#/$defs/node"}, a=TEXT)}}
    after = {"$defs": {"node": of(next={"$ref": "#/$defs/node"}, a=NUMBER)}}
    ref: Shape = {"$ref": "#/$defs/node"}
    assert any(change.breaks for change in Comparison(before, after, side).of("it", ref, ref))
    assert not list(Comparison(before, before, side).of("it", ref, ref))


BEHIND: Mapping[str, Callable[[Shape], Shape]] = {
    "a member": lambda ref: of(a=ref),
    "elements": lambda ref: {"type": "array", "items": ref},
    "other members": lambda ref: {"type": "object", "additionalProperties": ref},
    "names of members": lambda ref: {"type": "object", "propertyNames": ref},
    "what is packed": lambda ref: {**TEXT, "contentEncoding": "zstd", "contentSchema": ref},
    "a branch": lambda ref: {"anyOf": [ref, {"type": "null"}]},
    "what holds together": lambda ref: {"type": "object", "allOf": [ref]},
    "a consequence": lambda ref: {"type": "object", "if": of(a=TEXT), "then": ref},
    "an alternative": lambda ref: {"type": "object", "if": of(a=TEXT), "else": ref},
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("side", Side)
def test_a_change_is_found_wherever_the_reference_to_it_stands(
    behind: Callable[[Shape], Shape], side: Side
) -> None:
    before, after = {"$defs": {"part": of(a=TEXT)}}, {"$defs": {"part": of(a=NUMBER)}}
    shape = behind({"$ref": "#/$defs/part"})
    assert any(change.breaks for change in Comparison(before, after, side).of("it", shape, shape))
    assert not list(Comparison(before, before, side).of("it", shape, shape))


DOCUMENTS = generated()
EVENT = f"{RECORDS}responses.events.event.json"
CREATE = ("paths", "/v1/responses", "post")


def at(documents: dict[str, Any], name: str, *path: str) -> Any:
    found = documents[name]
    for part in path:
        found = found[part]
    return found


def api(*path: str) -> Callable[[dict[str, Any]], Any]:
    return lambda documents: at(documents, OPENAPI, *path)


def topic(*path: str) -> Callable[[dict[str, Any]], Any]:
    return lambda documents: at(documents, ASYNCAPI, *path)


PARAMETER = {"name": "new", "in": "query", "required": False, "schema": TEXT}
ANSWER: Shape = {"description": "", "headers": {}}

EDITS: Mapping[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "nothing": (lambda docs: docs.copy(), "1.4.2"),
    "a record kind goes": (lambda docs: docs.pop(EVENT), "2.0.0"),
    "a record kind comes": (lambda docs: docs.update({f"{RECORDS}new.json": {}}), "1.5.0"),
    "a header goes": (
        lambda docs: at(docs, EVENT, "properties", "headers", "properties").pop("terminal"),
        "2.0.0",
    ),
    "a header comes": (
        lambda docs: at(docs, EVENT, "properties", "headers", "properties").update(new=TEXT),
        "1.5.0",
    ),
    "a header is required": (
        lambda docs: at(docs, EVENT, "properties", "headers", "required").append("terminal"),
        "2.0.0",
    ),
    "the key changes": (lambda docs: at(docs, EVENT, "properties", "key").update(pattern="^x$"), "2.0.0"),
    "the value loses a field": (
        lambda docs: at(docs, EVENT, "$defs", "Response", "properties").pop("usage"),
        "2.0.0",
    ),
    "a topic goes": (lambda docs: topic("channels")(docs).pop("responses"), "2.0.0"),
    "a topic comes": (lambda docs: topic("channels")(docs).update(new={}), "1.5.0"),
    "a topic is renamed": (lambda docs: topic("channels", "responses")(docs).update(address="x"), "2.0.0"),
    "a message goes": (
        lambda docs: topic("channels", "responses", "messages")(docs).pop("response"),
        "2.0.0",
    ),
    "a topic is compacted no more": (
        lambda docs: topic("channels", "responses", "bindings", "kafka", "topicConfiguration")(docs).update(
            {"cleanup.policy": ["delete"]}
        ),
        "2.0.0",
    ),
    "a topic is kept shorter": (
        lambda docs: topic("channels", "responses", "bindings", "kafka", "topicConfiguration")(docs).update(
            {"retention.ms": 1}
        ),
        "2.0.0",
    ),
    "a topic is kept longer": (
        lambda docs: topic("channels", "responses", "bindings", "kafka", "topicConfiguration")(docs).update(
            {"retention.ms": 1 << 60}
        ),
        "1.5.0",
    ),
    "a topic has more partitions": (
        lambda docs: topic("channels", "responses", "bindings", "kafka")(docs).update(partitions=9),
        "1.4.2",
    ),
    "a value is packed": (
        lambda docs: topic("components", "messages", "responses.response")(docs).update(contentType="x"),
        "2.0.0",
    ),
    "a route goes": (lambda docs: api("paths")(docs).pop("/v1/models"), "2.0.0"),
    "a method goes": (lambda docs: api("paths", "/v1/responses/{id}")(docs).pop("delete"), "2.0.0"),
    "a route comes": (lambda docs: api("paths")(docs).update({"/new": {"get": {}}}), "1.5.0"),
    "a parameter goes": (
        lambda docs: api("paths", "/v1/responses/{id}", "get", "parameters")(docs).pop(),
        "2.0.0",
    ),
    "a parameter comes": (lambda docs: api(*CREATE, "parameters")(docs).append(PARAMETER), "1.5.0"),
    "a required parameter comes": (
        lambda docs: api(*CREATE, "parameters")(docs).append({**PARAMETER, "required": True}),
        "2.0.0",
    ),
    "a parameter is required": (
        lambda docs: api(*CREATE, "parameters")(docs)[0].update(required=True),
        "2.0.0",
    ),
    "a parameter is bounded": (
        lambda docs: api(*CREATE, "parameters")(docs)[0]["schema"].update(maxLength=1),
        "2.0.0",
    ),
    "a required field of a request comes": (
        lambda docs: api("components", "schemas", "CreateRequest")(docs).update(required=["model"]),
        "2.0.0",
    ),
    "a field of a request comes": (
        lambda docs: api("components", "schemas", "CreateRequest", "properties")(docs).update(new=TEXT),
        "1.5.0",
    ),
    "a field of a request takes less": (
        lambda docs: api("components", "schemas", "CreateRequest", "properties", "model")(docs).update(
            maxLength=1
        ),
        "2.0.0",
    ),
    "a field of a request takes more": (
        lambda docs: api("components", "schemas", "CreateRequest", "properties", "model")(docs).update(
            maxLength=999
        ),
        "1.5.0",
    ),
    "a body is required": (
        lambda docs: api("paths", "/v1/responses/{id}/cancel", "post")(docs).update(
            requestBody={"required": True, "content": {}}
        ),
        "2.0.0",
    ),
    "a field of an answer goes": (
        lambda docs: api("components", "schemas", "ModelList", "properties")(docs).pop("data"),
        "2.0.0",
    ),
    "a status of an answer comes": (
        lambda docs: api("components", "schemas", "Response", "properties", "status", "enum")(docs).append(
            "paused"
        ),
        "2.0.0",
    ),
    "an error comes": (lambda docs: api(*CREATE, "responses")(docs).update({"418": ANSWER}), "1.5.0"),
    "an error goes": (lambda docs: api(*CREATE, "responses")(docs).pop("429"), "1.5.0"),
    "a success comes": (lambda docs: api(*CREATE, "responses")(docs).update({"202": ANSWER}), "2.0.0"),
    "a success goes": (lambda docs: api(*CREATE, "responses")(docs).pop("200"), "2.0.0"),
    "a header of an answer goes": (
        lambda docs: api(*CREATE, "responses", "429", "headers")(docs).pop("retry-after"),
        "2.0.0",
    ),
    "a header of an answer comes": (
        lambda docs: api(*CREATE, "responses", "429", "headers")(docs).update(new={"schema": TEXT}),
        "1.5.0",
    ),
    "a header of an answer may be missing": (
        lambda docs: api("components", "headers", "x-request-id")(docs).update(required=False),
        "2.0.0",
    ),
    "the content of an answer goes": (
        lambda docs: api(*CREATE, "responses", "200", "content")(docs).pop("text/event-stream"),
        "2.0.0",
    ),
    "the content of an answer comes": (
        lambda docs: api(*CREATE, "responses", "200", "content")(docs).update(
            {"text/html": {"schema": TEXT}}
        ),
        "2.0.0",
    ),
    "a key is asked for": (
        lambda docs: api("paths", "/livez", "get")(docs).update(security=[{"key": []}]),
        "2.0.0",
    ),
    "a key is shown otherwise": (
        lambda docs: api("components", "securitySchemes", "key")(docs).update(scheme="basic"),
        "2.0.0",
    ),
    "a way to show a key goes": (
        lambda docs: api("paths", "/v1/models", "get")(docs).update(security=[{}]),
        "2.0.0",
    ),
    "another way to show a key comes": (
        lambda docs: api("paths", "/v1/models", "get")(docs).update(
            security=[{}, {"key": []}, {"other": []}]
        ),
        "1.4.2",
    ),
    "an operation is renamed": (
        lambda docs: api("paths", "/livez", "get")(docs).update(operationId="alive"),
        "2.0.0",
    ),
    "the paths are elsewhere": (lambda docs: docs[OPENAPI].update(servers=[{"url": "/api"}]), "2.0.0"),
    "a webhook goes": (lambda docs: api("webhooks")(docs).pop("response"), "2.0.0"),
    "a header of a webhook goes": (
        lambda docs: api("webhooks", "response", "post", "parameters")(docs).pop(),
        "2.0.0",
    ),
    "another content of a webhook comes": (
        lambda docs: api("webhooks", "response", "post", "requestBody", "content")(docs).update(
            {"text/html": {"schema": TEXT}}
        ),
        "2.0.0",
    ),
    "a version": (lambda docs: api("info")(docs).update(version="9.9.9"), "1.4.2"),
}


def parts_of(name: str, documents: Mapping[str, Any]) -> dict[str, Any]:
    """What a document has under names of their own."""
    document = documents[name]
    found: dict[str, Any] = document["$defs" if name.startswith(RECORDS) else "components"]
    return found if name.startswith(RECORDS) else found["schemas"]


PARTS = [(name, part) for name in sorted(DOCUMENTS) if name != ASYNCAPI for part in parts_of(name, DOCUMENTS)]
"""Those of the topics' document are looked at in the documents of the records."""


@pytest.mark.parametrize("name, part", PARTS)
def test_no_part_of_a_document_changes_unseen(name: str, part: str) -> None:
    after = deepcopy({name: DOCUMENTS[name]})
    parts_of(name, after)[part] = {"type": "string", "const": "another"}
    assert any(change.breaks for change in changes({name: DOCUMENTS[name]}, after))


@pytest.mark.parametrize("edit, version", EDITS.values(), ids=EDITS)
def test_which_version_a_change_takes(edit: Callable[[dict[str, Any]], object], version: str) -> None:
    after = deepcopy(dict(DOCUMENTS))
    edit(after)
    found = changes(DOCUMENTS, after)
    assert wanted_version("1.4.2", found) == version, [str(change) for change in found]


def test_a_version_is_too_low_by_number_not_by_text() -> None:
    assert too_low("1.9.0", "1.10.0")
    assert not too_low("1.10.0", "1.9.0")
    assert not too_low("2.0.0", "1.10.0")
    assert too_low("2.1.0", "3.0.0")
