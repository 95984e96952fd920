"""A-26: items and references to them. Model echo counts the words of its input: they show what came."""

from typing import Any

import pytest

from tests.api import Api, Input, error_of, request, text

UNKNOWN = "0000" + "0" * 32


def reference(id: str) -> dict[str, Any]:
    return {"type": "item_reference", "id": id}


def said(words: str) -> dict[str, Any]:
    return {"role": "user", "content": words}


def output_id(api: Api, id: str) -> str:
    return str(api.response(id)["output"][0]["id"])


def input_id(api: Api, id: str) -> str:
    return str(api.input_items(id).json["data"][0]["id"])


def input_words(api: Api, id: str) -> int:
    usage = api.eventually(id, lambda response: response["status"] == "completed")["usage"]
    return int(usage["input_tokens"])


def refused(api: Api, input: Input, **fields: Any) -> dict[str, Any]:
    """The error of a POST that is refused for what it refers to."""
    answer = api.post(request(input, **fields))
    assert answer.status == 400, answer
    return error_of(answer)


@pytest.fixture(scope="module")
def closed(api: Api) -> str:
    return api.closed("one two three")


def test_a26_ids_of_items_have_the_prefix_of_their_type_and_at_most_64_characters(
    api: Api, closed: str
) -> None:
    for id in (output_id(api, closed), input_id(api, closed)):
        assert id.startswith("msg_")
        assert len(id) <= 64
    assert output_id(api, closed) != input_id(api, closed)


def test_a26_a_turn_that_refers_to_the_last_ones_output(api: Api) -> None:
    """As Vercel's AI SDK goes on: own words again, the model's by reference, no previous_response_id."""
    first = api.closed("one two three")
    second = api.closed([said("one two three"), reference(output_id(api, first)), said("four")])
    turns = [said("one two three"), reference(output_id(api, first))]
    turns += [said("four"), {"id": output_id(api, second)}, said("five six")]
    third = api.closed(turns)

    assert input_words(api, second) == 3 + 3 + 1
    assert input_words(api, third) == 3 + 3 + 1 + 1 + 2
    assert text(api.response(third)) == "five six"


def test_a26_an_input_item_can_be_referred_to(api: Api, closed: str) -> None:
    assert input_words(api, api.closed([reference(input_id(api, closed)), said("four")])) == 3 + 1


def test_a26_a_successor_of_a_turn_with_references_has_the_items(api: Api, closed: str) -> None:
    second = api.closed([reference(output_id(api, closed)), said("four")])
    third = api.closed("five", previous_response_id=second)

    assert input_words(api, third) == 3 + 1 + 1 + 1


def test_a26_what_the_conversation_has_said_is_not_said_twice(api: Api, closed: str) -> None:
    again = [reference(input_id(api, closed)), reference(output_id(api, closed)), said("four")]
    second = api.closed([*again[:2], *again], previous_response_id=closed)

    assert input_words(api, second) == 3 + 3 + 1


def test_a26_an_id_that_a_client_gave_is_found_in_the_conversation(api: Api) -> None:
    mine = {"id": "msg_mine", **said("one two")}
    first = api.closed([mine, reference("msg_mine")])
    second = api.closed("three", previous_response_id=first)
    third = api.closed([reference("msg_mine"), said("four")], previous_response_id=second)

    assert input_words(api, first) == 2
    assert input_words(api, third) == 2 + 2 + 1 + 1 + 1
    assert refused(api, [reference("msg_mine")])["param"] == "input[0].id"


def test_a26_input_items_shows_the_item_that_was_referred_to(api: Api, closed: str) -> None:
    id = output_id(api, closed)
    second = api.closed([reference(id), said("four")])

    item, _ = api.input_items(second, "?order=asc").json["data"]

    assert item == api.response(closed)["output"][0]
    assert item["id"] == id


@pytest.mark.parametrize(
    "id", ["msg_1", f"msg_{UNKNOWN}0000", f"msg_{UNKNOWN}i0000", f"resp_{UNKNOWN}", "msg_" + "x" * 300]
)
def test_a26_what_nobody_knows_is_refused_with_its_place(api: Api, id: str) -> None:
    error = refused(api, [said("hi"), reference(id)])

    assert (error["param"], error["code"]) == ("input[1].id", "item_not_found")
    assert error["message"].startswith(f"Item with id '{id[:64]}")
    assert "previous_response_id" in error["message"]


def test_a26_a_place_that_a_response_does_not_have_is_refused(api: Api, closed: str) -> None:
    for id in (output_id(api, closed), input_id(api, closed)):
        error = refused(api, [reference(id[:-1] + "7")])
        assert (error["param"], error["code"]) == ("input[0].id", "item_not_found")
    other = output_id(api, closed).replace("msg_", "fc_")
    assert refused(api, [reference(other)])["code"] == "item_not_found"


def test_a26_an_item_of_another_tenant_is_not_there(api: Api, stranger: Api, closed: str) -> None:
    def error(who: Api, id: str) -> dict[str, Any]:
        found = refused(who, [reference(id)])
        return {**found, "message": found["message"].replace(id, "…")}

    unknown = error(stranger, f"msg_{UNKNOWN}0000")
    assert error(stranger, output_id(api, closed)) == unknown
    assert error(stranger, input_id(api, closed)) == unknown


def test_a26_an_item_of_a_deleted_response_is_not_there(api: Api) -> None:
    first = api.closed("one two three")
    ids = [output_id(api, first), input_id(api, first)]
    second = api.closed([reference(ids[0]), said("four")])
    api.delete(first)

    for id in ids:
        assert refused(api, [reference(id)])["code"] == "item_not_found"
    third = api.closed("five", previous_response_id=second)
    ended = api.response(third)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "conversation")
    assert ids[0] in ended["error"]["message"]
    listed = api.input_items(second, "?order=asc").json["data"]
    assert listed[0] == {"id": ids[0], "type": "item_reference"}


def test_a26_an_item_of_a_response_that_is_not_stored_is_not_there(api: Api) -> None:
    answer = api.post(request("one two", background=None, store=False)).json

    assert refused(api, [reference(answer["output"][0]["id"])])["code"] == "item_not_found"


def test_a26_an_item_under_way_is_not_there_and_one_cut_short_is(api: Api) -> None:
    first = api.create("one two three", tokens=200, interval_ms=50)
    api.eventually(first, lambda response: text(response))
    id = output_id(api, first)

    assert refused(api, [reference(id)])["code"] == "item_not_found"
    api.cancel(first)
    second = api.closed([reference(id), said("four")])

    item, _ = api.input_items(second, "?order=asc").json["data"]
    assert item["status"] == "incomplete"
    words = item["content"][0]["text"].split()
    assert words[:3] == ["one", "two", "three"][: len(words)]
    assert input_words(api, second) == len(words) + 1


def test_a26_a_reference_cannot_be_an_instruction(api: Api, closed: str) -> None:
    answer = api.post(request("hi", instructions=[reference(output_id(api, closed))]))

    assert (answer.status, error_of(answer)["param"]) == (400, "instructions[0]")


def test_a26_many_references_are_bounded(api: Api, closed: str) -> None:
    id = output_id(api, closed)
    assert input_words(api, api.closed([reference(id)] * 4096 + [said("four")])) == 3 + 1
    assert refused(api, [reference(id)] * 4097)["code"] == "too_many_references"
