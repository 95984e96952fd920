"""Memory for request bodies: bounded, given back, and no tenant's alone (A-10)."""

import pytest

from schemas.errors import ApiError
from schemas.ids import Tenant
from services.web.room import CREATE_BYTES, Room

A, B, C = Tenant("a"), Tenant("b"), Tenant("c")


def test_bytes_are_bounded_and_given_back() -> None:
    room = Room(100)
    seats = [room.seat(tenant) for tenant in (A, B)]
    for seat in seats:
        seat.take(50)
    with pytest.raises(ApiError) as refused:
        room.seat(C).take(1)
    assert (refused.value.status, refused.value.reason) == (429, "bodies_full")
    seats[0].give_up()
    seats[0].give_up()
    room.seat(C).take(50)
    assert room.taken == 100


def test_a_body_takes_its_room_piece_by_piece_until_its_block_ends() -> None:
    room = Room(100)
    with room.seat(A) as seat:
        seat.take(20)
        seat.take(30)
        assert room.taken == 50
    assert room.taken == 0


def test_one_tenant_has_at_most_its_share() -> None:
    room = Room(100)
    room.seat(A).take(50)
    with pytest.raises(ApiError):
        room.seat(A).take(1)
    room.seat(B).take(50)


def test_creates_are_bounded_however_small_their_bodies_are() -> None:
    room = Room(10 * CREATE_BYTES)
    seats = [room.seat(tenant) for tenant in (A, B) for _ in range(5)]
    for seat in seats[:9]:
        seat.begin()
    assert room.creates == 9
    seats[9].take(1)
    with pytest.raises(ApiError) as refused:
        seats[9].begin()
    assert (refused.value.status, refused.value.reason) == (429, "bodies_full")
    for seat in seats:
        seat.give_up()
        seat.give_up()
    assert (room.taken, room.creates) == (0, 0)
