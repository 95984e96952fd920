"""The published schemas are what the code says now. They break no consumer unless their version says so."""

import ast
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from jsonschema import Draft7Validator, Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31

from schemas import records
from schemas.refusal import http_status_of
from schemas.response import ERROR_CODES
from services.eventlog import transcript
from services.eventlog.topics import specs, topics
from services.published.compatible import changes, too_low, wanted_version
from services.published.documents import (
    ASYNCAPI,
    BASELINE,
    COMMAND,
    FOLDER,
    OPENAPI,
    RECORDS,
    VERSION,
    encoded,
    generated,
    released,
)
from services.published.kinds import kinds
from services.published.records import name_of, topic_of

ROOT = Path(__file__).parents[2]
ASYNCAPI_SCHEMA = Path(__file__).with_name("asyncapi-3.0.0.json")
DOCUMENTS = generated()
RECORD_SCHEMAS = {name: schema for name, schema in DOCUMENTS.items() if name.startswith(RECORDS)}
ALSO = {
    "executors.beat",
    "index.gone",
    "index.shelved",
    "index.tombstone",
    "executors.listing",
    "responses.response",
    "responses.tombstone",
    "closings.closing",
    "usage.mark",
    "usage.names",
    "usage.row",
    "webhooks.delivery",
    "webhooks.endpoint",
    "webhooks.mark",
    "webhooks.retry",
    "webhooks.secret",
    "webhooks.settings",
    "installation.key_partitions",
    "webhooks.tombstone",
}
"""Kinds that are the only ones of their topic, or have no type of their own."""


def test_the_files_are_what_the_code_says() -> None:
    files = {path.relative_to(ROOT / FOLDER).as_posix(): path.read_bytes() for path in committed()}
    fresh = {name: encoded(document) for name, document in DOCUMENTS.items()}
    stale = sorted(name for name in files.keys() | fresh.keys() if files.get(name) != fresh.get(name))
    assert not stale, (
        f"{FOLDER}/ is not what the code says: run `{COMMAND}`. It differs in {', '.join(stale)}"
    )


def committed() -> Iterator[Path]:
    return (ROOT / FOLDER).rglob("*.json")


def test_the_files_come_with_an_installation() -> None:
    """A wheel has the files that pyproject.toml names."""
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"][
        "schemas"
    ]
    inside = {
        path.relative_to(ROOT / "schemas") for pattern in named for path in (ROOT / "schemas").glob(pattern)
    }
    assert inside == {path.relative_to(ROOT / "schemas") for path in committed()}


def test_who_read_the_last_release_is_not_broken_unless_the_version_says_so() -> None:
    baseline = released(ROOT / BASELINE)
    before = baseline[OPENAPI]["info"]["version"]
    found = changes(baseline, DOCUMENTS)
    least = wanted_version(before, found)
    assert not too_low(VERSION, least), "\n".join(
        [
            f"The schemas have changed since {before}: raise VERSION in services/published/documents.py",
            f"from {VERSION} to {least} at least, then run `{COMMAND}`.",
            *map(str, found),
        ]
    )


def test_the_version_is_that_of_all_documents() -> None:
    assert {DOCUMENTS[name]["info"]["version"] for name in (OPENAPI, ASYNCAPI)} == {VERSION}


@pytest.mark.parametrize("name", RECORD_SCHEMAS)
def test_a_record_has_a_valid_schema_that_refers_to_nothing_else(name: str) -> None:
    Draft202012Validator.check_schema(RECORD_SCHEMAS[name])
    inside = {ref for ref in references(RECORD_SCHEMAS[name]) if not ref.startswith("#/$defs/")}
    assert not inside
    names = {ref.removeprefix("#/$defs/") for ref in references(RECORD_SCHEMAS[name])}
    assert names == RECORD_SCHEMAS[name]["$defs"].keys()


@pytest.mark.parametrize("name", [OPENAPI, ASYNCAPI])
def test_what_an_api_document_refers_to_is_in_it(name: str) -> None:
    document = DOCUMENTS[name]
    for ref in references(document):
        found: Any = document
        for part in ref.removeprefix("#/").split("/"):
            found = found[part.replace("~1", "/")]
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


FORMATS = {
    ASYNCAPI: Draft7Validator(msgspec.json.decode(ASYNCAPI_SCHEMA.read_bytes())),
    OPENAPI: Draft202012Validator(OPENAPI_31),
}
"""What the two formats ask of a document, by their own schemas."""


@pytest.mark.parametrize("name", FORMATS)
def test_a_document_is_what_its_format_asks_for(name: str) -> None:
    assert [error.message for error in FORMATS[name].iter_errors(DOCUMENTS[name])] == []


WRONG: Mapping[str, tuple[str, Sequence[str | int], Any]] = {
    "no version": (ASYNCAPI, ["info", "version"], None),
    "a binding that there is not": (ASYNCAPI, ["channels", "closings", "bindings", "kafka", "retries"], 1),
    "a setting of another type": (
        ASYNCAPI,
        ["channels", "closings", "bindings", "kafka", "topicConfiguration", "retention.ms"],
        "long",
    ),
    "no action": (ASYNCAPI, ["operations", "append.closings", "action"], None),
    "headers of a type that there is not": (
        ASYNCAPI,
        ["components", "messages", "closings.closing", "headers", "type"],
        "texts",
    ),
    "a parameter without a place": (OPENAPI, ["paths", "/v1/models", "get", "parameters", 0, "in"], None),
    "an answer without words": (
        OPENAPI,
        ["paths", "/livez", "get", "responses", "200", "description"],
        None,
    ),
}


@pytest.mark.parametrize("name, path, value", WRONG.values(), ids=WRONG)
def test_the_formats_schemas_would_find_what_is_wrong(
    name: str, path: Sequence[str | int], value: Any
) -> None:
    document = deepcopy(DOCUMENTS[name])
    parent: Any = document
    for part in path[:-1]:
        parent = parent[part]
    parent.pop(path[-1], None)
    if value is not None:
        parent[path[-1]] = value
    assert not FORMATS[name].is_valid(document)


def references(shape: Any) -> Iterator[str]:
    children = shape.values() if isinstance(shape, dict) else shape if isinstance(shape, list) else ()
    if isinstance(shape, dict) and isinstance(shape.get("$ref"), str):
        yield shape["$ref"]
    for child in children:
        yield from references(child)


def test_every_kind_that_a_reader_knows_is_published() -> None:
    known = {f"events.{kind.kind}" for kind in get_args(records.Entry) if kind is not records.Unreadable}
    known |= {
        f"transcripts.{kind.__name__.lower()}"
        for kind in get_args(transcript.Entry)
        if kind is not records.Unreadable
    }
    assert {f"{kind.topic}.{kind.name}" for kind in kinds()} == known | ALSO


def test_every_topic_is_published_with_its_settings() -> None:
    channels = DOCUMENTS[ASYNCAPI]["channels"]
    assert channels.keys() == {spec.name for spec in specs(topics())}
    for spec in specs(topics()):
        binding = channels[spec.name]["bindings"]["kafka"]
        settings = {setting.key: setting.value for setting in spec.settings}
        assert binding["topicConfiguration"]["cleanup.policy"] == settings["cleanup.policy"].split(",")
        kept = settings.get("retention.ms")
        assert binding["topicConfiguration"].get("retention.ms") == (None if kept is None else int(kept))
        assert binding["partitions"] == (spec.partitions or 8)


def test_a_topic_has_the_messages_of_its_kinds() -> None:
    document = DOCUMENTS[ASYNCAPI]
    for kind in kinds():
        message = document["components"]["messages"][name_of(kind)]
        assert document["channels"][topic_of(kind)]["messages"][kind.name]
        assert message["bindings"]["kafka"]["key"] == kind.key


def test_what_the_code_writes_fits_its_schema() -> None:
    for kind in kinds():
        schema = RECORD_SCHEMAS[f"{RECORDS}{name_of(kind)}.json"]
        for sample in kind.samples:
            headers = {name: value.decode() for name, value in sample.headers}
            for part, said in (("key", sample.key.decode()), ("headers", headers)):
                Draft202012Validator({**schema["properties"][part], "$defs": schema["$defs"]}).validate(said)


def test_no_two_kinds_of_a_topic_can_be_taken_for_each_other() -> None:
    """By key and headers alone: a sample of one does not fit another."""
    for one in kinds():
        for other in kinds():
            if one.topic != other.topic or one.name == other.name or "tombstone" in (one.name, other.name):
                continue
            for sample in one.samples:
                headers = {name: value.decode() for name, value in sample.headers}
                key_fits = Draft202012Validator(other.key).is_valid(sample.key.decode())
                assert not (key_fits and Draft202012Validator(other.headers).is_valid(headers)), (one, other)


def described(shape: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """What a schema says to people, and where it says so."""
    if isinstance(shape, dict):
        if isinstance(text := shape.get("description"), str):
            yield where, text
        for name, part in shape.items():
            yield from described(part, f"{where}.{name}")
    elif isinstance(shape, list):
        for number, part in enumerate(shape):
            yield from described(part, f"{where}[{number}]")


def test_what_is_said_to_people_speaks_of_json_and_not_of_python() -> None:
    texts = [found for name, document in DOCUMENTS.items() for found in described(document, name)]
    assert [found for found in texts if re.search(r"\b(None|True|False)\b", found[1])] == []


def test_a_closing_says_of_each_member_what_it_is_and_of_times_their_unit() -> None:
    """Who counts or bills has nothing else to go by."""
    parts = RECORD_SCHEMAS[f"{RECORDS}closings.closing.json"]["$defs"]
    members = [(name, member) for part in parts.values() for name, member in part["properties"].items()]
    assert [name for name, member in members if "description" not in member] == []
    times = [msgspec.json.encode(member) for name, member in members if name.endswith("_at")]
    assert times
    assert [text for text in times if b"milliseconds since the epoch" not in text] == []


def statuses_raised() -> Iterator[int]:
    """The statuses that the code names where it makes a refusal for clients."""
    for folder in ("schemas", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "ApiError":
                    status = getattr(node.args[0], "value", None)
                    if isinstance(status, int) and status != 405:  # what has no method has no entry
                        yield status


def test_every_status_that_the_code_names_is_published() -> None:
    failures = {http_status_of({"code": code}) for code in ERROR_CODES}
    failures |= {http_status_of({"upstream_status": status}) for status in range(400, 600)}
    failures |= {http_status_of({"type": type}) for type in ("deadline", "executor_lost", "unsupported")}
    paths = DOCUMENTS[OPENAPI]["paths"]
    published = {
        int(status) for path in paths.values() for said in path.values() for status in said["responses"]
    }
    assert published >= {*statuses_raised(), 400, 503}
    assert {int(status) for status in paths["/v1/responses"]["post"]["responses"]} >= failures
