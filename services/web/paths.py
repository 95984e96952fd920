"""The API's paths and their methods, and the paths of OpenAI's API that Rejoinder does not offer.

Clients see one API at the front door. A replay without ingest, and ingest's own public port, serve only a
part of it, so their routes do not say which methods a path has (`Allow`). With this module every service
refuses a request in the same words.
"""

from collections.abc import Iterable, Mapping

from starlette.routing import compile_path

from schemas.errors import ApiError

SCHEMAS, OPENAPI = "/schemas", "/openapi.json"
BEHIND: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "analytics": {
        "/v1/organization/usage/completions": ("GET",),
        "/v1/organization/costs": ("GET",),
        "/v1/usage/latency": ("GET",),
    },
    "webhooks": {
        "/v1/webhook_endpoints": ("POST", "GET"),
        "/v1/webhook_endpoints/{id}": ("GET", "POST", "DELETE"),
        "/v1/webhook_endpoints/{id}/rotate_secret": ("POST",),
        "/v1/webhook_endpoints/{id}/test": ("POST",),
        "/v1/webhook_event_types": ("GET",),
    },
}
"""The methods of every path that the front door forwards, by the service that answers it."""
SERVED: Mapping[str, tuple[str, ...]] = {
    "/v1/responses": ("POST",),
    "/v1/responses/{id}": ("GET", "DELETE"),
    "/v1/responses/{id}/cancel": ("POST",),
    "/v1/responses/{id}/input_items": ("GET",),
    "/v1/models": ("GET",),
    "/v1/models/{id:path}": ("GET",),
    SCHEMAS: ("GET",),
    f"{SCHEMAS}/{{name:path}}": ("GET",),
    OPENAPI: ("GET",),
    **{path: methods for table in BEHIND.values() for path, methods in table.items()},
}
"""The methods of every path of the public API, in starlette's notation. A path with GET has HEAD as well."""

_WHOLE = "Send the whole conversation as 'input' of POST /v1/responses, or chain with 'previous_response_id'."
_FILES = "Send a file within the request, as an 'input_file' or 'input_image' of POST /v1/responses."
_WITHOUT = """
audio chatkit content_provenance_checks decisions edits embeddings engines evals fine-tunes fine_tuning images
live moderations organization projects realtime safety skills vaults videos
"""
_NOT_OFFERED: Mapping[str, str] = {
    "responses/compact": _WHOLE,
    "responses/input_tokens": "The 'usage' of a response says how many input tokens it had.",
    "chat": "Use POST /v1/responses: its 'input' takes the messages.",
    "completions": "Use POST /v1/responses: its 'input' takes the prompt.",
    "conversations": _WHOLE,
    "assistants": "Use POST /v1/responses, with 'instructions' and 'tools' in the request.",
    "threads": _WHOLE,
    "agents": "Name a hosted agent in 'agent_reference' of POST /v1/responses.",
    **dict.fromkeys(("files", "uploads", "containers", "vector_stores"), _FILES),
    "batches": "Send each request by itself, with 'background': true.",
    **dict.fromkeys(_WITHOUT.split(), "There is nothing in its place."),
}
"""Beginnings of OpenAI's paths below /v1/ that Rejoinder does not offer, and what to use instead."""
_ALL = ", ".join(
    f"{method} {path.replace(':path', '')}" for path, methods in SERVED.items() for method in methods
)
_PATTERNS = [(compile_path(path)[0], methods) for path, methods in SERVED.items()]


def methods_of(path: str) -> set[str]:
    """The methods that `path` has in the public API."""
    return {method for pattern, methods in _PATTERNS if pattern.match(path) for method in with_head(methods)}


def with_head(methods: Iterable[str]) -> set[str]:
    """`methods`, and HEAD where GET is among them."""
    found = set(methods)
    return found | {"HEAD"} if "GET" in found else found


def refused(method: str, path: str, here: Iterable[str]) -> ApiError:
    """The refusal of a public request that no route of this service takes.

    `here` are the methods for which this service has a route at `path`.
    """
    allowed = methods_of(path) | set(here)
    if (instead := _instead(path, below=not allowed)) is not None:
        what = f"Rejoinder does not offer {method} {path}. {instead} It serves {_ALL}."
        return ApiError(404, what, code="not_offered")
    if method in allowed:
        what = f"{method} {path} is answered by another service of Rejoinder: ask the front door."
        return ApiError(421, what, code="misdirected")
    if allowed:
        what = f"{method} is not allowed on {path}."
        headers = {"allow": ", ".join(sorted(allowed))}
        return ApiError(405, what, code="method_not_allowed", headers=headers)
    below = f"/v1{path}"
    known = methods_of(below) or _instead(below) is not None
    hint = " The API is below /v1: does the client's base URL end with it?" if known else ""
    return ApiError(404, f"There is no route {method} {path}.{hint}", code="not_found")


def _instead(path: str, *, below: bool = True) -> str | None:
    """What to use instead of a path of OpenAI's that is not offered; None for any other path.

    `below`: a path counts too if it only begins with one that is not offered.
    """
    root, _, rest = path.removeprefix("/").partition("/")
    if root != "v1":
        return None
    return _NOT_OFFERED.get(rest) or (_NOT_OFFERED.get(rest.partition("/")[0]) if below else None)
