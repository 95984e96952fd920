"""What has ended as a table for people: tenant, model, a bar, responses, failures, tokens, cost.

    acme     gpt-5      ████████████████████    1,204    3 failed   912,000 in   561,000 out  12.34 usd

Pure. A client chooses the model's name, so nothing of a row may steer the terminal.
"""

from collections.abc import Iterator, Mapping
from math import floor, log10

from schemas.usage import UNIT, UsageRow, add
from services.analytics.index import UsageGroup
from services.terminal.closing_line import COLOURS, NOTHING, PLAIN, printable

WIDTH = 20
"""Characters of the longest bar."""
CENT = 0.01
EIGHTHS = " ▏▎▍▌▋▊▉█"
FAILED = "failed"
BAR = "\x1b[36m"  # cyan


def table(groups: Mapping[UsageGroup, UsageRow], *, coloured: bool, blocks: bool) -> Iterator[str]:
    """The lines, the busiest group first, and a line for all. `blocks`: the output has letters for bars."""
    if not groups:
        yield "nothing has ended"
        return
    total, most = UsageRow(counted={}), max(row.responses for row in groups.values())
    for group, row in sorted(groups.items(), key=lambda one: (-one[1].responses, one[0].tenant)):
        add(total, row)
        name = group.model or group.agent or NOTHING
        bar = _bar(row.responses / most, blocks=blocks).ljust(WIDTH)
        yield _line(group.tenant, name, f"{BAR}{bar}{PLAIN}" if coloured else bar, row, coloured=coloured)
    yield _line("all", "", " " * WIDTH, total, coloured=coloured)


def _line(tenant: str, name: str, bar: str, row: UsageRow, *, coloured: bool) -> str:
    failed = f"{row.outcomes.get(FAILED, 0):,}".rjust(7)
    if coloured and row.outcomes.get(FAILED):
        failed = f"{COLOURS[FAILED]}{failed}{PLAIN}"
    columns = [
        printable(tenant).ljust(12),
        printable(name).ljust(16),
        bar,
        f"{row.responses:,}".rjust(9),
        f"{failed} failed",
        f"{row.input_tokens:,} in".rjust(14),
        f"{row.output_tokens:,} out".rjust(15),
        ", ".join(f"{_price(amount)} {currency}" for currency, amount in sorted(row.cost.items())),
    ]
    return "  ".join(columns).rstrip()


def _price(amount: int) -> str:
    """An amount in units of its currency. Less than a cent is no 0.00: two of its digits show."""
    value = amount / UNIT
    if value >= CENT or not amount:
        return f"{value:,.2f}"
    return f"{value:.{1 - floor(log10(value))}f}"


def _bar(share: float, *, blocks: bool) -> str:
    if not blocks:
        return "#" * max(1, round(share * WIDTH))
    whole, rest = divmod(max(1, round(share * WIDTH * 8)), 8)
    return "█" * whole + EIGHTHS[rest].strip()
