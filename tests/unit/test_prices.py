"""What closings cost by `[[prices]]`, and what is said of prices that are wrong."""

from datetime import UTC, date, datetime

import pytest
from msgspec.structs import replace

from schemas.closings import ClosingRecord, TokenCounts
from schemas.errors import SettingsError
from services.analytics.prices import Prices
from services.config import Price, parse
from tests.closings import CLOSING

USAGE = TokenCounts(
    input_tokens=1000, cached_tokens=300, cache_write_tokens=200, output_tokens=10, reasoning_tokens=7
)
BASE = Price(model="*", input=2, output=8)


def closing(model: str | None = "gpt-5", at: int = 0, usage: TokenCounts | None = USAGE) -> ClosingRecord:
    return replace(CLOSING, model=model, closed_at=at, usage=usage)


def test_each_kind_of_token_has_its_price() -> None:
    price = replace(BASE, cached_input=0.5, cache_write=2.5)
    # 500 plain at 2, 300 cached at 0.5, 200 written at 2.5, 10 out at 8, of a million each
    assert Prices([price]).cost(closing()) == {"usd": (500 * 2 + 150 + 500 + 80) * 1_000_000}


def test_a_price_that_is_not_given_is_that_of_the_input() -> None:
    assert Prices([BASE]).cost(closing()) == {"usd": (1000 * 2 + 80) * 1_000_000}


def test_six_decimals_of_a_price_are_exact() -> None:
    price = Price(model="*", input=0.000001, output=0.1)
    usage = TokenCounts(input_tokens=3, output_tokens=3)
    assert Prices([price]).cost(closing(usage=usage)) == {"usd": 3 + 300_000}


def test_the_first_glob_that_fits_counts_as_with_models() -> None:
    special, general = Price(model="gpt-5", input=1, output=0), Price(model="gpt-*", input=3, output=0)
    assert Prices([special, general]).cost(closing()) == {"usd": 1000 * 1_000_000}
    assert Prices([general, special]).cost(closing()) == {"usd": 3000 * 1_000_000}
    assert Prices([special, general]).cost(closing("llama")) == {}


def test_of_equal_globs_the_latest_in_force_counts() -> None:
    day = 86_400_000
    prices = Prices(
        [
            Price(model="*", input=3, output=0, valid_from=date(1970, 1, 3)),
            Price(model="*", input=1, output=0),
            Price(model="*", input=2, output=0, valid_from=datetime(1970, 1, 2, tzinfo=UTC)),
        ]
    )
    each = [prices.cost(closing(at=at))["usd"] for at in (0, day - 1, day, 2 * day - 1, 2 * day)]
    assert each == [amount * 10**9 for amount in (1, 1, 2, 2, 3)]


def test_a_price_that_is_not_in_force_yet_lets_the_next_one_count() -> None:
    later = Price(model="gpt-5", input=9, output=0, valid_from="2026-08-01")
    assert Prices([later, BASE]).cost(closing()) == Prices([BASE]).cost(closing())


def test_an_agent_without_a_model_is_priced_by_the_model_that_served() -> None:
    served = replace(closing(None), served="gpt-5-2026", agent="researcher")
    assert Prices([replace(BASE, model="gpt-*")]).cost(served) == Prices([BASE]).cost(closing())


def test_no_tokens_cost_nothing() -> None:
    assert Prices([BASE]).cost(closing(usage=None)) == {}


PRICE = '[[prices]]\nmodel = "gpt-*"\ninput = 1.25\noutput = 10\n'


def test_two_prices_of_one_glob_from_one_time_on_are_both_named() -> None:
    dated = PRICE + "valid_from = 2026-08-01\n"
    assert len(parse(PRICE + dated, "f").prices) == 2
    with pytest.raises(SettingsError) as caught:
        parse(PRICE + dated + PRICE.replace("gpt", "llama") + dated.replace("08-01", "08-01T00:00:00Z"), "f")
    said = "f: prices[1] and prices[3]: both have model = 'gpt-*' and valid_from = 2026-08-01 00:00:00+00:00"
    assert str(caught.value) == f"{said}; remove one, or give it another valid_from"
    with pytest.raises(SettingsError, match=r"prices\[0\] and prices\[1\]: .* and no valid_from"):
        parse(PRICE + PRICE, "f")


@pytest.mark.parametrize(
    "line, what",
    [
        ("cached_input = -1", "prices[0].cached_input: -1.0 does not fit"),
        ("cache_write = 0.0000001", "prices[0].cache_write: 1e-07 does not fit"),
        ('currency = "dollars"', "prices[0].currency: 'dollars' does not fit"),
        ('valid_from = "soon"', "prices[0].valid_from: soon does not fit"),
        ("reasoning = 1", "prices[0].reasoning: unknown key"),
    ],
)
def test_a_wrong_price_is_named(line: str, what: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(PRICE + line, "f")
    assert str(caught.value).startswith(f"f: {what}")


def test_a_missing_price_is_named() -> None:
    with pytest.raises(SettingsError, match=r"prices\[0\]\.output: missing; .* a number: .* output = 10"):
        parse('[[prices]]\nmodel = "a"\ninput = 1\n', "f")
