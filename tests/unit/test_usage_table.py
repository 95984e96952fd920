"""`rejoinder usage`: the table that people see."""

from collections.abc import Mapping

import pytest

from schemas.usage import UNIT, UsageRow
from services.analytics.index import UsageGroup
from services.terminal.usage_table import WIDTH, table


def row(responses: int, failed: int = 0, **more: object) -> UsageRow:
    outcomes = {"completed": responses - failed, **({"failed": failed} if failed else {})}
    return UsageRow(counted={}, responses=responses, outcomes=outcomes, **more)  # type: ignore[arg-type]


GROUPS: Mapping[UsageGroup, UsageRow] = {
    UsageGroup("blue", "llama\x1b[2J", None): row(20),
    UsageGroup("acme", "gpt-5", None): row(
        1204, 3, input_tokens=912_000, output_tokens=561_000, cost={"usd": 12 * UNIT + UNIT // 3, "eur": UNIT}
    ),
    UsageGroup("acme", None, "researcher"): row(602),
}


def test_the_busiest_comes_first_with_the_longest_bar_and_all_is_summed_up() -> None:
    lines = list(table(GROUPS, coloured=False, blocks=True))
    assert [line.split()[:2] for line in lines] == [
        ["acme", "gpt-5"],
        ["acme", "researcher"],
        ["blue", "llama?[2J"],
        ["all", "1,826"],
    ]
    assert [line.count("█") for line in lines] == [WIDTH, WIDTH // 2, 0, 0]
    assert lines[0].endswith("1,204        3 failed      912,000 in      561,000 out  1.00 eur, 12.33 usd")


def test_without_blocks_bars_are_plain_and_never_empty() -> None:
    lines = list(table(GROUPS, coloured=False, blocks=False))
    assert [line.count("#") for line in lines] == [WIDTH, WIDTH // 2, 1, 0]
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(
    "amount, told",
    [
        (0, "0.00"),
        (1, "0.0000000000010"),
        (252_000_000, "0.00025"),
        (9_999_000_000, "0.0100"),
        (10_000_000_000, "0.01"),
        (1_234_567 * UNIT, "1,234,567.00"),
    ],
)
def test_a_small_cost_is_not_shown_as_none(amount: int, told: str) -> None:
    groups = {UsageGroup("acme", "echo", None): row(1, cost={"usd": amount})}
    assert next(table(groups, coloured=False, blocks=True)).endswith(f"  {told} usd")


def test_colours_show_where_they_are_wanted_only() -> None:
    assert "\x1b[31m" in next(table(GROUPS, coloured=True, blocks=True))
    assert not any("\x1b" in line for line in table(GROUPS, coloured=False, blocks=True))


def test_nothing_is_said_so() -> None:
    assert list(table({}, coloured=False, blocks=True)) == ["nothing has ended"]
