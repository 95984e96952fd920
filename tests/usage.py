"""What the closings of a test come to, summed up plainly: the second opinion on the rows of `usage`."""

from collections import Counter
from collections.abc import Iterable

from msgspec.structs import replace

from schemas.closings import ClosingRecord, TokenCounts
from schemas.ids import Tenant, response_id
from schemas.usage import NUMBERS, TOKENS, UsageRow, UsageValue, stands
from tests.closings import CLOSING

Totals = Counter[str]


def ended(number: int, partition: int = 0, **changes: object) -> ClosingRecord:
    """The closing of response `number`: each has its own tokens, model, status and minute."""
    made = replace(
        CLOSING,
        id=response_id(partition, number.to_bytes(16)),
        tenant=Tenant(("acme", "blue", "cyan")[number % 3]),
        model=f"gpt-{number % 4}",
        status=("completed", "failed", "cancelled")[number % 7 % 3],
        error_type="server_error" if number % 7 % 3 == 1 else None,
        accepted_offset=number,
        closed_offset=number + 1,
        closed_at=1_796_058_000_000 + 500 * number,
        usage=None if number % 5 == 4 else TokenCounts(input_tokens=number, output_tokens=2 * number + 1),
    )
    made = replace(made, accepted_at=made.closed_at - 40 * number % 9_000)
    return replace(made, **changes)


def plain_sum(closings: Iterable[ClosingRecord]) -> Totals:
    """The sums over all closings, each counted once, however often it stands there."""
    once = {(closing.log, closing.id): closing for closing in closings}.values()
    totals: Totals = Counter()
    for closing in once:
        totals["responses"] += 1
        totals[f"{closing.tenant} {closing.status}"] += 1
        totals["events"] += closing.events
        totals["attempts"] += closing.attempts
        totals["executors"] += len(closing.executors)
        if closing.error_type:
            totals[closing.error_type] += 1
        for name in TOKENS if closing.usage else ():
            totals[name] += getattr(closing.usage, name)
        totals["duration"] += 1000 * max(0, closing.closed_at - closing.accepted_at)
        totals["durations"] += 1
    return +totals


def row_sum(rows: Iterable[tuple[str, UsageRow]]) -> Totals:
    """The same of rows, each with its tenant."""
    totals: Totals = Counter()
    for tenant, row in rows:
        for name in NUMBERS:
            totals[name] += getattr(row, name)
        for status, count in row.outcomes.items():
            totals[f"{tenant} {status}"] += count
        totals.update(row.errors)
        if row.duration is not None:
            totals["duration"] += row.duration.sum
            totals["durations"] += sum(row.duration.counts)
    return +totals


def standing(values: Iterable[UsageValue]) -> UsageValue:
    """Which of the records of one key stands (P-117)."""
    best: UsageValue | None = None
    for value in values:
        if best is None or stands(value.progress, best.progress):
            best = value
    assert best is not None
    return best
