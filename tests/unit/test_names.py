"""The two names of an item: an upstream gets its own back, and what it cannot open is not sent to it."""

from typing import Any

import pytest

from schemas.ids import ResponseId, item_id
from services.config import ECHO, Agent, Model
from services.executor.mending.names import AT_DIGITS, is_found, names_at, recalled, restored
from services.web.internal import Name

ID = ResponseId("resp_" + "0a" * 18)
HERE, ELSEWHERE = "00000001", "00000002"


def ours(prefix: str, position: int = 0) -> str:
    return item_id(prefix, ID, position)


def thought(id: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], **({"id": id} if id else {}), **fields}


@pytest.mark.parametrize("prefix", ["msg", "fc", "rs", "cmp", "ig"])
def test_an_upstream_gets_its_own_names_back(prefix: str) -> None:
    item = {"type": "anything", "id": ours(prefix), "encrypted_content": "sealed"}
    assert restored([item], {ours(prefix): Name("up_1", HERE)}, HERE) == [item | {"id": "up_1"}]
    assert item["id"] == ours(prefix)


def test_a_name_that_two_items_have_comes_back_once() -> None:
    """Many servers call the first item of every answer alike; strict upstreams refuse an id twice."""
    items = [{"type": "message", "id": ours("msg", position), "content": []} for position in range(2)]
    names = {ours("msg", position): Name("msg_0", HERE) for position in range(2)}
    assert [item["id"] for item in restored(items, names, HERE)] == ["msg_0", ours("msg", 1)]


def test_elsewhere_our_name_stays_for_it_fits_everybody() -> None:
    message = {"type": "message", "id": ours("msg"), "role": "assistant", "content": []}
    for names in ({}, {ours("msg"): Name("strange id", ELSEWHERE)}):
        assert restored([message], names, HERE) == [message]


def test_names_that_are_not_ours_stay() -> None:
    items = [
        thought("rs_1", encrypted_content="sealed"),
        {"type": "message", "content": "hi"},
        {"id": "msg_1"},
    ]
    assert restored(items, {}, HERE) == items


def test_what_another_upstream_sealed_is_left_out() -> None:
    names = {ours("rs"): Name("rs_1", ELSEWHERE)}
    sealed = thought(ours("rs"), encrypted_content="sealed")
    assert restored([sealed], names, HERE) == []
    open_too = sealed | {"content": [{"type": "reasoning_text", "text": "hm"}]}
    assert restored([open_too], names, HERE) == [open_too | {"encrypted_content": None}]


def test_what_was_sealed_under_a_name_that_nobody_knows_goes_without_one() -> None:
    sealed = thought(encrypted_content="sealed")
    assert restored([sealed | {"id": ours("rs")}], {}, HERE) == [sealed]


def test_a_conversation_made_compact_elsewhere_is_not_left_out_in_silence() -> None:
    compact = {"type": "compaction", "id": ours("cmp"), "encrypted_content": "sealed"}
    assert restored([compact], {ours("cmp"): Name("cmp_1", ELSEWHERE)}, HERE) == [compact]


def test_an_approval_is_of_what_the_upstream_asked() -> None:
    names = {ours("mcpr"): Name("mcpr_1", HERE)}
    approval = {"type": "mcp_approval_response", "approval_request_id": ours("mcpr"), "approve": True}
    assert restored([approval], names, HERE) == [approval | {"approval_request_id": "mcpr_1"}]
    assert restored([approval], names, ELSEWHERE) == [approval]


def test_a_call_says_by_our_name_what_it_was_approved_by() -> None:
    names = {ours("mcpr"): Name("mcpr_1", HERE), ours("msg", 1): Name("mcpr_2", ELSEWHERE)}
    call = {"type": "mcp_call", "approval_request_id": "mcpr_1"}
    other = {"type": "mcp_call", "approval_request_id": "mcpr_2"}
    added: dict[str, Any] = {"type": "response.output_item.added", "item": dict(call)}
    recalled(added, names, HERE)
    assert added["item"]["approval_request_id"] == ours("mcpr")
    end: dict[str, Any] = {"type": "response.completed", "response": {"output": [dict(call), other, "x"]}}
    recalled(end, names, HERE)
    assert end["response"]["output"] == [call | {"approval_request_id": ours("mcpr")}, other, "x"]
    for odd in ({}, {"item": 3}, {"response": 3}, {"response": {"output": 3}}):
        recalled(odd, names, HERE)


def test_a_bare_thought_is_found_by_its_upstreams_name_only() -> None:
    assert is_found(thought("rs_1"))
    assert not is_found(thought(ours("rs")))


def test_an_upstream_is_known_by_its_address() -> None:
    url = "https://models.example/v1"
    one, other = Model(match="a", base_url=url), Model(match="b", base_url=f"{url}/", resumable=True)
    digits = names_at(one)
    assert digits == names_at(other) == names_at(Agent(name="x", url=url))
    assert digits is not None
    assert len(digits) == AT_DIGITS
    assert names_at(Model(match="a", base_url="https://other.example")) != digits


@pytest.mark.parametrize("route", [None, ECHO, Model(match="c", backend="chat", base_url="http://c")])
def test_who_speaks_another_protocol_names_nothing(route: Model | None) -> None:
    assert names_at(route) is None
