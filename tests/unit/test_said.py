"""The whole input of a run: references are resolved in their places, and nothing is said twice."""

from typing import Any

import pytest

from schemas.ids import ResponseId, Tenant, item_id, response_id
from schemas.references import MAX_REFERENCES
from services.executor.backend import UpstreamError
from services.executor.said import said, unresolved
from services.web.internal import Found, Name, Turn

A, B, ELSEWHERE = (response_id(0, bytes([number] * 16)) for number in range(3))
AT = "0badcafe"


def message(words: str, **fields: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": words, **fields}


def reference(id: str) -> dict[str, Any]:
    return {"type": "item_reference", "id": id}


def thought(id: str) -> dict[str, Any]:
    return {"type": "reasoning", "id": id, "summary": [], "encrypted_content": "sealed"}


def out(response: ResponseId, prefix: str = "msg", position: int = 0) -> str:
    return item_id(prefix, response, position)


def turn(id: ResponseId, *input: dict[str, Any], **names: Name) -> Turn:
    spoken = message(f"out of {id[-1]}", role="assistant", id=out(id))
    return Turn(id, Tenant("t"), None, list(input), [spoken], names)


def contents(items: list[dict[str, Any]]) -> list[Any]:
    return [item.get("content") for item in items]


def test_turns_come_first_and_references_are_resolved_in_their_places() -> None:
    own = [message("one"), reference(out(ELSEWHERE)), message("two")]
    turns = [turn(A, message("in a"))]
    assert unresolved(turns, own, named=True) == [out(ELSEWHERE)]

    whole = said(turns, own, Found([], {out(ELSEWHERE): message("from elsewhere")}))

    assert contents(whole.items) == ["in a", "out of 0", "one", "from elsewhere", "two"]


def test_what_a_turn_before_refers_to_is_resolved_there() -> None:
    turns = [turn(A, reference(out(ELSEWHERE)), message("in a"))]
    own = [reference(out(ELSEWHERE)), message("now")]
    assert unresolved(turns, own, named=True) == [out(ELSEWHERE)]

    whole = said(turns, own, Found([], {out(ELSEWHERE): message("from elsewhere")}))

    assert contents(whole.items) == ["from elsewhere", "in a", "out of 0", "now"]


@pytest.mark.parametrize(
    "id", [out(A), item_id("msg", A, 0, given=True), "msg_mine", "msg_now"], ids=["out", "in", "mine", "now"]
)
def test_what_was_said_is_not_said_again(id: str) -> None:
    turns = [turn(A, message("in a"), message("mine", id="msg_mine"))]
    own = [message("now", id="msg_now"), reference(id), reference(id)]
    assert unresolved(turns, own, named=True) == []

    assert contents(said(turns, own, Found([])).items) == ["in a", "mine", "out of 0", "now"]


def test_a_reference_to_what_comes_later_is_none() -> None:
    own = [reference("msg_now"), message("now", id="msg_now")]

    assert unresolved([], own, named=True) == ["msg_now"]
    with pytest.raises(UpstreamError, match="'msg_now' not found") as failure:
        said([], own, Found(["msg_now"]))
    assert failure.value.type == "conversation"


def test_what_upstreams_call_items_is_known_wherever_they_come_from() -> None:
    mine, theirs = Name("msg_up", AT), Name("rs_up", AT)
    turns = [turn(A, **{out(A): mine})]
    referred = out(ELSEWHERE, "rs")

    whole = said(turns, [reference(referred)], Found([], {referred: thought(referred)}, {referred: theirs}))

    assert whole.names == {out(A): mine, referred: theirs}


def test_what_a_client_sends_again_is_looked_up_for_its_name() -> None:
    """A sealed thought is bound to the id that its upstream gave it."""
    own = [
        thought(out(ELSEWHERE, "rs")),
        thought("rs_foreign"),
        message("again", id=out(A)),
        message("hi", id=out(ELSEWHERE, "msg", 1)),
        message("hi", id=item_id("msg", ELSEWHERE, 2, given=True)),
        reference(out(B)),
    ]
    turns = [turn(A)]

    wanted = [out(B), out(ELSEWHERE, "rs"), out(ELSEWHERE, "msg", 1)]
    assert unresolved(turns, own, named=True) == wanted
    assert unresolved(turns, own, named=False) == wanted[:1]
    whole = said(turns, own, Found(wanted[1:], {out(B): message("from b")}))
    assert whole.items[1:] == [*own[:-1], message("from b")]


def test_what_a_client_makes_up_is_not_all_looked_up() -> None:
    own = [message("hi", id=out(ELSEWHERE, "msg", position)) for position in range(MAX_REFERENCES + 9)]
    assert len(unresolved([], own, named=True)) == MAX_REFERENCES
