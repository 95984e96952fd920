"""Reads how a request steers model `echo`: the `echo.*` keys of its metadata.

Not a part of the executor, because ingest refuses a request that cannot run before anything is stored. The
values of metadata are strings, as in the API.
"""

import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from schemas.errors import invalid

PREFIX = "echo."
MAX_TOKENS = 1_000_000
MAX_INTERVAL_MS = 60_000

_INTEGER = re.compile(r"[0-9]{1,9}")
BOUNDS = {
    "echo.tokens": (1, MAX_TOKENS),
    "echo.interval_ms": (0, MAX_INTERVAL_MS),
    "echo.fail_after": (0, MAX_TOKENS),
    "echo.stamp": (0, 1),
}
"""By key, the least and the largest value that it takes."""


class EchoSteering(Struct, frozen=True):
    """What `echo` is asked to do.

    `tokens`: go round the words until so many; None: once. `interval_ms`: pause between words. `fail_after`:
    fail after so many words; None: never. `stamp`: with 1 every event has a field `stamp`, the time at which
    it left the backend (ns since the epoch), for measurements.
    """

    tokens: int | None = None
    interval_ms: int = 0
    fail_after: int | None = None
    stamp: int = 0


def steering(body: Mapping[str, Any]) -> EchoSteering:
    """What `body` (a request) asks of `echo`.

    Raises ApiError (400), which names the key, for a value that is not an integer in its bounds and for an
    unknown `echo.*` key. Metadata that is no object is ignored: `schemas.request` checks the types.
    """
    metadata = body.get("metadata")
    if not isinstance(metadata, Mapping):
        return EchoSteering()
    asked = {key: _integer(key, value) for key, value in metadata.items() if key.startswith(PREFIX)}
    return EchoSteering(**{key.removeprefix(PREFIX): value for key, value in asked.items()})


def _integer(key: str, value: object) -> int:
    param = f"metadata.{key}"
    if key not in BOUNDS:
        raise invalid(f"Unknown {param}: model echo knows {', '.join(BOUNDS)}.", param)
    least, most = BOUNDS[key]
    if not isinstance(value, str) or not _INTEGER.fullmatch(value) or not least <= int(value) <= most:
        raise invalid(f"{param} must be an integer from {least} to {most}, as a string.", param)
    return int(value)
