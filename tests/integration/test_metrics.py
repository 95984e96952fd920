"""What an operator can see of the services: what is open, and who is refused why."""

import re
import time
from pathlib import Path

import pytest

from services.labels import NAMES
from tests.conftest import eventually
from tests.ingesting import ingesting
from tests.integration.test_web_stream import FRAME, Stage
from tests.serving import ask, opened, serving
from tests.shown import all_shown, labels_of, sample

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


ROW = re.compile(r"`(rejoinder_\w+)(?:\{([\w,]+)\})?`")


def test_the_page_has_every_metric_with_its_labels_and_no_other() -> None:
    lines = PAGE.read_text().splitlines()
    rows = [line.split("|")[1] for line in lines if line.startswith("| `rejoinder_")]
    named = [found for row in rows for found in ROW.findall(row)]
    page = {name: frozenset(filter(None, labels.split(","))) for name, labels in named}
    assert page == {name: shown.labels for name, shown in all_shown().items()}


async def test_what_is_open_is_shown_with_the_busiest_tenants_and_why_more_is_refused() -> None:
    refused = sample("rejoinder_http_refused_total", status="429", reason="queue_full")
    async with ingesting(max_queue=3) as running:
        for tenant in ("busy", "busy", "calm"):
            await running.create(f"x-rejoinder-tenant: {tenant}")
        assert (await running.post({"background": True}, "x-rejoinder-tenant: busy")).status == 429
        page = (await ask(running.port, "GET /metrics")).body.decode()
    shown = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert {name: float(shown[f"rejoinder_{name}"]) for name in ("ready", "ingest_max_queue")} == {
        "ready": 1,
        "ingest_max_queue": 3,
    }
    assert float(shown["rejoinder_ingest_open_responses"]) == 3
    assert float(shown["rejoinder_ingest_body_bytes"]) == 0
    tenants = {name: float(value) for name, value in shown.items() if "_tenant_open_" in name}
    assert tenants == {
        'rejoinder_ingest_tenant_open_responses{tenant="busy"}': 2,
        'rejoinder_ingest_tenant_open_responses{tenant="calm"}': 1,
    }
    assert sample("rejoinder_http_refused_total", status="429", reason="queue_full") == refused + 1


@pytest.mark.parametrize("how", ["complete", "cut", "disconnected"])
async def test_streams_are_shown_while_they_are_open_and_how_they_ended(how: str) -> None:
    stage = Stage()
    open_before = sample("rejoinder_http_open_streams")
    ended = sample("rejoinder_http_streams_ended_total", how=how)
    async with serving([stage.route()]) as (_, port):
        reader, writer = await opened(port, "GET /stream")
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        assert sample("rejoinder_http_open_streams") == open_before + 1
        if how == "disconnected":
            writer.close()
        else:
            stage.put(None if how == "complete" else RuntimeError("lost"))
        await eventually(lambda: sample("rejoinder_http_open_streams") == open_before)
        assert sample("rejoinder_http_streams_ended_total", how=how) == ended + 1
        writer.close()


async def test_latency_is_shown_by_the_template_of_the_route_and_the_class_of_the_status() -> None:
    def counted(route: str, status: str, method: str = "GET") -> float:
        labels = {"method": method, "route": route, "status": status}
        return sample("rejoinder_http_request_seconds_count", **labels)

    known = ("/v1/responses/{id}", "4xx"), ("none", "4xx"), ("none", "4xx", "other")
    async with ingesting() as running:
        before = [counted(*labels) for labels in known]
        for target in ("GET /v1/responses/one", "GET /v1/responses/two", "GET /nowhere", "PATCH /nowhere"):
            await ask(running.public, target)
        after = [counted(*labels) for labels in known]
    assert [now - then for now, then in zip(after, before, strict=True)] == [2, 1, 1]


async def test_the_latency_of_a_stream_is_that_of_its_head() -> None:
    stage = Stage()
    labels = {"method": "GET", "route": "/stream", "status": "2xx"}
    before = sample("rejoinder_http_request_seconds_sum", **labels)
    async with serving([stage.route()]) as (_, port):
        reader, writer = await opened(port, "GET /stream")
        await reader.readuntil(b"\r\n\r\n")
        headed = time.monotonic()
        stage.put(FRAME)
        await reader.readuntil(FRAME)
        await eventually(lambda: time.monotonic() - headed > 0.3)
        stage.put(None)
        await eventually(lambda: sample("rejoinder_http_request_seconds_count", **labels) > 0)
        writer.close()
    assert sample("rejoinder_http_request_seconds_sum", **labels) - before < 0.3


async def test_refused_tenants_are_shown_up_to_a_bound() -> None:
    known = "rejoinder_http_tenant_refused_total"
    async with ingesting(max_queue=1) as running:
        await running.create("x-rejoinder-tenant: first")
        for _ in range(2):
            assert (await running.post({"background": True}, "x-rejoinder-tenant: first")).status == 429
        assert sample(known, tenant="first") == 2
        others = sample(known, tenant="other")
        for number in range(NAMES + 1):
            await running.post({"background": True}, f"x-rejoinder-tenant: flood{number}")
            await running.post({"background": True}, f"x-rejoinder-tenant: flood{number}")
    assert sample(known, tenant="other") > others
    shown = {labels["tenant"] for labels in labels_of(known)}
    assert len(shown) == NAMES + 1
