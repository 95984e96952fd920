"""Admission: bounds on open responses and on bytes, fair between tenants, by figures a moment old (A-10)."""

import pytest

from schemas.errors import ApiError
from schemas.ids import Tenant
from services.ingest.admission import Admission
from services.web.internal import Load

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")


def admitted(admission: Admission, tenant: Tenant) -> bool:
    try:
        admission.admit(tenant)
    except ApiError:
        return False
    admission.accepted(tenant)
    return True


def flood(admission: Admission, tenant: Tenant) -> int:
    """How many more of `tenant` get in."""
    return sum(admitted(admission, tenant) for _ in range(100))


def test_a_tenant_that_is_alone_has_all_of_it() -> None:
    assert flood(Admission(10, 0), A) == 10


def test_what_replay_has_seen_counts() -> None:
    admission = Admission(10, 0)
    admission.asked()
    admission.loaded(Load(7, {A: 7}))
    assert flood(admission, A) == 3


def test_a_flood_leaves_others_their_share() -> None:
    admission = Admission(10, 0)
    assert flood(admission, A) == 10
    assert flood(admission, B) == 5
    assert flood(admission, C) == 4
    assert flood(admission, A) == 0


def test_a_refusal_says_when_to_come_back() -> None:
    admission = Admission(1, 0)
    flood(admission, A)
    with pytest.raises(ApiError) as refused:
        admission.admit(A)
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.value.headers["retry-after"]) <= 60


def test_nobody_gets_in_at_twice_the_bound() -> None:
    admission = Admission(10, 0)
    admission.loaded(Load(20, {A: 20}))
    assert flood(admission, B) == 0


def test_what_has_closed_makes_room() -> None:
    admission = Admission(10, 0)
    flood(admission, A)
    admission.asked()
    admission.loaded(Load(4, {A: 4}))
    assert flood(admission, A) == 6


def test_what_is_accepted_while_replay_is_asked_is_not_forgotten() -> None:
    admission = Admission(10, 0)
    admission.asked()
    flood(admission, A)
    admission.loaded(Load(0, {}))
    assert admission.open == 10
    admission.asked()
    assert admission.open == 10
    admission.loaded(Load(10, {A: 10}))
    assert admission.open == 10


def test_a_load_that_never_comes_lets_nothing_be_forgotten() -> None:
    admission = Admission(10, 0)
    for _ in range(5):
        admission.asked()
        admitted(admission, A)
    assert admission.open == 5


def test_bytes_are_bounded_and_given_back() -> None:
    admission = Admission(10, 100)
    for tenant in (A, B):
        admission.arrive(tenant, 50)
    with pytest.raises(ApiError) as refused:
        admission.arrive(C, 1)
    assert refused.value.status == 429
    admission.leave(A, 50)
    admission.arrive(C, 50)


def test_one_tenant_has_at_most_its_share_of_the_bytes() -> None:
    admission = Admission(10, 100)
    admission.arrive(A, 50)
    with pytest.raises(ApiError):
        admission.arrive(A, 1)
    admission.arrive(B, 50)
