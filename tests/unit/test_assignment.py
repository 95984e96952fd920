"""Which member owns which partition: all are dealt out, evenly, and as few move as possible."""

from hypothesis import given
from hypothesis import strategies as st

from services.eventlog.assignment import assign

members = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=4), st.lists(st.integers(0, 30), max_size=12), max_size=6
)


@given(st.integers(0, 24), members)
def test_every_partition_has_one_owner_and_loads_differ_by_one_at_most(
    partitions: int, held: dict[str, list[int]]
) -> None:
    dealt = assign(partitions, held)
    assert dealt.keys() == held.keys()
    if held:
        assert sorted(p for mine in dealt.values() for p in mine) == list(range(partitions))
        loads = [len(mine) for mine in dealt.values()]
        assert max(loads) - min(loads) <= 1


@given(st.integers(0, 24), members)
def test_an_even_assignment_stays_as_it_is(partitions: int, held: dict[str, list[int]]) -> None:
    dealt = assign(partitions, held)
    assert assign(partitions, dealt) == dealt


@given(st.integers(1, 24), st.integers(1, 6))
def test_a_newcomer_takes_only_its_share(partitions: int, count: int) -> None:
    before = assign(partitions, {f"m{n}": [] for n in range(count)})
    after = assign(partitions, {**before, "new": []})
    for member, mine in before.items():
        assert set(after[member]) <= set(mine)


@given(st.integers(1, 24), st.integers(2, 6))
def test_who_stays_keeps_everything_when_another_leaves(partitions: int, count: int) -> None:
    before = assign(partitions, {f"m{n}": [] for n in range(count)})
    before.pop("m0")
    after = assign(partitions, before)
    for member, mine in before.items():
        assert set(mine) <= set(after[member])


def test_two_that_claim_the_same_partition_do_not_both_get_it() -> None:
    assert assign(4, {"a": [0, 1, 2, 3], "b": [0, 1]}) == {"a": [0, 1], "b": [2, 3]}


def test_what_is_beyond_the_partitions_is_not_dealt() -> None:
    assert assign(2, {"a": [0, 7, 9]}) == {"a": [0, 1]}
