"""Whose response is claimed next when slots or places are short: pure, and the same for every executor.

A run takes one of the executor's slots and one of the places of its route, of which there are
`max_concurrency`. A response that waits for a full route stays unclaimed, and takes nothing from those of
other routes (P-49). Of the others, the response comes first whose tenant has the smallest share of what is
scarce for it, the slots or the route's places; of one tenant, the oldest. So a tenant that floods gets what
the others leave. No tenant gets the last tenth of the slots: another tenant's first response never waits for
a run of the flood to end. A tenant's quota may leave it less.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import heapify, heappop, heapreplace
from itertools import islice
from typing import NamedTuple, TypeVar

from schemas.ids import Tenant
from services.config import Quota, Route

T = TypeVar("T")


class Queue(NamedTuple):
    """The tenant and the route of the responses in it. Without a route they can only end."""

    tenant: Tenant
    route: Route | None


class Occupancy:
    """What is taken: of `slots`, of which a tenant gets at most as many as `most` says, and of places."""

    def __init__(self, taken: Iterable[Queue], slots: int, most: Callable[[Tenant], int]) -> None:
        self._slots = slots
        self._most = most
        self._queues = Counter(taken)
        self._tenants: Counter[Tenant] = Counter()
        self._routes: Counter[Route | None] = Counter()
        for (tenant, route), runs in self._queues.items():
            self._tenants[tenant] += runs
            self._routes[route] += runs

    def __repr__(self) -> str:
        return f"<Load {self._routes.total()} of {self._slots} slots>"

    def take(self, queue: Queue) -> None:
        """Count one more run of `queue`."""
        self._queues[queue] += 1
        self._tenants[queue.tenant] += 1
        self._routes[queue.route] += 1

    def by_route(self) -> Iterable[tuple[Route | None, int]]:
        """The routes of which places are taken, and how many."""
        return self._routes.items()

    def full(self, route: Route | None) -> bool:
        """Whether every place of `route` is taken."""
        return route is not None and self._routes[route] >= route.max_concurrency

    def share(self, queue: Queue) -> float | None:
        """What the tenant has of the slots, or of the route's places if that is more, as a fraction; None
        when it gets no more.
        """
        tenant, route = queue
        if self.full(route) or self._tenants[tenant] >= self._most(tenant):
            return None
        of_places = self._queues[queue] / route.max_concurrency if route else 0.0
        return max(of_places, self._tenants[tenant] / self._slots)


def most(slots: int, quota: Quota) -> int:
    """How many of `slots` a tenant with this quota may have."""
    return min(max(1, slots - slots // 10), quota.max_running or slots)


def by_turns(
    waiting: Mapping[Queue, Iterator[T]],
    share: Callable[[Queue], float | None],
    age: Callable[[T], int],
) -> Iterator[T]:
    """What waits, in the order of claiming: the smallest share first, and then what is oldest.

    `share` is that of an `Occupancy`, in which the caller counts what it takes. `age` is the time since which
    one waits.
    """
    queues = list(waiting.items())
    turns = [(0.0, age(one), at, one) for at, (_, ones) in enumerate(queues) for one in islice(ones, 1)]
    heapify(turns)
    while turns:
        had, since, at, one = turns[0]
        queue, ones = queues[at]
        has = share(queue)
        if has is None:
            heappop(turns)
        elif has > had:  # others of its tenant or its route were taken meanwhile
            heapreplace(turns, (has, since, at, one))
        else:
            yield one
            following = next(ones, None)
            if following is None:
                heappop(turns)
            else:
                heapreplace(turns, (has, age(following), at, following))
