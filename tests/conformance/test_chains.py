"""A-13: chains. Model echo counts the words of its whole input, which shows what came before."""

import pytest

from tests.api import Api, error_of, request, text

UNKNOWN = "resp_0000" + "0" * 32


def input_words(api: Api, id: str) -> int:
    usage = api.eventually(id, lambda response: response["status"] == "completed")["usage"]
    return int(usage["input_tokens"])


def test_a13_input_and_output_of_the_whole_chain_come_first(api: Api) -> None:
    first = api.closed("one two three")
    second = api.closed("four", previous_response_id=first)
    third = api.closed("five six", previous_response_id=second)

    assert input_words(api, first) == 3
    assert input_words(api, second) == 3 + 3 + 1
    assert input_words(api, third) == 3 + 3 + 1 + 1 + 2
    assert api.response(third)["previous_response_id"] == second
    assert text(api.response(third)) == "five six"


def test_a13_a_response_waits_queued_for_an_open_one(api: Api) -> None:
    first = api.create("one two", tokens=20, interval_ms=150)
    second = api.create("three", previous_response_id=first)

    assert api.response(second)["status"] == "queued"
    assert input_words(api, second) == 2 + 20 + 1
    assert api.response(first)["status"] == "completed"


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a13_an_unfinished_one_gives_its_input_and_its_finished_items(api: Api, end: str) -> None:
    first = api.closed("one two", fail_after=1) if end == "failed" else api.open("one two")
    api.cancel(first)
    second = api.closed("three", previous_response_id=first)

    assert api.response(first)["status"] == end
    assert input_words(api, second) in (2 + 1, 2 + 1 + 1)


def test_a13_two_may_follow_one(api: Api) -> None:
    first = api.closed("one")

    assert [input_words(api, api.closed("x", previous_response_id=first)) for _ in range(2)] == [3, 3]


def test_a13_an_unknown_or_foreign_one_is_404(api: Api, stranger: Api) -> None:
    deleted = api.closed()
    api.delete(deleted)

    for previous in (UNKNOWN, stranger.closed(), deleted, "resp_nonsense", "x"):
        answer = api.post(request("one", previous_response_id=previous))
        assert answer.status == 404, (previous, answer)
        assert previous in error_of(answer)["message"]
