"""Where a new response goes that may go anywhere."""

from collections import Counter

from services.placement import place

DRAWS = [n / 1000 for n in range(1000)]


def drawn(healthy: list[bool], held: list[int]) -> Counter[int]:
    return Counter(place(healthy, held, draw) for draw in DRAWS)


def test_all_partitions_alike() -> None:
    assert drawn([True] * 4, [0] * 4) == {0: 250, 1: 250, 2: 250, 3: 250}


def test_none_whose_leader_does_not_answer() -> None:
    assert set(drawn([True, False, True, False], [9, 0, 9, 0])) == {0, 2}


def test_where_little_is_under_way_rather() -> None:
    found = drawn([True, True], [0, 4])
    assert 4.5 < found[0] / found[1] < 5.5


def test_with_no_leader_any_will_do() -> None:
    assert set(drawn([False, False], [0, 0])) == {0, 1}


def test_a_draw_at_the_very_end_is_a_partition_that_may_be_had() -> None:
    assert place([True, True, False], [2, 6, 0], 1 - 2**-53) in (0, 1)
