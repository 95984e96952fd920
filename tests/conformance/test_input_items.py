"""A-14: input items and their pages."""

from typing import Any

import pytest

from tests.api import Api, error_of


def say(count: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"line {index}"} for index in range(count)]


def words(page: dict[str, Any]) -> list[str]:
    return [item["content"][0]["text"] for item in page["data"]]


@pytest.fixture(scope="module")
def fifty(api: Api) -> str:
    return api.closed(say(50))


def test_a14_twenty_and_the_latest_first_unless_asked_otherwise(api: Api, fifty: str) -> None:
    page = api.input_items(fifty).json

    assert page["object"] == "list"
    assert words(page) == [f"line {index}" for index in range(49, 29, -1)]
    assert page["has_more"] is True
    assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("limit", [1, 7, 50, 100])
def test_a14_pages_cover_all_items_once(api: Api, fifty: str, order: str, limit: int) -> None:
    seen: list[str] = []
    after = ""
    while True:
        page = api.input_items(fifty, f"?order={order}&limit={limit}{after}").json
        assert len(page["data"]) <= limit
        seen += words(page)
        if not page["has_more"]:
            break
        after = f"&after={page['last_id']}"

    expected = [f"line {index}" for index in range(50)]
    assert seen == (expected if order == "asc" else expected[::-1])


def test_a14_every_item_has_an_id_of_its_own_that_stays(api: Api, fifty: str) -> None:
    first, second = (api.input_items(fifty, "?limit=100").json for _ in range(2))

    ids = [item["id"] for item in first["data"]]
    assert all(isinstance(id, str) and id for id in ids)
    assert len(set(ids)) == 50
    assert first == second


def test_a14_a_plain_text_is_one_user_item(api: Api) -> None:
    (item,) = api.input_items(api.closed("just this")).json["data"]

    assert (item["type"], item["role"]) == ("message", "user")
    assert item["content"] == [{"type": "input_text", "text": "just this"}]


def test_a14_readable_while_the_response_runs(api: Api) -> None:
    id = api.open("still running")

    page = api.input_items(id).json

    assert words(page) == ["still running"]
    assert page["has_more"] is False


def test_a14_given_ids_and_unknown_item_types_stay(api: Api) -> None:
    items: list[dict[str, Any]] = [
        {"type": "message", "id": "msg_mine", "role": "user", "content": "hello"},
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
    ]
    id = api.closed(items)

    message, output = api.input_items(id, "?order=asc").json["data"]

    assert message["id"] == "msg_mine"
    assert (output["call_id"], output["output"]) == ("call_1", "42")


@pytest.mark.parametrize(
    "query", ["include=message.input_image.image_url", "include[]=reasoning.encrypted_content"]
)
def test_a14_include_is_taken_in_both_spellings(api: Api, fifty: str, query: str) -> None:
    assert api.input_items(fifty, f"?{query}").status == 200


@pytest.mark.parametrize(
    "query, param",
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("order=random", "order"),
        ("after=msg_unknown", "after"),
    ],
)
def test_a14_bad_pages_are_refused(api: Api, fifty: str, query: str, param: str) -> None:
    error = error_of(answer := api.input_items(fifty, f"?{query}"))

    assert answer.status == 400
    assert error["param"] == param
