"""What is late in a partition and erased by itself: what never counts, where no later delete finds it."""

from schemas.ids import ResponseId
from services.executor.erasures import Erasures

ID = ResponseId("resp_0000" + "7" * 32)


def test_what_led_to_a_close_behind_the_floor_is_nothing_late() -> None:
    erasures = Erasures(10)
    erasures.own(acts_from=20, committed=10)
    for offset in (8, 12, 15):
        erasures.unknown_read(ID, offset, closes=False)
    erasures.unknown_read(ID, 16, closes=True)
    erasures.unknown_read(ID, 17, closes=False)
    erasures.caught_up()
    assert not erasures.wanted


def test_what_closed_before_the_floor_is_late_behind_it() -> None:
    erasures = Erasures(10)
    erasures.own(acts_from=20, committed=10)
    for offset in (8, 12, 15):
        erasures.unknown_read(ID, offset, closes=False)
    assert not erasures.wanted
    erasures.caught_up()
    assert [erasure.start for erasure in erasures.wanted.values()] == [12, 15]


def test_what_comes_after_the_assignment_for_a_response_unknown_is_late() -> None:
    erasures = Erasures(10)
    erasures.own(acts_from=20, committed=10)
    erasures.unknown_read(ID, 20, closes=True)
    assert [erasure.start for erasure in erasures.wanted.values()] == [20]


def test_what_closes_behind_where_the_floor_was_committed_is_late() -> None:
    erasures = Erasures(10, 15)
    erasures.own(acts_from=20, committed=10)
    for offset in (12, 15, 16):
        erasures.unknown_read(ID, offset, closes=offset == 16)
    erasures.caught_up()
    assert [erasure.start for erasure in erasures.wanted.values()] == [15, 16, 12]


def test_what_closes_before_where_the_floor_was_committed_may_have_counted() -> None:
    erasures = Erasures(10, 15)
    erasures.own(acts_from=20, committed=10)
    erasures.unknown_read(ID, 14, closes=True)
    erasures.caught_up()
    assert not erasures.wanted


def test_what_closes_behind_a_tombstone_of_its_own_response_is_late() -> None:
    erasures = Erasures(10)
    erasures.own(acts_from=20, committed=10)
    erasures.unknown_erased(ID)
    erasures.unknown_read(ID, 15, closes=True)
    assert [erasure.start for erasure in erasures.wanted.values()] == [15]
