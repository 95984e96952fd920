"""Turns are kept up to a bound, and never once they are to be forgotten."""

from schemas.ids import ResponseId, Tenant, response_id
from services.executor.turns import Turns
from services.web.internal import Turn


def turn(number: int) -> Turn:
    return Turn(id_of(number), Tenant("t"), None, [], [])


def id_of(number: int) -> ResponseId:
    return response_id(0, number.to_bytes(16))


def test_the_ones_used_longest_ago_make_room() -> None:
    turns = Turns(bound=30)
    for number in (1, 2, 3):
        turns.keep(turn(number), 10)
    assert turns.get(id_of(1))
    turns.keep(turn(4), 10)
    assert [bool(turns.get(id_of(number))) for number in (1, 2, 3, 4)] == [True, False, True, True]


def test_one_that_is_too_large_is_not_kept() -> None:
    turns = Turns(bound=30)
    turns.keep(turn(1), 31)
    assert turns.get(id_of(1)) is None
    turns.keep(turn(2), 30)
    assert turns.get(id_of(2))


def test_one_that_is_forgotten_gives_its_room_back() -> None:
    turns = Turns(bound=30)
    turns.keep(turn(1), 30)
    turns.keep(turn(1), 20)
    turns.forget(id_of(1))
    turns.forget(id_of(1))
    assert repr(turns) == "<turns <0 kept, 0 of 30 bytes>>"
