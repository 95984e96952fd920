"""What a closing costs, by the operator's `[[prices]]`. Pure.

The first price that fits the model and is in force when the response closed counts; of equal globs the
latest. Amounts are whole numbers of 10^-12 of the currency's unit: a price per million has at most six
decimals, so each token costs a whole number of these, and sums are exact.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fnmatch import fnmatchcase

from schemas.closings import ClosingRecord, TokenCounts
from services.config import Price

MICRO = 1_000_000
"""What a token costs, of our amounts, if a million of them cost 1."""
NOTHING: Mapping[str, int] = {}


def model_named(closing: ClosingRecord) -> str | None:
    """The model that was asked for, or the one that served where only an agent was; None if nobody knows."""
    return closing.model or closing.served


class Prices:
    """The prices of an operator's file."""

    def __init__(self, prices: Sequence[Price] = ()) -> None:
        by_glob: dict[str, list[Price]] = {}
        for price in prices:
            by_glob.setdefault(price.model, []).append(price)
        # Globs stand in the order of the file, and within one the latest price comes first.
        self._prices = [
            (glob, sorted(found, key=lambda price: price.since, reverse=True))
            for glob, found in by_glob.items()
        ]

    def cost(self, closing: ClosingRecord) -> Mapping[str, int]:
        """By currency what `closing` costs; empty if it tells no tokens, or no price fits it."""
        price = self._price(model_named(closing), closing.closed_at) if closing.usage else None
        if price is None or closing.usage is None:
            return NOTHING
        amount = _amount(price, closing.usage)
        return {price.currency.lower(): amount} if amount else NOTHING

    def _price(self, model: str | None, at: int) -> Price | None:
        fitting = (found for glob, found in self._prices if model is not None and fnmatchcase(model, glob))
        in_force = (price for found in fitting for price in found if price.since <= at)
        return next(in_force, None)


def _amount(price: Price, usage: TokenCounts) -> int:
    cached = min(usage.cached_tokens, usage.input_tokens)
    written = min(usage.cache_write_tokens, usage.input_tokens - cached)
    plain = usage.input_tokens - cached - written
    return (
        plain * _each(price.input)
        + cached * _each(price.input if price.cached_input is None else price.cached_input)
        + written * _each(price.input if price.cache_write is None else price.cache_write)
        + usage.output_tokens * _each(price.output)
    )


def _each(per_million: float) -> int:
    """What one token costs, in 10^-12 of the currency's unit."""
    return int(Decimal(str(per_million)) * MICRO)
