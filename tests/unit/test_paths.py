"""The API's paths: what is allowed where, and what of OpenAI's is not offered (A-16)."""

import re
from pathlib import Path

import openai
import pytest

from services.ingest import routes as ingest
from services.replay import routes as replay
from services.replay.forwarding import Forwarding, behind
from services.replay.models import ModelRoutes
from services.replay.schemas import SchemaRoutes
from services.settings import Settings
from services.web.callers import Callers
from services.web.paths import SERVED, methods_of, refused
from services.web.room import Room

SDK = Path(openai.__file__).parent / "resources"
_PATH = re.compile(
    r'(?:path_template\(|self\._(?:get|post|delete|put|patch|get_api_list)\()\s*f?"(/[a-z_-]+[^"]*)"'
)
ID = "resp_1"


def openais() -> set[str]:
    """Every path that the openai SDK calls, ids filled in."""
    found = {path for file in SDK.rglob("*.py") for path in _PATH.findall(file.read_text())}
    return {re.sub(r"\{[^}]*\}", ID, path.partition("?")[0]) for path in found}


def test_the_table_is_what_ingest_and_replay_serve() -> None:
    desk = object.__new__(ingest.Desk)
    public = object.__new__(replay.PublicRoutes)
    models = object.__new__(ModelRoutes)
    schemas = object.__new__(SchemaRoutes)
    forwarding = Forwarding(behind(Settings()), Callers(Settings()), Room())
    routes = [*desk.routes(), *public.routes(), *models.routes(), *schemas.routes(), *forwarding.routes()]
    served: dict[str, set[str]] = {}
    for route in routes:
        served.setdefault(route.path, set()).update(set(route.methods or ()) - {"HEAD"})  # type: ignore[attr-defined]
    assert served == {path: set(methods) for path, methods in SERVED.items()}


@pytest.mark.parametrize("path", sorted(openais()))
def test_what_the_sdk_calls_is_served_or_said_not_to_be(path: str) -> None:
    if methods_of(f"/v1{path}") and path not in ("/responses/compact", "/responses/input_tokens"):
        return
    refusal = refused("POST", f"/v1{path}", ())
    assert (refusal.status, refusal.code) == (404, "not_offered"), path
    assert f"POST /v1{path}" in refusal.message
    assert "POST /v1/responses" in refusal.message


def test_the_sdks_paths_are_found() -> None:
    assert {"/chat/completions", "/files", f"/responses/{ID}", "/responses/compact"} <= openais()


@pytest.mark.parametrize(
    "method, path, allow",
    [
        *[
            (method, "/v1/responses/resp_1", "DELETE, GET, HEAD")
            for method in ("PUT", "PATCH", "POST", "OPTIONS")
        ],
        *[(method, "/v1/responses", "POST") for method in ("GET", "PUT", "DELETE")],
        ("GET", "/v1/responses/resp_1/cancel", "POST"),
        ("POST", "/v1/responses/resp_1/input_items", "GET, HEAD"),
    ],
)
def test_what_is_allowed_is_what_all_services_allow(method: str, path: str, allow: str) -> None:
    refusal = refused(method, path, ())
    assert (refusal.status, refusal.code, refusal.headers["allow"]) == (405, "method_not_allowed", allow)


def test_the_services_own_paths_count_too() -> None:
    assert refused("POST", "/livez", {"GET", "HEAD"}).headers["allow"] == "GET, HEAD"


def test_what_another_service_answers_is_misdirected() -> None:
    refusal = refused("GET", "/v1/responses/resp_1", {"DELETE"})
    assert (refusal.status, refusal.code) == (421, "misdirected")


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/nothing", "/v1/responses/", "/v1/responses/a/b", "/v2/chat"]
)
def test_what_nobody_knows_is_not_found(path: str) -> None:
    refusal = refused("POST", path, ())
    assert (refusal.status, refusal.code) == (404, "not_found")
    assert path in refusal.message
    assert "/v1:" not in refusal.message


@pytest.mark.parametrize("path", ["/responses", "/responses/resp_1", "/chat/completions"])
def test_a_base_url_without_v1_is_told(path: str) -> None:
    refusal = refused("POST", path, ())
    assert (refusal.status, refusal.code) == (404, "not_found")
    assert "below /v1" in refusal.message
