"""Each kind of record as one JSON Schema of an object with key, headers and value."""

from schemas.checks import Shape
from services.eventlog.topics import topics
from services.published.kinds import RecordKind
from services.published.shapes import DIALECT, Parts, needed


def topic_of(kind: RecordKind) -> str:
    """The name of the topic that holds `kind`."""
    name: str = getattr(topics(), kind.topic)
    return name


def name_of(kind: RecordKind) -> str:
    """The name of `kind` among those of all topics."""
    return f"{topic_of(kind)}.{kind.name}"


def record_schema(kind: RecordKind, parts: Parts) -> Shape:
    """The schema of a record of `kind`, with all that it refers to."""
    members = {"key": kind.key, "headers": kind.headers, "value": kind.value}
    return {
        "$schema": DIALECT,
        "$id": f"urn:rejoinder:records:{name_of(kind)}",
        "title": name_of(kind),
        "description": kind.what,
        "type": "object",
        "required": list(members),
        "properties": members,
        "$defs": needed(members, parts),
    }
