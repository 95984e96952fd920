"""Whose response is claimed next when slots are short: pure, and the same for every executor.

The tenant with the fewest runs comes first, with its oldest response. So a tenant that floods gets what the
others leave. No tenant gets the last tenth of the slots: somebody else's first response never waits for a
run of the flood to end. Its quota may leave it less.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from heapq import heapify, heappop, heapreplace
from typing import TypeVar

from schemas.ids import Tenant
from services.config import Quota

T = TypeVar("T")


def most(slots: int, quota: Quota) -> int:
    """How many of `slots` a tenant with this quota may have."""
    return min(max(1, slots - slots // 10), quota.max_running or slots)


def by_turns(
    waiting: Mapping[Tenant, Iterator[T]],
    running: MutableMapping[Tenant, int],
    bound: Callable[[Tenant], int],
) -> Iterator[T]:
    """What waits, in the order of claiming, as long as its tenant has fewer runs than `bound` says.

    `running` is how many each tenant has; whoever takes one that is handed out and runs it counts it there.
    """
    turns = [(running.get(tenant, 0), place, tenant) for place, tenant in enumerate(waiting)]
    heapify(turns)
    while turns:
        runs, place, tenant = turns[0]
        one = next(waiting[tenant], None) if runs < bound(tenant) else None
        if one is None:
            heappop(turns)
            continue
        yield one
        heapreplace(turns, (running.get(tenant, 0), place, tenant))
