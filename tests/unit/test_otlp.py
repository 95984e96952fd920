"""Spans by OpenTelemetry: what a collector gets, what is sampled, and what a collector that is away costs."""

import sys
import time
from collections.abc import Iterator

import pytest

from schemas.errors import SettingsError
from services.settings import Settings
from services.traces.otlp import LONGEST, SEND_S, Otlp
from services.traces.port import OFF, SpanSide
from services.traces.setup import tracer_of
from tests.collector import Collector, collecting

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"
UNSAMPLED = f"00-{'c' * 32}-{'d' * 16}-00"
NOBODY = "http://127.0.0.1:9/v1/traces"


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


def test_a_span_is_sent_as_it_was_told(collector: Collector) -> None:
    tracer = Otlp(collector.url, 1, "ingest")
    span = tracer.span("first", SpanSide.CLIENT, PARENT, {"a": 1, "none": ""}, since=10.0, link=UNSAMPLED)
    span.name("second")
    span.note({"b": "x", "empty": ""})
    span.event("half")
    span.end(12.5, error="broken")
    span.end(99.0)
    tracer.close()
    (sent,) = collector.spans
    assert (sent.name, sent.service, sent.kind) == ("second", "rejoinder-ingest", "client")
    assert (sent.trace, sent.parent, sent.links) == ("a" * 32, "b" * 16, ("d" * 16,))
    assert (sent.start, sent.end, sent.events) == (10.0, 12.5, ("half",))
    assert sent.failed
    assert sent.attributes == {"a": 1, "b": "x", "error.type": "broken"}
    assert span.context == f"00-{sent.trace}-{sent.id}-01"


def test_any_text_can_be_sent(collector: Collector) -> None:
    tracer = Otlp(collector.url, 1, "ingest")
    for text in ("half \ud800", "x" * 10_000):
        tracer.span(text, SpanSide.CLIENT, "", {"text": text}).end()
    tracer.close()
    assert [span.name for span in collector.spans] == ["half ?", "x" * LONGEST]
    assert [span.attributes["text"] for span in collector.spans] == ["half ?", "x" * LONGEST]


def test_who_began_a_trace_decides_and_of_those_that_begin_here_the_ratio(collector: Collector) -> None:
    for ratio in (0, 1):
        tracer = Otlp(collector.url, ratio, "ingest")
        for parent in (PARENT, UNSAMPLED, ""):
            span = tracer.span(f"{ratio} {parent[-2:]}", SpanSide.SERVER, parent, {})
            is_sampled = int(span.context[-2:], 16) & 1
            assert is_sampled == (int(parent[-1]) if parent else ratio)
            assert not parent or parent.split("-")[1] in span.context
            span.end()
        tracer.close()
    assert {span.name for span in collector.spans} == {"0 01", "1 01", "1 "}


def test_a_collector_that_is_away_holds_up_no_end() -> None:
    tracer = Otlp(NOBODY, 1, "ingest")
    for _ in range(5000):
        tracer.span("lost", SpanSide.INTERNAL, "", {}).end()
    began = time.monotonic()
    tracer.close()
    assert time.monotonic() - began < 2 * SEND_S + 10  # a minute without a bound


def test_a_tracer_that_is_off_passes_the_parents_context_on() -> None:
    assert tracer_of(Settings(), "ingest") is OFF
    assert OFF.span("x", SpanSide.SERVER, PARENT, {}).context == PARENT
    assert OFF.span("x", SpanSide.SERVER, "", {}).context == ""


def test_a_service_that_lacks_opentelemetry_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "services.traces.otlp", None)
    with pytest.raises(SettingsError, match=r"^REJOINDER_TRACES_URL: .*rejoinder\[traces\]"):
        tracer_of(Settings(traces_url=NOBODY), "ingest")
