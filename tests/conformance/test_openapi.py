"""The API answers as its OpenAPI document says: schemathesis asks what that allows, and what it does not.

Each operation gets requests that fit the document and requests that do not. Ids are unknown ones, those of
responses in each state, and those of webhook endpoints. No answer is a 5xx, and each has a status, headers
and a body that are published. After a 503 the request is sent again, as any client does (A-10).
"""

import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.schemas import BaseSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from services.published.documents import ASYNCAPI
from services.published.operations import OPERATIONS
from tests.api import Api
from tests.long import SOAK
from tests.serving import HOST
from tests.system import System

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 400 if SOAK else 20
"""Requests for each operation, of each mode."""
BUDGET_S = 60.0 if SOAK else 3.0
"""Seconds for these. On a slow machine fewer are asked, but not before one has succeeded."""
PATIENCE_S = 60.0
WEBHOOKS = "/v1/webhook_endpoints"


class Taking(BaseHTTPRequestHandler):
    """Takes every webhook."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a system that leaves nothing out."""
    given: str | None = request.config.getoption("--base-url")
    if given:
        yield given.rstrip("/")
        return
    kafka: str = request.getfixturevalue("kafka")
    with System(kafka, tmp_path_factory.mktemp("whole"), flags=()) as system:
        yield system.base_url


@pytest.fixture(scope="module")
def document(whole: str) -> BaseSchema:
    """The document as the system under test serves it."""
    return schemathesis.openapi.from_url(f"{whole}/openapi.json")


@pytest.fixture(scope="module")
def endpoints(request: pytest.FixtureRequest, whole: str) -> Iterator[list[str]]:
    """Ids of webhook endpoints, which answer if they are on the machine of the system."""
    with ThreadingHTTPServer((HOST, 0), Taking) as receiver:
        Thread(target=receiver.serve_forever, daemon=True).start()
        local = not request.config.getoption("--base-url")
        url = f"http://{HOST}:{receiver.server_port}/" if local else "https://hooks.example.com/"
        body = {"name": "a", "url": url, "event_types": ["response.failed"]}
        asked = [Api(whole).ask("POST", WEBHOOKS, body) for _ in range(3)]
        made = [answer.json["id"] for answer in asked]
        yield made
        for id in made:
            Api(whole).ask("DELETE", f"{WEBHOOKS}/{id}")
        receiver.shutdown()


@pytest.fixture(scope="module")
def known(whole: str) -> Iterator[list[str]]:
    """Ids of responses in each state. The open ones are ended in the end."""
    api = Api(whole)
    running, cancelled, deleted = api.open(), api.open(), api.closed()
    api.cancel(cancelled)
    api.delete(deleted)
    yield [api.closed(), api.closed(fail_after=1), cancelled, deleted, running]
    api.delete(running)


def test_the_document_is_openapi(document: BaseSchema) -> None:
    document.validate()


MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
IN_ORDER = sorted(OPERATIONS.items(), key=lambda named: named[0][0] == "DELETE")
"""Deletes come last: other operations need the responses."""
ASKED = [(*name, mode) for name, said in IN_ORDER for mode in (MODES[:1] if said.open else MODES)]
"""Whatever is asked of an open operation fits: it takes texts only."""


@pytest.mark.parametrize("method, path, mode", ASKED, ids=lambda said: getattr(said, "value", said))
def test_it_answers_as_published(
    request: pytest.FixtureRequest,
    document: BaseSchema,
    whole: str,
    known: list[str],
    endpoints: list[str],
    method: str,
    path: str,
    mode: GenerationMode,
) -> None:
    operation = document[path.replace(":path", "")][method]
    until = time.monotonic() + BUDGET_S
    statuses: set[int] = set()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode), st.sampled_from([None, *known]), st.booleans())
    def ask(case: Case[Any], id: str | None, plain: bool) -> None:
        enough = 200 in statuses or (statuses and mode is GenerationMode.NEGATIVE)
        if enough and time.monotonic() > until:
            return
        made_likely(case, id, known[-1], endpoints, plain=plain)
        answer = answered(case, whole)
        statuses.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    ask()
    unreached = path.endswith("/test") and request.config.getoption("--base-url")
    assert mode is GenerationMode.NEGATIVE or unreached or 200 in statuses, statuses


def made_likely(case: Case[Any], id: str | None, running: str, endpoints: list[str], *, plain: bool) -> None:
    """Give a request an id or a model that there is: those that come by chance are all unknown."""
    if id is not None and case.path.startswith(f"{WEBHOOKS}/"):
        case.path_parameters["id"] = endpoints[sum(id.encode()) % len(endpoints)]
    elif id is not None and "id" in case.path_parameters:
        case.path_parameters["id"] = id if "models" not in case.path else "echo"
    if id is not None and "name" in case.path_parameters:
        case.path_parameters["name"] = ASYNCAPI
    if id == running:
        case.query.pop("stream", None)  # that stream would not end
    if plain and isinstance(case.body, dict) and not case.path.startswith(WEBHOOKS):
        body: dict[str, Any] = case.body
        body["model"], body["stream"] = "echo", bool(body.get("stream"))


def answered(case: Case[Any], base_url: str) -> Response:
    deadline = time.monotonic() + PATIENCE_S
    while (answer := case.call(base_url=base_url, timeout=PATIENCE_S)).status_code == 503:
        if time.monotonic() > deadline:
            break
        time.sleep(float(answer.headers["retry-after"][0]))
    return answer
