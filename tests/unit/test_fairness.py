"""Who is claimed next when slots are short."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import Tenant
from services.config import UNBOUNDED, Quota
from services.executor.fairness import by_turns, most

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")


def claimed(
    waiting: dict[Tenant, int], running: dict[Tenant, int], bound: int = 100, **own: int
) -> Iterator[Tenant]:
    """Whose responses are claimed, one after the other, and run from then on. `own`: a tenant's bound."""
    queues = {tenant: iter([tenant] * count) for tenant, count in waiting.items()}
    for tenant in by_turns(queues, running, lambda tenant: own.get(tenant, bound)):
        running[tenant] = running.get(tenant, 0) + 1
        yield tenant


def test_a_flood_does_not_come_before_a_tenant_with_little() -> None:
    assert list(islice(claimed({A: 100, B: 2}, {A: 5}), 4)) == [B, B, A, A]


def test_tenants_with_as_many_runs_take_turns() -> None:
    assert list(claimed({A: 3, B: 2, C: 1}, {})) == [A, B, C, A, B, A]


def test_a_tenant_s_oldest_comes_first() -> None:
    assert list(by_turns({A: iter([1, 2, 3])}, {}, lambda _: 100)) == [1, 2, 3]


def test_a_tenant_at_its_bound_waits_however_long_its_queue() -> None:
    assert list(claimed({A: 4, B: 1}, {A: 8}, 9)) == [B, A]


def test_a_tenant_with_a_bound_of_its_own_leaves_the_rest_to_the_others() -> None:
    assert list(claimed({A: 5, B: 3}, {}, a=2)) == [A, B, A, B, B]


def test_what_cannot_run_yet_holds_nobody_up() -> None:
    assert list(by_turns({A: iter([1, 2, 3]), B: iter([4])}, {A: 1}, lambda _: 2)) == [4, 1, 2, 3]


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
    for tenant in claimed(lengths, running, bound):
        assert runs[tenant] == min(runs[other] for other in left if left[other])
        assert runs[tenant] < bound
        runs[tenant] += 1
        left[tenant] -= 1
    assert all(runs[tenant] >= bound or not left[tenant] for tenant in lengths)
