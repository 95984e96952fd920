"""A-18: preflight and CORS headers. Probes and metrics, too: the rest of the route table."""

import pytest

from tests.api import Api

ASKED = "authorization,content-type,last-event-id,x-stainless-arch,x-stainless-retry-count"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_a18_a_preflight_allows_what_it_asks_for(api: Api, cors_origin: str, method: str) -> None:
    answer = api.ask(
        "OPTIONS",
        "/v1/responses",
        headers={
            "origin": cors_origin,
            "access-control-request-method": method,
            "access-control-request-headers": ASKED,
        },
    )

    assert answer.status in (200, 204)
    assert answer.headers["access-control-allow-origin"] == cors_origin
    assert method in answer.headers["access-control-allow-methods"]
    allowed = {name.strip().lower() for name in answer.headers["access-control-allow-headers"].split(",")}
    assert set(ASKED.split(",")) <= allowed


def test_a18_answers_to_an_origin_expose_their_headers(api: Api, cors_origin: str) -> None:
    id = api.closed()
    headers = {"origin": cors_origin}

    for answer in (
        api.get(id, headers=headers),
        api.get(id, "?stream=true", headers),
        api.get("x", headers=headers),
    ):
        assert answer.headers["access-control-allow-origin"] == cors_origin
        exposed = {
            name.strip() for name in answer.headers["access-control-expose-headers"].lower().split(",")
        }
        assert {"x-request-id", "retry-after"} <= exposed


def test_a18_other_origins_get_nothing(api: Api) -> None:
    answer = api.get(api.closed(), headers={"origin": "https://elsewhere.example"})

    assert "access-control-allow-origin" not in answer.headers


def test_probes_and_metrics(api: Api) -> None:
    assert api.ask("GET", "/livez").status == 200
    assert api.ask("GET", "/readyz").status == 200
    metrics = api.ask("GET", "/metrics")
    assert (metrics.status, metrics.headers["content-type"].split(";")[0]) == (200, "text/plain")
