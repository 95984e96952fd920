"""Who is claimed next when slots or places are short."""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice, repeat

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import Tenant
from services.config import UNBOUNDED, Model, Quota
from services.executor.fairness import Occupancy, Queue, by_turns, most

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")
WIDE, SLOW = Model(match="wide"), Model(match="slow", max_concurrency=4)


def claimed(
    waiting: Mapping[Queue, Iterator[int]], runs: Mapping[Queue, int], bound: int = 100, **own: int
) -> Iterator[tuple[Queue, int]]:
    """What is claimed, one after the other, and runs from then on. `own`: a tenant's bound."""
    taken = [queue for queue, count in runs.items() for _ in range(count)]
    load = Occupancy(taken, 100, lambda tenant: own.get(tenant, bound))
    queues = {queue: zip(repeat(queue), ages, strict=False) for queue, ages in waiting.items()}
    for queue, age in by_turns(queues, load.share, lambda one: one[1]):
        load.take(queue)
        yield queue, age


def tenants(
    waiting: Mapping[Tenant, int], runs: Mapping[Tenant, int], bound: int = 100, **own: int
) -> Iterator[Tenant]:
    """Whose responses for a wide route are claimed; all wait equally long."""
    queues = {Queue(tenant, WIDE): iter([0] * count) for tenant, count in waiting.items()}
    running = {Queue(tenant, WIDE): count for tenant, count in runs.items()}
    return (queue.tenant for queue, _ in claimed(queues, running, bound, **own))


def test_a_flood_does_not_come_before_a_tenant_with_little() -> None:
    assert list(islice(tenants({A: 100, B: 2}, {A: 5}), 4)) == [B, B, A, A]


def test_tenants_with_as_many_runs_take_turns() -> None:
    assert list(tenants({A: 3, B: 2, C: 1}, {})) == [A, B, C, A, B, A]


def test_of_those_with_as_much_the_oldest_comes_first() -> None:
    queues = {Queue(A, WIDE): iter([2, 5, 6]), Queue(B, WIDE): iter([1]), Queue(A, None): iter([3, 4])}
    assert [age for _, age in claimed(queues, {})] == [1, 2, 3, 4, 5, 6]


def test_a_tenant_at_its_bound_waits_however_long_its_queue() -> None:
    assert list(tenants({A: 4, B: 1}, {A: 8}, 9)) == [B, A]


def test_a_tenant_with_a_bound_of_its_own_leaves_the_rest_to_the_others() -> None:
    assert list(tenants({A: 5, B: 3}, {}, a=2)) == [A, B, A, B, B]


def test_what_cannot_run_yet_holds_nobody_up() -> None:
    queues = {Queue(A, WIDE): iter([1, 2, 3]), Queue(B, WIDE): iter([4])}
    load = Occupancy([Queue(A, WIDE)], 100, lambda _: 2)
    assert list(by_turns(queues, load.share, int)) == [4, 1, 2, 3]


def test_a_route_gets_no_more_than_its_places_and_the_others_are_not_held_up() -> None:
    queues = {Queue(A, SLOW): iter([1, 2, 3]), Queue(B, SLOW): iter([4]), Queue(A, WIDE): iter([5, 6])}
    got = list(claimed(queues, {Queue(A, SLOW): 2}))
    assert got == [(Queue(B, SLOW), 4), (Queue(A, WIDE), 5), (Queue(A, WIDE), 6), (Queue(A, SLOW), 1)]


def test_who_runs_much_elsewhere_gets_its_turn_where_places_are_short() -> None:
    """By runs alone it would never come: whoever floods the slow route has fewer."""
    queues = {Queue(A, SLOW): iter([1, 2, 3]), Queue(B, SLOW): iter([4, 5])}
    runs = {Queue(A, SLOW): 3, Queue(B, WIDE): 50}
    assert list(claimed(queues, runs)) == [(Queue(B, SLOW), 4)]


def test_a_lone_tenant_has_nine_tenths_and_always_something() -> None:
    assert [most(slots, UNBOUNDED) for slots in (1, 5, 10, 20, 500)] == [1, 5, 9, 18, 450]


def test_a_quota_leaves_a_tenant_less_never_more() -> None:
    assert [most(20, Quota(match="*", max_running=bound)) for bound in (1, 18, 19, 100)] == [1, 18, 18, 18]


@given(st.dictionaries(st.sampled_from([A, B, C]), st.integers(0, 30)), st.integers(1, 20), st.data())
def test_nobody_gets_more_while_somebody_with_less_still_waits(
    lengths: dict[Tenant, int], bound: int, data: st.DataObject
) -> None:
    running = {tenant: data.draw(st.integers(0, 20)) for tenant in lengths}
    left, runs = Counter(lengths), Counter(running)
    for tenant in tenants(lengths, running, bound):
        assert runs[tenant] == min(runs[other] for other in left if left[other])
        assert runs[tenant] < bound
        runs[tenant] += 1
        left[tenant] -= 1
    assert all(runs[tenant] >= bound or not left[tenant] for tenant in lengths)
