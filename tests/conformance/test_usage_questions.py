"""A-30 to A-33: usage, costs and latency, of a server that runs analytics."""

import time
from collections.abc import Iterator

import pytest

from tests.api import Api, error_of, insisting
from tests.system import System
from tests.wire import Answer

PATHS = ("/v1/organization/usage/completions", "/v1/organization/costs", "/v1/usage/latency")
SHOWS_S = 60.0
"""Seconds until what has ended must show, on a busy machine."""


@pytest.fixture(scope="module")
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server that runs analytics: the one that is given, or one of our own."""
    given: str | None = request.config.getoption("--base-url")
    if given:
        found = Api(given.rstrip("/"))
        answer = asked(found, PATHS[0])
        if answer.status == 404 and error_of(answer)["code"] == "not_offered":
            pytest.skip("the server runs no analytics")
        yield found
        return
    pytest.importorskip("faust", reason="analytics is not installed")
    kafka: str = request.getfixturevalue("kafka")
    with System(kafka, tmp_path_factory.mktemp("used"), flags=("--without", "webhooks")) as running:
        yield Api(running.base_url)


@pytest.fixture(scope="module")
def stranger(api: Api, tenant_header: str) -> Api:
    """Another tenant at the same server."""
    return Api(api.base_url, {tenant_header: "somebody-else"})


def asked(api: Api, path: str, query: str = "") -> Answer:
    """What the server says of the last hour."""
    start = int(time.time()) - 3600
    return insisting(lambda: api.ask("GET", f"{path}?start_time={start}{query}"))


def responses(api: Api, path: str, count: str) -> int:
    page = asked(api, path, "&bucket_width=1h&models=echo").json
    return sum(result[count] for bucket in page["data"] for result in bucket["results"])


def test_a30_a32_what_has_ended_shows_within_seconds(api: Api) -> None:
    before = responses(api, PATHS[0], "num_model_requests"), responses(api, PATHS[2], "responses")
    api.closed()
    until = time.monotonic() + SHOWS_S
    while responses(api, PATHS[0], "num_model_requests") <= before[0]:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert responses(api, PATHS[2], "responses") > before[1]


@pytest.mark.parametrize("path", PATHS)
def test_a30_a31_a32_an_answer_is_a_page_of_buckets(api: Api, path: str) -> None:
    page = asked(api, path, "&limit=1").json
    assert page["object"] == "page"
    (bucket, *_) = page["data"]
    assert bucket["object"] == "bucket"
    assert bucket["start_time"] < bucket["end_time"]
    assert page["has_more"] is (page["next_page"] is not None)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "query, field",
    [
        ("&group_by=colour", "group_by"),
        ("&group_by[]=user_id", "group_by"),
        ("&end_time=1", "end_time"),
        ("&bucket_width=1s", "bucket_width"),
        ("&limit=100000", "limit"),
        ("&page=elsewhere", "page"),
        ("&user_ids=somebody", "user_ids"),
    ],
)
def test_a33_a_wrong_question_names_the_field(api: Api, path: str, query: str, field: str) -> None:
    answer = asked(api, path, query)
    assert answer.status == 400
    assert error_of(answer)["param"] == field


@pytest.mark.parametrize("path", PATHS)
def test_a33_a_question_needs_a_start(api: Api, path: str) -> None:
    answer = insisting(lambda: api.ask("GET", path))
    assert (answer.status, error_of(answer)["param"]) == (400, "start_time")


def test_a33_a_tenant_sees_nothing_of_others(api: Api, stranger: Api) -> None:
    api.closed()
    page = asked(stranger, PATHS[0], "&group_by=project_id").json
    assert {one["project_id"] for bucket in page["data"] for one in bucket["results"]} <= {"somebody-else"}
