"""Traces: a client's context through front door, ingest and record, to the executor and its upstream."""

import json
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api import Api, insisting, request
from tests.collector import Collected, Collector, collecting
from tests.conftest import eventually
from tests.ingesting import executing, ingesting
from tests.model_server import ModelServer
from tests.records import records_of
from tests.reliability.upstream import Upstream
from tests.reliability.upstream import served as served_upstream
from tests.system import System
from tests.upstreams import Call, raw

MODELS = """
[[models]]
match = "model-*"
base_url = "{url}"

[[agents]]
name = "helper"
url = "{url}"
"""
CREATED = {"type": "response.created", "response": {"id": "resp_u", "status": "in_progress", "output": []}}
DONE = {"type": "response.completed", "response": {"id": "resp_u", "status": "completed", "output": []}}


def context(flags: str = "01") -> str:
    """The `traceparent` of a client that began a trace."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-{flags}"


def trace_of(traceparent: str) -> str:
    return traceparent.split("-")[1]


def span_of(traceparent: str) -> str:
    return traceparent.split("-")[2]


# Off: nothing is added, and nothing is lost of what others trace.


@pytest.mark.parametrize(("given", "kept"), [("00", True), ("01", True), ("no", False)])
async def test_without_traces_a_clients_context_reaches_the_record_and_the_upstream(
    given: str, kept: bool
) -> None:
    calls: list[Call] = []

    async def script(call: Call) -> None:
        calls.append(call)
        await call.head()
        await call.events(CREATED, DONE)

    sent = context(given)
    async with raw(script) as upstream, ingesting(MODELS.format(url=upstream.url)) as running:
        async with executing(running):
            answer = await running.post({"model": "model-x", "background": True}, f"traceparent: {sent}")
            assert answer.status == 200
            await eventually(lambda: [call for call in calls if call.method == "POST"])
        (accepted,) = running.accepted()
    (called,) = [call for call in calls if call.method == "POST"]
    assert accepted.traceparent == (sent if kept else "")
    assert called.headers.get("traceparent") == (sent if kept else None)


WATCH = """
import atexit, os, sys

@atexit.register
def say():
    with open(os.path.join({folder!r}, sys.argv[1]), "w") as told:
        told.write("\\n".join(sys.modules))
"""


def test_without_traces_no_service_imports_opentelemetry(
    kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "modules"
    said.mkdir()
    (tmp_path / "sitecustomize.py").write_text(WATCH.format(folder=str(said)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with System(kafka, tmp_path, flags=()) as system:
        Api(system.base_url).closed("hello")
    imported = {path.name: path.read_text().splitlines() for path in said.iterdir()}
    assert imported.keys() >= {"replay", "ingest", "executor", "projector", "analytics", "webhooks"}
    assert "services.traces.setup" in imported["executor"]
    found = {
        name: [one for one in modules if one.startswith("opentelemetry")]
        for name, modules in imported.items()
    }
    assert found == {name: [] for name in imported}


# On.


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def models() -> Iterator[ModelServer]:
    with ModelServer().serving() as running:
        yield running


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with served_upstream() as running:
        yield running


@pytest.fixture(scope="module")
def traced(
    kafka: str,
    tmp_path_factory: pytest.TempPathFactory,
    collector: Collector,
    models: ModelServer,
    upstream: Upstream,
) -> Iterator[System]:
    """A system that sends its spans at once, and writes its access log."""
    folder = tmp_path_factory.mktemp("traced")
    config = folder / "rejoinder.toml"
    config.write_text(MODELS.format(url=models.url) + upstream.config)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        url = collector.url
        with System(
            kafka,
            folder,
            traces_url=url,
            config=str(config),
            access_log="on",
            log_format="json",
            grace_s=1,
        ) as running:
            yield running


def create(system: System, traceparent: str, **body: object) -> str:
    """The id of a background response that was created under a context."""
    whole = {"input": "hi", "background": True, **body}
    headers = {"traceparent": traceparent}
    answer = insisting(lambda: Api(system.base_url).post(whole, headers))
    assert answer.status == 200, answer
    return str(answer.json["id"])


async def spans(collector: Collector, trace: str, *names: str) -> dict[str, Collected]:
    """The spans of a trace by name, once all `names` are there."""

    def there() -> dict[str, Collected]:
        found = {span.name: span for span in collector.of(trace)}
        assert set(names) <= found.keys(), sorted(found)
        return found

    return await eventually(there)


WHOLE = (
    "POST /v1/responses",
    "POST /internal/create/{id}",
    "rejoinder.queue",
    "rejoinder.claim",
    "rejoinder.run",
)


async def test_a_responses_life_is_one_trace(traced: System, collector: Collector) -> None:
    sent = context()
    id = create(traced, sent, model="model-text")
    found = await spans(collector, trace_of(sent), *WHOLE, "chat model-text")
    door, ingest, queue, claim, run, chat = (found[name] for name in (*WHOLE, "chat model-text"))
    assert door.parent == span_of(sent)
    assert ingest.parent == door.id
    assert {queue.parent, claim.parent, run.parent} == {ingest.id}
    assert chat.parent == run.id
    services = [span.service.removeprefix("rejoinder-") for span in (door, ingest, queue, claim, run, chat)]
    assert services == ["replay", "ingest", *["executor"] * 4]
    assert [span.kind for span in (door, ingest, run, chat)] == ["server", "server", "internal", "client"]
    assert (
        queue.start <= queue.end == claim.start <= claim.end == run.start <= chat.start <= chat.end <= run.end
    )
    assert [span for span in found.values() if span.failed] == []
    assert {span.attributes["gen_ai.response.id"] for span in (door, ingest, queue, claim, run)} == {id}


async def test_the_call_of_a_model_is_told_in_the_words_of_gen_ai(
    traced: System, collector: Collector, models: ModelServer
) -> None:
    sent = context()
    create(traced, sent, model="model-text")
    chat = (await spans(collector, trace_of(sent), "chat model-text"))["chat model-text"]
    host, _, port = models.url.removeprefix("http://").removesuffix("/v1").partition(":")
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "model-text",
        "gen_ai.response.model": "model-text",
        "gen_ai.usage.input_tokens": 5,
        "gen_ai.usage.output_tokens": 7,
        "server.address": host,
        "server.port": int(port),
        "rejoinder.route": "model-*",
    }
    assert {name: chat.attributes.get(name) for name in expected} == expected
    assert chat.events == ("first output",)


async def test_the_call_of_an_agent_names_it(traced: System, collector: Collector) -> None:
    sent = context()
    create(traced, sent, agent_reference={"type": "agent_reference", "name": "helper"}, model="gpt-text")
    chat = (await spans(collector, trace_of(sent), "invoke_agent helper"))["invoke_agent helper"]
    assert (chat.attributes["gen_ai.operation.name"], chat.attributes["gen_ai.agent.name"]) == (
        "invoke_agent",
        "helper",
    )


async def test_an_upstream_that_fails_fails_the_span_and_the_run(
    traced: System, collector: Collector
) -> None:
    sent = context()
    create(traced, sent, model="model-failed")
    found = await spans(collector, trace_of(sent), "chat model-failed", "rejoinder.run")
    chat, run = found["chat model-failed"], found["rejoinder.run"]
    assert (chat.failed, chat.attributes["error.type"]) == (True, "response_failed")
    assert (run.failed, run.attributes["rejoinder.status"]) == (True, "failed")


async def test_the_context_goes_on_to_the_upstream_and_stands_in_the_record(
    traced: System, collector: Collector, upstream: Upstream
) -> None:
    sent = context()
    case = secrets.token_hex(4)
    id = create(traced, sent, model="fragile", metadata={"case": case, "words": "3"})
    found = await spans(collector, trace_of(sent), "chat fragile", "POST /internal/create/{id}")
    assert upstream.contexts[case] == f"00-{trace_of(sent)}-{found['chat fragile'].id}-01"
    own = [record for record in await records_of(traced) if (record.key or b"").startswith(id.encode())]
    headers = [dict(record.headers) for record in own]
    (accepted,) = [each for each in headers if each.get("kind") == b"accepted"]
    ingest = found["POST /internal/create/{id}"]
    assert accepted["traceparent"].decode() == f"00-{trace_of(sent)}-{ingest.id}-01"


async def test_who_began_the_trace_decides_that_it_is_not_sampled(
    traced: System, collector: Collector, upstream: Upstream
) -> None:
    unsampled, case = context("00"), secrets.token_hex(4)
    id = create(traced, unsampled, model="fragile", metadata={"case": case, "words": "3"})
    Api(traced.base_url).events(id)
    sampled = context()
    create(traced, sampled, model="model-text")
    await spans(collector, trace_of(sampled), *WHOLE)  # by then the spans of the other would be there
    assert collector.of(trace_of(unsampled)) == []
    assert (trace_of(upstream.contexts[case]), upstream.contexts[case][-2:]) == (trace_of(unsampled), "00")


async def test_a_takeover_goes_on_in_the_trace_and_links_to_where_the_first_attempt_began(
    traced: System, collector: Collector, upstream: Upstream
) -> None:
    sent, case = context(), secrets.token_hex(4)
    id = create(traced, sent, model="resumable", metadata={"case": case, "words": "100", "pause": "0.1"})
    Api(traced.base_url).take(id, 5)
    (executor,) = traced.titled("rejoinder executor")
    os.kill(executor.pid, signal.SIGKILL)
    Api(traced.base_url).events(id)

    def taken_over() -> Collected:
        runs = collector.of(trace_of(sent), "rejoinder.run")
        second = [run for run in runs if run.attributes["rejoinder.attempt"] == 2]
        assert len(second) == 1
        return second[0]

    run = await eventually(taken_over)
    ingest = (await spans(collector, trace_of(sent), "POST /internal/create/{id}"))[
        "POST /internal/create/{id}"
    ]
    assert (run.parent, run.links) == (ingest.id, (ingest.id,))
    (call,) = [span for span in collector.of(trace_of(sent), "chat resumable") if span.parent == run.id]
    assert call.attributes["gen_ai.request.model"] == "resumable"


async def test_a_client_without_a_context_begins_a_trace(traced: System, collector: Collector) -> None:
    answer = insisting(lambda: Api(traced.base_url).post(request("hello")))
    id = answer.json["id"]

    def told() -> Collected:
        found = [span for span in collector.spans if span.attributes.get("gen_ai.response.id") == id]
        assert {"POST /v1/responses", "rejoinder.run"} <= {span.name for span in found}
        assert len({span.trace for span in found}) == 1
        return next(span for span in found if span.name == "POST /v1/responses")

    assert (await eventually(told)).parent == ""


async def test_a_system_that_is_asked_to_writes_an_access_log(traced: System) -> None:
    Api(traced.base_url).closed("hello")

    def requests() -> set[str]:
        lines = [line.partition("|")[2] for line in traced.log.splitlines()]
        logged = [json.loads(line) for line in lines if '"event":"request"' in line]
        return {f"{line['method']} {line['route']} {line['status']}" for line in logged}

    await eventually(lambda: {"POST /v1/responses 200", "GET /v1/responses/{id} 200"} <= requests())
