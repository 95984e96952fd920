"""What operators see of the call of an upstream: soon enough, steady enough, or failed."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from services.executor.backend import Refusal, UpstreamError, UpstreamEvent
from services.executor.call import UpstreamCall, failure_kind
from services.executor.metrics import GAP_BOUNDS, GapsByCall
from tests.shown import sample

IN_PROGRESS = UpstreamEvent({"type": "response.in_progress"})
DELTA = UpstreamEvent({"type": "response.output_text.delta"})
COMPLETED = UpstreamEvent({"type": "response.completed"})


class Told:
    """A call of a route of its own, on a clock that the test moves. `what` is a metric of it."""

    made = 0

    def __init__(self, *, resumes: bool = False) -> None:
        Told.made += 1
        self.labels = {"route": f"route{Told.made}", "model": "m"}
        self.now = 0.0
        self.call = UpstreamCall(self.labels["route"], "m", lambda: self.now, resumes=resumes)

    def hears(self, now: float, *batch: UpstreamEvent) -> None:
        self.now = now
        self.call.heard(batch, now)

    def shown(self, what: str) -> tuple[float, float]:
        """How many were observed, and their sum."""
        name = f"rejoinder_upstream_{what}_seconds"
        count, total = (sample(f"{name}_{end}", **self.labels) for end in ("count", "sum"))
        return count, total


def test_the_times_are_those_from_the_last_request_that_was_sent() -> None:
    told = Told()
    told.call.begins()
    told.now = 5.0
    told.call.begins()  # the first was refused, and the upstream said when to come again
    told.now = 5.25
    told.call.answered()
    told.hears(5.5, IN_PROGRESS)
    told.hears(7.0, IN_PROGRESS, DELTA)
    told.hears(7.5, DELTA, DELTA, DELTA)
    told.hears(9.5, DELTA, COMPLETED)
    assert told.shown("first_byte") == (1, 0.25)
    assert told.shown("first_output") == (1, 2.0)
    assert told.shown("between_outputs") == (2, 2.5)


def test_a_stream_that_is_rejoined_is_answered_once() -> None:
    told = Told()
    for now in (0.0, 10.0):
        told.now = now
        told.call.begins()
        told.now += 0.5
        told.call.answered()
    assert told.shown("first_byte") == (1, 0.5)


def test_of_an_upstream_that_began_for_another_run_only_its_pace_is_known() -> None:
    told = Told(resumes=True)
    told.call.begins()
    told.call.answered()
    told.hears(1.0, DELTA)
    told.hears(3.0, DELTA)
    assert (told.shown("first_byte")[0], told.shown("first_output")[0]) == (0, 0)
    assert told.shown("between_outputs") == (1, 2.0)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UpstreamError("no", refusal=Refusal(429, 1.0)), "http_429"),
        (UpstreamError("no", refusal=Refusal(500)), "http_500"),
        (UpstreamError("no", type="upstream_idle"), "upstream_idle"),
        (UpstreamError("no", refusal=Refusal(302)), "upstream_error"),
        (UpstreamError("no", refusal=Refusal(999)), "upstream_error"),
    ],
)
def test_a_failure_is_shown_by_its_kind_of_which_there_are_few(error: UpstreamError, kind: str) -> None:
    told = Told()
    told.call.failed(failure_kind(error))
    assert sample("rejoinder_upstream_errors_total", **told.labels, kind=kind) == 1


@given(st.lists(st.floats(0, 100, allow_nan=False)))
def test_gaps_are_counted_as_the_librarys_histogram_counts(seconds: Sequence[float]) -> None:
    registry = CollectorRegistry()
    theirs = Histogram("theirs", "", ["route", "model"], buckets=GAP_BOUNDS, registry=registry)
    ours = GapsByCall()
    for one in seconds:
        ours.of("r", "m").observe(one)
        theirs.labels("r", "m").observe(one)
    if not seconds:
        ours.of("r", "m")
        theirs.labels("r", "m")

    def buckets(samples: Sequence[object]) -> list[tuple[float, float]]:
        return [
            (float(one.labels["le"]), one.value)  # type: ignore[attr-defined]
            for one in samples
            if one.name.endswith("_bucket")  # type: ignore[attr-defined]
        ]

    (mine,), (library,) = ours.collect(), registry.collect()
    assert buckets(mine.samples) == buckets(library.samples)
