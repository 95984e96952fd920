"""Spans by OpenTelemetry, sent by OTLP over HTTP: batched, and by a thread of its library's own.

A collector that is away costs spans and nothing else: the queue is bounded, and what does not fit is dropped.
Who began a trace decides whether it is sampled; of those that begin here it is a fraction.
"""

import secrets

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as ApiSpan

from services.traces.port import Attributes, SpanSide

SEND_S = 2.0
"""Seconds that the collector has to take a batch; a stopping process waits so long, twice at most."""
LONGEST = 256
"""Characters of a text that are told."""
_SIDES = {
    SpanSide.SERVER: SpanKind.SERVER,
    SpanSide.CLIENT: SpanKind.CLIENT,
    SpanSide.INTERNAL: SpanKind.INTERNAL,
}


class Otlp:
    """Sends the spans of `service` to `url`. `ratio` of the traces that begin here are sampled."""

    tells = True

    def __init__(self, url: str, ratio: float, service: str) -> None:
        named = {
            "service.namespace": "rejoinder",
            "service.name": f"rejoinder-{service}",
            "service.instance.id": secrets.token_hex(8),
        }
        self._provider = TracerProvider(
            ParentBased(TraceIdRatioBased(ratio)), Resource.create(named), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(url, timeout=SEND_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("rejoinder")

    def span(
        self,
        name: str,
        side: SpanSide,
        parent: str,
        attributes: Attributes,
        *,
        since: float | None = None,
        link: str = "",
    ) -> "OtlpSpan":
        """As the port says."""
        above = _context(parent)
        linked = _context(link)
        begun = self._tracer.start_span(
            _text(name),
            None if above is None else set_span_in_context(NonRecordingSpan(above)),
            _SIDES[side],
            _said(attributes),
            [] if linked is None else [Link(linked)],
            None if since is None else int(since * 1e9),
        )
        return OtlpSpan(begun)

    def close(self) -> None:
        """As the port says."""
        self._provider.force_flush(int(SEND_S * 1000))
        self._provider.shutdown()


class OtlpSpan:
    """A span of OpenTelemetry."""

    def __init__(self, span: ApiSpan) -> None:
        self._span = span

    @property
    def context(self) -> str:
        """As the port says."""
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def name(self, name: str) -> None:
        """As the port says."""
        self._span.update_name(_text(name))

    def note(self, attributes: Attributes) -> None:
        """As the port says."""
        self._span.set_attributes(_said(attributes))

    def event(self, name: str) -> None:
        """As the port says."""
        self._span.add_event(name)

    def end(self, at: float | None = None, *, error: str = "") -> None:
        """As the port says."""
        if isinstance(self._span, SdkSpan) and self._span.end_time is not None:
            return
        if error:
            self._span.set_attribute("error.type", error)
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end(None if at is None else int(at * 1e9))


def _context(traceparent: str) -> SpanContext | None:
    """The context that a `traceparent` of version 00 names."""
    if not traceparent:
        return None
    _, trace, span, flags = traceparent.split("-")
    return SpanContext(int(trace, 16), int(span, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))


def _said(attributes: Attributes) -> Attributes:
    texts = {name: _text(value) if isinstance(value, str) else value for name, value in attributes.items()}
    return {name: value for name, value in texts.items() if value != ""}


def _text(value: str) -> str:
    """A text that protobuf takes: an upstream may say halves of surrogate pairs, at any length."""
    return value[:LONGEST].encode(errors="replace").decode()
