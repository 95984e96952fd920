"""Webhook endpoints, as any client of the API sees them (A-34, A-35); the programs of docs/webhooks.md."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI, OpenAIError

from services.broker.tcp import free_port
from tests.api import Api
from tests.reliability.rig import until
from tests.system import System

PATH = "/v1/webhook_endpoints"
GOOD = {"name": "builds", "url": "https://hooks.example.com/", "event_types": ["response.completed"]}
UNKNOWN = "we_" + "0" * 32
PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
MAKE, RECEIVE = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def hooked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of a system with webhooks."""
    given: str | None = request.config.getoption("--base-url")
    if given:
        yield given.rstrip("/")
        return
    kafka: str = request.getfixturevalue("kafka")
    with System(kafka, tmp_path_factory.mktemp("hooked"), flags=("--without", "analytics")) as running:
        yield running.base_url


@pytest.fixture
def hooks(hooked: str) -> Api:
    return Api(hooked)


def test_a34_an_endpoint_is_made_listed_changed_and_deleted(hooks: Api) -> None:
    made = hooks.ask("POST", PATH, GOOD).json
    one = f"{PATH}/{made['id']}"
    try:
        assert made.pop("signing_secret").startswith("whsec_")
        assert made["object"] == "webhook_endpoint"
        assert {name: made[name] for name in GOOD} == GOOD
        assert hooks.ask("GET", one).json == made
        listed = hooks.ask("GET", f"{PATH}?limit=100").json
        assert made["id"] in [each["id"] for each in listed["data"]]
        assert hooks.ask("POST", one, {"name": "other"}).json["name"] == "other"
    finally:
        gone = hooks.ask("DELETE", one).json
    assert gone == {"id": made["id"], "object": "webhook_endpoint.deleted", "deleted": True}
    assert hooks.ask("GET", one).status == 404


@pytest.mark.parametrize("id", [UNKNOWN, "we_1", "resp_1", "%20"])
def test_a34_an_unknown_endpoint_is_a_404(hooks: Api, id: str) -> None:
    answer = hooks.ask("GET", f"{PATH}/{id}")
    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


def test_a34_the_types_of_events_are_listed(hooks: Api) -> None:
    listed = hooks.ask("GET", "/v1/webhook_event_types").json
    assert listed["object"] == "list"
    assert "response.completed" in listed["data"]


@pytest.mark.parametrize(
    "change, param",
    [
        ({"url": "http://hooks.example.com/"}, "url"),
        ({"url": "https://user@hooks.example.com/"}, "url"),
        ({"url": None}, "url"),
        ({"name": ""}, "name"),
        ({"event_types": []}, "event_types"),
        ({"event_types": ["response.completed", "response.ended"]}, "event_types[1]"),
        ({"secret": "whsec_mine"}, "secret"),
    ],
)
def test_a35_a_wrong_endpoint_is_refused_and_the_field_named(
    hooks: Api, change: dict[str, Any], param: str
) -> None:
    answer = hooks.ask("POST", PATH, {**GOOD, **change})
    assert (answer.status, answer.json["error"]["param"]) == (400, param)


def program(code: str, url: str, port: int, folder: Path, **environ: str) -> subprocess.Popen[str]:
    """Begin a program of the page, which may say another address."""
    file = folder / "program.py"
    file.write_text(code.replace("http://127.0.0.1:8000", url).replace("127.0.0.1:9000", f"127.0.0.1:{port}"))
    return subprocess.Popen(
        [sys.executable, str(file)],
        env={**os.environ, **environ, "PORT": str(port)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def endpoint(request: pytest.FixtureRequest, hooked: str, tmp_path: Path) -> Iterator[tuple[str, str, int]]:
    """Id and secret of the endpoint that the page makes, and the port where it is."""
    if request.config.getoption("--base-url"):
        pytest.skip("the receiver is on this machine, where that server may not reach it")
    port = free_port()
    made = program(MAKE, hooked, port, tmp_path)
    id, secret = made.communicate(timeout=30)[0].split()
    yield id, secret, port
    OpenAI(base_url=f"{hooked}/v1", api_key="unused").webhooks.delete(id)


def test_a37_the_page_makes_an_endpoint_and_receives_what_the_sdk_verifies(
    endpoint: tuple[str, str, int], hooked: str, tmp_path: Path
) -> None:
    id, secret, port = endpoint
    client = OpenAI(base_url=f"{hooked}/v1", api_key="unused")
    receiver = program(RECEIVE, hooked, port, tmp_path, WEBHOOK_SECRET=secret)
    try:
        until(lambda: answers(client, id))
        response = client.responses.create(model="echo", input="hello", background=True)
        assert receiver.stdout is not None
        said = ""
        while response.id not in said:
            said = receiver.stdout.readline()
        assert said == f"response.completed {response.id}\n"
    finally:
        receiver.kill()
        receiver.wait()
        if receiver.stdout is not None:
            receiver.stdout.close()


def answers(client: OpenAI, id: str) -> bool:
    """Whether the receiver takes a test."""
    try:
        return client.webhooks.test(id, event_type="response.completed").status_code == 204
    except OpenAIError:
        return False
