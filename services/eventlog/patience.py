"""Look-ups in the log for callers that cannot go on without the answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from schemas.errors import LogUnavailable

PAUSE = 0.5
"""Seconds between two tries of a look-up while the log is away."""

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask` returns, tried again every PAUSE seconds while it raises LogUnavailable."""
    while True:
        try:
            return await ask()
        except LogUnavailable as error:
            log.warning("the log is away, trying again", error=str(error))
            await asyncio.sleep(PAUSE)
