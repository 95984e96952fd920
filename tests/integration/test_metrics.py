"""What an operator can see of the services: what is open, and who is refused why."""

from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from tests.conftest import eventually
from tests.ingesting import ingesting
from tests.integration.test_web_stream import FRAME, Stage
from tests.serving import ask, opened, serving

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def ours() -> set[str]:
    """The names of all that the services show."""
    for module in ("web", "ingest", "replay", "executor", "projector", "analytics"):
        import_module(f"services.{module}.metrics")
    shown = {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in REGISTRY.collect()}
    return {name for name in shown if name.startswith("rejoinder_")}


def test_every_metric_is_in_the_docs() -> None:
    page = PAGE.read_text()
    assert [name for name in sorted(ours()) if f"`{name}" not in page] == []


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
