"""Who has to go when there are too many, decided without a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.web.crowd import Crowd, CrowdBounds, Leaver


def test_one_over_the_bound_turns_out_the_oldest_that_asked_nothing() -> None:
    crowd: Crowd[str] = Crowd(CrowdBounds(connections=2))
    assert crowd.came("a", "192.0.2.1") is None
    crowd.known("a")
    assert crowd.came("b", "192.0.2.1") is None
    assert crowd.came("c", "192.0.2.1") == Leaver("b", "connections")
    assert len(crowd) == 2


def test_where_all_are_known_the_newcomer_goes() -> None:
    crowd: Crowd[str] = Crowd(CrowdBounds(connections=1))
    crowd.came("a", "")
    crowd.known("a")
    assert crowd.came("b", "") == Leaver("b", "connections")


def test_the_head_that_has_been_unfinished_for_longest_goes() -> None:
    crowd: Crowd[str] = Crowd(CrowdBounds(heads=2))
    for guest in "abc":
        crowd.came(guest, "")
    crowd.begun("a")
    crowd.begun("b")
    crowd.begun("a")  # another piece of the same head makes it no younger
    assert crowd.begun("c") == Leaver("a", "heads")
    assert crowd.unfinished == 2
    assert crowd.begun("a") is None  # gone, and whatever still comes of it counts for nothing


@pytest.mark.parametrize(
    "one, other, same",
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::2", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("", "", True),
    ],
)
def test_whose_an_address_is(one: str, other: str, same: bool) -> None:
    crowd: Crowd[str] = Crowd(CrowdBounds(per_address=1))
    assert crowd.came("a", one) is None
    assert (crowd.came("b", other) == Leaver("b", "address")) == same


@given(
    st.lists(st.tuples(st.sampled_from(["came", "begun", "known", "left"]), st.integers(0, 9))),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(0, 3),
)
def test_whatever_happens_no_bound_is_passed_and_no_known_one_is_turned_out(
    steps: list[tuple[str, int]], connections: int, heads: int, per_address: int
) -> None:
    crowd: Crowd[int] = Crowd(CrowdBounds(connections, heads, per_address))
    inside: set[int] = set()
    known: set[int] = set()
    for what, guest in steps:
        leaver = None
        if what == "came" and guest not in inside:
            inside.add(guest)
            leaver = crowd.came(guest, f"192.0.2.{guest % 3}")
        elif what == "begun" and guest in inside:
            known.discard(guest)
            leaver = crowd.begun(guest)
        elif what == "known" and guest in inside:
            known.add(guest)
            crowd.known(guest)
        elif what == "left":
            inside.discard(guest)
            known.discard(guest)
            crowd.left(guest)
        if leaver is not None:
            assert leaver.guest not in known
            inside.discard(leaver.guest)
        assert len(crowd) == len(inside) <= connections
        assert crowd.unfinished <= heads
