"""All published documents, with their version, to and from files."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from schemas.checks import Shape
from services.published import asyncapi, openapi
from services.published.kinds import kinds
from services.published.objects import parts
from services.published.records import name_of, record_schema

VERSION = "1.3.0"
"""`info.version` of the documents: major.minor.patch. A change that breaks a reader of a topic or a caller of
the API takes a new major number, any other change a new minor one (`compatible`)."""
COMMAND = "python -m services.published"
"""What writes them anew."""
FOLDER = Path("schemas/published")
BASELINE = Path("schemas/baseline.json")
"""From the root of the repository: the folder that is served, and the documents of the last release."""
RECORDS, ASYNCAPI, OPENAPI = "records/", "asyncapi.json", "openapi.json"

Documents = Mapping[str, Shape]
"""The documents by name, which is their path below the folder."""


def generated() -> Documents:
    """The documents as the code has them now."""
    named = parts()
    records = {f"{RECORDS}{name_of(kind)}.json": record_schema(kind, named) for kind in kinds()}
    return {
        ASYNCAPI: asyncapi.topics_document(VERSION, named),
        OPENAPI: openapi.api_document(VERSION, named),
        **dict(sorted(records.items())),
    }


def encoded(document: Shape) -> bytes:
    """A document as its file has it: indented, so that a change shows line by line."""
    return msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"


def write(documents: Documents, folder: Path) -> None:
    """Write `documents` to `folder`, and remove what else is there of theirs."""
    for stale in set(folder.rglob("*.json")) - {folder / name for name in documents}:
        stale.unlink()
    for name, document in documents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(document))


def release(documents: Documents, baseline: Path) -> None:
    """Write `documents` to the file against which later ones are held."""
    baseline.write_bytes(msgspec.json.encode(documents) + b"\n")


def released(baseline: Path) -> Documents:
    """The documents of the last release."""
    found: Documents = msgspec.json.decode(baseline.read_bytes())
    return found


def read(folder: Path) -> Documents:
    """The documents in `folder`."""
    found = sorted(folder.rglob("*.json"))
    return {path.relative_to(folder).as_posix(): msgspec.json.decode(path.read_bytes()) for path in found}
