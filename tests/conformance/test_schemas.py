"""The published documents, as anybody gets them (A-28)."""

import json
from urllib.parse import quote

import pytest

from services.published.documents import ASYNCAPI, OPENAPI, generated
from tests.api import Api, error_of

NAMES = sorted(generated())
TYPES = {
    OPENAPI: "application/vnd.oai.openapi+json;version=3.1",
    ASYNCAPI: "application/vnd.aai.asyncapi+json;version=3.0.0",
}
UNKNOWN = [
    "nothing",
    "openapi.yaml",
    "OPENAPI.json",
    "records",
    "records/",
    "../records.py",
    "",
    "baseline",
    "%00",
]


def test_a28_the_documents_are_listed(api: Api) -> None:
    listed = api.ask("GET", "/schemas")

    assert listed.status == 200
    assert listed.headers["content-type"] == "application/json"
    assert listed.json["object"] == "list"
    assert [entry["name"] for entry in listed.json["data"]] == NAMES
    for entry in listed.json["data"]:
        found = api.ask("GET", entry["url"])
        assert (found.status, found.headers["content-type"]) == (200, entry["type"]), entry
    assert listed.json["version"] == api.ask("GET", "/openapi.json").json["info"]["version"]


@pytest.mark.parametrize("name", NAMES)
def test_a28_a_document_is_json_of_its_type_and_may_be_kept(api: Api, name: str) -> None:
    found = api.ask("GET", f"/schemas/{name}")

    assert found.status == 200
    assert found.headers["content-type"] == TYPES.get(name, "application/schema+json")
    assert found.headers["cache-control"].startswith("public, max-age=")
    assert json.loads(found.body)["$schema" if name.startswith("records/") else "info"]
    for tags in (found.headers["etag"], f'"x", W/{found.headers["etag"]}', "*"):
        again = api.ask("GET", f"/schemas/{name}", headers={"if-none-match": tags})
        assert (again.status, again.body, again.headers["etag"]) == (304, b"", found.headers["etag"])
    assert api.ask("GET", f"/schemas/{name}", headers={"if-none-match": '"x"'}).body == found.body


def test_a28_the_api_is_where_tools_look_for_it(api: Api) -> None:
    found = api.ask("GET", "/openapi.json")

    assert found.body == api.ask("GET", f"/schemas/{OPENAPI}").body
    assert found.headers["content-type"] == TYPES[OPENAPI]
    assert found.json["openapi"] == "3.1.0"


@pytest.mark.parametrize("name", UNKNOWN)
def test_a28_an_unknown_document_is_a_404_that_lists_those_there_are(api: Api, name: str) -> None:
    error = error_of(answer := api.ask("GET", f"/schemas/{quote(name, safe='/%')}"))

    assert (answer.status, error["code"], error["param"]) == (404, "not_found", "name")
    assert all(known in error["message"] for known in NAMES)


@pytest.mark.parametrize("path", ["/schemas", "/openapi.json", f"/schemas/{ASYNCAPI}"])
def test_a28_it_is_read_only(api: Api, path: str) -> None:
    whole = api.ask("GET", path)
    with api.connect("HEAD", path) as head:
        assert (head.status, head.headers["content-length"]) == (200, whole.headers["content-length"])
        assert head.headers["etag"] == whole.headers["etag"]
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        error = error_of(answer := api.ask(method, path, {}))
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
        assert error["code"] == "method_not_allowed"
