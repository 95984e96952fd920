"""GET /schemas, GET /schemas/{name} and GET /openapi.json: the published documents, for everybody (A-28).

The documents are files that come with the code (`schemas/published`). They are read once, at the start.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from schemas.errors import ApiError
from services.web.edge import route
from services.web.paths import OPENAPI, SCHEMAS

SCHEMA_TYPE = "application/schema+json"
OPENAPI_TYPE = "application/vnd.oai.openapi+json"
ASYNCAPI_TYPE = "application/vnd.aai.asyncapi+json"
KEPT_S = 300
"""Seconds for which a copy may be used without asking again. They change only with the code."""
_OPENAPI_NAME, _ASYNCAPI_NAME = "openapi.json", "asyncapi.json"
_TYPES: Mapping[str, str] = {
    _OPENAPI_NAME: f"{OPENAPI_TYPE};version=3.1",
    _ASYNCAPI_NAME: f"{ASYNCAPI_TYPE};version=3.0.0",
}


class SchemaEntry(Struct, frozen=True):
    """A published document: its name, where it is, and its content type."""

    name: str
    url: str
    type: str


class SchemaList(Struct, frozen=True):
    """The published documents. `version` grows by a major number when a change breaks who reads or calls."""

    version: str
    data: Sequence[SchemaEntry]
    object: str = "list"


class Document(Struct, frozen=True):
    """A published document as it is sent."""

    type: str
    content: bytes


class _Info(Struct):
    version: str


class _Versioned(Struct):
    info: _Info


def published() -> Mapping[str, Document]:
    """The documents that come with the code, by name. Reads files."""
    folder = files("schemas") / "published"
    return {
        name: Document(_TYPES.get(name, SCHEMA_TYPE), file.read_bytes()) for name, file in _json_in(folder)
    }


def _json_in(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _json_in(entry, f"{name}/")
        elif name.endswith(".json"):
            yield name, entry


class SchemaRoutes:
    """The routes of `documents`. They ask for no key."""

    def __init__(self, documents: Mapping[str, Document]) -> None:
        self._documents = documents
        listed = [SchemaEntry(name, f"{SCHEMAS}/{name}", found.type) for name, found in documents.items()]
        version = msgspec.json.decode(documents[_OPENAPI_NAME].content, type=_Versioned).info.version
        self._index = Document("application/json", msgspec.json.encode(SchemaList(version, listed)))

    def routes(self) -> Sequence[BaseRoute]:
        """The routes, for an `Edge`."""
        return [
            route("GET", SCHEMAS, self.index),
            route("GET", f"{SCHEMAS}/{{name:path}}", self.document),
            route("GET", OPENAPI, self.openapi),
        ]

    async def index(self, request: Request) -> Response:
        """Which documents there are."""
        return _answer(request, self._index)

    async def document(self, request: Request) -> Response:
        """One of them."""
        name: str = request.path_params["name"]
        found = self._documents.get(name)
        if found is None:
            what = f"There is no schema '{name}'. There are: {', '.join(self._documents)}."
            raise ApiError(404, what, param="name", code="not_found")
        return _answer(request, found)

    async def openapi(self, request: Request) -> Response:
        """The document of the HTTP API, where tools look for it."""
        return _answer(request, self._documents[_OPENAPI_NAME])


def _answer(request: Request, document: Document) -> Response:
    etag = f'"{hashlib.sha256(document.content).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": f"public, max-age={KEPT_S}"}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(document.content, media_type=document.type, headers=headers)
