"""Cancels responses at upstreams whose run is gone.

A *resumable* upstream goes on in its own background when its executor is gone. A response that is cancelled
or deleted before a takeover has no run that would stop its upstream (P-101), so its partition's owner does.

    cancelled or deleted, no run → its executor is gone → what the log holds of it → the upstream's cancel

It tries once: if the upstream is away, or the owner dies in between, the upstream finishes by itself.
"""

import asyncio
from typing import Any

import msgspec
import structlog

from schemas.events import accepted_value
from services.executor.backend import UpstreamError
from services.executor.backends import Registry
from services.executor.history import History
from services.executor.orphans import Orphan
from services.executor.partition import Partition

log = structlog.get_logger()

AT_ONCE = 16
"""Upstreams that are told at a time. One that is away takes seconds, and a dead executor leaves hundreds."""

_body = msgspec.json.Decoder(dict[str, Any]).decode


async def stop_upstream(
    history: History, registry: Registry, places: asyncio.Semaphore, partition: Partition, orphan: Orphan
) -> None:
    """Stop the upstream of `orphan`, if the log knows of one, when one of the `places` is free. Waits as long
    as the log of its partition is away. Raises nothing.
    """
    try:
        past = await history.past(partition.number, orphan.id, orphan.start, orphan.end)
        if past.upstream_id is None or past.accepted is None:
            return
        backend = registry.resolve(_body(accepted_value(past.accepted).request))
        async with places:
            await backend.stop(past.upstream_id)
        log.info("upstream told that nobody wants its response any more", id=orphan.id)
    except UpstreamError as error:
        log.info("upstream cannot be told that nobody wants its response", id=orphan.id, why=error.message)
    except Exception:  # poison in the log, at worst: it must not end the executor
        log.exception("upstream cannot be told that nobody wants its response", id=orphan.id)
