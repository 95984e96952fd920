"""Reads the token counts of a Chat Completions stream. Pure.

Servers send counts at the end, in a chunk without choices, in every chunk, or as placeholders (U-55). A
placeholder does not replace a count that came before.
"""

from typing import Any

from schemas.response import count_in

_NAMES = {
    "input_tokens": ("prompt_tokens", "input_tokens"),
    "output_tokens": ("completion_tokens", "output_tokens"),
    "total_tokens": ("total_tokens",),
    "cached_tokens": ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens"),
    "cache_write_tokens": ("cache_write_tokens", "cache_creation_input_tokens"),
    "reasoning_tokens": ("reasoning_tokens",),
}
"""Our names, and the servers' for them."""
_DETAILS = (
    "prompt_tokens_details",
    "input_tokens_details",
    "completion_tokens_details",
    "output_tokens_details",
)


class Usage:
    """The counts of one stream."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def take(self, holder: dict[str, Any]) -> bool:
        """Take the counts of a chunk or a choice. Returns whether it has a `usage`."""
        if "usage" not in holder and "x_groq" not in holder:
            return False
        beside = holder.get("x_groq")
        given = holder.get("usage") or (beside.get("usage") if isinstance(beside, dict) else None)
        if not isinstance(given, dict):
            return False
        held = [given, *(given[name] for name in _DETAILS if isinstance(given.get(name), dict))]
        for ours, theirs in _NAMES.items():
            counts = [count_in(one[name]) or 0 for one in held for name in theirs if name in one]
            if any(counts):
                self._counts[ours] = max(counts)
        return True

    def told(self) -> dict[str, Any] | None:
        """The `usage` of the response; None if the server sent no counts."""
        counts = self._counts
        if not counts.get("input_tokens") and not counts.get("output_tokens"):
            return None
        read, wrote = counts.get("input_tokens", 0), counts.get("output_tokens", 0)
        return {
            "input_tokens": read,
            "input_tokens_details": {
                "cached_tokens": counts.get("cached_tokens", 0),
                "cache_write_tokens": counts.get("cache_write_tokens", 0),
            },
            "output_tokens": wrote,
            "output_tokens_details": {"reasoning_tokens": counts.get("reasoning_tokens", 0)},
            "total_tokens": counts.get("total_tokens", 0) or read + wrote,
        }
