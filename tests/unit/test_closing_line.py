"""A closing as a line for people."""

from datetime import UTC

import pytest
from msgspec.structs import replace

from schemas.closings import ClosingRecord, TokenCounts
from schemas.ids import Tenant
from services.terminal.closing_line import COLOURS, PLAIN, line_of, span
from tests import closings

AT = 1_796_058_000_000  # 2026-11-30 17:00:00 UTC
CLOSING = replace(
    closings.CLOSING,
    accepted_at=AT - 7_125,
    claimed_at=AT - 7_113,
    first_output_at=AT - 6_694,
    last_output_at=AT - 5,
    closed_at=AT,
    usage=TokenCounts(input_tokens=912, output_tokens=561, total_tokens=1473),
)


def columns(closing: ClosingRecord) -> list[str]:
    return line_of(closing, UTC).split()


def test_a_line_says_when_whose_which_model_how_and_how_much() -> None:
    assert line_of(CLOSING, UTC) == (
        "11-30 17:00:00  acme          gpt-5             completed                   7.1 s  first 431 ms"
        "      912 in    561 out"
    )


def test_columns_stand_one_below_the_other() -> None:
    failed = replace(CLOSING, tenant=Tenant("b"), model="llama", status="failed", error_type="executor_lost")
    assert line_of(failed, UTC).index("failed executor_lost") == line_of(CLOSING, UTC).index("completed")
    assert line_of(failed, UTC).index("first") == line_of(CLOSING, UTC).index("first")


def test_what_never_happened_is_said() -> None:
    bare = replace(
        CLOSING, model=None, status="incomplete", incomplete_reason="max_output_tokens", first_output_at=None
    )
    said = columns(replace(bare, usage=None))
    assert said[3:6] == ["-", "incomplete", "max_output_tokens"]
    assert said[-3:] == ["no", "output", "-"]
    assert columns(replace(bare, agent="researcher"))[3] == "researcher"


@pytest.mark.parametrize("status", COLOURS)
def test_the_status_alone_is_coloured(status: str) -> None:
    closing = replace(CLOSING, status=status)
    plain, coloured = line_of(closing, UTC), line_of(closing, UTC, coloured=True)
    assert "\x1b" not in plain
    assert coloured.replace(COLOURS[status], "").replace(PLAIN, "") == plain
    before, after = coloured.split(COLOURS[status])
    assert "acme" in before
    assert after.split(PLAIN)[0].strip() == status


def test_a_status_of_a_later_version_has_no_colour() -> None:
    assert "\x1b" not in line_of(replace(CLOSING, status="paused"), coloured=True)


@pytest.mark.parametrize("odd", ["\x1b[2J", "a\nb", "\x9b31m", "\u202e", "\x00", "\u2028"])
def test_nothing_that_a_client_chose_steers_the_terminal(odd: str) -> None:
    closing = replace(CLOSING, model=odd, tenant=Tenant(odd), status=odd, error_type=odd)
    assert line_of(closing, UTC).isprintable()


def test_a_time_that_no_calendar_has_is_shown() -> None:
    assert line_of(replace(CLOSING, closed_at=2**63), UTC).startswith("01-01 00:00:00")


@pytest.mark.parametrize(
    "ms, said",
    [
        (-5, "0 ms"),
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (59_999, "59.9 s"),
        (60_000, "1m00s"),
        (3_599_999, "59m59s"),
        (3_600_000, "1h00m"),
        (90_000_000, "25h00m"),
    ],
)
def test_a_span_has_the_unit_that_people_read(ms: int, said: str) -> None:
    assert span(ms) == said
