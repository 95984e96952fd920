"""Where a new response goes that may go anywhere."""

from collections import Counter

from services.eventlog.port import Leader
from services.placement import Places, place

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


def test_a_shard_places_in_its_own_partitions_and_in_served_ones_if_no_leader_of_those_answers() -> None:
    led, served = {0, 1, 2, 4}, {2, 3}

    def leader(partition: int) -> Leader:
        return Leader(1, healthy=partition in led)

    places = Places(5, leader, local={0, 1}, elsewhere=served.__contains__)

    def drawn_now() -> set[int]:
        places.look_again()
        return {places.place(draw) for draw in DRAWS}

    assert drawn_now() == {0, 1}
    led.discard(0)
    assert drawn_now() == {1}
    led.discard(1)
    assert drawn_now() == {2}
    served.discard(2)
    assert drawn_now() == {0, 1}, "as ever when nothing can be appended to"
    places.grow(6)
    assert drawn_now() == {0, 1}


def test_who_serves_all_places_in_what_is_added() -> None:
    places = Places(1, lambda _: Leader(1, healthy=True))
    places.grow(2)
    assert {places.place(draw) for draw in DRAWS} == {0, 1}
