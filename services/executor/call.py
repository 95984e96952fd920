"""The call of one run's upstream, as operators see it: how soon it answers, how it goes on, how it fails.

    begins     a request is about to be sent; the last one counts, if the first was to be repeated
    answered   the head of the answer has come: request to first byte
    heard      events have come: time to the first output, then the time from one arrival to the next
    failed     the response ends because of its upstream
    over       the upstream has ended the response

It costs nothing per event, and 0.2 µs for what arrives at once (`timeit`).
"""

from collections.abc import Callable, Sequence

from prometheus_client import Histogram

from schemas.events import LIFECYCLE, TERMINAL_EVENTS, Event
from services.executor.backend import UpstreamError, UpstreamEvent
from services.executor.metrics import FIRST_BYTE, FIRST_OUTPUT, GAPS, MODELS, UPSTREAM_ERRORS
from services.executor.run_spans import end_call
from services.traces.port import Span, Untold

_UNTOLD = Untold("")
ENDED_FAILED = "response_failed"
"""The kind of failure that the upstream told itself, as the end of its response."""


class UpstreamCall:
    """One run's call of the upstream of `route`, for `model`. `clock` returns loop time, seconds.

    `span` is that of the call, for traces. `resumes`: the upstream began for an earlier run, so nothing can
    be said of how soon it answered.
    """

    def __init__(
        self,
        route: str,
        model: str,
        clock: Callable[[], float],
        *,
        span: Span = _UNTOLD,
        resumes: bool = False,
    ) -> None:
        self._labels = route, MODELS.shown(model)
        self._clock = clock
        self.span = span
        self._resumes = resumes
        self._begun: float | None = None
        self._answered = False
        self._output_at: float | None = None
        """When the last output came, or what came after it."""
        self._gaps = GAPS.of(*self._labels)

    def begins(self) -> None:
        """A request is about to be sent."""
        self._begun = self._clock()

    def answered(self) -> None:
        """The head of the answer has come. Of a stream that is rejoined only the first one counts."""
        if not self._answered:
            self._answered = True
            self._observe(FIRST_BYTE, self._clock())

    def heard(self, batch: Sequence[UpstreamEvent], now: float) -> None:
        """Events came at loop time `now`."""
        if self._output_at is not None:
            self._gaps.observe(now - self._output_at)
            self._output_at = now
        elif any(one.event.get("type") not in LIFECYCLE for one in batch):
            self._output_at = now
            self._observe(FIRST_OUTPUT, now)
            self.span.event("first output")

    def failed(self, kind: str) -> None:
        """The response ends because of its upstream."""
        UPSTREAM_ERRORS.labels(*self._labels, kind).inc()
        self.span.end(error=kind)

    def over(self, last: Event) -> None:
        """The upstream has ended the response, with the event `last`."""
        is_failed = TERMINAL_EVENTS.get(str(last.get("type"))) == "failed"
        if is_failed:
            UPSTREAM_ERRORS.labels(*self._labels, ENDED_FAILED).inc()
        end_call(self.span, last.get("response"), error=ENDED_FAILED if is_failed else "")

    def _observe(self, times: Histogram, now: float) -> None:
        if self._begun is not None and not self._resumes:
            times.labels(*self._labels).observe(now - self._begun)


def failure_kind(error: UpstreamError) -> str:
    """What kind of failure it is, for a label: the status of the upstream's refusal, else our own word."""
    status = error.refusal.status if error.refusal is not None else 0
    return f"http_{status}" if 400 <= status < 600 else error.type
