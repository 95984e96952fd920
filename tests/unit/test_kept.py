"""A cache within a bound of bytes."""

from hypothesis import given
from hypothesis import strategies as st

from services.kept import Kept


def test_what_was_used_longest_ago_goes_first() -> None:
    kept = Kept[str, int](30)
    for key in "abc":
        kept.put(key, ord(key), 10)
    assert kept.get("a") == ord("a")
    kept.put("d", 0, 10)
    assert [key in kept for key in "abcd"] == [True, False, True, True]


def test_what_is_put_again_counts_once() -> None:
    kept = Kept[str, int](30)
    for size in (10, 20, 30):
        kept.put("a", size, size)
    assert (len(kept), kept.bytes, kept.get("a")) == (1, 30, 30)


def test_what_alone_is_over_the_bound_stays_only_where_the_last_is_spared() -> None:
    strict, sparing = Kept[str, int](30), Kept[str, int](30, spares_last=True)
    for kept in (strict, sparing):
        kept.put("a", 0, 10)
        kept.put("b", 1, 40)
    assert (len(strict), strict.bytes) == (0, 0)
    assert (len(sparing), sparing.bytes, sparing.get("b")) == (1, 40, 1)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.sampled_from(["put", "get", "pop"]))))
def test_the_bytes_are_those_of_what_is_kept_and_within_the_bound(steps: list[tuple[int, int, str]]) -> None:
    kept, sizes = Kept[int, int](50), dict[int, int]()
    for key, size, what in steps:
        match what:
            case "put":
                kept.put(key, size, size)
                sizes[key] = size
            case "get":
                assert kept.get(key) in (None, sizes.get(key))
            case _:
                kept.pop(key)
                sizes.pop(key, None)
        assert kept.bytes == sum(size for key, size in sizes.items() if key in kept) <= 50
