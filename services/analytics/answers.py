"""The answers to questions about usage: OpenAI's objects, and latency, which is ours. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from msgspec import Struct

from schemas.steps import Steps, each
from schemas.usage import HISTOGRAMS, UNIT, Histogram, UsageRow, add, percentile
from services.analytics.index import Sums
from services.analytics.queries import Query

SHARES = {"p50_ms": 0.5, "p90_ms": 0.9, "p95_ms": 0.95, "p99_ms": 0.99}
PACE = 100
"""Results that are worked out in one go: some milliseconds."""

Named = tuple[str | None, ...]
Find = Callable[[int, int], Iterator[Sums]]
"""The sums of the minutes from one to before another, in parts."""


class UsageResult(Struct, frozen=True, tag_field="object", tag="organization.usage.completions.result"):
    """What completions of one group came to. Members that nothing was grouped by are null."""

    input_tokens: int
    output_tokens: int
    input_cached_tokens: int
    input_cache_write_tokens: int
    input_uncached_tokens: int
    num_model_requests: int
    project_id: str | None = None
    model: str | None = None
    agent: str | None = None
    user_id: None = None
    api_key_id: None = None
    batch: None = None
    service_tier: None = None


class Amount(Struct, frozen=True):
    """An amount in units of a currency."""

    value: float
    currency: str


class CostsResult(Struct, frozen=True, tag_field="object", tag="organization.costs.result"):
    """What one group cost in one currency."""

    amount: Amount
    project_id: str | None = None
    line_item: str | None = None


class Times(Struct, frozen=True):
    """Times of responses, in milliseconds; percentiles as near as fixed buckets tell."""

    count: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


class LatencyResult(Struct, frozen=True, tag_field="object", tag="usage.latency.result"):
    """How long the responses of one group took, and how they ended."""

    responses: int
    outcomes: Mapping[str, int]
    errors: Mapping[str, int]
    attempts: int
    first_output: Times | None
    between_outputs: Times | None
    duration: Times | None
    queued: Times | None
    project_id: str | None = None
    model: str | None = None
    agent: str | None = None


class Bucket(Struct, frozen=True):
    """A stretch of time and what each group came to in it. `end_time` is not in it."""

    start_time: int
    end_time: int
    results: list[UsageResult | CostsResult | LatencyResult]
    object: Literal["bucket"] = "bucket"


class UsagePage(Struct, frozen=True):
    """Buckets in the order of time. `next_page` leads to those behind them."""

    data: Sequence[Bucket]
    has_more: bool
    next_page: str | None
    object: Literal["page"] = "page"


Results = Callable[[Query, Mapping[Named, UsageRow]], Iterator[UsageResult | CostsResult | LatencyResult]]


def answer(query: Query, find: Find, results: Results) -> Steps[UsagePage]:
    """The page that answers a question, in steps of some milliseconds."""
    found = []
    for start, end in query.buckets:
        groups: dict[Named, UsageRow] = {}
        for sums in find(start // 60, end // 60):
            for group, row in sums.items():
                if query.counts(group):
                    add(groups.setdefault(query.named(group), UsageRow(counted={})), row)
            yield
        ordered = dict(sorted(groups.items(), key=lambda item: [name or "" for name in item[0]]))
        bucket = Bucket(start, end, [])
        for result, pause in each(results(query, ordered), PACE):
            bucket.results.append(result)
            if pause:
                yield
        found.append(bucket)
        yield
    return UsagePage(found, query.next_page is not None, query.next_page)


def completions(query: Query, groups: Mapping[Named, UsageRow]) -> Iterator[UsageResult]:
    """The results of `GET /v1/organization/usage/completions` (A-30)."""
    for named, row in groups.items():
        plain = row.input_tokens - row.cached_tokens - row.cache_write_tokens
        yield UsageResult(
            row.input_tokens,
            row.output_tokens,
            row.cached_tokens,
            row.cache_write_tokens,
            max(0, plain),
            row.responses,
            **_names(query, named),
        )


def costs(query: Query, groups: Mapping[Named, UsageRow]) -> Iterator[CostsResult]:
    """The results of `GET /v1/organization/costs` (A-31): one for each currency."""
    for named, row in groups.items():
        for currency, amount in sorted(row.cost.items()):
            yield CostsResult(Amount(amount / UNIT, currency), **_names(query, named))


def latency(query: Query, groups: Mapping[Named, UsageRow]) -> Iterator[LatencyResult]:
    """The results of `GET /v1/usage/latency` (A-32)."""
    for named, row in groups.items():
        times: dict[str, Any] = {
            name: _times(getattr(row, name), bounds) for name, bounds in HISTOGRAMS.items()
        }
        yield LatencyResult(
            responses=row.responses,
            outcomes=row.outcomes,
            errors=row.errors,
            attempts=row.attempts,
            **times,
            **_names(query, named),
        )


def _names(query: Query, named: Named) -> dict[str, Any]:
    return dict(zip(query.groups, named, strict=True))


def _times(histogram: Histogram | None, bounds: Sequence[int]) -> Times | None:
    if histogram is None:
        return None
    count = sum(histogram.counts)
    shares = {name: percentile(histogram, bounds, share) / 1000 for name, share in SHARES.items()}
    return Times(count, histogram.sum / count / 1000, max_ms=histogram.max / 1000, **shares)
