"""Admission: bounds on open responses, fair between tenants, by figures a moment old (A-10)."""

import gc
import weakref

import pytest

from schemas.errors import ApiError
from schemas.ids import Tenant
from services.config import Quota
from services.ingest.admission import OUTDATED_S, Admission
from services.web.internal import PartitionLoad

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")
QUOTAS = {C: Quota(match="c", max_open=3)}


def bounded(max_queue: int) -> Admission:
    return Admission(max_queue, lambda tenant: QUOTAS.get(tenant, Quota(match="*")))


def load(position: int = 0, partition: int = 0, **tenants: int) -> dict[int, PartitionLoad]:
    return {partition: PartitionLoad(position, {Tenant(name): count for name, count in tenants.items()})}


def admitted(admission: Admission, tenant: Tenant, offset: int = 0) -> bool:
    try:
        with admission.place(tenant) as hold:
            hold(0, offset)
    except ApiError:
        return False
    return True


def flood(admission: Admission, tenant: Tenant) -> int:
    """How many more of `tenant` get in."""
    return sum(admitted(admission, tenant) for _ in range(100))


def test_a_tenant_that_is_alone_has_all_of_it() -> None:
    assert flood(bounded(10), A) == 10


def test_what_replay_has_seen_counts() -> None:
    admission = bounded(10)
    admission.loaded(load(a=7), 0)
    assert flood(admission, A) == 3


def test_a_flood_leaves_others_their_share() -> None:
    admission = bounded(10)
    assert flood(admission, A) == 10
    assert flood(admission, B) == 5
    assert flood(admission, Tenant("d")) == 4
    assert flood(admission, A) == 0


def test_a_tenant_s_own_bound_holds_however_much_room_there_is() -> None:
    admission = bounded(10)
    assert flood(admission, C) == 3
    with pytest.raises(ApiError, match="3 responses of tenant c are open"), admission.place(C):
        pass
    assert flood(admission, A) == 7
    admission.loaded(load(1, c=2), 0)
    assert flood(admission, C) == 1


def test_a_refusal_says_when_to_come_back() -> None:
    admission = bounded(1)
    flood(admission, A)
    with pytest.raises(ApiError) as refused, admission.place(A):
        pass
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.value.headers["retry-after"]) <= 60


def test_nobody_gets_in_at_twice_the_bound() -> None:
    admission = bounded(10)
    admission.loaded(load(a=20), 0)
    assert flood(admission, B) == 0


def test_what_has_closed_makes_room() -> None:
    admission = bounded(10)
    flood(admission, A)
    admission.loaded(load(1, a=4), 0)
    assert flood(admission, A) == 6


def test_what_is_being_appended_counts_and_is_given_back_when_it_was_not() -> None:
    admission = bounded(2)
    with admission.place(A), admission.place(A):
        assert flood(admission, A) == 0
    assert (admission.open, flood(admission, A)) == (0, 2)


def test_what_is_in_the_log_counts_until_replay_has_folded_it() -> None:
    admission = bounded(10)
    assert all(admitted(admission, A, offset) for offset in range(5))
    admission.loaded(load(3, a=3), 0)
    assert admission.open == 5
    admission.loaded(load(3, a=2), 0)
    assert admission.open == 4
    admission.loaded(load(5, a=4), 0)
    assert admission.open == 4


def test_a_partition_that_replay_does_not_know_is_not_forgotten() -> None:
    admission = bounded(10)
    with admission.place(A) as hold:
        hold(7, 0)
    admission.loaded(load(100), 0)
    assert admission.open == 1


def test_shards_add_up_and_one_that_is_silent_keeps_what_it_said() -> None:
    admission = bounded(10)
    admission.loaded(load(5, partition=0, a=4), 0)
    admission.loaded(load(5, partition=1, a=2, b=1), 0)
    assert (admission.open, admission.by_tenant()) == (7, {A: 6, B: 1})
    admission.loaded(load(6, partition=1, a=1), 3600)
    assert admission.by_tenant() == {A: 5}


def test_two_replicas_of_a_shard_are_not_two_loads() -> None:
    """The one that has folded more counts, in whatever order they tell, until it is gone."""
    admission = bounded(10)
    for ahead, behind in ((load(9, a=3), load(7, a=5)), (load(7, a=5), load(9, a=3))):
        admission.loaded(ahead, 0)
        admission.loaded(behind, 0)
        assert admission.open == 3
    with admission.place(A) as hold:
        hold(0, 9)
    admission.loaded(load(8, a=5), 1)
    assert admission.open == 4
    admission.loaded(load(8, a=5), 1 + OUTDATED_S)
    assert admission.open == 6


def test_a_refusal_is_gone_at_once_without_the_collector() -> None:
    """There are many a second at times: in a circle each would wait for it, with its request."""
    admission = bounded(1)
    assert admitted(admission, A)
    gc.disable()
    try:
        with pytest.raises(ApiError) as told, admission.place(A):
            pass
        refusal = weakref.ref(told.value)
        del told
        assert refusal() is None
    finally:
        gc.enable()
