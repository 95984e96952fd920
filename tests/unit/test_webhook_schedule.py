"""Which delivery is attempted next: no endpoint holds up another (A-37). What comes of an attempt (P-126)."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from schemas.ids import response_id
from schemas.webhooks import DeliveryRecord, EndpointId, Outcome, delivery_id
from services.webhooks.attempts import (
    FIRST_PAUSE_MS,
    GIVE_UP_MS,
    LONGEST_PAUSE_MS,
    AttemptResult,
    after,
    again,
    pause_ms,
)
from services.webhooks.schedule import Schedule
from tests.closings import CLOSING

TYPE = "response.completed"
DELIVERED, TIMEOUT = AttemptResult("delivered", 200), AttemptResult("timeout")


def due(endpoint: str, number: int, next_at: int = 0) -> DeliveryRecord:
    response, id = response_id(0, number.to_bytes(16)), EndpointId(endpoint)
    return DeliveryRecord(
        id=delivery_id(id, response, TYPE),
        endpoint=id,
        tenant=CLOSING.tenant,
        response=response,
        type=TYPE,
        closed_at=0,
        since=0,
        next_at=next_at,
    )


def begun(schedule: Schedule, now_ms: int = 0) -> list[DeliveryRecord]:
    """All that begins now."""
    found = []
    while (delivery := schedule.next(now_ms)) is not None:
        found.append(delivery)
    return found


def test_what_is_not_due_waits() -> None:
    schedule = Schedule(8, 8)
    schedule.put(due("a", 1, next_at=500))
    schedule.put(due("a", 2, next_at=100))
    assert schedule.next(99) is None
    assert schedule.due_in(40) == 60
    assert [each.next_at for each in begun(schedule, 100)] == [100]
    assert schedule.due_in(100) == 400
    assert [each.next_at for each in begun(schedule, 600)] == [500]
    assert schedule.due_in(600) is None


def test_endpoints_take_turns_and_each_has_its_bound() -> None:
    schedule = Schedule(8, 3)
    for number in range(100):
        schedule.put(due("many", number))
    schedule.put(due("one", 1))
    schedule.put(due("two", 1))
    first = begun(schedule)
    assert Counter(each.endpoint for each in first) == {"many": 3, "one": 1, "two": 1}
    schedule.ended(first[0], ok=True, recorded=True)
    assert [each.endpoint for each in begun(schedule)] == ["many"]


def test_there_is_a_bound_for_all() -> None:
    schedule = Schedule(4, 3)
    for endpoint in "abc":
        for number in range(9):
            schedule.put(due(endpoint, number))
    assert Counter(each.endpoint for each in begun(schedule)) == {"a": 2, "b": 1, "c": 1}


def test_however_many_endpoints_are_dead_those_that_live_are_served() -> None:
    schedule = Schedule(16, 4)
    for endpoint in range(1000):
        for number in range(2):
            schedule.put(replace(due(f"dead{endpoint}", number), attempts=1))
    for _ in range(100):
        dead = begun(schedule)
        assert len(dead) == 8
        for delivery in dead:
            schedule.ended(delivery, ok=False, recorded=True)
    assert len(begun(schedule)) == 8
    for number in range(50):
        schedule.put(due("living", number))
    served = 0
    for _ in range(20):
        living = begun(schedule)
        served += len(living)
        for delivery in living:
            assert delivery.endpoint == "living"
            schedule.ended(delivery, ok=True, recorded=True)
    assert served == 50


def test_an_endpoint_that_failed_has_one_attempt_at_a_time_until_it_takes_one() -> None:
    schedule = Schedule(8, 4)
    for number in range(12):
        schedule.put(due("a", number))
    first = begun(schedule)
    assert len(first) == 4
    for delivery in first:
        schedule.ended(delivery, ok=False, recorded=True)
    (second,) = begun(schedule)
    schedule.ended(second, ok=True, recorded=True)
    assert len(begun(schedule)) == 4


def test_what_is_under_way_is_not_begun_again_before_its_outcome_is_read() -> None:
    schedule, delivery = Schedule(8, 4), due("a", 1)
    schedule.put(delivery)
    assert begun(schedule) == [delivery]
    schedule.put(delivery)
    assert begun(schedule) == []
    schedule.ended(delivery, ok=False, recorded=True)
    schedule.put(delivery)
    assert begun(schedule) == []
    outcome = replace(delivery, attempts=1)
    schedule.put(outcome)
    assert begun(schedule) == [outcome]


@pytest.mark.parametrize("put", [False, True])
def test_what_was_not_recorded_is_due_again_if_the_worker_owns_it_again(put: bool) -> None:
    schedule, delivery = Schedule(8, 4), due("a", 1)
    schedule.put(delivery)
    assert begun(schedule) == [delivery]
    schedule.rest(delivery.id)
    if put:
        schedule.put(delivery)
    schedule.ended(delivery, ok=True, recorded=False)
    assert begun(schedule) == ([delivery] if put else [])


def test_what_is_over_is_forgotten() -> None:
    schedule = Schedule(8, 4)
    for number in range(3):
        schedule.put(due("a", number, next_at=number))
    schedule.drop(due("a", 0).id)
    schedule.rest(due("a", 1).id)
    assert len(schedule) == 1
    assert begun(schedule, 5) == [due("a", 2, next_at=2)]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30), st.booleans()), max_size=60),
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_each_delivery_is_begun_once_and_the_bounds_hold(
    wanted: list[tuple[str, int, bool]], most: int, most_each: int
) -> None:
    schedule, answers = Schedule(most, most_each), dict[str, bool]()
    for endpoint, number, ok in wanted:
        schedule.put(due(endpoint, number))
        answers[due(endpoint, number).id] = ok
    seen = Counter[str]()
    while running := begun(schedule):
        assert len(running) <= most
        assert max(Counter(each.endpoint for each in running).values()) <= most_each
        for each in running:
            seen[each.id] += 1
            schedule.ended(each, ok=answers[each.id], recorded=True)
    assert seen == dict.fromkeys(answers, 1)


# What comes of an attempt.


@given(st.integers(1, 100), st.floats(0, 1))
def test_pauses_double_up_to_a_bound_and_chance_takes_half_at_most(attempts: int, chance: float) -> None:
    whole = min(FIRST_PAUSE_MS * 2 ** (attempts - 1), LONGEST_PAUSE_MS)
    assert whole // 2 <= pause_ms(attempts, chance) <= whole
    assert pause_ms(attempts, 0) == whole


def test_p126_a_delivery_is_tried_for_72_hours_and_no_longer() -> None:
    delivery, now, tries = due("a", 1), 0, 0
    while delivery.state == "pending":
        now = max(now, delivery.next_at)
        delivery = after(delivery, TIMEOUT, now, 0.3)
        tries += 1
        assert delivery.attempts == tries
    assert (delivery.state, delivery.outcome, now) == ("failed", "timeout", GIVE_UP_MS)
    assert 15 < tries < 40
    tried_again = again(delivery, now)
    assert (tried_again.state, tried_again.next_at, tried_again.since) == ("pending", now, now)
    assert after(tried_again, TIMEOUT, now, 0).state == "pending"


def test_p126_what_was_taken_is_over() -> None:
    over = after(due("a", 1), DELIVERED, 7, 0)
    assert (over.state, over.status, over.attempts) == ("delivered", 200, 1)


@pytest.mark.parametrize(
    "outcome", ["refused", "redirected", "timeout", "unreachable", "private_address", "no_key"]
)
def test_p126_whatever_else_comes_of_it_is_tried_again(outcome: Outcome) -> None:
    assert after(due("a", 1), AttemptResult(outcome), 7, 0).state == "pending"
