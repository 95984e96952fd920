"""Whatever is written of a transcript by whomever, in flux is what its entry does not name (P-133)."""

from hypothesis import given
from hypothesis import strategies as st

from schemas.ids import Tenant, response_id
from services.eventlog.shelf import Shelved, Whereabouts
from services.eventlog.transcript import Chunk, Request, Summary
from services.projector.copies import MEND_S, MOST_MENDS, Copies

ID = response_id(0, bytes(16))
CHUNKS = 2
SUMMARY = Summary(Tenant("t"), "completed", True, "sha", 5, 9, 0, 10, CHUNKS)
FIRSTS = (0, 4)
PARTS = st.sampled_from(["request", "0", "1", "entry of the last", "entry of others"])


def entry(where: Whereabouts) -> Shelved:
    return Shelved(
        tenant=Tenant("t"),
        status="completed",
        background=True,
        body_sha256="sha",
        accepted_offset=5,
        created_at=0,
        closed_offset=9,
        events=10,
        where=where,
    )


@given(st.lists(PARTS, max_size=12))
def test_p133_it_is_in_flux_until_an_entry_names_the_last_copies(written: list[str]) -> None:
    copies, last, named = Copies(), {"request": 0, "0": 1, "1": 2}, Whereabouts(0, (1, 2), FIRSTS)
    for key in last:  # a first writer, who wrote all
        _copy(copies, key, last[key])
    copies.named(ID, entry(named), 0, 0)
    assert len(copies) == 0
    for offset, what in enumerate(written, start=3):
        if what in last:
            last[what] = offset
            _copy(copies, what, offset)
        else:
            there = Whereabouts(last["request"], (last["0"], last["1"]), FIRSTS)
            named = there if what == "entry of the last" else Whereabouts(0, (1, 2), FIRSTS)
            copies.named(ID, entry(named), 0, 0)
    there = Whereabouts(last["request"], (last["0"], last["1"]), FIRSTS)
    if named != there:
        assert copies.overdue(MEND_S) == [(ID, 5)]
    for key in last:  # it is mended: all is written again
        _copy(copies, key, 100 + last[key])
    where = copies.where(ID)
    assert where == Whereabouts(100 + last["request"], (100 + last["0"], 100 + last["1"]), FIRSTS)
    copies.named(ID, entry(where), 0, 0)
    assert len(copies) == 0


def _copy(copies: Copies, key: str, offset: int) -> None:
    part = Request(ID, SUMMARY) if key == "request" else _chunk(int(key))
    copies.copied(part, offset, 0, 0)


def _chunk(index: int) -> Chunk:
    return Chunk(ID, SUMMARY, index, FIRSTS[index], 9 if index else 3)


def test_it_is_overdue_after_some_seconds_and_again_when_mending_did_not_help() -> None:
    copies = Copies()
    copies.copied(_chunk(0), 7, 1_000, 10)
    assert copies.overdue(10 + MEND_S - 0.1) == []
    assert copies.overdue(10 + MEND_S) == [(ID, 5)]
    assert copies.mended(ID, 20)
    assert copies.overdue(20 + MEND_S - 0.1) == []
    assert copies.overdue(20 + MEND_S) == [(ID, 5)]


def test_what_cannot_be_mended_holds_nothing_up_for_ever() -> None:
    copies = Copies()
    copies.copied(_chunk(0), 7, 1_000, 0)
    assert copies.oldest == 1_000
    assert [copies.mended(ID, 0) for _ in range(MOST_MENDS)] == [True] * (MOST_MENDS - 1) + [False]
    assert copies.oldest is None


def test_what_is_erased_is_forgotten() -> None:
    copies = Copies()
    copies.copied(_chunk(0), 7, 1_000, 0)
    copies.drop(ID)
    assert (len(copies), copies.where(ID), copies.overdue(100)) == (0, None, [])
